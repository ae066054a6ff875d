"""One setting at a time: what each is worth, tried on the tuning half.

Half of the tuning cases try the windows, the other half everything else, and half of those also
guidance and steps, which need their own sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.editing.cases import Case
from benchmarks.editing.kinds import KINDS
from benchmarks.editing.methods import Settings
from p2p_lab.edits import LocalBlend, Refine, Reweight

Blends = Literal["never", "always", "both", "where it applies"]


@dataclass(frozen=True)
class Axis:
    """One setting with the values that are tried.

    Attributes:
        name: of the field of `Settings`, or "surgery".
        values: what is tried; the default is among them.
        usual: the package's default.
        group: 0 for the cases that try windows, 1 for the others, 2 for half of those, None: all.
        blends: with a local blend or without; "always" leaves out edits that are not local.
        faders: only amounts.
        says: what is tried, for the report.
    """

    name: str
    values: tuple[Any, ...]
    usual: Any
    group: int | None
    blends: Blends = "where it applies"
    faders: bool = False
    says: str = ""

    def settings(self, value: Any, blend: bool) -> Settings:
        """Return the settings of one value; the default is left unsaid."""
        if value == self.usual:
            return Settings(blend=blend)
        return Settings(blend=blend, **{self.name: value})

    def modes(self, case: Case) -> list[bool]:
        """Return whether a case is tried with a blend, without, or both."""
        if not case.local:
            return [] if self.blends == "always" else [False]
        return {"never": [False], "both": [False, True]}.get(self.blends, [True])

    def takes(self, case: Case) -> bool:
        """Tell whether a case tries this axis."""
        turn = case.number // (4 * len(KINDS))  # 0, 1, 2 … within kind, origin and half
        groups = {0: turn % 2 == 0, 1: turn % 2 == 1, 2: turn % 4 == 1, None: True}
        return groups[self.group] and (bool(case.fader) or not self.faders)


def axes(guidance: float, steps: int) -> tuple[Axis, ...]:
    """Return all axes; the model's own guidance and steps are their defaults."""
    windows, blend = Refine(), LocalBlend("a")
    cross, own, pixels = windows.cross[1], windows.self_attention[1], windows.self_pixels
    fader = Reweight("a", 1.0).window[1]

    def tried(usual: float, *values: float) -> tuple[float, ...]:
        return tuple(sorted({usual, *values}, reverse=True))  # neighbours share first steps

    return (
        Axis(
            "cross", tried(cross, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0), cross, 0, "both",
            says="end τ of the cross-attention window",
        ),
        Axis(
            "self_attention", tried(own, 0.8, 0.6, 0.4, 0.2, 0.0), own, 0, "both",
            says="end of the self-attention window",
        ),
        Axis("self_pixels", tried(pixels, 256, 64, 0), pixels, 1, says="largest injected site"),
        Axis(
            "threshold", tried(blend.threshold, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), blend.threshold, 1,
            "always", says="threshold of the blend",
        ),
        Axis(
            "start", tried(blend.start, 0.4, 0.2, 0.0), blend.start, 1, "always",
            says="start of the blend",
        ),
        Axis(
            "fader", tried(fader, 1.0, 0.8, 0.6, 0.4), fader, None, faders=True,
            says="end of the fader's window",
        ),
        Axis(
            "surgery", ("", "renormalised", "edited at 16x16", "edited at 8x8"), "", 1,
            says="rows renormalised; edited at one resolution only",
        ),
        Axis(
            "surgery", ("", "blended from 8x8"), "", 1, "always",
            says="resolution of the blend's maps",
        ),
        Axis(
            "guidance", tried(guidance, 7.5, 5.0, 1.5), guidance, 2,
            says="guidance of source and edit",
        ),
        Axis("steps", tried(steps, 50, 20, 10, 5), steps, 2, says="denoising steps"),
    )  # fmt: skip


def variants(case: Case, all_axes: Sequence[Axis]) -> list[Settings]:
    """Return the settings that a tuning case tries, each once, neighbours sharing first steps."""
    found = {Settings(): None}
    if case.local:
        found[Settings(blend=True)] = None
    for axis in all_axes:
        if axis.takes(case):
            for blend in axis.modes(case):
                found |= {axis.settings(value, blend): None for value in axis.values}
    return sorted(found, key=lambda s: s.blend)  # a blend shares no step with an edit without one


def lookup(axis: Axis, value: Any, *, blend: bool | None = None) -> Callable[[Case], list[str]]:
    """Return a function from a case to the names of the rows that show a value of an axis.

    Args:
        axis: which setting.
        value: which of its values.
        blend: only with a blend or only without; None takes it where it applies.
    """

    def names(case: Case) -> list[str]:
        if not axis.takes(case):
            return []
        modes = axis.modes(case)
        wanted = (case.local if blend is None else blend) if modes else None
        return [axis.settings(value, mode).name for mode in modes if mode == wanted]

    return names
