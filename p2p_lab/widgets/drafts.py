"""Drafts: pictures of a few steps that follow a moving hand, until the final one is made.

A draft is the same recipe on the same source with fewer steps. It is shown and forgotten: never
saved, measured or exported. Drafts are kept by their recipe, so a second pass over a fader draws
nothing again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from PIL.Image import Image

from p2p_lab.edits.places import nearest_step
from p2p_lab.inversion import invert
from p2p_lab.recipes import Recipe
from p2p_lab.sampling import Run, generate
from p2p_lab.sampling.editing import model_of

DRAFT_STEPS = 5  # the bundled model edits as well in 5 steps as in 20
KEPT_BYTES = 48 * 2**20  # of drafts: thousands of small pictures, some dozen large ones
QUICK_SECONDS = 1.0  # a draft that takes longer is drawn only when it is asked for


class Drafts:
    """Draw drafts of the edits of one source, and keep them.

    Attributes:
        seconds: How long the quickest took, for a machine may be busy; None before the first.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._of: Run | None = None
        self._source: Run | None = None
        self._kept: OrderedDict[Recipe, Image] = OrderedDict()

    def source(self, run: Run, cancel: Any = None) -> Run:
        """Return the source in few steps; it is made once."""
        if self._of is not run or self._source is None:
            self._source = draft_source(run, cancel)
            self._of = run
            self._kept.clear()
        return self._source

    def find(self, recipe: Recipe, run: Run) -> Image | None:
        """Return a draft that was drawn before, or None."""
        return self._kept.get(draft_recipe(recipe)) if self._of is run else None

    def draw(self, recipe: Recipe, run: Run, cancel: Any = None) -> Image:
        """Return the draft of an edit.

        Args:
            recipe: What to do.
            run: The source.
            cancel: Asked before each step whether to stop.

        Raises:
            ValueError: If the recipe does not fit the source.
            Cancelled: If it was asked to stop.
        """
        source, wanted = self.source(run, cancel), draft_recipe(recipe)
        if wanted not in self._kept:
            begun = time.monotonic()
            image = wanted.apply(source, record="none", cancel=cancel).image
            took = time.monotonic() - begun
            self.seconds = took if self.seconds is None else min(took, self.seconds)
            self._keep(wanted, image)
        return self._kept[wanted]

    @property
    def quick(self) -> bool:
        """Return whether drafts come so quickly that they can be drawn ahead."""
        return self.seconds is None or self.seconds < QUICK_SECONDS

    def _keep(self, recipe: Recipe, image: Image) -> None:
        self._kept[recipe] = image
        most = max(1, KEPT_BYTES // (3 * image.width * image.height))
        while len(self._kept) > most:  # the oldest go first
            self._kept.popitem(last=False)


def draft_source(run: Run, cancel: Any = None) -> Run:
    """Return a run of the same picture in few steps; the run itself if it has as few.

    A picture that a prompt and a seed make is drawn again from them, any other one is inverted.
    """
    if run.steps <= DRAFT_STEPS:
        return run
    how: dict[str, Any] = {
        "steps": DRAFT_STEPS,
        "guidance_scale": run.guidance_scale,
        "negative": run.negative,
        "size": run.size,
        "cancel": cancel,
    }
    model = model_of(run)
    if run.plan is None and run.seed is not None:
        return generate(model, run.prompt.text, seed=run.seed, sampler=run.sampler, **how)
    return invert(model, run.image, run.prompt.text, method="direct", **how)


def draft_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe in few steps, with the windows' ends on whole steps.

    Two recipes that ask for the same in so few steps are one, so their picture is drawn once.
    """

    def whole(part: float) -> float:
        return nearest_step(part * DRAFT_STEPS) / DRAFT_STEPS

    return recipe.with_(
        steps=DRAFT_STEPS,
        cross=whole(recipe.cross),
        self_attention=whole(recipe.self_attention),
        start=whole(recipe.start),
    )
