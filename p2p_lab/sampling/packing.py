"""What a saved run holds: its schema, and the way from a `Run` to it and back.

Tensors go to one flat mapping by name; everything else is a record of plain fields. A run's
sources follow it in a row, so that a long chain of edits is as flat as a short one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from p2p_lab.attention import AttentionStore, AttentionTape, EditedProbs, QueryKey, Site
from p2p_lab.codec import DamagedError
from p2p_lab.edits import EditPlan
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.tokens import Prompt

if TYPE_CHECKING:
    from p2p_lab.sampling.runs import Run

Tensors = dict[str, Tensor]
_PLAIN = ("prompt", "negative", "seed", "guidance_scale", "sampler", "note")
_MAPS = ("means", "originals", "self_means")


@dataclass(frozen=True)
class SavedStore:
    """What a store has beside its maps."""

    prompt: Prompt
    sites: tuple[Site, ...]
    preferred: tuple[str, ...]


@dataclass(frozen=True)
class SavedEntry:
    """Which entry of a tape it is; `scale` is None for probabilities that were edited."""

    step: int
    site: str
    scale: float | None


@dataclass(frozen=True)
class SavedTape:
    """What a tape has beside its queries and keys."""

    model: str
    steps: int
    sites: tuple[Site, ...]
    entries: tuple[SavedEntry, ...]


@dataclass(frozen=True)
class SavedRun:
    """What one run has beside its tensors."""

    prompt: Prompt
    negative: str
    seed: int | None
    guidance_scale: float
    sampler: Sampler
    note: str
    pinned: bool
    start: int
    plan: str | None
    attention: SavedStore | None
    tape: SavedTape | None


@dataclass
class Parcel:
    """Gather tensors by name; what several names share is written once.

    Attributes:
        tensors: By name, each with memory of its own.
        same: Further names of tensors that are there already.
    """

    tensors: Tensors = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    _seen: dict[Any, tuple[str, Tensor]] = field(default_factory=dict)
    _storages: set[int] = field(default_factory=set)

    def put(self, name: str, tensor: Tensor | None) -> None:
        """Add a tensor; None adds nothing."""
        if tensor is None:
            return
        key = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in self._seen:
            self.same[name] = self._seen[key][0]
            return
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        if place in self._storages:  # a part of what is written already: safetensors refuses it
            plain = plain.clone()
        self._seen[key] = name, tensor  # kept, so that its memory is not given to another
        self._storages.add(plain.untyped_storage().data_ptr())
        self.tensors[name] = plain


def pack(run: Run, parcel: Parcel, *, tape: bool) -> list[dict[str, Any]]:
    """Put the tensors of a run and its sources in a parcel, and return the rest for JSON."""
    records: list[dict[str, Any]] = []
    one: Run | None = run
    while one is not None:
        records.append(asdict(_pack_one(one, parcel, f"{len(records)}/", tape)))
        one = one.source
    return records


def unpack(records: Sequence[SavedRun], tensors: Tensors) -> list[dict[str, Any]]:
    """Build the fields of a run and of its sources again; the reverse of `pack`.

    Args:
        records: The run, then what each was edited from.
        tensors: By name.

    Raises:
        DamagedError: If something is missing or does not fit together.
    """
    if not records:
        raise DamagedError("it holds no run")
    return [_unpack_one(record, tensors, f"{i}/") for i, record in enumerate(records)]


def _pack_one(run: Run, parcel: Parcel, prefix: str, tape: bool) -> SavedRun:
    path = run.trajectory
    parcel.put(prefix + "pixels", run.pixels)
    parcel.put(prefix + "masks", run.masks)
    for name in ("latents", "negative_embeds", "noise_maps"):
        parcel.put(f"{prefix}trajectory/{name}", getattr(path, name))
    kept = run.tape if tape else None
    return SavedRun(
        **{name: getattr(run, name) for name in _PLAIN},
        pinned=path.pinned,
        start=path.start,
        plan=None if run.plan is None else run.plan.to_json(),
        attention=None if run.attention is None else _pack_store(run.attention, parcel, prefix),
        tape=None if kept is None else _pack_tape(kept, parcel, prefix),
    )


def _unpack_one(saved: SavedRun, tensors: Tensors, prefix: str) -> dict[str, Any]:
    pixels = _needed(tensors, prefix + "pixels", ndim=3)
    latents = _needed(tensors, prefix + "trajectory/latents", ndim=4)
    tape = None if saved.tape is None else _unpack_tape(saved.tape, tensors, prefix)
    store = None
    if saved.attention is not None:
        store = _unpack_store(saved.attention, tensors, prefix)
    steps = len(latents) - 1
    trajectory = {
        "latents": latents,
        "negative_embeds": _optional(tensors, prefix + "trajectory/negative_embeds", steps),
        "noise_maps": _optional(tensors, prefix + "trajectory/noise_maps", steps),
        "pinned": saved.pinned,
        "start": saved.start,
    }
    if len(pixels) != 3 or not 0 <= saved.start < steps:
        raise DamagedError(
            f"a picture of shape {tuple(pixels.shape)} that starts at step {saved.start} of "
            f"{steps} cannot be"
        )
    return {
        **{name: getattr(saved, name) for name in _PLAIN},
        "pixels": pixels.cpu(),
        "trajectory": trajectory,
        "attention": store,
        "tape": tape,
        "plan": None if saved.plan is None else _plan(saved.plan, steps),
        "masks": _optional(tensors, prefix + "masks", steps),
    }


def _plan(text: str, steps: int) -> EditPlan:
    try:
        plan = EditPlan.from_json(text)
    except ValueError as error:
        raise DamagedError(f"its plan cannot be read: {error}") from error
    if plan.steps != steps:
        raise DamagedError(f"its plan has {plan.steps} steps and its picture {steps}")
    return plan


def _pack_store(store: AttentionStore, parcel: Parcel, prefix: str) -> SavedStore:
    for group in _MAPS:
        for name, tensor in getattr(store, group).items():
            parcel.put(f"{prefix}{group}/{name}", tensor)
    return SavedStore(store.prompt, tuple(store.sites.values()), store.preferred)


def _unpack_store(saved: SavedStore, tensors: Tensors, prefix: str) -> AttentionStore:
    sites = _sites(saved.sites)
    groups = {group: _under(tensors, f"{prefix}{group}/") for group in _MAPS}
    for name in {name for maps in groups.values() for name in maps}:
        if name not in sites:
            raise DamagedError(f"its maps name the site {name!r}, which it does not list")
    return AttentionStore(saved.prompt, sites, tape=None, preferred=saved.preferred, **groups)


def _pack_tape(tape: AttentionTape, parcel: Parcel, prefix: str) -> SavedTape:
    entries = []
    for (step, site), entry in tape.entries.items():
        place = f"{prefix}tape/{step}/{site}/"
        if isinstance(entry, EditedProbs):
            parcel.put(place + "values", entry.values)
        else:
            parcel.put(place + "query", _heads_inside(entry.query))
            parcel.put(place + "key", _heads_inside(entry.key))
            parcel.put(place + "mask", entry.mask)
        scale = None if isinstance(entry, EditedProbs) else float(entry.scale)
        entries.append(SavedEntry(step, site, scale))
    return SavedTape(tape.model, tape.steps, tuple(tape.sites.values()), tuple(entries))


def _unpack_tape(saved: SavedTape, tensors: Tensors, prefix: str) -> AttentionTape:
    sites, entries = _sites(saved.sites), {}
    for one in saved.entries:
        if one.site not in sites or not 0 <= one.step < saved.steps:
            raise DamagedError(f"its tape has an entry for step {one.step} of site {one.site!r}")
        entries[one.step, one.site] = _entry(one, tensors, f"{prefix}tape/{one.step}/{one.site}/")
    return AttentionTape(saved.model, sites, saved.steps, entries=entries)


def _entry(saved: SavedEntry, tensors: Tensors, place: str) -> QueryKey | EditedProbs:
    if saved.scale is None:
        return EditedProbs(_needed(tensors, place + "values", ndim=4))
    query, key = (_needed(tensors, place + name, ndim=4) for name in ("query", "key"))
    return QueryKey(
        _heads_inside(query), _heads_inside(key), tensors.get(place + "mask"), saved.scale
    )


def _heads_inside(tensor: Tensor) -> Tensor:
    """Swap heads and positions: files keep queries and keys as they lie in memory.

    A file holds contiguous tensors only, and another layout would round products otherwise.
    """
    return tensor.transpose(1, 2)


def _sites(sites: Sequence[Site]) -> dict[str, Site]:
    return {site.name: site for site in sites}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}


def _needed(tensors: Mapping[str, Tensor], name: str, ndim: int) -> Tensor:
    """Return a tensor that must be there, with so many axes, and be made of finite numbers."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != ndim or not tensor.is_floating_point():
        found = "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
        raise DamagedError(f"{name!r} must be numbers with {ndim} axes, got {found}")
    if not bool(torch.isfinite(tensor).all()):
        raise DamagedError(f"{name!r} holds numbers that are not finite")
    return tensor


def _optional(tensors: Mapping[str, Tensor], name: str, steps: int) -> Tensor | None:
    """Return a tensor that may be missing, with one row a step."""
    tensor = tensors.get(name)
    if tensor is not None and len(_needed(tensors, name, ndim=tensor.ndim)) != steps:
        raise DamagedError(f"{name!r} has {len(tensor)} rows for {steps} steps")
    return tensor
