"""Where a run computes: device, processes and precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from p2p_lab.models.loading import usable_device


@dataclass(frozen=True)
class Setting:
    """Where a run computes and what it writes to; it decides nothing of what is learned.

    Attributes:
        accelerator: Device, processes and precision.
        out: Folder of checkpoints, logs and sample grids.
        workers: Processes that draw scenes ahead (0: draw in the training process).
    """

    accelerator: Accelerator
    out: Path
    workers: int = 0

    @classmethod
    def open(cls, out: Path, device: str, workers: int, precision: str) -> Setting:
        """Begin a run on "auto", "cpu" or "cuda", in precision "no", "bf16" or "fp16".

        Raises:
            ModelError: If the device is not there.
        """
        if device != "auto":  # accelerate would take another one in silence
            usable_device(device)
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
        if accelerator.device.type == "cpu" and accelerator.num_processes > 1:
            torch.set_num_threads(1)
        return cls(accelerator, out, workers)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    def autocast(self) -> AbstractContextManager[None]:
        """Return a block that computes in the run's precision."""
        block: AbstractContextManager[None] = self.accelerator.autocast()
        return block
