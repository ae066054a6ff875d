"""The denoising loop and its record.

    >>> run = generate(model, "a cat on a beach", seed=3)
    >>> dog = edit(run, "a dog on a beach", [Replace(cross=(0, 0.8))])

Every result is a `Run`: a picture, how it came about, and what was recorded, ready to be looked
at, measured and edited again. The room knows models, plans and controllers; it draws no figures.
"""

from p2p_lab.sampling.animating import animate
from p2p_lab.sampling.editing import apply_plan, edit, edit_many
from p2p_lab.sampling.generating import generate, generate_many
from p2p_lab.sampling.inspecting import (
    WordStep,
    latents_at,
    maps_at,
    mask_level,
    pictures_at,
    word_step,
)
from p2p_lab.sampling.loop import Cancelled, GuidedConditioning, RunCallbacks, SamplingJob, predict
from p2p_lab.sampling.observing import observe
from p2p_lab.sampling.relating import Relations, relations_at
from p2p_lab.sampling.runs import EditCache, Run, Trajectory, noise_of
from p2p_lab.sampling.schedules import Schedule, make_schedule, schedule_for
from p2p_lab.sampling.steps import ddim_step, predict_clean

__all__ = [
    "Cancelled",
    "EditCache",
    "Relations",
    "Run",
    "Schedule",
    "GuidedConditioning",
    "Trajectory",
    "RunCallbacks",
    "SamplingJob",
    "WordStep",
    "animate",
    "apply_plan",
    "ddim_step",
    "edit",
    "edit_many",
    "mask_level",
    "generate",
    "generate_many",
    "latents_at",
    "make_schedule",
    "schedule_for",
    "maps_at",
    "noise_of",
    "observe",
    "pictures_at",
    "predict",
    "predict_clean",
    "relations_at",
    "word_step",
]
