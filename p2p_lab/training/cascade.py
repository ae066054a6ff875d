"""What a cascade learns: small pictures from noise and text, then the same ones larger.

It is trained as a latent model is. The super stage sees the small picture enlarged and noised to a
level that it is told (noise conditioning augmentation, Ho et al. 2022), so that it also repairs
what the base stage draws badly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.training.cascade_build import CascadeParts
from p2p_lab.training.cascade_export import base_grid, super_grid
from p2p_lab.training.config import CascadeConfig
from p2p_lab.training.data import Batch, draw_batch
from p2p_lab.training.denoising import DenoisingLoss
from p2p_lab.training.feeding import batches, random_numbers
from p2p_lab.training.setting import Setting
from p2p_lab.training.stage import Stage

EARLY = "down_blocks"  # sites that see too little yet to be asked where a word is


def cascade_stages(config: CascadeConfig, parts: CascadeParts, setting: Setting) -> Iterator[Stage]:
    """Return the stages of a cascade, each made when the one before it is over."""
    yield _base_stage(config, parts, setting)
    parts.text_encoder.requires_grad_(False)
    yield _super_stage(config, parts, setting)


def _base_stage(config: CascadeConfig, parts: CascadeParts, setting: Setting) -> Stage:
    denoise = _denoising(config, parts, parts.base, setting, config.base_size)

    def loss(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        generator = random_numbers(config, step, setting)
        small = shrink(batch.images.to(setting.device), config)
        return denoise(small, _text(batch, parts, setting), batch, generator)

    return Stage(
        "base",
        nn.ModuleDict({"unet": parts.base, "text_encoder": parts.text_encoder}),
        loss,
        batches(lambda first, n: draw_batch(config, parts.tokenizer, first, n), config, setting),
        config.hours * 3600 * config.base_share,
        config.pictures,
        lambda path: base_grid(parts, path),
    )


def _super_stage(config: CascadeConfig, parts: CascadeParts, setting: Setting) -> Stage:
    side = config.picture_size
    denoise = _denoising(config, parts, parts.super, setting, side)

    def loss(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        generator = random_numbers(config, step, setting)
        images = batch.images.to(setting.device)
        large, level = noised(enlarge(shrink(images, config), config), parts, config, generator)
        return denoise(images, _text(batch, parts, setting), batch, generator, large, level)

    return Stage(
        "super",
        parts.super,
        loss,
        batches(
            lambda first, n: draw_batch(config, parts.tokenizer, first, n, side), config, setting
        ),
        config.hours * 3600 * (1 - config.base_share),
        config.pictures,
        lambda path: super_grid(parts, path),
    )


def _denoising(
    config: CascadeConfig,
    parts: CascadeParts,
    unet: UNet2DConditionModel,
    setting: Setting,
    side: int,
) -> DenoisingLoss:
    return DenoisingLoss(config, unet, parts.scheduler, setting, side=side, early=EARLY)


def shrink(images: Tensor, config: CascadeConfig) -> Tensor:
    """Return pictures (B, 3, S, S) at the base stage's size, each pixel a mean."""
    return F.avg_pool2d(images, config.scale)  # (B, 3, s, s)


def enlarge(small: Tensor, config: CascadeConfig) -> Tensor:
    """Return pictures (B, 3, s, s) at the full size, the way IFSuperResolutionPipeline does."""
    side = (config.picture_size, config.picture_size)
    return F.interpolate(small, side, mode="bilinear", align_corners=True)  # (B, 3, S, S)


def noised(
    large: Tensor, parts: CascadeParts, config: CascadeConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return pictures noised to levels of their own, and the levels (B,)."""
    level = torch.randint(config.noise_levels, (len(large),), generator=generator)
    noise = torch.randn(large.shape, generator=generator).to(large.device)
    level = level.to(large.device)
    return parts.noising.add_noise(large, noise, level), level


def _text(batch: Batch, parts: CascadeParts, setting: Setting) -> Tensor:
    """Return the text's states (B, L, D), padding masked as in diffusers' IFPipeline."""
    ids = batch.ids.to(setting.device)
    with setting.autocast():
        states: Tensor = parts.text_encoder(
            input_ids=ids, attention_mask=(ids != parts.tokenizer.pad_token_id).long()
        )[0]
    return states
