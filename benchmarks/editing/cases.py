"""The cases: a scene, the edit that is asked for, and what is true of it.

Case i of a seed is always the same. Kinds, origins and halves take turns, so that any first so many
cases are balanced. Only scenes of which the judge reads both the true source and the true target
rightly become cases: what it gets wrong afterwards is the edit's doing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.editing.kinds import KINDS
from benchmarks.editing.truth import Mask, changed_names, may_change, wanted
from p2p_lab.judge import Judge, Verdict, Wanted
from p2p_lab.scenes import WORLDS, Scene, caption, render, sample_scene
from p2p_lab.scenes.splits import EDITING

TRIES = 2000
SEEDS = (EDITING.stop - EDITING.start) // (500 * TRIES)
RELATIONS = ("one", "next to", "riding")
SHARE = (0.01, 0.6)  # of the picture that a local edit may change
SIZE = 128  # pixels, of the true pictures by which a case is chosen
Origin = Literal["generated", "inverted"]
Half = Literal["tuning", "reporting"]


@dataclass(frozen=True)
class Case:
    """One edit that is asked for.

    Attributes:
        number: which case of its seed.
        seed: of the scene.
        kind: key of `KINDS`.
        origin: whether the source is drawn from the prompt, or a rendered scene brought in.
        half: whether it may choose defaults or only report.
        source, target: the scene before and after.
        local: whether the edit concerns single things, so that a local blend applies.
        fader: for an amount, the word that is turned up or down, else "".
    """

    number: int
    seed: int
    kind: str
    origin: Origin
    half: Half
    source: Scene
    target: Scene
    local: bool
    fader: str = ""

    @property
    def text(self) -> str:
        """Tell the source prompt."""
        return caption(self.source).text

    @property
    def said(self) -> str:
        """Tell the edit in words alone: what a re-prompt is given."""
        return caption(self.target).text

    @property
    def target_text(self) -> str:
        """Tell the target prompt of a prompt edit: an amount leaves it as it is."""
        return self.text if self.fader else self.said

    @property
    def up(self) -> bool:
        """Tell whether an amount is turned up."""
        return self.target.degree > self.source.degree

    @property
    def wanted(self) -> tuple[Wanted, Wanted]:
        """Return what the judge must see: what was asked for, and what must have stayed."""
        asked, kept = wanted(self.source, self.target)
        return (Wanted(), kept) if self.fader else (asked, kept)

    @property
    def blend_words(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the words of source and target that mark the region of a local edit."""
        before = changed_names(self.source, self.target)
        return tuple(sorted(before)), tuple(sorted(changed_names(self.target, self.source)))

    def mask(self, size: int) -> Mask:
        """Return where the rendered source may change, (H, W)."""
        return may_change(self.source, self.target, size)

    def amount(self, verdict: Verdict) -> float:
        """Tell how much of the fader's word the judge sees, from 0 to 1."""
        if self.fader == self.source.weather:
            return verdict.degree if verdict.weather == self.fader else 0.0
        return float(verdict.attributes[self.source.subject.name][self.fader])


def make_cases(
    count: int, judge: Judge, *, seed: int = 0, half: Half | None = None, world: str = "small"
) -> list[Case]:
    """Return the first so many cases of a seed, or of one half of them.

    Args:
        count: how many.
        judge: must read source and target rightly.
        seed: from 0 to 199; another one gives other cases.
        half: take only this half's.
        world: the vocabulary to draw from.
    """
    found: list[Case] = []
    number = 0
    while len(found) < count:
        if half in (None, half_of(number)):
            found.append(make_case(number, judge, seed=seed, world=world))
        number += 1
    return found


def half_of(number: int) -> Half:
    """Tell a case's half: twenty of one, then twenty of the other."""
    return "reporting" if number // (2 * len(KINDS)) % 2 == 0 else "tuning"


def make_case(number: int, judge: Judge, *, seed: int = 0, world: str = "small") -> Case:
    """Draw scenes until one lends itself to this case's kind of edit.

    Raises:
        ValueError: if the seed is out of range or no scene was found.
    """
    if not 0 <= seed < SEEDS or not 0 <= number < 500:
        raise ValueError(
            f"Seeds go from 0 to {SEEDS - 1} and cases from 0 to 499; got {seed}, {number}."
        )
    kind = list(KINDS)[number % len(KINDS)]
    origin: Origin = "generated" if number // len(KINDS) % 2 == 0 else "inverted"
    first = (seed * 500 + number) * TRIES
    for at in map(EDITING.seed, range(first, first + TRIES)):
        case = _case(number, at, kind, origin, world)
        if case is not None and _is_clear(case, judge):
            return case
    raise ValueError(f"No scene of the world {world!r} lends itself to {kind!r} in {TRIES} tries.")


def _case(number: int, seed: int, kind: str, origin: Origin, world: str) -> Case | None:
    scene = replace(sample_scene(seed, world), named_place=True)
    rng = random.Random(f"edit {seed}")
    pair = KINDS[kind](scene, rng, WORLDS[world]) if scene.relation in RELATIONS else None
    if pair is None or any(len(caption(s).text.split()) > 20 for s in pair):
        return None
    source, target = pair
    beside = target.relation == "next to" != source.relation
    if kind == "add" and origin == "generated" and beside:
        return None  # a drawn picture leaves no agreed room beside its subject
    local = _alike_but_for_things(source, target)
    fader = ""
    if kind == "amount":
        fader = source.subject.attribute if local else source.weather
    return Case(number, seed, kind, origin, half_of(number), source, target, local, fader)


def _alike_but_for_things(source: Scene, target: Scene) -> bool:
    return replace(source, things=target.things, relation=target.relation) == target


def _is_clear(case: Case, judge: Judge) -> bool:
    """Tell whether the judge reads both true pictures rightly and the change is of a fair size."""
    if case.local and not SHARE[0] <= float(case.mask(SIZE).mean()) <= SHARE[1]:
        return False
    images = render([case.source, case.target], SIZE).images
    before, after = judge.read_all(images)
    if not (judge.holds(before, case.source) and judge.holds(after, case.target)):
        return False
    asked, _ = case.wanted
    if any(name in before.objects for name in asked.objects if name not in _names(case.source)):
        return False
    if case.fader:
        gap = case.amount(after) - case.amount(before)
        return bool(gap > 0.1 if case.up else gap < -0.1)
    return True


def _names(scene: Scene) -> set[str]:
    return {thing.name for thing in scene.things}
