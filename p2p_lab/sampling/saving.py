"""Write a whole `Run` to one file and read it again: safetensors, with the rest as JSON inside.

Nothing is pickled. A file is written beside its place and then moved there, so that it is either
whole or not there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from p2p_lab.attention import AttentionStore, AttentionTape, Fixed, Scores, Site
from p2p_lab.edits import EditPlan
from p2p_lab.sampling.runs import Run, Trajectory
from p2p_lab.tokens import Prompt

if TYPE_CHECKING:
    from p2p_lab.models import Denoiser

FORMAT = 1
_PLAIN = ("negative", "seed", "guidance_scale", "sampler", "note", "model_name")
Tensors = dict[str, Tensor]


def save_run(run: Run, path: str | Path, *, tape: bool = True) -> Path:
    """Write a run, with the run it was edited from.

    Args:
        run: What to write.
        path: The file; `.safetensors` is usual.
        tape: Whether to write the tapes, by far the largest part.

    Returns:
        The path.
    """
    from safetensors.torch import save_file

    tensors: Tensors = {}
    fields = _to_fields(run, tensors, "", tape)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(whole, name, metadata={"p2p_lab": json.dumps({"format": FORMAT, **fields})})
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def load_run(path: str | Path, model: Denoiser | None = None) -> Run:
    """Read a run.

    Args:
        path: A file that `save_run` wrote.
        model: Its denoiser, to edit it further.

    Raises:
        ValueError: If the file is not a run, or damaged, or of another model.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. A run is written with run.save(path).")
    try:
        with safe_open(str(path), framework="pt") as file:
            fields = json.loads((file.metadata() or {})["p2p_lab"])
            device = "cpu" if model is None else model.device
            # A copy: tensors in the file's own memory are unaligned, and products round otherwise.
            tensors = {k: file.get_tensor(k).to(device, copy=True) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a saved run, or it is damaged ({error}).") from error
    if fields["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {fields['format']}, this version reads {FORMAT}. Save it again."
        )
    if model is not None and model.name != fields["model_name"]:
        raise ValueError(
            f"{path} was made by {fields['model_name']!r}, the model given is {model.name!r}."
        )
    return _from_fields(fields, tensors, "", model)


def _to_fields(run: Run, tensors: Tensors, prefix: str, tape: bool) -> dict[str, Any]:
    """Put a run's tensors in `tensors` under `prefix`, and return the rest for JSON."""
    fields: dict[str, Any] = {name: getattr(run, name) for name in _PLAIN}
    fields["prompt"] = run.prompt.to_dict()
    tensors[prefix + "pixels"] = run.pixels
    path = run.trajectory
    fields["trajectory"] = {"pinned": path.pinned, "start": path.start}
    for name in ("latents", "negative_embeds", "noise_maps"):
        if getattr(path, name) is not None:
            tensors[f"{prefix}trajectory/{name}"] = getattr(path, name)
    if run.masks is not None:
        tensors[prefix + "masks"] = run.masks
    fields["plan"] = None if run.plan is None else run.plan.to_json()
    if run.attention is not None:
        fields["attention"] = _store_fields(run.attention, tensors, prefix)
    if run.tape is not None and tape:
        fields["tape"] = _tape_fields(run.tape, tensors, prefix)
    if run.source is not None:
        fields["source"] = _to_fields(run.source, tensors, prefix + "source/", tape)
    return fields


def _from_fields(
    fields: Mapping[str, Any], tensors: Tensors, prefix: str, model: Denoiser | None
) -> Run:
    """Build a run again; the reverse of `_to_fields`."""
    prompt = Prompt.from_dict(fields["prompt"])
    tape = _tape_from(fields["tape"], tensors, prefix) if "tape" in fields else None
    attention = None
    if "attention" in fields:
        attention = _store_from(fields["attention"], tensors, prefix, prompt, tape)
    source = None
    if "source" in fields:
        source = _from_fields(fields["source"], tensors, prefix + "source/", model)
    path = {
        name: tensors.get(f"{prefix}trajectory/{name}")
        for name in ("negative_embeds", "noise_maps")
    }
    return Run(
        prompt=prompt,
        pixels=tensors[prefix + "pixels"].cpu(),
        trajectory=Trajectory(
            tensors[prefix + "trajectory/latents"],
            path["negative_embeds"],
            path["noise_maps"],
            pinned=bool(fields["trajectory"]["pinned"]),
            start=int(fields["trajectory"]["start"]),
        ),
        attention=attention,
        tape=tape,
        plan=None if fields["plan"] is None else EditPlan.from_json(fields["plan"]),
        source=source,
        masks=tensors.get(prefix + "masks"),
        model=model,
        **{name: fields[name] for name in _PLAIN},
    )


def _store_fields(store: AttentionStore, tensors: Tensors, prefix: str) -> dict[str, Any]:
    for group in ("means", "originals", "self_means"):
        for name, tensor in getattr(store, group).items():
            tensors[f"{prefix}{group}/{name}"] = tensor
    return {
        "prompt": store.prompt.to_dict(),
        "sites": [asdict(site) for site in store.sites.values()],
        "preferred": list(store.preferred),
    }


def _store_from(
    fields: Mapping[str, Any],
    tensors: Tensors,
    prefix: str,
    prompt: Prompt,
    tape: AttentionTape | None,
) -> AttentionStore:
    groups = {name: _under(tensors, f"{prefix}{name}/") for name in ("means", "originals")}
    return AttentionStore(
        prompt=prompt,
        sites=_sites(fields["sites"]),
        self_means=_under(tensors, f"{prefix}self_means/"),
        tape=tape,
        preferred=tuple(fields["preferred"]),
        **groups,
    )


def _tape_fields(tape: AttentionTape, tensors: Tensors, prefix: str) -> dict[str, Any]:
    """Put a tape's tensors in `tensors`; a tensor shared by many steps is written once."""
    written: dict[int, str] = {}

    def write(tensor: Tensor | None, name: str) -> str | None:
        if tensor is None:
            return None
        key = written.setdefault(tensor.data_ptr(), prefix + name)
        tensors[key] = tensor
        return key[len(prefix) :]

    entries = []
    for (step, site), entry in tape.entries.items():
        place = f"tape/{step}/{site}"
        if isinstance(entry, Fixed):
            entries.append([step, site, {"values": write(entry.values, f"{place}/values")}])
            continue
        parts = {
            "query": write(_heads_inside(entry.query), f"{place}/query"),
            "key": write(_heads_inside(entry.key), f"{place}/key"),
            "mask": write(entry.mask, f"{place}/mask"),
        }
        entries.append([step, site, {**parts, "scale": entry.scale}])
    sites = [asdict(site) for site in tape.sites.values()]
    return {"model": tape.model, "steps": tape.steps, "sites": sites, "entries": entries}


def _tape_from(fields: Mapping[str, Any], tensors: Tensors, prefix: str) -> AttentionTape:
    def read(name: str | None) -> Any:
        return None if name is None else tensors[prefix + name]

    entries: dict[tuple[int, str], Scores | Fixed] = {}
    for step, site, parts in fields["entries"]:
        if "values" in parts:
            entries[step, site] = Fixed(read(parts["values"]))
        else:
            query, key, mask = (read(parts[n]) for n in ("query", "key", "mask"))
            query, key = _heads_inside(query), _heads_inside(key)
            entries[step, site] = Scores(query, key, mask, parts["scale"])
    return AttentionTape(fields["model"], _sites(fields["sites"]), fields["steps"], entries=entries)


def _heads_inside(tensor: Tensor) -> Tensor:
    """Swap heads and positions: files keep queries and keys as they lie in memory.

    A file holds contiguous tensors only, and another layout would round products otherwise.
    """
    return tensor.transpose(1, 2)


def _sites(rows: list[dict[str, Any]]) -> dict[str, Site]:
    return {row["name"]: Site(**{**row, "size": tuple(row["size"])}) for row in rows}


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
