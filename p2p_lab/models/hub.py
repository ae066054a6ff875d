"""Fetch a pipeline from the model hub: only the files that will be opened, after saying how much.

A repository often holds the same model several times: as single files, in two precisions, in other
formats, with a safety checker. Which files are taken is decided from the repository's listing and
from `model_index.json`, before anything large is fetched.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from p2p_lab.models.cards import read_json
from p2p_lab.models.errors import ModelError, first_line, not_a_lora, not_an_embedding
from p2p_lab.models.opening import family_of
from p2p_lab.models.parts import fitting, variant_of, weights_of

_INDEX = "model_index.json"
_OWN = ("card.json", "vocabulary.json")  # what this package writes beside a model
_NEVER_OPENED = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
_NOT_NETWORKS = ("Tokenizer", "TokenizerFast", "Scheduler")
_SETTINGS = (".json", ".txt", ".model")  # of tokenizers and schedulers, and of networks


def fetch(name: str, dtype: torch.dtype) -> Path:
    """Fetch what is opened of a hub model into the local cache, or find it there.

    Args:
        name: The repository, "owner/name".
        dtype: The precision that the networks will have.

    Returns:
        The folder in the cache.

    Raises:
        ModelError: If it cannot be reached and is not in the cache, or is of an unknown kind.
    """
    import huggingface_hub as hub

    try:
        sizes = _listing(name)
    except Exception as error:
        return _in_cache(name, error)
    if _INDEX not in sizes:
        raise _no_pipeline(name, sizes)
    try:
        index = read_json(Path(hub.hf_hub_download(name, _INDEX)))
        family_of(str(index.get("_class_name", "")), f"The hub's {name}")
        card_files = [Path(hub.hf_hub_download(name, file)) for file in _OWN if file in sizes]
        listed = [file for path in card_files for file in read_json(path).get("files", {})]
        files = wanted_files(name, index, sizes, dtype)
        files += [file for file in listed if file in sizes and file not in files]
        _announce(name, {file: sizes[file] for file in files})
        return Path(hub.snapshot_download(name, allow_patterns=[glob.escape(f) for f in files]))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_unreached(name, error)) from error


def wanted_files(
    name: str, index: Mapping[str, Any], names: Iterable[str], dtype: torch.dtype
) -> list[str]:
    """Return which files of a repository are opened in this precision.

    Args:
        name: The repository, as errors name it.
        index: What its `model_index.json` says.
        names: The paths of all its files.
        dtype: The precision that the networks will have.

    Raises:
        ModelError: If a network has no file in safetensors.
    """
    names = list(names)
    files = [file for file in (_INDEX, *_OWN) if file in names]
    for part in index:
        if _is_opened(part, index):
            is_network = not str(index[part][1]).endswith(_NOT_NETWORKS)
            files += _files_of(name, part, names, dtype if is_network else None)
    return files


def _is_opened(part: str, index: Mapping[str, Any]) -> bool:
    named_class = index[part]
    is_part = isinstance(named_class, list) and len(named_class) == 2 and named_class[1] is not None
    return is_part and part not in _NEVER_OPENED


def _files_of(name: str, part: str, names: list[str], dtype: torch.dtype | None) -> list[str]:
    """Return a part's settings, and a network's weights in the variant that fits `dtype`."""
    inside = [file.removeprefix(f"{part}/") for file in names if file.startswith(f"{part}/")]
    files = [file for file in inside if "/" not in file and file.endswith(_SETTINGS)]
    if dtype is not None:
        variant = variant_of(inside, first=fitting(dtype))
        if variant is None:
            raise ModelError(
                f"The hub's {name} has no .safetensors file of its part {part!r}, so nothing was "
                "fetched. Other formats can run code when they are opened and are not read; take "
                "a version of the model with safetensors."
            )
        files += weights_of(inside, variant)
    return [f"{part}/{file}" for file in files]


def _listing(name: str) -> dict[str, int]:
    """Return the bytes of each file of a repository, by its path."""
    import huggingface_hub as hub

    found = hub.HfApi().model_info(name, files_metadata=True).siblings or []
    return {file.rfilename: int(file.size or 0) for file in found}


def _in_cache(name: str, reason: Exception) -> Path:
    """Return a model's folder in the cache, where the hub did not answer."""
    import huggingface_hub as hub

    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True))
    except Exception:
        raise ModelError(_unreached(name, reason)) from reason
    return folder


def _announce(name: str, sizes: Mapping[str, int]) -> None:
    """Print how much will be fetched, before it is."""
    import huggingface_hub as hub

    missing = [f for f in sizes if not isinstance(hub.try_to_load_from_cache(name, f), str)]
    total = sum(sizes[file] for file in missing)
    if total:
        print(
            f"Fetching {name} from the model hub: {_bytes(total)} in {len(missing)} files. "
            "They are kept in the hub's cache on this machine.",
            file=sys.stderr,
            flush=True,
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _no_pipeline(name: str, names: Iterable[str]) -> ModelError:
    files = [file for file in names if file.endswith(".safetensors") and "/" not in file]
    if any("lora" in file.lower() for file in files):
        return not_a_lora(f"The hub's {name}")
    if any(file.startswith("learned_embeds") for file in files):
        return not_an_embedding(f"The hub's {name}")
    single = f" It has the single file {files[0]}: fetch that and give its path." if files else ""
    return ModelError(
        f"The hub's {name} has no {_INDEX}, so it is not a pipeline in diffusers format and "
        f"nothing was fetched.{single}"
    )


def _unreached(name: str, error: Exception) -> str:
    return (
        f"The model {name!r} is not on this machine and could not be fetched: "
        f"{first_line(error)} Connect to the network once, or download it elsewhere and "
        "give its folder: load('path/to/folder'). The bundled model needs no network: load()."
    )
