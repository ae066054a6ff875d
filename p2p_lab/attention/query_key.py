"""What a softmax is computed from: M = softmax(q kᵀ/√d + mask)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class QueryKey:
    """Hold queries and keys: a softmax that has not been computed yet.

    Queries and keys take less memory than the probabilities they make, so this is also what the
    tape keeps.

    Attributes:
        query: (B, heads, Q, d).
        key: (B, heads, K, d).
        mask: Additive or boolean mask that broadcasts to (B, heads, Q, K), or None.
        scale: Usually 1/√d.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float

    def probs(self) -> Tensor:
        """Compute softmax(scale · q kᵀ + mask), (B, heads, Q, K), in float32 or wider."""
        wide = torch.promote_types(self.query.dtype, torch.float32)
        scores = (self.query.to(wide) * self.scale) @ self.key.to(wide).transpose(-1, -2)
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores = scores.masked_fill(~self.mask, float("-inf"))
        elif self.mask is not None:
            scores = scores + self.mask.to(wide)
        return scores.softmax(dim=-1)

    def to(self, device: torch.device) -> QueryKey:
        """Return the same on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return QueryKey(self.query.to(device), self.key.to(device), mask, self.scale)
