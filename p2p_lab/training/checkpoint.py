"""Checkpoints that a kill, a full disk or a damaged file cannot spoil.

A checkpoint is written whole or not at all; the one before it is deleted only after that. Each
carries the SHA-256 of its tensors, and where the newest is damaged the one before is taken.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from p2p_lab.codec import DamagedError, decode_known, parse_object
from p2p_lab.files import clear_drafts, remove_folder, sha256_of, whole_folder, write_whole

KEEP = 2
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")  # step-12; step-12-2 while step-12 is replaced
_TENSORS, _STATE = "tensors.safetensors", "state.json"


class ResumeError(ValueError):
    """A run cannot go on from what is on disk."""


@dataclass(frozen=True)
class _State:
    """The fields of state.json that are read here; older checkpoints have no checksum."""

    step: int
    digest: str
    seconds: float = 0.0
    sha256: str = ""


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in found if (path / _STATE).is_file()), key=_age)


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write one checkpoint; the last whole one stays until this one is whole.

    Args:
        folder: Of the stage.
        tensors: Everything to keep.
        state: JSON values; must hold "step" and "digest".

    Raises:
        OSError: If the disk is full, with what is still whole.
    """
    final = folder / f"step-{state['step']}"
    place = _free(final)
    try:
        clear_drafts(folder)  # a stage's folder has one writer: they are what a kill left
        with whole_folder(place) as draft:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, draft / _TENSORS)
            checked = {**state, "sha256": sha256_of(draft / _TENSORS)}
            (draft / _STATE).write_text(json.dumps(checked), encoding="utf-8")
    except (OSError, SafetensorError) as error:  # safetensors says "disk full" its own way
        whole = checkpoints(folder)
        last = whole[-1] if whole else "none"
        raise OSError(
            f"Could not write the checkpoint {final} ({error}); the last whole one is {last}. "
            "Free some space and run the same command again: it goes on from there."
        ) from error
    if place != final:
        remove_folder(final)
        place.rename(final)
    for old in checkpoints(folder)[:-KEEP]:
        with suppress(OSError):
            remove_folder(old)
    return final


def load_checkpoint(folder: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest whole checkpoint of a stage, or None if there is none at all.

    A damaged one is passed over with a warning.

    Raises:
        ResumeError: If it was made with another configuration, or all are damaged.
    """
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            state = _state(path, digest)
            tensors = _tensors(path, state)
        except DamagedError as error:
            damaged.append(f"{path} is damaged: {error}.")
            continue
        if damaged:
            warnings.warn(f"{' '.join(damaged)} Going on from {path}.", stacklevel=2)
        return tensors, state
    if damaged:
        raise ResumeError(
            f"{' '.join(damaged)} There is no other checkpoint: delete {folder} to begin this "
            "stage again."
        )
    return None


def begin_run(out: Path, digest: str, settings: Mapping[str, Any]) -> None:
    """Make a run's folder and write its settings to config.json.

    Args:
        out: The folder.
        digest: Of the configuration, as checkpoints carry it.
        settings: The configuration's fields.

    Raises:
        ResumeError: If `out` holds a run with another configuration, which stays as it was.
    """
    if out.is_dir():
        for stage in sorted(path for path in out.iterdir() if path.is_dir()):
            for path in checkpoints(stage):
                with suppress(DamagedError):
                    _state(path, digest)
    write_whole(out / "config.json", json.dumps(settings, indent=1).encode())


def _state(path: Path, digest: str) -> dict[str, Any]:
    """Read a checkpoint's state, and refuse it if another configuration made it."""
    try:
        state = parse_object((path / _STATE).read_bytes())
    except OSError as error:
        raise DamagedError(f"its state cannot be read ({error})") from error
    found = decode_known(_State, state)
    if found.digest != digest:
        raise ResumeError(
            f"{path} was made with configuration {found.digest}, this run has {digest}; "
            "resume with the same options or choose another --out folder."
        )
    return state


def _tensors(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, and compare them with their checksum."""
    try:
        if state.get("sha256", "") not in ("", sha256_of(path / _TENSORS)):
            raise DamagedError("its tensors are not those that were written (SHA-256 differs)")
        return load_file(path / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"its tensors cannot be read ({error})") from error


def _age(path: Path) -> tuple[int, int]:
    """Return what orders checkpoints: the step, then which writing of it."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1]), int(found[2] or 1)


def _free(path: Path) -> Path:
    """Return a checkpoint's name, or the next free one if the step was written before."""
    number = 1
    while (free := path if number == 1 else path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return free
