"""The source of a case as a run: drawn from its prompt, or a rendered scene brought in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from benchmarks.editing.cases import Case
from benchmarks.editing.truth import Mask, seen_mask
from p2p_lab.inversion import invert
from p2p_lab.judge import Judge, Verdict
from p2p_lab.models import Denoiser
from p2p_lab.sampling import Run, generate
from p2p_lab.scenes import render

DRAWS = 6  # seeds that are tried until the judge sees what the source prompt says


@dataclass(frozen=True, eq=False)
class Source:
    """A case's source, ready to be edited.

    Attributes:
        case: what is asked for.
        run: the source run, with a tape.
        picture: what an edit is held to, (3, H, W): the drawn or the given picture.
        verdict: what the judge sees in `picture`.
        mask: where it may change, (H, W).
        seed: of the first noise; None for an inverted picture.
    """

    case: Case
    run: Run
    picture: Tensor
    verdict: Verdict
    mask: Mask
    seed: int | None


def make_source(case: Case, model: Denoiser, judge: Judge, *, steps: int) -> Source | None:
    """Make a case's source, or None if the model cannot draw or reconstruct what it says.

    Args:
        case: what is asked for.
        model: the denoiser.
        judge: must see the whole source scene in the picture.
        steps: number of denoising steps.
    """
    if case.origin == "inverted":
        return _inverted(case, model, judge, steps)
    for draw in range(DRAWS):
        seed = 10 * case.number + draw
        run = generate(model, case.text, seed=seed, steps=steps)
        verdict = judge.read(run.pixels)
        if judge.holds(verdict, case.source):
            mask = seen_mask(case.source, case.target, verdict, run.size[0])
            return Source(case, run, run.pixels, verdict, mask, seed)
    return None


def _inverted(case: Case, model: Denoiser, judge: Judge, steps: int) -> Source | None:
    size = model.defaults.height
    picture = render(case.source, size).images[0]
    run = invert(model, picture, case.text, method="direct", steps=steps)
    if not judge.holds(run.pixels, case.source):
        return None
    return Source(case, run, picture, judge.read(picture), case.mask(size), None)


def remade(source: Source, model: Denoiser, judge: Judge, **settings: float) -> Source:
    """Return the same source with other steps or guidance; the judge is asked no more."""
    case, steps = source.case, int(settings.get("steps", source.run.steps))
    scale = settings.get("guidance", source.run.guidance_scale)
    if case.origin == "inverted":
        run = invert(model, source.picture, case.text, steps=steps, guidance_scale=scale)
        return replace(source, run=run)
    assert source.seed is not None
    run = generate(model, case.text, seed=source.seed, steps=steps, guidance_scale=scale)
    verdict = judge.read(run.pixels)
    mask = seen_mask(case.source, case.target, verdict, run.size[0])
    return replace(source, run=run, picture=run.pixels, verdict=verdict, mask=mask)
