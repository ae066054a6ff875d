"""How much memory a tape may take, and where it is kept, known before it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from p2p_lab.attention import AttentionTape, Site, taped_sites
from p2p_lab.edits.places import is_number
from p2p_lab.models import Denoiser
from p2p_lab.warn import warn_caller

SHARE = 0.25  # of the free memory
LARGE, USUAL = 32 * 32, 16 * 16  # self-attention kept up to so many positions, if it fits
_noted: set[str] = set()


def new_tapes(
    model: Denoiser,
    sites: Mapping[str, Site],
    steps: int,
    *,
    pictures: int = 1,
    budget: int | None = None,
) -> list[AttentionTape]:
    """Make empty tapes, one a picture, of as many sites as fit in memory; none if none fit.

    They are kept where the model runs if they fit there, else in the host's memory, from which
    an edit takes each step back when it needs it.

    Args:
        model: The denoiser.
        sites: Its sites.
        steps: Number of steps T.
        pictures: Number of tapes.
        budget: Bytes they may take together; None takes a quarter of the free memory.
    """
    size, allowed = 0, 0.0
    for home in dict.fromkeys((model.device, torch.device("cpu"))):
        allowed = _allowed(home, budget)
        for limit in (LARGE, USUAL):
            chosen = taped_sites(sites, limit)
            size = tape_size(model, chosen, steps) * pictures
            if size <= allowed:
                return [AttentionTape(model.name, chosen, steps, home) for _ in range(pictures)]
    _say_once(
        f"The tape of this run would take {size / 2**20:.0f} MiB and {allowed / 2**20:.0f} MiB are "
        "allowed, so none is kept: an edit runs the source again beside the target, with the same "
        "result at twice the cost. Take fewer steps or a smaller picture, or raise tape_budget."
    )
    return []


def checked_budget(budget: int | None) -> int | None:
    """Return a tape's budget as it is.

    Args:
        budget: Bytes; None stands for a share of the free memory.

    Raises:
        ValueError: If it is no number of bytes.
    """
    if budget is None or (is_number(budget) and budget >= 0):
        return budget
    raise ValueError(
        f"tape_budget={budget!r:.80} is not possible: give a number of bytes from 0 (no tape) on, "
        "such as 2**30, or None for a quarter of the free memory."
    )


def _allowed(home: torch.device, budget: int | None) -> float:
    """Return how many bytes tapes may take there; a budget leaves an accelerator's share."""
    if home.type == "cpu" and budget is not None:
        return budget
    share = free_memory(home) * SHARE
    return share if budget is None else min(share, budget)


def tape_size(model: Denoiser, sites: Mapping[str, Site], steps: int) -> int:
    """Return how many bytes one tape of these sites takes."""
    length = len(model.prompt(""))  # SD3's text is longer than what one tokenizer makes of it
    return AttentionTape.estimate(sites, steps, model.dtype, length)


def free_memory(device: torch.device) -> int:
    """Return how many bytes are free where the model runs."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_system_memory(), _container_memory())


def _system_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _container_memory() -> int:
    """Return what a container leaves free (as on Binder), which the system's own count ignores."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**62
    return 2**62 if limit == "max" else max(int(limit) - used, 0)


def _say_once(sentence: str) -> None:
    if sentence not in _noted:
        _noted.add(sentence)
        warn_caller(sentence)
