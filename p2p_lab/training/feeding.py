"""What a step of training is fed: its batch and its random numbers, the same after a resumption."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from p2p_lab.training.config import RunConfig
from p2p_lab.training.data import Words
from p2p_lab.training.setting import Setting


class Draws(Dataset[Any]):
    """The batches of one process: item i is the batch of step i, always the same."""

    def __init__(self, draw: Callable[[int], Any], first: int) -> None:
        self.draw, self.first = draw, first

    def __len__(self) -> int:
        return 10**8

    def __getitem__(self, index: int) -> Any:
        return self.draw(self.first + index)


def batches(
    draw: Callable[[int, int], Any], config: RunConfig, setting: Setting
) -> Callable[[int], Iterator[Any]]:
    """Return a function from the first step to this process's endless batches.

    Args:
        draw: From a first scene seed and a number of scenes to a batch.
        config: Of the run.
        setting: Tells how many processes share a batch, and how many draw ahead.
    """
    share = config.batch // setting.accelerator.num_processes
    offset = setting.accelerator.process_index * share

    def at(step: int) -> Any:
        return draw(step * config.batch + offset, share)

    def start(step: int) -> Iterator[Any]:
        return iter(DataLoader(Draws(at, step), batch_size=None, num_workers=setting.workers))

    return start


def random_numbers(config: RunConfig, step: int, setting: Setting) -> torch.Generator:
    """Return this process's random numbers for one step, the same after a resumption."""
    mixed = (config.seed * 1_000_003 + step) * 64 + setting.accelerator.process_index
    return torch.Generator().manual_seed(mixed)


def words_on(words: Words, device: torch.device) -> Words:
    """Return the supervised words of a batch on a device."""
    moved = {f.name: getattr(words, f.name).to(device) for f in dataclasses.fields(words)}
    return dataclasses.replace(words, **moved)
