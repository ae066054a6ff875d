"""`animate`: a picture edited step by step from one keyframe to the next.

A keyframe is a prompt with its edits, all of one source. Between two of them the plan and the
text's embedding are mixed, so each frame is an edit of the source like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2p_lab.devices import cpu_by_default
from p2p_lab.edits import Edit, EditPlan, between, compile_edits, default_edits
from p2p_lab.sampling.editing import apply_plan, model_of
from p2p_lab.sampling.loop import CancelToken, OnStep, RunCallbacks
from p2p_lab.sampling.runs import Run
from p2p_lab.sampling.settings import Record, check_guidance

Keyframe = tuple[str, Sequence[Edit]]


@cpu_by_default()
def animate(
    source: Run,
    keyframes: Sequence[str | Keyframe],
    *,
    frames: int = 9,
    guidance_scale: float | None = None,
    record: Record = "none",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> list[Run]:
    """Edit one picture over a sequence of prompts and edits, smoothly.

    Frame i lies at i (K − 1) / (frames − 1) between the K keyframes, equally far apart; a frame
    that falls on a keyframe is that edit exactly. Frames of one prompt share the first steps in
    which their plans agree.

    Args:
        source: The run that all frames are edits of.
        keyframes: Two or more, each a prompt with a list of edits, or a prompt alone for the
            edits that `edit` would choose. The source's own prompt alone is the edit that changes
            no word: a generated source itself; an inverted one as its method draws it again
            beside the source, which is near the photograph and not equal to it.
        frames: How many pictures, at least one for each keyframe.
        guidance_scale: Guidance of all frames; None takes the source's.
        record: What each frame keeps; see `edit`.
        on_step: Called after each step of each frame; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        The frames in order, each a `Run` whose plan says what was done.

    Raises:
        AlignmentError: If a word is not in its prompt, or the prompts share none.
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If it was cancelled.
    """
    plans = keyframe_plans(source, keyframes)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < len(plans):
        raise ValueError(
            f"frames is a whole number of at least one for each of the {len(plans)} keyframes, "
            f"got {frames!r}."
        )
    scale = source.guidance_scale if guidance_scale is None else check_guidance(guidance_scale)
    mixed = [frame_plan(plans, i, frames) for i in range(frames)]
    callbacks = RunCallbacks(on_step, cancel)
    return [
        apply_plan([source], plan, guidance_scale=scale, record=record, callbacks=callbacks)[0]
        for plan in mixed
    ]


def keyframe_plans(source: Run, keyframes: Sequence[str | Keyframe]) -> list[EditPlan]:
    """Compile the keyframes' edits for one source.

    Raises:
        ValueError: If there are fewer than two, or one is no prompt with edits.
    """
    if isinstance(keyframes, str) or len(keyframes) < 2:
        raise ValueError(
            "An animation goes from one keyframe to another: give two or more, as "
            f'["a cat", ("a dog", [Replace()])]; got {keyframes!r:.80}.'
        )
    return [_compiled(source, keyframe) for keyframe in keyframes]


def frame_plan(plans: Sequence[EditPlan], frame: int, frames: int) -> EditPlan:
    """Return the plan of a frame: a keyframe's own, or one between two."""
    along = frame * (len(plans) - 1)  # in parts of 1 / (frames - 1)
    first, rest = divmod(along, frames - 1)
    if rest == 0:
        return plans[first]
    return between(plans[first], plans[first + 1], rest / (frames - 1))


def _compiled(source: Run, keyframe: str | Keyframe) -> EditPlan:
    text, edits = (keyframe, ()) if isinstance(keyframe, str) else _pair(keyframe)
    target = model_of(source).prompt(text)
    chosen = list(edits) or list(default_edits(source.prompt, target)[0])
    return compile_edits(chosen, source.prompt, target, source.steps)


def _pair(keyframe: Keyframe) -> Keyframe:
    try:
        text, edits = keyframe
    except (TypeError, ValueError):
        text, edits = None, ()
    if not isinstance(text, str):
        raise ValueError(f'A keyframe is a prompt, or ("a prompt", [edits]); got {keyframe!r:.80}.')
    return text, edits
