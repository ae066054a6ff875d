"""What a controller is told and what it has recorded so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from p2p_lab.attention.records import RunningMaps


@dataclass(frozen=True)
class BatchSlices:
    """Say which rows of the batch are whose; unconditional rows are named by neither.

    Attributes:
        source: The source pictures' conditional rows, or None if they are not in the batch.
        target: The edited pictures' conditional rows, or None.
    """

    source: slice | None = None
    target: slice | None = None


@dataclass(eq=False)
class ControllerState:
    """Hold what has been recorded up to a step, so that a later run can go on from there."""

    source: RunningMaps
    target: RunningMaps
    original: RunningMaps
    masks: list[Tensor]
    self_maps: RunningMaps = field(default_factory=RunningMaps)

    @property
    def nbytes(self) -> int:
        """Tell how much memory the sums and masks take."""
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
