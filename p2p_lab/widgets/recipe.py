"""What an edit panel is set to, and its other forms: a list of edits, code, a JSON file.

All of it is data: the panel's faders write a `Recipe`, and the same recipe makes the same picture
again without a panel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from p2p_lab.edits import Edit, LocalBlend, Refine, Replace, Reweight, default_edits
from p2p_lab.files import write_new
from p2p_lab.models import Denoiser
from p2p_lab.sampling import Run, edit, generate
from p2p_lab.sampling.editing import model_of
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.tokens import Prompt

Method = Literal["auto", "Replace", "Refine"]
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """Hold all that an edit depends on.

    Attributes:
        source: the source's prompt.
        target: the edit's prompt.
        seed: of the source's noise; None when a prompt and a seed do not make the source: it was
            measured from a photograph, or is an edit itself.
        method: how the prompts are aligned; "auto" lets the two prompts decide.
        cross: end of the cross-attention window, the paper's τ.
        self_attention: end of the self-attention window.
        scales: word of the target, occurrence, weight; those that are not 1.
        blend: source words and target words of a local edit, or None for everywhere.
        threshold: of the local edit's mask.
        steps: number of denoising steps; None takes the model's.
        guidance_scale: of source and edit; None takes the model's.
        negative: the negative prompt.
        size: height and width; None takes the model's.
        sampler: name of the sampler.
        model: name of the model.
    """

    source: str
    target: str
    seed: int | None = 0
    method: Method = "auto"
    cross: float = 0.8
    self_attention: float = 0.4
    scales: tuple[tuple[str, int, float], ...] = ()
    blend: tuple[str, str] | None = None
    threshold: float = 0.3
    steps: int | None = None
    guidance_scale: float | None = None
    negative: str = ""
    size: tuple[int, int] | None = None
    sampler: Sampler = "ddim"
    model: str = ""
    format: int = field(default=FORMAT, repr=False)

    def with_(self, **changes: Any) -> Recipe:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def edits(self, source: Prompt, target: Prompt) -> list[Edit]:
        """Return the edits that the recipe asks for, for two tokenized prompts.

        Raises:
            AlignmentError: a word is in neither prompt, or the prompts cannot be aligned.
        """
        kind = _aligner(self.method, source, target)
        found: list[Edit] = [
            kind(cross=(0.0, self.cross), self_attention=(0.0, self.self_attention))
        ]
        for word, occurrence, scale in self.scales:
            many = len(target.find(word)) > 1
            found.append(Reweight(word, scale, occurrence=occurrence if many else None))
        if self.blend is not None:
            found.append(_local(*self.blend, self.threshold))
        return found

    def generate(self, model: Denoiser, **watch: Any) -> Run:
        """Make the source picture; `watch` goes to `generate` (progress, on_step, cancel)."""
        return generate(
            model,
            self.source,
            seed=self.seed or 0,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            negative=self.negative,
            size=self.size,
            sampler=self.sampler,
            **watch,
        )

    def another_source(self, run: Run) -> bool:
        """Tell whether the recipe's source is another picture than this one."""
        return (self.source, self.seed) != (run.prompt.text, run.seed)

    def apply(self, source: Run, **watch: Any) -> Run:
        """Make the edit of a source picture; `watch` goes to `edit`."""
        target = model_of(source).prompt(self.target)
        return edit(source, self.target, self.edits(source.prompt, target), **watch)

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read `to_json` again.

        Raises:
            ValueError: the text is no recipe of this format.
        """
        try:
            found = json.loads(text)
            known = {f.name for f in fields(Recipe)}
            extra = set(found) - known
            if extra or found.get("format") != FORMAT:
                raise ValueError(f"unknown fields {sorted(extra)}, format {found.get('format')!r}")
            found["scales"] = tuple((str(w), int(n), float(c)) for w, n, c in found["scales"])
            blend, size = found["blend"], found["size"]
            found["size"] = None if size is None else (int(size[0]), int(size[1]))
            found["blend"] = None if blend is None else (str(blend[0]), str(blend[1]))
            return Recipe(**found)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(
                f"This is no saved recipe of format {FORMAT} ({error}). Save one with the panel's "
                f"button or with Recipe.save."
            ) from None

    def save(self, folder: str | Path = ".") -> Path:
        """Write the recipe to a new file in a folder, and return its path; nothing is replaced."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.target.casefold()).strip("-")[:40] or "edit"
        return write_new(Path(folder) / f"{slug}.json", self.to_json().encode("utf-8"))

    def to_code(self, edits: Sequence[Edit], *, source: Run | None = None) -> str:
        """Return the Python lines that make the edit without a panel.

        Args:
            edits: the edits, from `edits`.
            source: the source, for its exact settings; a measured one is called `source` as is.
        """
        names = sorted({type(one).__name__ for one in edits})
        made = self.seed is not None
        imports = [*names, "edit", *(("generate", "load") if made else ())]
        lines = [f"from p2p_lab import {', '.join(imports)}", ""]
        lines += _source_lines(self, source) if made else ["# source = the run that you edited"]
        lines += ["edited = edit(", "    source,", f"    {self.target!r},", "    ["]
        lines += [f"        {_call(one)}," for one in edits]
        return "\n".join([*lines, "    ],", ")", "edited"])


def recipe_of(source: Run, target: str, edits: Sequence[Edit], *, base: Recipe) -> Recipe:
    """Return the recipe that a list of edits amounts to, as far as the panel has controls for it.

    Raises:
        ValueError: the edits use something that the panel has no control for.
    """
    recipe = base.with_(source=source.prompt.text, target=target)
    for one in edits:
        if isinstance(one, (Replace, Refine)) and _plain(one):
            recipe = recipe.with_(
                method=type(one).__name__,
                cross=float(one.cross[1]),
                self_attention=float(one.self_attention[1]),
            )
        elif isinstance(one, Reweight) and one.window == (0.0, 1.0):
            scale = (one.word, one.occurrence or 0, float(one.scale))
            recipe = recipe.with_(scales=(*recipe.scales, scale))
        elif isinstance(one, LocalBlend) and one.mask is None and not one.subtract:
            before = _words(one.source_words)
            after = before if one.target_words is None else _words(one.target_words)
            recipe = recipe.with_(blend=(before, after), threshold=float(one.threshold))
        else:
            raise ValueError(
                f"The panel has no control for {one!r:.100}. It sets the ends of windows that "
                f"start at 0, one weight a word, and a local edit by words; use `edit` for more."
            )
    return recipe


def _plain(one: Replace | Refine) -> bool:
    starts = (one.cross[0], one.self_attention[0])
    return starts == (0, 0) and not one.words and one.alignment is None and one.self_pixels == 256


def _aligner(method: Method, source: Prompt, target: Prompt) -> type[Replace] | type[Refine]:
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not known; use one of {get_args(Method)}.")
    if method != "auto":
        return Replace if method == "Replace" else Refine
    return Replace if isinstance(default_edits(source, target)[0][0], Replace) else Refine


def _local(before: str, after: str, threshold: float) -> LocalBlend:
    source, target = _listed(before), _listed(after)
    return LocalBlend(source, target if target != source else None, threshold=threshold)


def _listed(words: str) -> str | tuple[str, ...]:
    """Read "cat, hat" as two words and "cat" as one."""
    found = tuple(word.strip() for word in words.split(",") if word.strip())
    return found[0] if len(found) == 1 else found


def _words(words: str | Sequence[str]) -> str:
    return words if isinstance(words, str) else ", ".join(words)


def _source_lines(recipe: Recipe, source: Run | None) -> list[str]:
    """Return the lines that load the model and make the source."""
    said = [f"seed={recipe.seed}"]
    if source is not None:
        said += [f"steps={source.steps}", f"guidance_scale={source.guidance_scale:g}"]
        usual = getattr(source.model, "defaults", None)
        if usual is not None and source.size != (usual.height, usual.width):
            said.append(f"size={source.size}")
        if source.sampler != "ddim":
            said.append(f"sampler={source.sampler!r}")
    if recipe.negative:
        said.append(f"negative={recipe.negative!r}")
    return [
        f"model = load({recipe.model!r})",
        f"source = generate(model, {recipe.source!r}, {', '.join(said)})",
    ]


def _call(one: Edit) -> str:
    """Write an edit as the call that makes it, without what is left at its default."""
    if isinstance(one, Reweight):
        which = "" if one.occurrence is None else f", occurrence={one.occurrence}"
        return f"Reweight({one.word!r}, {one.scale:g}{which})"
    if isinstance(one, LocalBlend):
        words = [repr(one.source_words)]
        words += [repr(one.target_words)] if one.target_words is not None else []
        return f"LocalBlend({', '.join(words)}, threshold={one.threshold:g})"
    windows = ", ".join(
        f"{name}=(0, {getattr(one, name)[1]:g})" for name in ("cross", "self_attention")
    )
    return f"{type(one).__name__}({windows})"
