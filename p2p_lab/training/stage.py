"""One stage of training: a loop with a clock, a schedule, an average of the weights, a log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from p2p_lab.files import append_line
from p2p_lab.models.damage import first_not_finite
from p2p_lab.training.checkpoint import (
    ResumeError,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from p2p_lab.training.optim import Inner, Optimiser, is_matrix

WARMUP_PICTURES = 800


def rate_factor(fraction: float, pictures: int, constant_until: float) -> float:
    """Return the factor of the learning rate: warm-up, a plateau, then a cosine to zero."""
    warm = min(1.0, (pictures + 1) / WARMUP_PICTURES)
    tail = (fraction - constant_until) / (1 - constant_until)
    return warm * (0.5 + 0.5 * math.cos(math.pi * min(max(tail, 0.0), 1.0)))


class LoopSettings(Protocol):
    """What the loop itself takes from a run's configuration."""

    @property
    def batch(self) -> int:
        """Pictures a step, over all processes."""

    @property
    def learning_rate(self) -> float:
        """The highest one."""

    @property
    def muon_factor(self) -> float:
        """Muon's learning rate in units of Adam's."""

    @property
    def constant_until(self) -> float:
        """Part of the stage after which the rate falls."""

    @property
    def ema(self) -> float:
        """Decay of the averaged weights, a step."""

    def digest(self) -> str:
        """Return a short hash of all that must agree between a run and its resumption."""


@dataclass
class Stage:
    """What a stage trains and how long; `seconds` or `pictures` ends it, whichever is set.

    Attributes:
        name: Of its folder.
        module: Holds all trained parameters.
        loss: From a batch to a scalar loss and numbers for the log.
        batches: From the first step to an endless iterator of this process's batches.
        preview: Called with the averaged weights in place after each checkpoint.
        rate: Factor of the learning rates.
        inner: Which parameters Muon takes; Adam takes the others.
    """

    name: str
    module: nn.Module
    loss: Callable[[Any, int], tuple[Tensor, dict[str, float]]]
    batches: Callable[[int], Iterator[Any]]
    seconds: float
    pictures: int
    preview: Callable[[Path], None]
    rate: float = 1.0
    inner: Inner = is_matrix
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pictures <= 0 and not 0 < self.seconds < math.inf:
            raise ValueError(
                f"The stage {self.name!r} would never end: it has {self.seconds} seconds and "
                f"{self.pictures} pictures. Give it a finite time or some pictures, above 0."
            )


def run_stage(
    stage: Stage,
    config: LoopSettings,
    accelerator: Accelerator,
    folder: Path,
    *,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Train a stage to its end, going on from its last checkpoint.

    The averaged weights are in `stage.module` afterwards.

    Raises:
        FloatingPointError: If a loss, a gradient or a weight is no longer finite.
    """
    folder = folder / stage.name
    optimiser = Optimiser(
        stage.module.named_parameters(),
        accelerator,
        stage.rate * config.learning_rate,
        config.muon_factor,
        stage.inner,
    )
    stage.average = {n: p.detach().clone() for n, p in _weights(stage.module).items()}
    step, spent = _resume(stage, optimiser, config, folder)
    started, saved = time.monotonic(), spent
    batches = stage.batches(step)
    recent: dict[str, float] = {}
    with tqdm(desc=stage.name, unit="pictures", disable=not accelerator.is_main_process) as bar:
        while True:
            seconds = spent + _shared(time.monotonic() - started, accelerator)
            fraction = _fraction(stage, config, step, seconds)
            done = fraction >= 1
            if done or seconds - saved > checkpoint_seconds:
                saved = seconds
                if accelerator.is_main_process:
                    _save(stage, optimiser, config, folder, step, seconds)
                accelerator.wait_for_everyone()
            if done:
                break
            loss, numbers = stage.loss(next(batches), step)
            accelerator.backward(loss)
            factor = rate_factor(fraction, step * config.batch, config.constant_until)
            numbers["norm"] = optimiser.step(factor)
            if not math.isfinite(float(loss.detach()) + numbers["norm"]):
                raise _failure(stage, folder, step, "its loss or its gradient")
            _move_average(stage, min(config.ema, (1 + step) / (10 + step)))
            step += 1
            bar.update(config.batch)
            recent = {k: 0.98 * recent.get(k, v) + 0.02 * v for k, v in numbers.items()}
            if step % 50 == 0 and accelerator.is_main_process:
                bar.set_postfix({k: f"{v:.4f}" for k, v in recent.items()})
                _log(folder, step * config.batch, seconds, fraction, recent)
    _use_average(stage)


def _failure(stage: Stage, folder: Path, step: int, what: str) -> FloatingPointError:
    """Return the error for a stage that has nothing left to learn from."""
    whole = checkpoints(folder)
    last = (
        f"The checkpoint {whole[-1]} was written before, and stands."
        if whole
        else "None was saved."
    )
    return FloatingPointError(
        f"The stage {stage.name!r} stops at step {step}: {what} is no longer finite. {last} Take "
        "a lower learning rate or loss weight, or --precision no, and choose another --out folder."
    )


def _shared(seconds: float, accelerator: Accelerator) -> float:
    """Return one clock for all processes: they must stop and save at the same step."""
    if accelerator.num_processes == 1:
        return seconds
    mine = torch.tensor([seconds], dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(mine, "mean"))


def _fraction(stage: Stage, config: LoopSettings, step: int, seconds: float) -> float:
    """Return how much of the stage is over, by pictures or by the clock."""
    if stage.pictures > 0:
        return step * config.batch / stage.pictures
    return seconds / stage.seconds


def _resume(
    stage: Stage, optimiser: Optimiser, config: LoopSettings, folder: Path
) -> tuple[int, float]:
    found = load_checkpoint(folder, config.digest())
    if found is None:
        return 0, 0.0
    tensors, state = found
    with torch.no_grad():
        for name, p in _weights(stage.module).items():
            p.copy_(_saved(tensors, f"model.{name}", p, folder))
            stage.average[name].copy_(_saved(tensors, f"average.{name}", p, folder))
    optimiser.load_state(_under(tensors, "optimiser."))
    return int(state["step"]), float(state["seconds"])


def _saved(tensors: dict[str, Tensor], name: str, like: Tensor, folder: Path) -> Tensor:
    found = tensors.get(name)
    if found is None or found.shape != like.shape:
        raise ResumeError(
            f"The checkpoint in {folder} is damaged: its {name!r} is not that of this network. "
            f"Delete {folder} to begin this stage again."
        )
    return found


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _save(
    stage: Stage,
    optimiser: Optimiser,
    config: LoopSettings,
    folder: Path,
    step: int,
    seconds: float,
) -> None:
    now = _weights(stage.module)
    if weight := first_not_finite(now):
        raise _failure(stage, folder, step, f"the weight {weight}")
    tensors: dict[str, Tensor] = {f"model.{n}": p for n, p in now.items()}
    tensors |= {f"average.{n}": p for n, p in stage.average.items()}
    tensors |= {f"optimiser.{n}": p for n, p in optimiser.state().items()}
    state = {"step": step, "seconds": seconds, "digest": config.digest()}
    path = save_checkpoint(folder, tensors, state)
    kept = {n: p.detach().clone() for n, p in now.items()}
    _use_average(stage)
    stage.preview(folder / f"{path.name}.png")
    _take(stage.module, kept)


@torch.no_grad()
def _move_average(stage: Stage, decay: float) -> None:
    for name, p in _weights(stage.module).items():
        if p.is_floating_point():
            stage.average[name].lerp_(p, 1 - decay)
        else:  # a count, such as that of a normalisation's batches
            stage.average[name].copy_(p)


def _use_average(stage: Stage) -> None:
    _take(stage.module, stage.average)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and the buffers that it saves, each under one name."""
    saved = module.state_dict()
    buffers = {name: tensor for name, tensor in module.named_buffers() if name in saved}
    return {**dict(module.named_parameters()), **buffers}


@torch.no_grad()
def _take(module: nn.Module, values: dict[str, Tensor]) -> None:
    for name, tensor in _weights(module).items():
        tensor.copy_(values[name])


def _log(
    folder: Path, pictures: int, seconds: float, fraction: float, numbers: dict[str, float]
) -> None:
    line = {"pictures": pictures, "seconds": round(seconds, 1), "fraction": round(fraction, 4)}
    line |= {name: round(value, 5) for name, value in numbers.items()}
    append_line(folder / "log.jsonl", json.dumps(line))
