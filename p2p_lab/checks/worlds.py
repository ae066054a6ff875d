"""Small worlds of a few numbers, given to the answers of problem set 4. They solve nothing.

Each is a callable object, so that it can be sent to the process in which an answer runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ToyNoise:
    """A toy denoiser: ε(z, t) = A_t z + c_t.

    Attributes:
        weights: A, (T, C, C).
        rest: c, (T, 1, C, h, w).
    """

    weights: Tensor
    rest: Tensor

    def __call__(self, z: Tensor, step: int) -> Tensor:
        """Return the noise (1, C, h, w) that is seen in z."""
        return torch.einsum("ij,bjhw->bihw", self.weights[step], z) + self.rest[step]


@dataclass(frozen=True, eq=False)
class ToyPush:
    """What guidance adds at a step; it depends on where the latents are.

    Attributes:
        pushes: (T, 1, C, h, w).
    """

    pushes: Tensor

    def __call__(self, z: Tensor, step: int) -> Tensor:
        """Return what is added to the noise (1, C, h, w)."""
        return 0.5 * self.pushes[step] + 0.2 * z


@dataclass(frozen=True, eq=False)
class GuidedStep:
    """A guided step z' = A_t z + B_t ∅ with an embedding ∅ of the empty prompt.

    Attributes:
        turn: A, (T, D, D).
        reach: B, (T, D, D).
    """

    turn: Tensor
    reach: Tensor

    def __call__(self, z: Tensor, embed: Tensor, step: int) -> Tensor:
        """Return the next latents (D,)."""
        moved: Tensor = self.turn[step] @ z + self.reach[step] @ embed
        return moved
