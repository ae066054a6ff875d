"""Open a Stable Diffusion checkpoint that is one `.safetensors` file.

Such a file holds weights under their original names and neither a tokenizer nor settings; a
diffusers folder of the same architecture supplies those.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from p2p_lab.models.errors import ModelError, first_line


def open_single_file(
    path: Path, config: str | os.PathLike[str] | None, dtype: torch.dtype
) -> tuple[Any, bool]:
    """Open a checkpoint file as a diffusers pipeline.

    Args:
        path: The checkpoint.
        config: A diffusers folder of the same architecture; None lets diffusers look for one on
            the hub.
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
    xl = _is_xl(path, config)
    import diffusers

    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    options: dict[str, Any] = {} if xl else {"safety_checker": None}
    if config is not None:
        options |= {"config": str(config), "local_files_only": True}
    try:
        return kind.from_single_file(str(path), torch_dtype=dtype, **options), xl
    except Exception as error:
        raise ModelError(
            f"The checkpoint {path.name} could not be opened: {first_line(error)} A single file "
            "has no tokenizer and no settings; give a diffusers folder of the same architecture: "
            "load(path, config='path/to/folder')."
        ) from error


def _is_xl(path: Path, config: str | os.PathLike[str] | None) -> bool:
    """Tell SDXL from its folder's class, or from its second text encoder's weights."""
    if config is not None:
        index = Path(config) / "model_index.json"
        if not index.is_file():
            raise ModelError(f"config={str(config)!r} is no diffusers folder: no model_index.json.")
        kind: str = json.loads(index.read_text(encoding="utf-8")).get("_class_name", "")
        return kind.startswith("StableDiffusionXL")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return any(key.startswith("conditioner.embedders.1") for key in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(
            f"{path.name} is damaged or not safetensors: {first_line(error)}"
        ) from error
