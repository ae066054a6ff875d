"""The latents of a run, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The latents of every step, and what an inversion measured beside them.

    Attributes:
        latents: (T + 1, C, h, w), from pure noise to the clean latents, in the sampler's scale.
        negative_embeds: Unconditional embedding of each step, (T, L, D), or None for the negative
            prompt's own (null-text inversion optimises them).
        noise_maps: Noise added after each step, (T, C, h, w), or None for deterministic steps.
        pinned: Whether a source row is set back to `latents` after each step (direct inversion).
        start: First step that is run; the ones before were skipped (edit-friendly inversion).
    """

    latents: Tensor
    negative_embeds: Tensor | None = None
    noise_maps: Tensor | None = None
    pinned: bool = False
    start: int = 0

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.latents) - 1
