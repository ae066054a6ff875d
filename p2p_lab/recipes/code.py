"""An edit as Python lines that make the same picture, bit for bit, without a panel.

What a recipe or a run holds is written as literals alone, so no text of theirs is ever run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from p2p_lab.edits import Edit, Refine, Replace, Reweight
from p2p_lab.models import Denoiser
from p2p_lab.models.identity import short_digest
from p2p_lab.models.loading import WEIGHTS
from p2p_lab.recipes.recipe import Recipe
from p2p_lab.sampling import Run

_ALWAYS = ("cross", "self_attention", "threshold")  # said also where they are the default
ALIGN: dict[type, str] = {Replace: "align_words", Refine: "align_tokens"}
_PLACES = ("word", "source_words")  # given without their names


def to_code(recipe: Recipe, edits: Sequence[Edit], source: Run | None = None) -> str:
    """Return the lines that make an edit.

    Args:
        recipe: What the edit depends on.
        edits: The edits, from `recipe.edits`.
        source: The source, for its exact settings. One that no prompt and seed make is called
            `source` as it is.

    Raises:
        ValueError: If an edit holds what no code can say, such as a mask.
    """
    names = sorted({type(one).__name__ for one in edits})
    lines, uses = ["# source = the run that you edited"], list[str]()
    if recipe.seed is not None:
        loading, uses = _loading(recipe, None if source is None else source.model)
        lines = [loading, f"source = generate({_arguments(recipe, source)})"]
        names.append("generate")
    if recipe.links is not None:
        names += ["align_by_hand", *(ALIGN[type(one)] for one in edits if type(one) in ALIGN)]
    names += [name for name in uses if name != "torch"]
    head = [f"from p2p_lab import {', '.join(['edit', *sorted(names)])}", ""]
    if "torch" in uses:
        head = ["import torch", *head]
    lines += ["edited = edit(", "    source,", f"    {literal(recipe.target)},", "    ["]
    lines += [f"        {_call(one, recipe)}," for one in edits]
    return "\n".join([*head, *lines, "    ],", ")", "edited"])


def literal(value: Any) -> str:
    """Write text, numbers, None, and tuples, lists and dicts of these as Python reads them.

    Raises:
        ValueError: If the value is something else.
    """
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        return repr(str(value))
    if isinstance(value, Integral):
        return repr(int(value))
    if isinstance(value, Real) and math.isfinite(value):
        return _number(float(value))
    if isinstance(value, Mapping):
        pairs = [f"{literal(key)}: {literal(one)}" for key, one in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    raise ValueError(f"{value!r:.100} cannot be written as code. Make the edit in Python.")


def _number(value: float) -> str:
    whole = value == int(value) and abs(value) < 1e15 and math.copysign(1, value) > 0
    return repr(int(value)) if whole else repr(value)


def _call(one: Edit, recipe: Recipe) -> str:
    """Write an edit as the call that makes it, without what is left at its default."""
    defaults = {name: f.default for name, f in _fields(one).items()}
    words = []
    for name in defaults:
        value = getattr(one, name)
        same = value is defaults[name] or (
            isinstance(value, (str, float)) and value == defaults[name]
        )
        empty = isinstance(value, Mapping) and not value
        if name == "alignment" and recipe.links is not None and type(one) in ALIGN:
            prompts = f"source.prompt, source.model.prompt({literal(recipe.target)})"
            found = f"{ALIGN[type(one)]}({prompts})"
            words.append(f"alignment=align_by_hand({found}, {literal(recipe.links)})")
        elif name in _ALWAYS or not (same or empty):
            place = name in _PLACES or (name == "scale" and isinstance(one, Reweight))
            words.append(literal(value) if place else f"{name}={literal(value)}")
    return f"{type(one).__name__}({', '.join(words)})"


def _fields(one: Any) -> dict[str, Any]:
    return {f.name: f for f in fields(one)}


def _arguments(recipe: Recipe, source: Run | None) -> str:
    """Return the arguments of `generate` that make the source."""
    one: Any = recipe if source is None else source
    text = recipe.source if source is None else source.prompt.text
    arguments: dict[str, Any] = {"seed": recipe.seed}
    defaults = getattr(getattr(source, "model", None), "defaults", None)
    for name in ("steps", "guidance_scale", "size", "sampler", "negative"):
        value = getattr(one, name)
        if name == "size" and defaults is not None and value == (defaults.height, defaults.width):
            continue
        if value not in (None, "") and (name, value) != ("sampler", "ddim"):
            arguments[name] = value
    named = [f"{name}={literal(value)}" for name, value in arguments.items()]
    return ", ".join(["model", literal(text), *named])


def _loading(recipe: Recipe, model: Denoiser | None) -> tuple[str, list[str]]:
    """Return the line that opens the model again, and the names that it uses."""
    if model is None:
        arguments = [literal(recipe.model)] if recipe.model else []
        arguments += [f"digest={literal(recipe.made_by)}"] if recipe.made_by else []
        return f"model = load({', '.join(arguments)})", ["load"]
    where = _where(model)
    if where is None:
        return "# model = the model that you edited with", []
    name, defaults = where
    arguments, uses = [literal(name)], ["load"]
    if model.device.type != _best_device():
        arguments.append(f"device={literal(str(model.device))}")
    if model.dtype != defaults:
        arguments.append(f"dtype={model.dtype}")
        uses.append("torch")
    arguments.append(f"digest={literal(short_digest(model))}")
    return f"model = load({', '.join(arguments)})", uses


def _where(model: Denoiser) -> tuple[str, torch.dtype] | None:
    """Return what `load` opens this model by, and the precision it then takes."""
    dtype = torch.float16 if model.device.type == "cuda" else torch.float32
    part = Path(str(getattr(model.module.config, "_name_or_path", "") or ""))
    folder = part.parent.absolute()
    if folder.is_relative_to(WEIGHTS):
        return model.name, torch.float32
    if not (folder / "model_index.json").is_file():
        return None
    return (model.name if "/" in model.name else str(folder)), dtype


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
