"""The two stages of a cascade: small pictures from noise and text, then the same ones larger.

With x_t = √ᾱ x + √(1 − ᾱ) ε both U-Nets tell the velocity √ᾱ ε − √(1 − ᾱ) x (or, on request, the
noise ε, as in the paper). They are trained as the latent model is: min-SNR-5, objects heavier,
words' maps asked to cover their masks. The super stage sees the small picture enlarged and noised
to a level that it is told (noise conditioning augmentation, Ho et al. 2022), so that it also
repairs what the base stage draws badly.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.training.cascade_build import CascadeParts, build_cascade
from p2p_lab.training.cascade_export import base_grid, super_grid
from p2p_lab.training.checkpoint import begin_run
from p2p_lab.training.config import CascadeConfig
from p2p_lab.training.data import Batch, draw_batch
from p2p_lab.training.feeding import batches, random_numbers, words_on
from p2p_lab.training.stage import Stage, run_stage
from p2p_lab.training.supervision import record_hybrid_attention, supervision_loss

USUAL_LOSS = 0.35  # brings the loss to the size for which `supervision` is chosen


def train_cascade(
    config: CascadeConfig,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    precision: str = "no",
) -> CascadeParts:
    """Train a cascade, going on from whatever checkpoints lie in `out`.

    Args:
        config: What to train.
        out: Folder of checkpoints, logs and sample grids.
        device: "auto", "cpu" or "cuda".
        workers: Processes that draw scenes ahead (0: draw in the training process).
        precision: "no", "bf16" or "fp16" (autocast).

    Returns:
        The trained parts, with averaged weights, on the CPU.

    Raises:
        ResumeError: If `out` holds a run with another configuration.
    """
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    if accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        torch.set_num_threads(1)
    begin_run(out, config.digest(), dataclasses.asdict(config))
    parts = build_cascade(config)
    for unet in (parts.base, parts.super):
        unet.to(accelerator.device, memory_format=torch.channels_last)
    parts.text_encoder.to(accelerator.device)
    run_stage(_base_stage(config, parts, accelerator, workers), config, accelerator, out)
    parts.base.set_attn_processor(AttnAddedKVProcessor2_0())
    run_stage(_super_stage(config, parts, accelerator, workers), config, accelerator, out)
    parts.super.set_attn_processor(AttnAddedKVProcessor2_0())
    for module in (parts.base, parts.super, parts.text_encoder):
        module.to("cpu")
    return parts


def _base_stage(
    config: CascadeConfig, parts: CascadeParts, accelerator: Accelerator, workers: int
) -> Stage:
    denoise = _Denoise(config, parts, parts.base, accelerator)

    def loss(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        generator = random_numbers(config, step, accelerator)
        small = shrink(batch.images.to(accelerator.device), config)
        with accelerator.autocast():
            text = parts.text_encoder(**_text(batch, parts, accelerator))[0]
        return denoise(small, text, batch, generator)

    return Stage(
        "base",
        nn.ModuleDict({"unet": parts.base, "text_encoder": parts.text_encoder}),
        loss,
        batches(
            lambda first, n: draw_batch(config, parts.tokenizer, first, n),
            config,
            accelerator,
            workers,
        ),
        config.hours * 3600 * config.base_share,
        config.pictures,
        lambda path: base_grid(parts, path),
    )


def _super_stage(
    config: CascadeConfig, parts: CascadeParts, accelerator: Accelerator, workers: int
) -> Stage:
    parts.text_encoder.requires_grad_(False)
    denoise = _Denoise(config, parts, parts.super, accelerator)

    def loss(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        generator = random_numbers(config, step, accelerator)
        images = batch.images.to(accelerator.device)
        with accelerator.autocast(), torch.no_grad():
            text = parts.text_encoder(**_text(batch, parts, accelerator))[0]
        large, level = noised(enlarge(shrink(images, config), config), parts, config, generator)
        return denoise(images, text, batch, generator, large, level)

    return Stage(
        "super",
        parts.super,
        loss,
        batches(
            lambda first, n: draw_batch(config, parts.tokenizer, first, n, config.picture_size),
            config,
            accelerator,
            workers,
        ),
        config.hours * 3600 * (1 - config.base_share),
        config.pictures,
        lambda path: super_grid(parts, path),
    )


class _Denoise:
    """The loss of one U-Net: what it tells of noised pictures, and where its words look."""

    def __init__(
        self,
        config: CascadeConfig,
        parts: CascadeParts,
        unet: UNet2DConditionModel,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.unet, self.accelerator = config, unet, accelerator
        self.maps = record_hybrid_attention(unet) if config.supervision else []
        self.alpha_bars = parts.scheduler.alphas_cumprod.to(accelerator.device)

    def __call__(
        self,
        images: Tensor,
        text: Tensor,
        batch: Batch,
        generator: torch.Generator,
        beside: Tensor | None = None,
        level: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and numbers for the log.

        Args:
            images: (B, 3, S, S) in [−1, 1].
            text: (B, L, D).
            batch: Their words and what things cover, at S.
            generator: Of times and noise.
            beside: (B, 3, S, S), further channels of the input.
            level: (B,), their noise level.
        """
        device = self.accelerator.device
        t, noise = times_and_noise(images, generator)
        alpha_bar = self.alpha_bars[t].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * images + (1 - alpha_bar).sqrt() * noise
        seen = noisy if beside is None else torch.cat([noisy, beside], 1)
        self.maps.clear()
        with self.accelerator.autocast():
            seen = seen.contiguous(memory_format=torch.channels_last)
            predicted = self.unet(seen, t, text, class_labels=level).sample[:, :3].float()
        fit = denoising_loss(
            predicted, images, noise, alpha_bar, batch.cover.to(device), self.config
        )
        numbers = {"loss": fit.item()}
        if not self.maps:
            return fit, numbers
        maps = [probs.float() for probs in self.maps]
        words = words_on(batch.words, device)
        where = supervision_loss(maps, words, alpha_bar.flatten().sqrt())
        numbers["maps"] = where.item()
        return fit + self.config.supervision * where, numbers


def denoising_loss(
    predicted: Tensor,
    images: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    cover: Tensor,
    config: CascadeConfig,
) -> Tensor:
    """Return the min-SNR-5 weighted loss (Hang et al. 2023), heavier inside objects.

    With r = ᾱ/(1 − ᾱ), an error of the picture counts min(r, 5); that is min(r, 5)/r for an error
    of the noise and min(r, 5)/(r + 1) for one of the velocity, so both predictions weigh alike.

    Args:
        predicted: (B, 3, S, S), what the U-Net says.
        images: (B, 3, S, S) in [−1, 1].
        noise: (B, 3, S, S), what was added.
        alpha_bar: (B, 1, 1, 1).
        cover: (B, 1, S, S), where the things are.
        config: Of the run.
    """
    ratio = alpha_bar / (1 - alpha_bar)
    weight, target = ratio.clamp_max(5.0) / ratio, noise
    if config.prediction == "v_prediction":
        weight = ratio.clamp_max(5.0) / (ratio + 1)
        target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * images
    inside = 1 + config.object_weight * cover
    inside = inside / inside.mean()
    return (weight * inside * F.mse_loss(predicted, target, reduction="none")).mean() / USUAL_LOSS


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


def times_and_noise(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return model times (B,), spread evenly over the schedule, and noise like the pictures."""
    count = len(images)
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    noise = torch.randn(images.shape, generator=generator)
    return (spread * 1000).long().to(images.device), noise.to(images.device)


def _text(batch: Batch, parts: CascadeParts, accelerator: Accelerator) -> dict[str, Tensor]:
    """Return the text encoder's input, padding masked as in diffusers' IFPipeline."""
    ids = batch.ids.to(accelerator.device)
    return {"input_ids": ids, "attention_mask": (ids != parts.tokenizer.pad_token_id).long()}
