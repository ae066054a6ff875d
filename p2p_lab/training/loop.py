"""Train a model: its stages one after the other, whatever kind it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch

from p2p_lab.training.build import Parts
from p2p_lab.training.cascade import cascade_stages
from p2p_lab.training.cascade_build import CascadeParts, build_cascade
from p2p_lab.training.checkpoint import begin_run
from p2p_lab.training.config import CascadeConfig, TrainConfig
from p2p_lab.training.latent import STAGES, latent_stages, prepare
from p2p_lab.training.setting import Setting
from p2p_lab.training.stage import Stage, run_stage


@overload
def train(
    config: TrainConfig,
    out: Path,
    *,
    device: str = ...,
    workers: int = ...,
    precision: str = ...,
    stages: Sequence[str] = ...,
) -> Parts: ...


@overload
def train(
    config: CascadeConfig, out: Path, *, device: str = ..., workers: int = ..., precision: str = ...
) -> CascadeParts: ...


def train(
    config: TrainConfig | CascadeConfig,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    precision: str = "no",
    stages: Sequence[str] = STAGES,
) -> Parts | CascadeParts:
    """Train a latent model or a cascade, going on from whatever checkpoints lie in `out`.

    Args:
        config: What to train.
        out: Folder of checkpoints, logs and sample grids.
        device: "auto", "cpu" or "cuda".
        workers: Processes that draw scenes ahead (0: draw in the training process).
        precision: "no", "bf16" or "fp16" (autocast).
        stages: Which stages of a latent model to train.

    Returns:
        The trained parts, with averaged weights, on the CPU.

    Raises:
        ResumeError: If `out` holds a run with another configuration.
    """
    setting = Setting.open(out, device, workers, precision)
    begin_run(out, config.digest(), dataclasses.asdict(config))
    parts = build_cascade(config) if isinstance(config, CascadeConfig) else prepare(config)
    for network in parts.networks:
        network.to(setting.device, memory_format=torch.channels_last)
    parts.text_encoder.to(setting.device)
    for stage in _stages(config, parts, setting, stages):
        run_stage(stage, config, setting.accelerator, out)
    for module in (*parts.networks, parts.text_encoder):
        module.to("cpu")
    return parts


def _stages(
    config: TrainConfig | CascadeConfig,
    parts: Parts | CascadeParts,
    setting: Setting,
    names: Sequence[str],
) -> Iterator[Stage]:
    if isinstance(config, CascadeConfig):
        assert isinstance(parts, CascadeParts)
        return cascade_stages(config, parts, setting)
    assert isinstance(parts, Parts)
    return latent_stages(config, parts, setting, names)
