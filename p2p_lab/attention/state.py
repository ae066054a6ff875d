"""What a controller records: sums of attention over the steps, and how they are brought to a size.

Only conditional rows are recorded. Memory does not grow with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention.sites import Site


@dataclass(frozen=True)
class BatchSlices:
    """Which rows of the batch are whose; unconditional rows are named by neither.

    Attributes:
        source: The source pictures' conditional rows, or None if they are not in the batch.
        target: The edited pictures' conditional rows, or None.
    """

    source: slice | None = None
    target: slice | None = None


@dataclass(eq=False)
class RunningMaps:
    """Add up a batch's maps over the steps, mean over heads, one tensor a site.

    Attributes:
        sums: By site name, (B, pixels, keys), float32 or wider.
        count: Number of steps added.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, name: str, mean: Tensor) -> None:
        """Add one step's probabilities at one site, averaged over heads, (B, pixels, keys)."""
        mean = mean.detach()
        self.sums[name] = self.sums[name].add_(mean) if name in self.sums else mean.clone()

    def copy(self) -> RunningMaps:
        """Return an independent copy of the sums so far."""
        return RunningMaps({name: total.clone() for name, total in self.sums.items()}, self.count)

    def of(self, picture: int) -> dict[str, Tensor]:
        """Return one picture's means, (pixels, keys) a site."""
        return {name: total[picture] / max(self.count, 1) for name, total in self.sums.items()}


@dataclass(eq=False)
class ControllerState:
    """What has been recorded up to a step, so that a later run can go on from there."""

    source: RunningMaps
    target: RunningMaps
    original: RunningMaps
    masks: list[Tensor]
    self_maps: RunningMaps = field(default_factory=RunningMaps)

    @property
    def nbytes(self) -> int:
        """Bytes that the sums and masks take."""
        running = (self.source, self.target, self.original)
        sums = sum(total.nbytes for maps in running for total in maps.sums.values())
        return sums + sum(mask.nbytes for mask in self.masks)

    def copy(self) -> ControllerState:
        """Return an independent copy."""
        return ControllerState(
            self.source.copy(),
            self.target.copy(),
            self.original.copy(),
            list(self.masks),
            self.self_maps.copy(),
        )


def nearest_size(sites: Sequence[Site], pixels: int = 256) -> list[Site]:
    """Choose the sites whose number of positions is nearest (as a ratio) to `pixels`."""
    best = min(sites, key=lambda s: (abs(math.log(s.pixels / pixels)), -s.pixels)).size
    return [s for s in sites if s.size == best]


def resize(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Upsample a map (h, w) bilinearly to `size` (H, W); None leaves it as it is."""
    if size is None or tuple(values.shape) == tuple(size):
        return values
    return F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
