"""The parts of a pipeline folder, opened one by one: networks, tokenizers, settings.

Only safetensors are read, and no code that comes with a model is run. Each part is opened by the
class that the pipeline's index names, or refused. This file knows file layouts and nothing of what
the parts are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from p2p_lab.models.cards import read_json
from p2p_lab.models.denoiser import Defaults, ModelCard
from p2p_lab.models.errors import REINSTALL, ModelError, first_line


class Parts(Protocol):
    """Where a family finds its networks, tokenizers and settings."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def card(self) -> ModelCard:
        """What the package knows of the model beside its weights."""

    @property
    def kind(self) -> str:
        """Name of the pipeline's class."""

    @property
    def where(self) -> str:
        """What to call the pipeline in an error."""

    def class_name(self, part: str) -> str | None:
        """Name of a part's class, or None if the pipeline goes without it."""

    def network(self, part: str, *kinds: Any) -> Any:
        """Return a network of one of these classes."""

    def tokenizer(self, part: str, kind: Any, length: int | None = None) -> Any:
        """Return a tokenizer of this class; `length` is how many tokens the model reads."""

    def settings(self, part: str) -> dict[str, Any]:
        """Return a scheduler's settings."""

    def option(self, name: str, default: Any) -> Any:
        """Return a setting of the pipeline itself."""

    def defaults(self, height: int, width: int, steps: int, guidance_scale: float) -> Defaults:
        """Return the settings that the model works best with: the card's, or those given."""


def check_part(parts: Parts, part: str, kinds: Iterable[str]) -> None:
    """Raise if a pipeline goes without a part, or has one of another class.

    Raises:
        ModelError: If it does.
    """
    class_name, known = parts.class_name(part), list(kinds)
    if class_name is None:
        raise ModelError(
            f"{parts.where} is a {parts.kind} without its part {part!r}. "
            "Take a version of the model that has it."
        )
    if class_name not in known:
        raise ModelError(
            f"The part {part!r} of {parts.where} is a {class_name}, and only a {known[0]} is "
            "supported there."
        )


def tokenizer_names(kind: Any) -> list[str]:
    """List the names under which a tokenizer's class is saved: with and without "Fast"."""
    plain = kind.__name__.removesuffix("Fast")
    return [plain, f"{plain}Fast"]


def chosen(card: ModelCard, *values: float) -> Defaults:
    """Return a model's defaults (height, width, steps, guidance): its card's, or the usual."""
    names = ("height", "width", "steps", "guidance_scale")
    return Defaults(**{**dict(zip(names, values, strict=True)), **card.raw.get("defaults", {})})


@dataclass(frozen=True)
class PipelineFolder:
    """A saved pipeline: where its parts lie and how they are to be opened.

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

    @property
    def kind(self) -> str:
        """Name of the pipeline's class."""
        return str(self.index.get("_class_name"))

    @property
    def where(self) -> str:
        """The folder, as errors name it."""
        return str(self.path)

    def class_name(self, part: str) -> str | None:
        """Name of a part's class in the index, or None if the pipeline goes without it."""
        class_name: str | None = (self.index.get(part) or [None, None])[1]
        return class_name

    def network(self, part: str, *kinds: Any) -> Any:
        """Open a network, frozen and on its device; the first of `kinds` is what it becomes.

        Raises:
            ModelError: If it is missing, of another class, or not in safetensors.
        """
        check_part(self, part, [kind.__name__ for kind in kinds])
        network = open_part(kinds[0], self.path / part, self.dtype)
        return network.eval().requires_grad_(False).to(self.device)

    def tokenizer(self, part: str, kind: Any, length: int | None = None) -> Any:
        """Open a tokenizer; `length` is how many tokens the model reads, if that is less."""
        check_part(self, part, tokenizer_names(kind))
        tokenizer = open_tokenizer(self.path / part, kind)
        if length is not None:
            tokenizer.model_max_length = min(length, int(tokenizer.model_max_length))
        return tokenizer

    def settings(self, part: str) -> dict[str, Any]:
        """Read a scheduler's settings."""
        return read_json(self.path / part / "scheduler_config.json")

    def option(self, name: str, default: Any) -> Any:
        """Return a setting of the pipeline itself."""
        return self.index.get(name, default)

    def defaults(self, height: int, width: int, steps: int, guidance_scale: float) -> Defaults:
        """Return the settings that the model works best with: the card's, or those given."""
        return chosen(self.card, height, width, steps, guidance_scale)


def open_part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Open one network of a pipeline from safetensors, ready for inference.

    Raises:
        ModelError: If it has no such file, or the file is not whole or not this network's.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder.parent}: the folder {folder.name}/ is missing. {REINSTALL}")
    names = [path.name for path in folder.glob("*.safetensors")]
    variant = variant_of(names, first=fitting(dtype))
    if variant is None:
        raise ModelError(
            f"{folder} has no .safetensors file. Other formats can run code when they are opened "
            "and are not read; convert the model, or take a version with safetensors."
        )
    options: dict[str, Any] = {"variant": variant} if variant else {}
    try:
        network, found = cls.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=dtype,
            output_loading_info=True,
            **options,
        )
    except TypeError as error:
        raise ModelError(
            f"{cls.__name__} cannot be made with the settings in {folder / 'config.json'}: "
            f"{first_line(error)} A setting is null or of another type than it takes; compare the "
            "file with that of the model's first version."
        ) from error
    _check_whole(found, folder)
    return network


_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+?))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors"
)
_FIRST = ("", "fp16", "bf16")  # the plain file is whole; then what is known; "non_ema" if alone


def variant_of(names: Iterable[str], *, first: str = "") -> str | None:
    """Choose among a network's files: "" for plain ones, "fp16", "bf16", …; None for no file.

    Args:
        names: The files' names, sharded or not.
        first: The variant to prefer where it is there.
    """
    matches = (_WEIGHTS.fullmatch(name) for name in names)
    variants = {match[1] or match[2] or "" for match in matches if match is not None}
    order = (first, *_FIRST, *sorted(variants))
    return next((variant for variant in order if variant in variants), None)


def fitting(dtype: torch.dtype) -> str:
    """Return the variant whose weights are stored in this precision, "" for the plain one."""
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "")


def weights_of(names: Iterable[str], variant: str | None) -> list[str]:
    """Return a network's files of one variant, each shard of it."""
    matches = ((name, _WEIGHTS.fullmatch(name)) for name in names)
    return [n for n, m in matches if m is not None and (m[1] or m[2] or "") == variant]


def _check_whole(found: Mapping[str, Any], folder: Path) -> None:
    """Raise if weights were missing, left over or of other shapes than the network's."""
    for what, key in (
        ("lack", "missing_keys"),
        ("hold more than the network has:", "unexpected_keys"),
        ("have other shapes than the network for", "mismatched_keys"),
    ):
        # CLIP's old files list the positions 0, 1, 2, …, which are no weights.
        names = sorted(str(k) for k in found.get(key, ()) if not str(k).endswith("position_ids"))
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"The weights in {folder} {what} {names[0]}{others}, so the model would not be the "
                f"one that was saved. {REINSTALL}"
            )


def open_tokenizer(folder: Path, kind: Any = None) -> Any:
    """Open a tokenizer that tells character offsets; CLIP's if no class is given."""
    if not folder.is_dir():
        raise ModelError(f"{folder.parent}: the folder {folder.name}/ is missing. {REINSTALL}")
    if kind is None:
        from transformers import CLIPTokenizerFast

        kind = CLIPTokenizerFast
    return kind.from_pretrained(folder, local_files_only=True)
