"""Two processes of one training run whose clocks run apart; each says how many steps it took.

Started by test_training.py through torchrun; `Stage` and `run_stage` are the package's own.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from torch import nn

from p2p_lab.training import TrainConfig, stage

accelerator = Accelerator(cpu=True)
pace = 0.1 * (1 + 0.4 * accelerator.process_index)
ticks = itertools.count()
stage.time = SimpleNamespace(monotonic=lambda: pace * next(ticks))
module = nn.Linear(4, 4)
steps = []


def loss(batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
    steps.append(step)
    return module(batch).square().mean(), {}


run = stage.Stage(
    "clocks",
    module,
    loss,
    lambda step: itertools.repeat(torch.ones(2, 4)),
    4.0,
    0,
    lambda path: None,
)
stage.run_stage(run, TrainConfig(), accelerator, Path(sys.argv[1]), checkpoint_seconds=0.25)
print(f"steps {len(steps)} of process {accelerator.process_index}", flush=True)
