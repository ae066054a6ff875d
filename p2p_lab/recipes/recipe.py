"""What an edit panel is set to, and its other forms: a list of edits, code, a JSON file.

All of it is data: the panel's faders write a `Recipe`, and the same recipe makes the same picture
again without a panel.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from p2p_lab.codec import DamagedError, decode, parse_object
from p2p_lab.edits import (
    Edit,
    LocalBlend,
    Move,
    Refine,
    Replace,
    Reweight,
    default_edits,
)
from p2p_lab.edits.places import is_number
from p2p_lab.edits.plan import Joint
from p2p_lab.files import write_new
from p2p_lab.models import Denoiser
from p2p_lab.models.denoiser import checked_model
from p2p_lab.models.identity import short_digest, warn_of_another_model
from p2p_lab.recipes.words import listed
from p2p_lab.sampling import Run, edit, generate
from p2p_lab.sampling.editing import model_of
from p2p_lab.sampling.runs import is_seed
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.tokens import Alignment, Prompt, align_by_hand, align_tokens, align_words

Method = Literal["auto", "Replace", "Refine"]
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """All that an edit depends on.

    Attributes:
        source: The source's prompt.
        target: The edit's prompt.
        seed: Of the source's noise; None when a prompt and a seed do not make the source: it was
            measured from a photograph, or is an edit itself.
        method: How the prompts are aligned; "auto" lets the two prompts decide.
        cross: End of the cross-attention window, the paper's τ.
        self_attention: End of the self-attention window.
        scales: Word of the target, occurrence, weight; those that are not 1.
        blend: Source words and target words of a local edit, or None for everywhere.
        threshold: Of the local edit's mask.
        start: Fraction of the schedule before which nothing is blended.
        mask: A painted mask of a local edit, rows of "0" and "1", or nothing.
        moves: Word of the source, way down, way right, size: objects taken to another place.
        links: An alignment by hand, pairs of a source token and the target token that it feeds,
            or None for the method's own.
        joint: What a joint softmax takes in the self-attention window: "maps" or "queries".
        made_by: What tells that model from others of its name; "" if it is not known.
        steps: Number of denoising steps; None takes the model's.
        guidance_scale: Of source and edit; None takes the model's.
        negative: The negative prompt.
        size: Height and width; None takes the model's.
        sampler: Name of the sampler.
        model: Name of the model.
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
    start: float = 0.2
    joint: Joint = "maps"
    made_by: str = ""
    mask: tuple[str, ...] = ()
    moves: tuple[tuple[str, float, float, float], ...] = ()
    links: tuple[tuple[int, int], ...] | None = None
    format: int = field(default=FORMAT, repr=False)

    def __post_init__(self) -> None:
        """Refuse values that no picture can be made with.

        Raises:
            ValueError: If a value is of another kind, or outside its range.
        """
        texts = (
            self.source,
            self.target,
            self.negative,
            self.model,
            self.made_by,
            *(self.blend or ()),
        )
        parts = (self.cross, self.self_attention, self.threshold, self.start)
        weights = [scale for _, _, scale in self.scales]
        whole = [n for _, n, _ in self.scales] + [1 if self.steps is None else self.steps]
        right = {
            "texts": all(isinstance(text, str) for text in texts),
            "seed": self.seed is None or is_seed(self.seed),
            "method": self.method in get_args(Method),
            "windows, threshold and start": all(is_number(p) and 0 <= p <= 1 for p in parts),
            "weights": all(is_number(weight) for weight in weights),
            "whole numbers": all(type(n) is int and n >= 0 for n in (*whole, *(self.size or ()))),
            "guidance_scale": self.guidance_scale is None or is_number(self.guidance_scale),
            "sampler": self.sampler in get_args(Sampler),
            "joint": self.joint in get_args(Joint),
            "mask": len({*map(len, self.mask)}) <= 1 and {*"".join(self.mask)} <= {*"01"},
            "moves": all(is_number(part) for move in self.moves for part in move[1:]),
            "links": all(i >= 0 and j >= 0 for i, j in self.links or ()),
            "format": self.format == FORMAT,
        }
        wrong = [name for name, good in right.items() if not good]
        if wrong:
            raise ValueError(f"A recipe of these {', '.join(wrong)} is not possible: {self!r:.500}")

    def with_(self, **changes: Any) -> Recipe:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def made_with(self, model: Denoiser) -> Recipe:
        """Return the recipe with what tells its model from others, to be kept."""
        return self.with_(model=model.name, made_by=short_digest(model))

    def met(self, model: Denoiser) -> Recipe:
        """Return the recipe for a model at hand; warn if it was made with another one."""
        warn_of_another_model(checked_model(model), self.made_by, "This recipe")
        return self.with_(made_by="")

    def edits(self, source: Prompt, target: Prompt) -> list[Edit]:
        """Return the edits that the recipe asks for, for two tokenized prompts.

        Raises:
            AlignmentError: If a word is in neither prompt, or the prompts cannot be aligned.
        """
        kind = _aligner(self.method, source, target)
        found: list[Edit] = [
            kind(
                cross=(0.0, self.cross),
                self_attention=(0.0, self.self_attention),
                joint=self.joint,
                alignment=None if self.links is None else self.alignment(source, target),
            )
        ]
        for word, occurrence, scale in self.scales:
            many = len(target.find(word)) > 1
            found.append(Reweight(word, scale, occurrence=occurrence if many else None))
        found += [Move(word, (down, right), scale) for word, down, right, scale in self.moves]
        if self.blend is not None or self.mask:
            found.append(_local(self))
        return found

    def alignment(self, source: Prompt, target: Prompt) -> Alignment:
        """Return the alignment that the recipe takes: the method's own, or the one by hand.

        Raises:
            AlignmentError: If the prompts cannot be aligned, or a link names no token.
        """
        replaces = _aligner(self.method, source, target) is Replace
        found = (align_words if replaces else align_tokens)(source, target)
        return found if self.links is None else align_by_hand(found, self.links)

    def generate(self, model: Denoiser, **watch: Any) -> Run:
        """Make the source picture; `watch` goes to `generate` (progress, on_step, cancel)."""
        self.met(model)
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
        """Return whether the recipe's source is another picture than this one."""
        return (self.source, self.seed) != (run.prompt.text, run.seed)

    def apply(self, source: Run, **watch: Any) -> Run:
        """Make the edit of a source picture; `watch` goes to `edit`."""
        self.met(model_of(source))
        target = model_of(source).prompt(self.target)
        return edit(source, self.target, self.edits(source.prompt, target), **watch)

    def reprompt(self, source: Run, **watch: Any) -> Run:
        """Make the target's picture from the source's first noise without any control.

        It is what one gets by just writing the other prompt, and what an edit has to be better
        than; `watch` goes to `generate`.
        """
        drawn = source.seed is not None
        return generate(
            model_of(source),
            self.target,
            seed=source.seed or 0,
            latents=None if drawn else source.trajectory.latents[:1],
            steps=source.steps,
            guidance_scale=source.guidance_scale,
            negative=source.negative,
            size=source.size,
            sampler=source.sampler,
            **watch,
        )

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read `to_json` again.

        Raises:
            ValueError: If the text is no recipe of this format.
        """
        try:
            return decode(Recipe, parse_object(text))
        except DamagedError as error:
            raise ValueError(
                f"This is no saved recipe of format {FORMAT}: {error}. Save one with the panel's "
                f"button or with Recipe.save."
            ) from None

    def save(self, folder: str | Path = ".") -> Path:
        """Write the recipe to a new file in a folder, and return its path; nothing is replaced."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.target.casefold()).strip("-")[:40] or "edit"
        return write_new(Path(folder) / f"{slug}.json", self.to_json().encode("utf-8"))


def _aligner(method: Method, source: Prompt, target: Prompt) -> type[Replace] | type[Refine]:
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not known; use one of {get_args(Method)}.")
    if method != "auto":
        return Replace if method == "Replace" else Refine
    return Replace if isinstance(default_edits(source, target)[0][0], Replace) else Refine


def _local(recipe: Recipe) -> LocalBlend:
    before, after = map(_one_or_more, map(listed, recipe.blend or ("", "")))
    mask = [[int(cell) for cell in row] for row in recipe.mask] or None
    return LocalBlend(
        before,
        None if not after or after == before else after,
        threshold=recipe.threshold,
        start=recipe.start,
        mask=mask,
    )


def _one_or_more(words: tuple[str, ...]) -> str | tuple[str, ...]:
    return words[0] if len(words) == 1 else words
