"""The parts of a pipeline folder, opened one by one: networks, tokenizers, settings.

Only safetensors are read, and no code that comes with a model is run. This file knows file layouts
and nothing of what the parts are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from p2p_lab.models.cards import read_json
from p2p_lab.models.denoiser import Defaults, ModelCard
from p2p_lab.models.errors import REINSTALL, ModelError


@dataclass(frozen=True)
class Folder:
    """Hold where a pipeline's parts lie and how they are to be opened.

    Attributes:
        path: The folder with `model_index.json`.
        index: What that file says.
        card: What the package knows of the model beside its weights.
        name: What the model is called.
        device: Where its networks go.
        dtype: Precision of its networks.
    """

    path: Path
    index: Mapping[str, Any]
    card: ModelCard
    name: str
    device: torch.device
    dtype: torch.dtype

    def network(self, part: str, cls: Any) -> Any:
        """Open a network, frozen and on its device.

        Raises:
            ModelError: If it is missing, of another class, or not in safetensors.
        """
        said = (self.index.get(part) or [None, None])[1]
        if said is None:
            raise ModelError(
                f"{self.path} is a {self.index.get('_class_name')} without its part {part!r}. "
                "Take a version of the model that has it."
            )
        if said != cls.__name__:
            raise ModelError(
                f"The part {part!r} of {self.path} is a {said}, and only a {cls.__name__} is "
                "supported there."
            )
        network = open_part(cls, self.path / part, self.dtype)
        return network.eval().requires_grad_(False).to(self.device)

    def tokenizer(self, part: str, cls: Any, length: int | None = None) -> Any:
        """Open a tokenizer; `length` is how many tokens the model reads, if that is less."""
        tokenizer = open_tokenizer(self.path / part, cls)
        if length is not None:
            tokenizer.model_max_length = min(length, int(tokenizer.model_max_length))
        return tokenizer

    def scheduler(self) -> dict[str, Any]:
        """Read the scheduler's settings."""
        return read_json(self.path / "scheduler" / "scheduler_config.json")

    def defaults(self, height: int, width: int, steps: int, guidance_scale: float) -> Defaults:
        """Tell the settings that the model works best with: the card's, or those given."""
        usual = {"height": height, "width": width, "steps": steps, "guidance_scale": guidance_scale}
        return Defaults(**{**usual, **self.card.raw.get("defaults", {})})


def open_part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Open one network of a pipeline from safetensors, ready for inference."""
    if not folder.is_dir():
        raise ModelError(f"{folder.parent}: the folder {folder.name}/ is missing. {REINSTALL}")
    files = [path.name for path in folder.glob("*.safetensors")]
    if not files:
        raise ModelError(
            f"{folder} has no .safetensors file. Other formats can run code when they are opened "
            "and are not read; convert the model, or take a version with safetensors."
        )
    half_only = all(".fp16." in name for name in files)
    options: dict[str, Any] = {"variant": "fp16"} if half_only else {}
    return cls.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, **options
    )


def open_tokenizer(folder: Path, kind: Any = None) -> Any:
    """Open a tokenizer that tells character offsets; CLIP's if no class is given."""
    if not folder.is_dir():
        raise ModelError(f"{folder.parent}: the folder {folder.name}/ is missing. {REINSTALL}")
    if kind is None:
        from transformers import CLIPTokenizerFast

        kind = CLIPTokenizerFast
    return kind.from_pretrained(folder, local_files_only=True)
