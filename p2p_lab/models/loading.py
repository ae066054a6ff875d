"""Find models on disk and open them: bundled ones, folders, single files, hub names.

Only safetensors are read and nothing is unpickled. Every file that a model's card lists is compared
with its SHA-256 before use. This file knows file layouts and nothing of sampling.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from p2p_lab.devices import cpu_by_default
from p2p_lab.models.cards import read_card
from p2p_lab.models.denoiser import Denoiser
from p2p_lab.models.errors import ModelError, first_line
from p2p_lab.models.hub import fetch
from p2p_lab.models.identity import warn_of_another_model
from p2p_lab.models.opening import open_file, open_folder, open_pipe

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
PREFERRED = ("scenes-128",)


def list_models() -> list[str]:
    """List the names of the bundled models, best first.

    Returns:
        Names that `load` takes, such as `"scenes-128"`; the newest version of each is used.
    """
    names = sorted({_split(folder)[0] for folder in _bundled()})
    return sorted(names, key=lambda name: PREFERRED.index(name) if name in PREFERRED else 99)


@torch.inference_mode(False)  # weights made in that mode have no way back
@cpu_by_default()
def load(
    name_or_path: str | os.PathLike[str] | Any | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    digest: str = "",
) -> Denoiser:
    """Open a text-to-image model.

    Args:
        name_or_path: A bundled model's name (`"cascade-64/super"` is a cascade's later stage), a
            folder in diffusers format, a single `.safetensors` checkpoint, or a hub id such as
            `"stable-diffusion-v1-5/stable-diffusion-v1-5"`, of which only the files that are opened
            are fetched, in half precision where the model will run in it. None takes the best
            bundled model. A diffusers pipeline in memory is taken as it is, with its adapters and
            added tokens: nothing is copied or moved.
        device: Where to run; None takes CUDA, then MPS, then the CPU.
        dtype: Precision of the weights; None takes float16 on CUDA for models from elsewhere, and
            float32 otherwise.
        config: For a single-file checkpoint: a diffusers folder of the same architecture, which
            has the tokenizer and the settings that a single file lacks.
        digest: What tells the model that is meant from others of its name, as copied code has it
            ("float32:3b1f…"); if it is another one, that is a warning.

    Returns:
        A `Denoiser`.

    Raises:
        ModelError: If the model is not there, incomplete, changed on disk or of an unknown kind.
    """
    model = _open(name_or_path, device, dtype, config)
    warn_of_another_model(model, digest, "This code")
    return model


def name_of(name_or_path: str) -> str:
    """Return the name that a model gets when it is opened, without opening it."""
    bundled = _find_bundled(name_or_path)
    if bundled is not None:
        return bundled.relative_to(WEIGHTS).as_posix()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return str(read_card(path).raw.get("name") or path.name)
    return path.stem if path.is_file() else name_or_path


def _open(name_or_path: Any, device: Any, dtype: Any, config: Any) -> Denoiser:
    if hasattr(name_or_path, "components"):
        return _from_memory(name_or_path, device, dtype, config)
    if not (name_or_path is None or isinstance(name_or_path, (str, os.PathLike))):
        raise ModelError(
            f"load takes a model's name, its folder, its checkpoint or a pipeline of diffusers; "
            f"got a {type(name_or_path).__name__}. A model that is open already needs no `load`, "
            "and a run knows its own: run.model."
        )
    where = usable_device(device)
    bundled = _find_bundled(None if name_or_path is None else str(name_or_path))
    if bundled is not None:
        called = bundled.relative_to(WEIGHTS).as_posix()
        return open_folder(bundled, where, _dtype(dtype, torch.float32), called)
    assert name_or_path is not None
    precision = _dtype(dtype, torch.float16 if where.type == "cuda" else torch.float32)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return open_folder(path, where, precision)
    if path.is_file():
        return open_file(path, config, where, precision)
    called = str(name_or_path)
    return open_folder(_from_hub(called, precision), where, precision, called)


def _from_memory(pipe: Any, *args: Any) -> Denoiser:
    if any(value is not None for value in args):
        raise ModelError(
            "A pipeline in memory is taken as it is, so device, dtype and config do not belong to "
            "it. Move the pipeline itself: load(pipe.to('cuda'))."
        )
    return open_pipe(pipe)


def _bundled() -> list[Path]:
    if not WEIGHTS.is_dir():
        return []
    return [path.parent for path in WEIGHTS.glob("*-v*/model_index.json")]


def _split(folder: Path) -> tuple[str, int]:
    name, _, version = folder.name.rpartition("-v")
    return name, int(version) if version.isdigit() else 0


def _find_bundled(name: str | None) -> Path | None:
    """Find a bundled model by its name, with or without version; None stands for the best.

    What follows a slash names a later stage, a folder in the model's own.
    """
    names = list_models()
    if name is None and not names:
        raise ModelError(
            "No bundled model is installed (p2p_lab/weights/ is empty). Install the package again, "
            "train one with `python -m p2p_lab.training`, or name a model folder: load('path')."
        )
    wanted, _, stage = (names[0] if name is None else name).partition("/")
    folders = [f for f in _bundled() if wanted in (_split(f)[0], f.name)]
    newest = max(folders, key=lambda folder: _split(folder)[1], default=None)
    return newest / stage if newest is not None and stage else newest


def _from_hub(name: str, dtype: torch.dtype) -> Path:
    """Return where a hub model lies on this machine, fetched if it is not there yet."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ModelError(
            f"There is no model {name!r}: no such file or folder, and it is not a hub id of the "
            f"form 'owner/name'. Bundled models: {', '.join(list_models()) or 'none installed'}."
        )
    return fetch(name, dtype)


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return a device that this machine has; None takes the best one.

    Raises:
        ModelError: If it cannot be used here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device {str(device)!r} cannot be used here: {first_line(error)} "
            "Use 'cpu', or leave device out to take the best one."
        ) from error
    return wanted


def _dtype(dtype: Any, default: torch.dtype) -> torch.dtype:
    allowed = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if dtype is None:
        return default
    if dtype not in allowed:
        raise ModelError(
            f"dtype={dtype!r} is not a precision that models run in. "
            f"Use one of {', '.join(str(d) for d in allowed)}."
        )
    chosen: torch.dtype = dtype
    return chosen
