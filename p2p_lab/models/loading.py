"""Find models on disk and open them: bundled ones, folders, single files, hub names.

Only safetensors are read and nothing is unpickled. Every file that a model's card lists is compared
with its SHA-256 before use. This file knows file layouts and nothing of sampling.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from p2p_lab.models.denoiser import Defaults, Denoiser, ModelCard
from p2p_lab.models.errors import ModelError, first_line
from p2p_lab.models.stable_diffusion import StableDiffusion, StableDiffusionXL

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
PREFERRED = ("scenes-128", "scenes-64")
_HUB_PATTERNS = ["*.json", "*.txt", "*.safetensors", "*.model"]


def list_models() -> list[str]:
    """List the names of the bundled models, best first.

    Returns:
        Names that `load` takes, such as `"scenes-128"`; the newest version of each is used.
    """
    names = sorted({_split(folder)[0] for folder in _bundled()})
    return sorted(names, key=lambda name: PREFERRED.index(name) if name in PREFERRED else 99)


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
) -> Denoiser:
    """Open a text-to-image model.

    Args:
        name_or_path: A bundled model's name, a folder in diffusers format, a single `.safetensors`
            checkpoint, or a hub id such as `"stable-diffusion-v1-5/stable-diffusion-v1-5"`.
            None takes the best bundled model.
        device: Where to run; None takes CUDA, then MPS, then the CPU.
        dtype: Precision of the weights; None takes float16 on CUDA for models from elsewhere, and
            float32 otherwise.
        config: For a single-file checkpoint: a diffusers folder of the same architecture, which
            has the tokenizer and the settings that a single file lacks.

    Returns:
        A `Denoiser`.

    Raises:
        ModelError: If the model is not there, incomplete, changed on disk or of an unknown kind.
    """
    where = _device(device)
    bundled = _find_bundled(None if name_or_path is None else str(name_or_path))
    if bundled is not None:
        return _from_folder(bundled, where, _dtype(dtype, torch.float32))
    assert name_or_path is not None
    precision = _dtype(dtype, torch.float16 if where.type == "cuda" else torch.float32)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _from_folder(path, where, precision)
    if path.is_file():
        return _from_file(path, config, where, precision)
    return _from_folder(_from_hub(str(name_or_path)), where, precision, str(name_or_path))


def read_card(folder: Path) -> ModelCard:
    """Read `card.json` and `vocabulary.json` of a model folder; both are optional."""
    raw = _read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
    words: list[str] = []
    if (folder / "vocabulary.json").is_file():
        words = _read_json(folder / "vocabulary.json").get("words", [])
    sites = tuple(raw.get("recommended_sites", raw.get("map_sites", ())))
    return ModelCard(frozenset(word.lower() for word in words), sites, raw)


def verify(folder: Path) -> None:
    """Compare a model folder's files with the SHA-256 values of its card.

    Raises:
        ModelError: If a listed file is missing or differs.
    """
    for relative, expected in read_card(folder).raw.get("files", {}).items():
        path = folder / relative
        if not path.is_file():
            raise ModelError(f"{folder.name}: the file {relative} is missing. {_REINSTALL}")
        if _sha256(path) != expected:
            raise ModelError(
                f"{folder.name}: the file {relative} is not the one its card describes "
                f"(SHA-256 differs: it is incomplete or was changed). {_REINSTALL}"
            )


_REINSTALL = "Install the package, or download the model, again."


def _from_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, name: str | None = None
) -> StableDiffusion:
    """Open a folder in diffusers format part by part, without the pipeline class around it."""
    index = _read_json(folder / "model_index.json", missing=_NOT_DIFFUSERS.format(folder=folder))
    kind = str(index.get("_class_name", ""))
    if not kind.startswith(("StableDiffusionPipeline", "StableDiffusionXLPipeline")):
        raise ModelError(
            f"{folder} holds a {kind or 'pipeline without a class name'}. Supported are "
            "StableDiffusionPipeline (1.x, 2.x) and StableDiffusionXLPipeline."
        )
    verify(folder)
    try:
        with _quiet():
            return _assemble(folder, index, device, dtype, name)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model in {folder} could not be opened: {first_line(error)} {_REINSTALL}"
        ) from error


def _assemble(
    folder: Path,
    index: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    name: str | None,
) -> StableDiffusion:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    card = read_card(folder)
    xl = str(index["_class_name"]).startswith("StableDiffusionXL")
    parts: dict[str, Any] = {
        "unet": open_part(UNet2DConditionModel, folder / "unet", dtype),
        "vae": open_part(AutoencoderKL, folder / "vae", dtype),
        "text_encoder": open_part(CLIPTextModel, folder / "text_encoder", dtype),
        "tokenizer": open_tokenizer(folder / "tokenizer"),
    }
    if xl:
        kind = CLIPTextModelWithProjection
        parts["text_encoder_2"] = open_part(kind, folder / "text_encoder_2", dtype)
        parts["tokenizer_2"] = open_tokenizer(folder / "tokenizer_2")
    return _put_together(
        parts,
        _read_json(folder / "scheduler" / "scheduler_config.json"),
        name=name or card.raw.get("name") or folder.name,
        card=card,
        device=device,
        blank_is_zero=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _put_together(
    parts: dict[str, Any],
    scheduler_config: Mapping[str, Any],
    *,
    name: str,
    card: ModelCard,
    device: torch.device,
    blank_is_zero: bool,
) -> StableDiffusion:
    """Move the networks to the device and put them behind one face."""
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False).to(device)
    xl = "text_encoder_2" in parts
    unet = parts.pop("unet")
    common: dict[str, Any] = {
        "name": name,
        "module": unet,
        "scheduler_config": scheduler_config,
        "defaults": _defaults(unet, parts["vae"], card, xl),
        "card": card,
        **parts,
    }
    return (
        StableDiffusionXL(**common, blank_is_zero=blank_is_zero)
        if xl
        else StableDiffusion(**common)
    )


def _from_file(
    path: Path,
    config: str | os.PathLike[str] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> StableDiffusion:
    """Open a single-file checkpoint."""
    from p2p_lab.models.single_file import open_single_file

    with _quiet():
        pipe, xl = open_single_file(path, config, dtype)
    names = ["unet", "vae", "text_encoder", "tokenizer"]
    names += ["text_encoder_2", "tokenizer_2"] if xl else []
    return _put_together(
        {name: getattr(pipe, name) for name in names},
        dict(pipe.scheduler.config),
        name=path.stem,
        card=ModelCard(),
        device=device,
        blank_is_zero=bool(getattr(pipe.config, "force_zeros_for_empty_prompt", True)),
    )


def open_part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Open one network of a pipeline from safetensors, ready for inference."""
    if not folder.is_dir():
        raise ModelError(f"{folder.parent}: the folder {folder.name}/ is missing. {_REINSTALL}")
    files = [path.name for path in folder.glob("*.safetensors")]
    if not files:
        raise ModelError(
            f"{folder} has no .safetensors file. Other formats can run code when they are opened "
            "and are not read; convert the model, or take a version with safetensors."
        )
    half_only = all(".fp16." in name for name in files)
    options: dict[str, Any] = {"variant": "fp16"} if half_only else {}
    model = cls.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, **options
    )
    return model


def open_tokenizer(folder: Path) -> Any:
    """Open a CLIP tokenizer that tells character offsets."""
    from transformers import CLIPTokenizerFast

    if not folder.is_dir():
        raise ModelError(f"{folder.parent}: the folder {folder.name}/ is missing. {_REINSTALL}")
    return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)


def _defaults(unet: Any, vae: Any, card: ModelCard, xl: bool) -> Defaults:
    sample = unet.config.sample_size
    h, w = (sample, sample) if isinstance(sample, int) else sample
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    usual = {"steps": 50, "guidance_scale": 5.0 if xl else 7.5}
    small = {"steps": 20, "guidance_scale": 3.0} if card.raw else {}  # a model of this package
    chosen = {**usual, **small, **card.raw.get("defaults", {})}
    return Defaults(h * scale, w * scale, int(chosen["steps"]), float(chosen["guidance_scale"]))


def _bundled() -> list[Path]:
    if not WEIGHTS.is_dir():
        return []
    return [path.parent for path in WEIGHTS.glob("*-v*/model_index.json")]


def _split(folder: Path) -> tuple[str, int]:
    name, _, version = folder.name.rpartition("-v")
    return name, int(version) if version.isdigit() else 0


def _find_bundled(name: str | None) -> Path | None:
    """Find a bundled model by its name, with or without version; None stands for the best."""
    names = list_models()
    if name is None and not names:
        raise ModelError(
            "No bundled model is installed (p2p_lab/weights/ is empty). Install the package again, "
            "train one with `python -m p2p_lab.training`, or name a model folder: load('path')."
        )
    wanted = names[0] if name is None else name
    folders = [f for f in _bundled() if wanted in (_split(f)[0], f.name)]
    return max(folders, key=lambda folder: _split(folder)[1], default=None)


_NOT_DIFFUSERS = (
    "{folder} has no model_index.json, so it is not a pipeline in diffusers format. "
    "Give the folder that holds model_index.json, unet/, vae/, text_encoder/ and tokenizer/."
)


def _from_hub(name: str) -> Path:
    """Fetch a hub model's safetensors into the local cache, or find them there."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ModelError(
            f"There is no model {name!r}: no such file or folder, and it is not a hub id of the "
            f"form 'owner/name'. Bundled models: {', '.join(list_models()) or 'none installed'}."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    except Exception as error:
        raise ModelError(
            f"The model {name!r} is not on this machine and could not be fetched: "
            f"{first_line(error)} Connect to the network once, or download it elsewhere and "
            "give its folder: load('path/to/folder'). The bundled model needs no network: load()."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the library's loading bars for the length of a block: a model opens in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device {str(device)!r} cannot be used here: {first_line(error)} "
            "Use 'cpu', or leave device out to take the best one."
        ) from error
    return wanted


def _dtype(dtype: Any, default: torch.dtype) -> torch.dtype:
    allowed = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if dtype is None:
        return default
    if dtype not in allowed:
        raise ModelError(
            f"dtype={dtype!r} is not a precision that models run in. "
            f"Use one of {', '.join(str(d) for d in allowed)}."
        )
    chosen: torch.dtype = dtype
    return chosen


def _read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(missing or f"The file {path} is missing. {_REINSTALL}")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"The file {path} is not JSON ({error}). {_REINSTALL}") from error
    return content


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
