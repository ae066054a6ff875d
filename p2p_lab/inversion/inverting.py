"""`invert`: a real picture becomes a `Run`, to be edited like any other.

    picture --encode--> z_0 --measure--> Trajectory --draw again, recording--> Run

The methods differ in the trajectory alone: which latents, which negative embeddings, which noise
maps, and whether the source is held on its latents.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from p2p_lab.attention import BatchSlices, Controller, find_sites
from p2p_lab.devices import cpu_by_default
from p2p_lab.inversion.caching import InversionCache, key_of
from p2p_lab.inversion.ddim import ddim_invert
from p2p_lab.inversion.edit_friendly import EditFriendly, edit_friendly
from p2p_lab.inversion.jobs import InversionContext, Report
from p2p_lab.inversion.null_text import NullText, check_gradients, null_text
from p2p_lab.inversion.pictures import Fit, load_image, to_tensor
from p2p_lab.models import Denoiser
from p2p_lab.models.damage import refuse_damaged
from p2p_lab.models.denoiser import checked_model
from p2p_lab.sampling import GuidedConditioning, Run, RunCallbacks, SamplingJob, Trajectory
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record, Settings, Size
from p2p_lab.sampling.tape_budget import checked_budget
from p2p_lab.tokens import Prompt

Method = Literal["ddim", "negative-prompt", "null-text", "direct", "edit-friendly"]
Options = NullText | EditFriendly
METHODS: tuple[Method, ...] = get_args(Method)
# What carries over to flow-matching models; the others rest on the noise model and its guidance.
OF_FLOWS = ("ddim", "direct")
_WHY = {
    "negative-prompt": "was derived for models of noise under guidance",
    "null-text": "tunes the empty prompt of models of noise under guidance",
    "edit-friendly": "measures the noise maps of a stochastic sampler, and a flow's takes none",
}


@torch.inference_mode(False)  # null-text inversion needs gradients, also inside that mode
@cpu_by_default()
def invert(
    model: Denoiser,
    image: Any,
    text: str,
    *,
    method: Method | Options = "direct",
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative: str = "",
    size: Size | None = None,
    fit: Fit = "crop",
    record: Record = "tape",
    tape_budget: int | None = None,
    cache: bool | str | Path | InversionCache = False,
    progress: bool = False,
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Bring a real picture in: find the run that would have drawn it.

    Args:
        model: A denoiser, from `load`.
        image: A path, bytes, a PIL image or an array, of any size (see `load_image`).
        text: What the picture shows: the source prompt of later edits.
        method: "ddim", "negative-prompt", "null-text", "direct" or "edit-friendly"; or `NullText`
            or `EditFriendly` with settings of one's own. Flow-matching models know "ddim", which
            is Euler's step backwards there, and "direct".
        steps: Number of steps T; None takes the model's default, and twice that for
            "edit-friendly" (its authors take 100 where others take 50).
        guidance_scale: Guidance of later edits, and of the reconstruction where the method has
            any; None takes the model's default, twice that for "edit-friendly" (15 against 7.5).
        negative: Negative prompt. "negative-prompt" puts the source prompt in its place.
        size: Picture size, an int for squares or (height, width); None takes the model's.
        fit: "crop" or "pad" a picture of another shape.
        record: "tape", "store" or "none", as in `generate`.
        tape_budget: Bytes that the tape may take; None is a quarter of the free memory.
        cache: Keep inversions on disk and find them again: True for the usual place, a folder, or
            an `InversionCache`.
        progress: Show a progress bar.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        A `Run` whose pixels are the reconstruction.

    Raises:
        PictureError: If the picture cannot be read.
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If it was cancelled.
    """
    name, options = _method(method)
    kept = _cache(cache)
    if name == "negative-prompt" and negative:
        raise ValueError(
            "method='negative-prompt' puts the source prompt in the negative's place, and "
            f"negative={negative!r} was given too. Leave it out, or use method='null-text'."
        )
    twice = 2 if name == "edit-friendly" else 1
    defaults = checked_model(model).defaults
    settings = Settings.of(
        model,
        defaults.steps * twice if steps is None else steps,
        defaults.guidance_scale * twice if guidance_scale is None else guidance_scale,
        size,
        record,
        "ddim",
    )
    if settings.schedule.is_flow:
        _check_flow_method(name, model.name)
    if isinstance(options, NullText):
        options.check(settings.guidance_scale)
        check_gradients(model.module, model.name)
    job = InversionJob(
        model=model,
        prompt=model.prompt(text),
        negative=text if name == "negative-prompt" else negative,
        pixels=to_tensor(load_image(image, settings.size, fit)),
        name=name,
        options=options,
        settings=settings,
        tape_budget=checked_budget(tape_budget),
    )
    callbacks = RunCallbacks(on_step, cancel, progress)
    if kept is None:
        return job.run(callbacks)
    return kept.get_or_make(job.key(), model, lambda: job.run(callbacks))


def _cache(cache: Any) -> InversionCache | None:
    """Return where inversions are kept, or None for nowhere.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(cache, (str, os.PathLike)) and os.fspath(cache):
        folder = Path(cache).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(
                f"cache={str(cache)!r:.80} is not possible: it is a file. Give a folder."
            )
        return InversionCache(folder)
    if cache is None or isinstance(cache, bool):
        return InversionCache() if cache else None
    if not isinstance(cache, InversionCache):
        raise ValueError(
            f"cache={cache!r:.60} is not possible: give True for the usual place, a folder, an "
            "InversionCache, or False."
        )
    return cache


def _method(method: Method | Options) -> tuple[Method, Options | None]:
    """Return a method's name and its settings.

    Raises:
        ValueError: If there is no such method.
    """
    if isinstance(method, NullText):
        return "null-text", method
    if isinstance(method, EditFriendly):
        return "edit-friendly", method
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; use one of {METHODS}.")
    defaults: dict[str, Options] = {"null-text": NullText(), "edit-friendly": EditFriendly()}
    return method, defaults.get(method)


def _check_flow_method(name: str, model: str) -> None:
    """Refuse an inversion that is not defined for flow-matching models.

    Raises:
        ValueError: With the reason, and what to use instead.
    """
    if name not in OF_FLOWS:
        raise ValueError(
            f"method={name!r} {_WHY[name]}; {model} is a flow-matching model. Use method='direct', "
            "or 'ddim', which here is Euler's step taken backwards."
        )


@dataclass(eq=False)
class InversionJob:
    """Do one inversion, whose settings were checked before."""

    model: Denoiser
    prompt: Prompt
    negative: str
    pixels: Tensor
    name: Method
    options: Options | None
    settings: Settings
    tape_budget: int | None

    def key(self) -> str:
        """Return what tells this inversion from every other one."""
        s = self.settings
        texts = [self.prompt.text, self.prompt.ids, self.negative]
        plain = [s.steps, s.guidance_scale, s.record, self.tape_budget]
        return key_of(self.model, self.pixels, [self.name, repr(self.options), *texts, *plain])

    def run(self, callbacks: RunCallbacks) -> Run:
        """Measure the trajectory, then draw the picture again along it and record."""
        model, settings = self.model, self.settings
        with model.lock:
            job = InversionContext(
                model,
                settings.schedule,
                model.encode_prompt(self.prompt, settings.size),
                model.encode_negative(self.negative, settings.size),
                settings.guidance_scale,
                Report(self._total(), callbacks),
            )
            latents = self._finite(model.encode(self.pixels), "while the picture was encoded")
            trajectory = self._measure(job, latents)
            self._finite(trajectory.latents, "while the way to noise was measured")
            return self._draw(job, trajectory)

    def _finite(self, values: Tensor, when: str) -> Tensor:
        """Return latents as they are.

        Raises:
            ValueError: If one is NaN or infinite.
        """
        if bool(torch.isfinite(values).all()):
            return values
        refuse_damaged(self.model, "inversion")
        raise ValueError(
            f"Numbers that are not finite came up {when}, so there is no inversion: the model "
            f"overflows in {values.dtype}, or its weights are damaged. Load it with "
            "dtype=torch.float32, or take another copy of it."
        )

    def _total(self) -> int:
        """Return how many steps are reported: measuring, tuning, drawing."""
        steps = self.settings.steps
        parts = 3 if self.name == "null-text" else 2
        if isinstance(self.options, EditFriendly):
            steps -= self.options.start(steps)
        pinned = self.name in ("direct", "edit-friendly")
        return steps * (parts - (pinned and self.settings.record == "none"))

    def _measure(self, job: InversionContext, latents: Tensor) -> Trajectory:
        """Return what the method knows of the picture."""
        if isinstance(self.options, EditFriendly):
            history, maps = edit_friendly(job, latents, self.options)
            start = self.options.start(job.steps)
            return Trajectory(history, noise_maps=maps, pinned=True, start=start)
        pivots = ddim_invert(job, latents)
        if isinstance(self.options, NullText):
            found = null_text(job, pivots, self.options)
            return Trajectory(pivots, negative_embeds=found.embeds.to(pivots.dtype))
        return Trajectory(pivots, pinned=self.name == "direct")

    def _draw(self, job: InversionContext, trajectory: Trajectory) -> Run:
        """Draw the picture again along the trajectory, recording its attention."""
        model, settings, measured = self.model, self.settings, trajectory.latents
        sites = find_sites(model.module, settings.latent_shape[1:])
        embeds = trajectory.negative_embeds
        scale = self._source_guidance(trajectory)
        row = 1 if scale > 1 else 0
        controller = Controller(
            sites,
            BatchSlices(source=slice(row, row + 1)),
            keep=settings.new_tapes(model, sites, budget=self.tape_budget),
            record=settings.record != "none",
        )
        conditioning = GuidedConditioning(
            job.positive, job.negative, scale, None if embeds is None else embeds[:, None]
        )

        def after_step(step: int, z: Tensor) -> Tensor:
            controller.end_step(z, None)
            return measured[step + 1 : step + 2] if trajectory.pinned else z

        known = trajectory.pinned and settings.record == "none"  # nothing is to be drawn again
        first = settings.steps if known else trajectory.start
        history = [z[None] for z in measured[: first + 1]]
        pixels = SamplingJob(model, settings.schedule, controller, conditioning, count=1).run(
            history[-1],
            history,
            after_step=after_step,
            first=first,
            callbacks=job.report.part(),
        )
        return self._result(controller, torch.cat(history), trajectory, pixels)

    def _source_guidance(self, trajectory: Trajectory) -> float:
        """Return the source's guidance: none where it could not change the result.

        A pinned source is set back after each step, and a prompt is not led away from itself.
        """
        if trajectory.pinned or self.negative == self.prompt.text:
            return 1.0
        return self.settings.guidance_scale

    def _result(
        self, controller: Controller, history: Tensor, trajectory: Trajectory, pixels: Tensor
    ) -> Run:
        model, settings = self.model, self.settings
        recorded = settings.record != "none"
        stores = controller.stores(self.prompt, model.card.map_sites)
        return Run(
            prompt=self.prompt,
            pixels=pixels[0].cpu(),
            trajectory=replace(trajectory, latents=history),
            negative=self.negative,
            guidance_scale=settings.guidance_scale,
            attention=stores[0] if recorded else None,
            tape=controller.keep[0] if controller.keep else None,
            note=f"Inverted by {self.name} in {settings.steps - trajectory.start} steps.",
            model=model,
            model_name=model.name,
        )
