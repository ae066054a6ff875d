"""The judge's optimiser: Muon for inner matrices and kernels, Adam for all else, in one process.

Muon moves a matrix by the semi-orthogonal matrix nearest to its momentum, so that every direction
moves alike (Jordan et al. 2024). `training` has an optimiser for many processes; this one needs
no library beside torch, and the room stays a leaf.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, tuned for a fast start
ITERATIONS = 5


class Optimiser:
    """Update a network after each backward pass.

    Args:
        net: whose parameters to update.
        outer: parameters of the first and last layers, which Adam takes whatever their shape.
        learning_rate: of Adam; Muon's is one and a half times that.
    """

    def __init__(self, net: nn.Module, outer: Collection[nn.Parameter], learning_rate: float):
        kept = {id(p) for p in outer}
        self.parameters = list(net.parameters())
        self.matrices = [p for p in self.parameters if p.ndim >= 2 and id(p) not in kept]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        inner = {id(p) for p in self.matrices}
        rest = [p for p in self.parameters if id(p) not in inner]
        self.adam = torch.optim.AdamW(rest, learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.learning_rate = learning_rate

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all parameters, the rates times `factor`, and forget the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for p, momentum in zip(self.matrices, self.momentum, strict=True):
            assert p.grad is not None
            momentum.lerp_(p.grad, 0.05)
            ahead = p.grad.lerp(momentum, 0.95).flatten(1)  # Nesterov; (rows, columns)
            size = 0.2 * max(ahead.shape) ** 0.5  # as large as a step of Adam
            rate = 1.5 * self.learning_rate * factor
            p.sub_((rate * size * nearest_orthogonal(ahead)).view_as(p))
            p.grad = None
        self.adam.param_groups[0]["lr"] = self.learning_rate * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return all state as named tensors."""
        out = {f"momentum.{i}": tensor for i, tensor in enumerate(self.momentum)}
        for i, entry in self.adam.state_dict()["state"].items():
            out |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        return out

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take state back from `state`."""
        saved = self.adam.state_dict()
        for name, tensor in tensors.items():
            kind, i, *key = name.split(".")
            if kind == "momentum":
                self.momentum[int(i)].copy_(tensor)
            else:
                saved["state"].setdefault(int(i), {})[key[0]] = tensor.clone()
        self.adam.load_state_dict(saved)


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ: X ← aX + (bG + cG²)X with G = X Xᵀ, five times."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    nearest: Tensor = x.T if tall else x
    return nearest
