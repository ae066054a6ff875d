"""Muon for matrices and convolutions, Adam for the rest, over any number of processes.

Muon replaces a matrix of momentum by its nearest semi-orthogonal matrix (Newton–Schulz),
so every direction moves by the same amount: here it reaches a given loss with about two
thirds of the pictures. Convolution kernels are flattened to matrices. The work is split
over the processes, each of which updates its own share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about the nearest semi-orthogonal matrix, by Newton–Schulz iterations.

    Each iteration multiplies X by P = aI + bG + cG² with G = X Xᵀ. All P commute, so a
    long matrix (convolution kernels) is touched only twice: the iterations run on the
    small square G, and their product is applied at the end.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
    """
    a, b, c = COEFFICIENTS
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    eye = torch.eye(len(gram), device=x.device, dtype=x.dtype)
    total = eye
    for _ in range(steps):
        factor = a * eye + b * gram + c * (gram @ gram)
        total = factor @ total
        gram = factor @ gram @ factor
    flat: Tensor = total @ x
    return flat if matrix.shape[0] <= matrix.shape[1] else flat.T


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether Muon takes a parameter: inner matrices and kernels, no embeddings."""
    outer = ("embedding", "conv_in", "conv_out", "quant_conv", "shared", "attention_bias")
    return parameter.ndim >= 2 and not any(word in name for word in outer)


Inner = Callable[[str, Tensor], bool]


class Optimiser:
    """Muon and Adam side by side, with gradients averaged over the processes.

    Args:
        parameters: What to update, by name; those without a gradient are left out.
        accelerator: Tells how many processes share the work.
        learning_rate: Of Adam.
        muon_factor: Muon's learning rate in units of Adam's.
        inner: Which parameters Muon takes.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        accelerator: Accelerator,
        learning_rate: float,
        muon_factor: float,
        inner: Inner = is_matrix,
    ) -> None:
        named = [(name, p) for name, p in parameters if p.requires_grad]
        self.accelerator = accelerator
        self.learning_rate, self.muon_factor = learning_rate, muon_factor
        self.matrices = [p for name, p in named if inner(name, p)]
        self.rest = [p for name, p in named if not inner(name, p)]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.AdamW(
            self.rest, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.owners = self._share_out()

    def _share_out(self) -> list[int]:
        """Give each matrix to the process with the least work so far."""
        load = [0.0] * self.accelerator.num_processes
        owners = [0] * len(self.matrices)
        for i in sorted(range(len(self.matrices)), key=lambda i: -self.matrices[i].numel()):
            owners[i] = load.index(min(load))
            matrix = self.matrices[i].flatten(1)
            load[owners[i]] += matrix.numel() * min(matrix.shape)
        return owners

    def step(self, factor: float) -> float:
        """Update all parameters; return the norm of the averaged gradient.

        Args:
            factor: Of the learning rates, from the schedule.
        """
        parameters = self.matrices + self.rest
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in parameters if p.grad is not None]
        self._average(grads)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self._muon(self.learning_rate * self.muon_factor * factor)
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * factor
        self.adam.step()
        for p in parameters:
            p.grad = None
        return float(norm)

    def _average(self, tensors: list[Tensor]) -> None:
        if self.accelerator.num_processes == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        flat = self.accelerator.reduce(flat, "mean")
        _unflatten(flat, tensors)

    @torch.no_grad()
    def _muon(self, rate: float) -> None:
        rank = self.accelerator.process_index
        updates = [torch.zeros_like(p) for p in self.matrices]
        for i, (p, momentum) in enumerate(zip(self.matrices, self.momentum, strict=True)):
            assert p.grad is not None
            momentum.mul_(0.95).add_(p.grad, alpha=0.05)
            if self.owners[i] == rank:
                ahead = p.grad.lerp(momentum, 0.95).flatten(1)  # Nesterov; (rows, columns)
                scale = 0.2 * max(ahead.shape) ** 0.5
                updates[i] = (scale * orthogonalise(ahead)).view_as(p)
        if updates and self.accelerator.num_processes > 1:
            flat = torch.cat([update.reshape(-1) for update in updates])
            _unflatten(self.accelerator.reduce(flat, "sum"), updates)
        for p, update in zip(self.matrices, updates, strict=True):
            p.add_(update, alpha=-rate)

    def state(self) -> dict[str, Tensor]:
        """Return all state as named tensors."""
        out = {f"momentum.{i}": tensor for i, tensor in enumerate(self.momentum)}
        for i, entry in self.adam.state_dict()["state"].items():
            for key, value in entry.items():
                out[f"adam.{i}.{key}"] = torch.as_tensor(value)
        return out

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take state back from `state`."""
        for i, momentum in enumerate(self.momentum):
            momentum.copy_(tensors[f"momentum.{i}"])
        saved = self.adam.state_dict()
        saved["state"] = {
            i: {
                key: tensors[f"adam.{i}.{key}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
            }
            for i in range(len(self.rest))
            if f"adam.{i}.step" in tensors
        }
        self.adam.load_state_dict(saved)


def _unflatten(flat: Tensor, tensors: list[Tensor]) -> None:
    """Write a flat tensor back into tensors of their own shapes."""
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
