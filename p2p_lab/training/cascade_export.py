"""Write a cascade as two diffusers folders, one in the other, and draw with them on the way.

The folder itself is an `IFPipeline` (the base stage), its subfolder `super` an
`IFSuperResolutionPipeline`; each has a card with the checksums of what lies in it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline
from torch import Tensor

from p2p_lab.training.cascade_build import CascadeParts
from p2p_lab.training.config import CascadeConfig
from p2p_lab.training.export import known_words, new_version, save_pipeline, write_card, write_words
from p2p_lab.training.preview import PROMPTS, save_grid

SUPER = "super"  # subfolder of the later stage
STEPS = {"base": 20, SUPER: 15}
GUIDANCE = {"base": 2.0, SUPER: 1.0}  # pixels have an end at ±1: much more guidance burns them
NOISE_LEVEL = 20  # of the small picture, 0…999; hides the base stage's grain, keeps its detail


def assemble_base(parts: CascadeParts) -> IFPipeline:
    """Return the base stage as a plain pipeline."""
    pipeline = IFPipeline(unet=parts.base, **_around(parts))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assemble_super(parts: CascadeParts) -> IFSuperResolutionPipeline:
    """Return the super-resolution stage as a plain pipeline."""
    pipeline = IFSuperResolutionPipeline(
        unet=parts.super, image_noising_scheduler=parts.noising, **_around(parts)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _around(parts: CascadeParts) -> dict[str, Any]:
    """Return what both stages share."""
    return {
        "tokenizer": parts.tokenizer,
        "text_encoder": parts.text_encoder,
        "scheduler": parts.scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }


@torch.no_grad()
def draw_small(parts: CascadeParts, prompts: list[str]) -> Tensor:
    """Return the base stage's pictures (B, 3, s, s) in [−1, 1], always from the same noise."""
    images: Tensor = assemble_base(parts)(
        prompts,
        num_inference_steps=STEPS["base"],
        guidance_scale=GUIDANCE["base"],
        generator=_generators(prompts),
        output_type="pt",
        clean_caption=False,
    ).images
    return images


@torch.no_grad()
def draw_large(parts: CascadeParts, prompts: list[str], small: Tensor) -> Tensor:
    """Return the super stage's pictures (B, 3, S, S) of the small ones, in [−1, 1]."""
    images: Tensor = assemble_super(parts)(
        prompts,
        image=small,
        num_inference_steps=STEPS[SUPER],
        guidance_scale=GUIDANCE[SUPER],
        noise_level=NOISE_LEVEL,
        generator=_generators(prompts),
        output_type="pt",
        clean_caption=False,
    ).images
    return images


def _generators(prompts: list[str]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(len(prompts))]


def base_grid(parts: CascadeParts, path: Path) -> None:
    """Save the base stage's picture of each preview prompt, each pixel four."""
    small = draw_small(parts, list(PROMPTS)).float().cpu()
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    save_grid(large / 2 + 0.5, path)


def super_grid(parts: CascadeParts, path: Path) -> None:
    """Save both stages' pictures of each preview prompt."""
    large = draw_large(parts, list(PROMPTS), draw_small(parts, list(PROMPTS)))
    save_grid(large.float().cpu() / 2 + 0.5, path)


def save_cascade(
    parts: CascadeParts, config: CascadeConfig, folder: Path, facts: dict[str, Any]
) -> None:
    """Write both stages, their vocabulary and cards; the folder appears whole or not at all.

    Args:
        parts: Trained models, on the CPU.
        config: Of the run.
        folder: To make; must not exist (versions are immutable).
        facts: For the card: command, log digests, metrics.

    Raises:
        FileExistsError: If the folder is there already.
    """
    with new_version(folder) as draft:
        for stage, pipeline, place in (
            (SUPER, assemble_super(parts), draft / SUPER),
            ("base", assemble_base(parts), draft),
        ):
            save_pipeline(pipeline, place)
            write_words(place, known_words(config))
            about = {"name": folder.name, "stage": stage, **_settings(stage)}
            write_card(place, {**about, **_facts(config, facts)})


def _settings(stage: str) -> dict[str, Any]:
    """Return how a stage is meant to be used, for its card."""
    card_defaults = {"defaults": {"steps": STEPS[stage], "guidance_scale": GUIDANCE[stage]}}
    return card_defaults | (
        {"noise_level": NOISE_LEVEL} if stage == SUPER else {"later_stage": SUPER}
    )


def _facts(config: CascadeConfig, facts: dict[str, Any]) -> dict[str, Any]:
    return {"config": dataclasses.asdict(config), **facts}
