"""The ways to edit that are compared: prompt-to-prompt in any setting, and what it must beat.

re-prompt    the edited prompt from the same first noise
sdedit       image-to-image of diffusers (Meng et al. 2021, arXiv 2108.01073): noise the
             source picture up to a strength, denoise under the edited prompt
p2p          the plan that `edit` chooses for two prompts, with a local blend or without
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.editing.cases import Case
from benchmarks.editing.sources import Source
from benchmarks.editing.surgery import SURGERIES
from p2p_lab.edits import (
    Edit,
    EditPlan,
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    default_edits,
)
from p2p_lab.models import Denoiser
from p2p_lab.models.loading import _find_bundled
from p2p_lab.models.opening import _quiet as quiet
from p2p_lab.sampling import apply_plan, edit
from p2p_lab.scenes import caption

UP, DOWN = 4.0, -2.0  # scales at which an amount is turned up and down
FADER = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
STRENGTHS = (0.5, 0.75)  # of image-to-image: the share of the schedule that is run again


@dataclass(frozen=True)
class Settings:
    """What may be set in a prompt edit; None is the package's default.

    Attributes:
        cross: end of the cross-attention window, the paper's tau.
        self_attention: end of the self-attention window.
        self_pixels: largest site whose self-attention is taken.
        blend: whether to blend locally, where the edit is local.
        threshold, start: of the blend.
        fader: end of the window in which an amount is turned.
        surgery: key of `SURGERIES`, a change of the method itself, or "".
        guidance, steps: of source and edit.
    """

    cross: float | None = None
    self_attention: float | None = None
    self_pixels: int | None = None
    blend: bool = False
    threshold: float | None = None
    start: float | None = None
    fader: float | None = None
    surgery: str = ""
    guidance: float | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """Name the settings: "p2p", and all that differs from the defaults."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blend"}
        parts = ["p2p", *(f"{k}={v:g}" for k, v in said.items() if isinstance(v, (int, float)))]
        return " ".join([*parts, *([self.surgery] if self.surgery else [])]) + (
            " + blend" if self.blend else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the defaults."""
        usual = Settings()
        return {k: v for k, v in asdict(self).items() if v != getattr(usual, k)}


def family_of(source: Source) -> str:
    """Name the edit whose defaults a case depends on: "Replace", "Refine" or "Reweight"."""
    return "Reweight" if source.case.fader else type(aligner_of(source)).__name__


def aligner_of(source: Source) -> Replace | Refine:
    """Return the aligner that `edit` chooses for a case's two prompts."""
    run = source.run
    assert run.model is not None
    chosen = default_edits(run.prompt, run.model.prompt(source.case.target_text))[0][0]
    assert isinstance(chosen, (Replace, Refine))
    return chosen


def edits_of(source: Source, settings: Settings, scale: float | None = None) -> list[Edit]:
    """Return the edits of a case in some settings; `scale` is the fader's position."""
    case, usual = source.case, aligner_of(source)
    changes: dict[str, Any] = {
        "cross": _window(settings.cross),
        "self_attention": _window(settings.self_attention),
        "self_pixels": settings.self_pixels,
    }
    edits: list[Edit] = [replace(usual, **_given(changes))]
    if case.fader:
        scale = (UP if case.up else DOWN) if scale is None else scale
        window = _given({"window": _window(settings.fader)})
        edits.append(Reweight(case.fader, scale, **window))
    if settings.blend and case.local:
        options = _given({"threshold": settings.threshold, "start": settings.start})
        edits.append(LocalBlend(*case.blend_words, **options))
    return edits


def _window(end: float | None) -> tuple[float, float] | None:
    return None if end is None else (0.0, end)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def prompt_to_prompt(
    source: Source, settings: Settings, scale: float | None = None, *, reuse: bool = True
) -> Tensor:
    """Edit a source, (3, H, W); its steps and guidance are those of the source.

    Args:
        source: what to edit.
        settings: how.
        scale: the fader's position; None turns it the way that the case asks for.
        reuse: share first steps with the edit before: the same picture for less.
    """
    about: AbstractContextManager[Any] = nullcontext()
    if settings.surgery:
        about = SURGERIES[settings.surgery]()
    with about:
        run = edit(
            source.run,
            source.case.target_text,
            edits_of(source, settings, scale),
            record="store" if settings.blend and source.case.local else "none",
            reuse=reuse and not settings.surgery,
        )
    return run.pixels


def re_prompt(source: Source, text: str | None = None) -> Tensor:
    """Draw the edited prompt from the source's first noise, with no control at all, (3, H, W)."""
    run = source.run
    assert run.model is not None
    target = run.model.prompt(source.case.said if text is None else text)
    plan = EditPlan.identity(run.prompt, target, run.steps)
    scale = run.guidance_scale
    return apply_plan([run], plan, guidance_scale=scale, record="none", reuse=False)[0].pixels


def folder_of(name_or_path: str | None, model: Denoiser) -> Path:
    """Return the folder that `load` opened a model from."""
    if name_or_path is not None and Path(name_or_path).is_dir():
        return Path(name_or_path)
    found = _find_bundled(model.name)
    if found is None:
        raise ValueError(f"{model.name} is neither bundled nor a folder: name one with --model.")
    return found


@lru_cache(maxsize=1)
def image_to_image(folder: Path, device: str) -> Any:
    """Open diffusers' own image-to-image pipeline on a model folder."""
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with quiet():
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
            folder, safety_checker=None, local_files_only=True
        )
    pipeline.to(torch.float32)  # as the package opens it; on disk it is half as long
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def sdedit(source: Source, pipeline: Any, strength: float) -> Tensor:
    """Noise the source picture up to a strength and denoise it under the edited prompt."""
    found = pipeline(
        prompt=source.case.said,
        image=source.picture[None],
        strength=strength,
        num_inference_steps=source.run.steps,
        guidance_scale=source.run.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(source.seed or source.case.number),
        output_type="pt",
    )
    picture: Tensor = found.images[0].float().cpu().clamp(0, 1)
    return picture


def wordings(case: Case) -> list[str]:
    """Return the fader in words: the source prompt with its weather from none to very strong."""
    if case.local or not case.fader:
        return []
    scenes = [replace(case.source, weather="clear", degree=0.0)]
    scenes += [replace(case.source, degree=degree) for degree in (0.35, 0.7, 1.0)]
    return [caption(scene).text for scene in scenes]
