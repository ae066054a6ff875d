"""The compiled edit: `EditPlan`, and the one line that applies it, `mix_cross`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from p2p_lab.devices import cpu_by_default
from p2p_lab.edits import report
from p2p_lab.edits.parts import BlendPlan, Feed, MovePlan, same_fields
from p2p_lab.edits.saving import read_plan, write_plan
from p2p_lab.tokens import Prompt
from p2p_lab.tokens.alignment import Compat

Window = tuple[float, float]
Word = str | tuple[str, int]  # a word, or one of its places, from 0
Joint = Literal["maps", "queries"]


@dataclass(frozen=True, eq=False)
class EditPlan:
    """An edit as the three tensors of the edit equation, ready to be applied.

    Attributes:
        mapper: P, (L, L); column j says which source tokens feed target token j.
        source_gain: (T, L); how much of the mapped source column j enters at step t.
        target_gain: (T, L); how much of the target's own column j enters at step t.
        self_steps: Steps at which the self-attention maps are taken from the source.
        self_pixels: Only sites with at most this many positions take them (256 is 16 x 16).
        joint: Where words and image share a softmax: "maps" or the image's "queries" (and keys).
        blend: Where the picture may change, or None for everywhere.
        source: The source prompt, for printing and for telling plans apart.
        target: The target prompt.
        compat: "reference" if the quirks of the authors' code were reproduced.
        moves: Which words' source attention is taken to another place before it is mixed.
        toward: Another prompt, and the share of its embedding in the target's (an animation).
        second: A second mapper with its gain, between two alignments (an animation), or None.
    """

    mapper: Tensor
    source_gain: Tensor
    target_gain: Tensor
    self_steps: range = range(0)
    self_pixels: int = 256
    blend: BlendPlan | None = None
    source: Prompt | None = None
    target: Prompt | None = None
    compat: Compat = None
    moves: tuple[MovePlan, ...] = ()
    toward: tuple[Prompt, float] | None = None
    joint: Joint = "maps"
    second: Feed | None = None

    def __post_init__(self) -> None:
        """Refuse tensors whose shapes do not belong together."""
        shapes = tuple(self.mapper.shape), tuple(self.source_gain.shape)
        if (
            self.source_gain.shape != self.target_gain.shape
            or self.source_gain.ndim != 2
            or shapes[0] != (shapes[1][1],) * 2
        ):
            raise ValueError(
                f"An EditPlan needs a mapper of shape (L, L) and two gains of shape (T, L), got "
                f"{shapes[0]}, {shapes[1]} and {tuple(self.target_gain.shape)}."
            )

    @classmethod
    @cpu_by_default()
    def identity(
        cls, source: Prompt, target: Prompt, steps: int, *, compat: Compat = None
    ) -> EditPlan:
        """Return the plan that changes nothing: the target is generated on its own."""
        length = len(target)
        return cls(
            mapper=torch.eye(length, dtype=torch.float64),
            source_gain=torch.zeros(steps, length, dtype=torch.float64),
            target_gain=torch.ones(steps, length, dtype=torch.float64),
            source=source,
            target=target,
            compat=compat,
        )

    @property
    def steps(self) -> int:
        """Return T, the number of steps that the plan was compiled for."""
        return int(self.source_gain.shape[0])

    @property
    def length(self) -> int:
        """Return L, the number of tokens with padding."""
        return int(self.mapper.shape[0])

    @property
    def is_identity(self) -> bool:
        """Return whether the plan changes nothing at any step."""
        return not any(self._mixing) and not self.self_steps and self.blend is None

    def edits_cross(self, step: int) -> bool:
        """Return whether the cross-attention is changed at a step."""
        return self._mixing[step]

    def edits_self(self, step: int) -> bool:
        """Return whether self-attention is taken from the source at a step."""
        return step in self.self_steps

    def blends(self, step: int) -> bool:
        """Return whether the latents are blended after a step."""
        return self.blend is not None and step >= self.blend.start_step

    def needs_source_cross(self, step: int) -> bool:
        """Return whether the source's cross-attention enters at a step."""
        return self._using_source[step]

    def needs_target_cross(self, step: int) -> bool:
        """Return whether the target's own cross-attention enters at a step."""
        return self._using_target[step]

    def needs_source(self, step: int) -> bool:
        """Return whether any source probabilities enter at a step (blending not counted)."""
        return self.needs_source_cross(step) or self.edits_self(step)

    def moves_at(self, step: int) -> tuple[MovePlan, ...]:
        """Return what is moved at a step; nothing where no source map enters."""
        if not self.moves or not self.needs_source_cross(step):
            return ()
        return tuple(move for move in self.moves if step in move.steps)

    def shared_prefix(self, other: EditPlan) -> int:
        """Return on how many first steps two plans do the same, so that they can be shared.

        0 if they belong to different prompts or numbers of steps; T if the plans are the same in
        effect. Blends count from their first step on; the running mean of the maps that makes
        their mask starts at step 0 in both.
        """
        if self.steps != other.steps or self.length != other.length:
            return 0
        if any(getattr(self, n) != getattr(other, n) for n in ("source", "target", "toward")):
            return 0
        for step in range(self.steps):
            if not self._agrees(other, step):
                return step
        return self.steps

    def _agrees(self, other: EditPlan, step: int) -> bool:
        mine, theirs = self.moves_at(step), other.moves_at(step)
        if len(mine) != len(theirs) or not all(map(MovePlan.alike, mine, theirs)):
            return False
        used = self.source_gain[step] != 0
        return (
            torch.equal(self.source_gain[step], other.source_gain[step])
            and torch.equal(self.target_gain[step], other.target_gain[step])
            and torch.equal(self.mapper[:, used], other.mapper[:, used])
            and self._agrees_second(other, step)
            and self.edits_self(step) == other.edits_self(step)
            and (not self.edits_self(step) or self.self_pixels == other.self_pixels)
            and (not self.edits_self(step) or self.joint == other.joint)
            and self.blends(step) == other.blends(step)
            and (not self.blends(step) or self.blend == other.blend)
        )

    def _agrees_second(self, other: EditPlan, step: int) -> bool:
        mine, theirs = self.second, other.second
        if mine is None or theirs is None:
            one = mine or theirs
            return one is None or not bool((one.gain[step] != 0).any())
        used = mine.gain[step] != 0
        return torch.equal(mine.gain[step], theirs.gain[step]) and torch.equal(
            mine.mapper[:, used], theirs.mapper[:, used]
        )

    @cached_property
    def _mixing(self) -> tuple[bool, ...]:
        changed = (self.target_gain != 1).any(dim=1).tolist()
        return tuple(a or b for a, b in zip(changed, self._using_source, strict=True))

    @cached_property
    def _using_source(self) -> tuple[bool, ...]:
        used = self.source_gain != 0
        if self.second is not None:
            used = used | (self.second.gain != 0)
        return tuple(bool(flag) for flag in used.any(dim=1).tolist())

    @cached_property
    def _using_target(self) -> tuple[bool, ...]:
        return tuple(bool(flag) for flag in (self.target_gain != 0).any(dim=1).tolist())

    @cached_property
    def keeps_places(self) -> bool:
        """Return whether each token is fed from its own place: the mapper is the identity."""
        return torch.equal(
            self.mapper, torch.eye(self.length, dtype=self.mapper.dtype, device=self.mapper.device)
        )

    @cached_property
    def _copies(self) -> dict[tuple[torch.device, torch.dtype], list[Tensor]]:
        return {}

    def tensors_like(self, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mapper, source gain and target gain in the dtype and on the device of `probs`."""
        mapper, source, target = self._copied(probs)[:3]
        return mapper, source, target

    def second_like(self, probs: Tensor) -> Feed | None:
        """Return the second mapper with its gain in the dtype and on the device of `probs`."""
        return None if self.second is None else Feed(*self._copied(probs)[3:])

    def _copied(self, probs: Tensor) -> list[Tensor]:
        """Return all tensors like `probs`; they are copied once, not at every attention site."""
        key = (probs.device, probs.dtype)
        if key not in self._copies:
            tensors = [self.mapper, self.source_gain, self.target_gain]
            tensors += [] if self.second is None else [self.second.mapper, self.second.gain]
            # Copies made inside inference mode could not be used where gradients are taken later.
            with torch.inference_mode(False):  # in this order: MPS has no float64
                self._copies[key] = [one.to(probs.dtype).to(probs.device) for one in tensors]
        return self._copies[key]

    def with_(self, **changes: Any) -> EditPlan:
        """Return a copy of the plan with some fields replaced."""
        return replace(self, **changes)

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal, tensors element by element."""
        return isinstance(other, EditPlan) and same_fields(self, other)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __str__(self) -> str:
        """Return the plan as a short text, a line for each thing that it does."""
        return report.summary(self)

    def __repr__(self) -> str:
        """Return one line with the sizes of the plan."""
        kind = "identity" if self.is_identity else "edit"
        return f"<EditPlan: {kind}, {self.steps} steps, {self.length} tokens>"

    def explain(self) -> str:
        """Return a table with a row for each target token: where it comes from, when, how much."""
        return report.table(self)

    def touches(self, sites: Mapping[str, report.Place]) -> str:
        """Return which of a model's attention layers the plan changes, a line for each kind.

        Args:
            sites: The layers, as `find_sites(model.module, latent_size)` lists them.
        """
        return report.touched(self, sites)

    def to_json(self) -> str:
        """Return the plan as JSON; `from_json` gives back exactly the same plan."""
        return write_plan(self)

    @classmethod
    @cpu_by_default()
    def from_json(cls, text: str) -> EditPlan:
        """Build a plan again from `to_json`.

        Raises:
            ValueError: If the text is no saved plan.
        """
        return cls(**read_plan(text))


def mix_cross(source: Tensor | None, target: Tensor, plan: EditPlan, step: int) -> Tensor:
    """Apply the edit equation to the cross-attention probabilities of one site at one step.

    M_hat[:, j] = source_gain[t, j] (M_source P)[:, j] + target_gain[t, j] M_target[:, j],
    and a second feed from the source where the plan has one. Rows are not renormalised, as in the
    paper.

    Args:
        source: Probabilities of the source, (..., L), softmax over L; None where the plan does
            not need them (`plan.needs_source_cross(step)`).
        target: Probabilities of the target, same shape.
        plan: The compiled edit.
        step: 0 is the noisiest step.

    Returns:
        A new tensor; `target` itself where the plan changes nothing at this step.

    Raises:
        ValueError: If the plan needs the source and there is none.
    """
    if not plan.edits_cross(step):
        return target
    mapper, source_gain, target_gain = plan.tensors_like(target)
    kept = target_gain[step] * target
    if not plan.needs_source_cross(step):
        return kept
    if source is None:
        raise ValueError(
            f"The plan takes the source's cross-attention at step {step}, got none. Run the "
            f"source beside the target, or replay its tape."
        )
    mapped = source if plan.keeps_places else source @ mapper
    mixed = source_gain[step] * mapped + kept  # (..., L)
    second = plan.second_like(source)
    return mixed if second is None else mixed + second.gain[step] * (source @ second.mapper)
