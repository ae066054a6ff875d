"""A model as its user meets it: from a caption to a whole picture, through a later stage if any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

import p2p_lab
from p2p_lab import Run


@dataclass(frozen=True)
class FullPipeline:
    """Hold a model, and the stage that enlarges what it draws.

    Attributes:
        model: The denoiser that reads the caption; edits and maps are its own.
        later: A cascade's super-resolution stage, or None.
    """

    model: Any
    later: Any = None

    @classmethod
    def open(cls, name: str | None) -> FullPipeline:
        """Open a model by name or folder, with the later stage that its card names."""
        model = p2p_lab.load(name)
        stage = model.card.raw.get("later_stage")
        return cls(model, p2p_lab.load(f"{name or model.name}/{stage}") if stage else None)

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width of what the model itself draws."""
        return self.model.defaults.height, self.model.defaults.width

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole picture."""
        last = (self.later or self.model).defaults
        return last.height, last.width

    def draw(self, text: str, seed: int, record: Any = "none") -> tuple[Run, Tensor]:
        """Return the model's own run and the whole picture (3, H, W)."""
        run = p2p_lab.generate(self.model, text, seed=seed, record=record)
        return run, self.finish(run, seed)

    def finish(self, run: Run, seed: int) -> Tensor:
        """Return the whole picture (3, H, W) of a run, edited or not."""
        if self.later is None:
            return run.pixels
        set_on = self.later.on(run, seed=seed)
        return p2p_lab.generate(set_on, run.prompt.text, seed=seed, record="none").pixels

    def shrink(self, images: Tensor) -> Tensor:
        """Return whole pictures (B, 3, H, W) at the model's own size, each pixel a mean."""
        return F.interpolate(images, self.own_size, mode="area")
