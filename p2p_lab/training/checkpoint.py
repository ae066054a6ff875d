"""Checkpoints that a kill or a full disk cannot spoil.

A checkpoint is written to a folder beside its place, flushed, and renamed; the one before
it is deleted only after that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

KEEP = 2


class ResumeError(ValueError):
    """A run cannot go on from what is on disk."""


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step-*") if (path / "state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write one checkpoint; the last whole one stays until this one is whole.

    Args:
        folder: of the stage.
        tensors: everything to keep.
        state: JSON values; must hold "step".

    Raises:
        OSError: when the disk is full, with what is still whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state['step']}"
    draft = folder / f"draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, draft / "tensors.safetensors")
        (draft / "state.json").write_text(json.dumps(state))
        for path in draft.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
    except (OSError, SafetensorError) as error:  # safetensors says "disk full" its own way
        shutil.rmtree(draft, ignore_errors=True)
        whole = checkpoints(folder)
        last = whole[-1] if whole else "none"
        raise OSError(
            f"Could not write the checkpoint {final} ({error}); the last whole one is {last}. "
            "Free some space and run the same command again: it goes on from there."
        ) from error
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest checkpoint of a stage, or None.

    Raises:
        ResumeError: when it was made with another configuration.
    """
    whole = checkpoints(folder)
    if not whole:
        return None
    return load_file(whole[-1] / "tensors.safetensors"), _state(whole[-1], digest)


def begin_run(out: Path, digest: str, settings: Mapping[str, Any]) -> None:
    """Make a run's folder and write its settings to config.json.

    Args:
        out: the folder.
        digest: of the configuration, as checkpoints carry it.
        settings: the configuration's fields.

    Raises:
        ResumeError: when `out` holds a run with another configuration, which stays as it was.
    """
    if out.is_dir():
        for stage in sorted(path for path in out.iterdir() if path.is_dir()):
            for path in checkpoints(stage)[-1:]:
                _state(path, digest)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(settings, indent=1))


def _state(path: Path, digest: str) -> dict[str, Any]:
    """Read a checkpoint's state, and refuse it if another configuration made it."""
    state: dict[str, Any] = json.loads((path / "state.json").read_text())
    if state["digest"] != digest:
        raise ResumeError(
            f"{path} was made with configuration {state['digest']}, this run has {digest}; "
            "resume with the same options or choose another --out folder."
        )
    return state
