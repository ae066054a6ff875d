"""Write a whole `Run` to one file and read it again: safetensors, with the rest as JSON inside.

Nothing is pickled. The file appears whole or not at all, carries a checksum of all that it holds,
and is read by a schema (`packing`), so that damage is found and said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from p2p_lab.codec import DamagedError, decode, parse_object
from p2p_lab.files import whole_file
from p2p_lab.models.identity import bytes_of, digest_of, same_precision
from p2p_lab.sampling.packing import Parcel, SavedRun, Tensors, pack, unpack
from p2p_lab.warn import warn_caller

if TYPE_CHECKING:
    from p2p_lab.models import Denoiser
    from p2p_lab.sampling.runs import Run

FORMAT = 2
_ABOUT, _CHECKSUM = "p2p_lab", "sha256"  # names in the file's metadata


@dataclass(frozen=True)
class SavedFile:
    """What a file has beside its tensors.

    Attributes:
        format: Version of this schema.
        model_name: What the model is called.
        made_by: Digest of the model's weights and settings; "" if it was not at hand.
        same: Further names of tensors.
        runs: The run, then what it was edited from, and so on.
    """

    format: int
    model_name: str
    made_by: str
    same: dict[str, str]
    runs: tuple[SavedRun, ...]


def save_run(run: Run, path: str | Path, *, tape: bool = True, replace: bool = False) -> Path:
    """Write a run, with the run it was edited from.

    Args:
        run: What to write.
        path: The file; `.safetensors` is usual. A saved run that lies there is replaced.
        tape: Whether to write the tapes, by far the largest part.
        replace: Whether a file that is no saved run is replaced too.

    Returns:
        The path.

    Raises:
        FileExistsError: If the file that lies there is no saved run, and `replace` is off.
        IsADirectoryError: If the path is a folder.
        OSError: If it cannot be written; a file that was there is still whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    parcel, path = Parcel(), Path(path)
    _check_place(path, replace=replace)
    fields = {
        "format": FORMAT,
        "model_name": run.model_name,
        "made_by": run.made_by if run.model is None else digest_of(run.model),
        "runs": pack(run, parcel, tape=tape),
        "same": parcel.same,
    }
    text = json.dumps(fields)
    about = {_ABOUT: text, _CHECKSUM: _checksum(text, parcel.tensors)}
    try:
        with whole_file(path) as draft:
            save_file(parcel.tensors, draft, metadata=about)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{path} could not be written: {error}. Free some space.") from error
    return path


def _check_place(path: Path, *, replace: bool) -> None:
    """Raise if a run would be written over something else; see `save_run`."""
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder. Name a file in it, as {path / 'run.safetensors'}."
        )
    if path.exists() and not replace and not _is_run(path):
        raise FileExistsError(
            f"{path} exists already and is no saved run, so it is not replaced. Choose another "
            "name, or save with replace=True."
        )


def _is_run(path: Path) -> bool:
    """Return whether a file says in its head that it is a saved run, damaged or not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return _ABOUT in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_run(path: str | Path, model: Denoiser | None = None) -> list[dict[str, Any]]:
    """Read the fields of a run, then those of what it was edited from, and so on.

    Args:
        path: A file that `save_run` wrote.
        model: Its denoiser, to edit it further.

    Raises:
        ValueError: If the file is not a run, or damaged, or of another model.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {str(path)!r}. A run is written with run.save(path).")
    try:
        text, tensors = _read(path)
        fields = parse_object(text)
        if fields.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {fields.get('format')!r:.40}, this version reads {FORMAT}. "
                "Make the run again and save it."
            )
        saved = decode(SavedFile, fields)
        if model is not None:
            _check_model(path, saved, model)
        # A copy: tensors in the file's own memory are unaligned, and products round otherwise.
        device = "cpu" if model is None else model.device
        on_device = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
        on_device |= {name: _named(on_device, other) for name, other in saved.same.items()}
        names = {"model_name": saved.model_name, "made_by": saved.made_by}
        return [{**fields, **names} for fields in unpack(saved.runs, on_device)]
    except DamagedError as error:
        raise ValueError(
            f"{path} is not a saved run, or it is damaged: {error}. Make the run again and save it."
        ) from error


def _read(path: str | Path) -> tuple[str, Tensors]:
    """Return a file's text and its tensors, as they were written.

    Raises:
        DamagedError: If it is no safetensors file of ours, or a single bit of it was changed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(str(error)) from error
    text = about.get(_ABOUT)
    if text is None:
        raise DamagedError("it was not written by run.save")
    if _CHECKSUM not in about:
        raise DamagedError("it has no checksum; versions before 0.1.0 wrote none")
    if about[_CHECKSUM] != _checksum(text, tensors):
        raise DamagedError("its checksum is not that of its content")
    return text, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all that a file holds."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _check_model(path: str | Path, saved: SavedFile, model: Denoiser) -> None:
    """Raise if the model is another one than that which made the run, whatever it is called."""
    if model.name != saved.model_name:
        raise ValueError(
            f"{path} was made by {saved.model_name!r}, the model given is {model.name!r}."
        )
    digest = digest_of(model)
    if not saved.made_by or digest == saved.made_by:
        return
    if same_precision(digest, saved.made_by):
        raise ValueError(
            f"{path} was made by another model that is called {model.name!r} too: their weights "
            "or settings differ. Give the model that made it, or make the run again with this one."
        )
    warn_caller(
        f"{path} was made in {saved.made_by.partition(':')[0]} and the model given runs in "
        f"{digest.partition(':')[0]}, so it cannot be told whether it is the same model."
    )


def _named(tensors: Tensors, name: str) -> Tensor:
    if name not in tensors:
        raise DamagedError(f"the tensor {name!r} is missing")
    return tensors[name]
