"""Open a Stable Diffusion checkpoint that is one `.safetensors` file.

Such a file holds weights under their original names and neither a tokenizer nor settings; a
diffusers folder of the same architecture supplies those. diffusers would import whatever module
that folder's index names, so it never sees the index: it gets one that is written here, beside
copies of the settings that are data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from p2p_lab.models.cards import read_json
from p2p_lab.models.errors import ModelError, first_line, not_a_lora, not_an_embedding
from p2p_lab.models.parts import open_tokenizer

_NETWORKS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
}
_SETTINGS = ("*.json", "*/*.json", "*/*.txt", "*/*.model")


def open_single_file(
    path: Path, config: str | os.PathLike[str] | None, dtype: torch.dtype
) -> tuple[Any, bool]:
    """Open a checkpoint file as a diffusers pipeline.

    Args:
        path: The checkpoint.
        config: A diffusers folder of the same architecture; None looks for one on the hub.
        dtype: Precision of the weights.

    Returns:
        The pipeline, and whether it is an SDXL.

    Raises:
        ModelError: If it is not safetensors, or its parts do not fit together.
    """
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path.name} is not a .safetensors file. Other formats can run code when they are "
            "opened and are not read; convert it, or take a version with safetensors."
        )
    is_xl = None if config is None else _is_xl_folder(config)
    weights = _weights_in(path)
    if any("lora" in name.lower() for name in weights):
        raise not_a_lora(path.name)
    if is_embedding(weights):
        raise not_an_embedding(path.name)
    second_encoder = any(name.startswith("conditioner.embedders.1") for name in weights)
    xl = second_encoder if is_xl is None else is_xl
    import diffusers

    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    try:
        folder = _usual_settings(path) if config is None else Path(config)
        with _plain_settings(folder, kind.__name__, xl) as plain:
            pipe = kind.from_single_file(
                str(path),
                torch_dtype=dtype,
                config=str(plain),
                local_files_only=True,
                **_other_parts(folder, xl),
            )
        return pipe, xl
    except Exception as error:
        raise ModelError(
            f"The checkpoint {path.name} could not be opened: {first_line(error)} A single file "
            "has no tokenizer and no settings; give a diffusers folder of the same architecture: "
            "load(path, config='path/to/folder')."
        ) from error


@contextmanager
def _plain_settings(folder: Path, kind: str, xl: bool) -> Iterator[Path]:
    """Give a folder with the networks' settings and an index that names known classes alone."""
    saved_index = read_json(folder / "model_index.json")
    index: dict[str, Any] = {"_class_name": kind, "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {name: ["transformers", "CLIPTokenizer"] for name in _tokenizers(xl)}
    if xl:
        zeros = saved_index.get("force_zeros_for_empty_prompt", True)
        index["force_zeros_for_empty_prompt"] = bool(zeros)
    with TemporaryDirectory(prefix="p2p-lab-") as name:
        plain = Path(name)
        for part in ("unet", "vae", "text_encoder", *["text_encoder_2"] * xl):
            index[part] = list(_NETWORKS[part])
            (plain / part).mkdir()
            settings = read_json(folder / part / "config.json")
            settings = {k: v for k, v in settings.items() if k not in ("auto_map", "_auto_class")}
            (plain / part / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        (plain / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
        yield plain


def _other_parts(folder: Path, xl: bool) -> dict[str, Any]:
    """Return the parts of a pipeline that have no weights."""
    parts = {name: open_tokenizer(folder / name) for name in _tokenizers(xl)}
    scheduler = _scheduler(read_json(folder / "scheduler" / "scheduler_config.json"))
    none = {} if xl else {"safety_checker": None, "feature_extractor": None}
    return {**parts, "scheduler": scheduler, **none}


def _scheduler(settings: Mapping[str, Any]) -> Any:
    """Return diffusers' own scheduler of the class that the settings name."""
    import diffusers

    kind = getattr(diffusers, str(settings.get("_class_name")), None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    chosen: Any = kind if known else diffusers.DDIMScheduler
    return chosen.from_config(dict(settings))


def _tokenizers(xl: bool) -> tuple[str, ...]:
    return ("tokenizer", "tokenizer_2") if xl else ("tokenizer",)


def _usual_settings(path: Path) -> Path:
    """Fetch the settings that checkpoints of this kind usually have, or find them on the disk."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download
    from safetensors.torch import load_file

    name = fetch_diffusers_config(load_file(str(path)))["pretrained_model_name_or_path"]
    return Path(snapshot_download(name, allow_patterns=list(_SETTINGS)))


def _is_xl_folder(config: str | os.PathLike[str]) -> bool:
    """Return whether it is SDXL, by its folder's class."""
    missing = f"config={str(config)!r} is no diffusers folder: no model_index.json."
    index = read_json(Path(config) / "model_index.json", missing=missing)
    return str(index.get("_class_name", "")).startswith("StableDiffusionXL")


def is_embedding(weights: list[str]) -> bool:
    """Return whether a file's weights are those of a textual inversion: a word's vectors alone."""
    known = {"emb_params", "clip_l", "clip_g", "t5"}
    return 0 < len(weights) <= len(known) and all("." not in name for name in weights)


def _weights_in(path: Path) -> list[str]:
    """List the names of a checkpoint's weights, without reading them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ModelError(
            f"{path.name} is damaged or not safetensors: {first_line(error)}"
        ) from error
