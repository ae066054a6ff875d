"""The two stages: an autoencoder, then a U-Net with its text encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.training.build import Parts, build, take_weights
from p2p_lab.training.checkpoint import begin_run
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.data import TEST_SEEDS, Batch, draw_batch, draw_covered, draw_images
from p2p_lab.training.feeding import batches, random_numbers, words_on
from p2p_lab.training.patches import install_patch_encoder
from p2p_lab.training.preview import autoencoder_grid, sample_grid
from p2p_lab.training.stage import Stage, run_stage
from p2p_lab.training.supervision import record_cross_attention, supervision_loss

KL_WEIGHT = 3e-4


def train(
    config: TrainConfig, out: Path, *, device: str = "auto", workers: int = 0, precision: str = "no"
) -> Parts:
    """Train a pipeline, going on from whatever checkpoints lie in `out`.

    Args:
        config: what to train.
        out: folder of checkpoints, logs and sample grids.
        device: "auto", "cpu" or "cuda".
        workers: processes that draw scenes ahead (0: draw in the training process).
        precision: "no", "bf16" or "fp16" (autocast).

    Returns:
        The trained parts, with averaged weights, on the CPU.

    Raises:
        ResumeError: when `out` holds a run with another configuration.
    """
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    if accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        torch.set_num_threads(1)
    begin_run(out, config.digest(), dataclasses.asdict(config))
    parts = build(config)
    if config.warm_start:
        take_weights(parts, config.warm_start)
    elif config.encoder == "patches":
        install_patch_encoder(parts.vae, config)
    for module in (parts.vae, parts.unet):
        module.to(accelerator.device, memory_format=torch.channels_last)
    parts.text_encoder.to(accelerator.device)
    if not config.warm_start:
        run_stage(_autoencoder_stage(config, parts, accelerator, workers), config, accelerator, out)
        if config.encoder == "learned":
            fold_normalisation(parts.vae, config)
    run_stage(_denoiser_stage(config, parts, accelerator, workers), config, accelerator, out)
    parts.unet.set_attn_processor(AttnProcessor2_0())
    for module in (parts.vae, parts.unet, parts.text_encoder):
        module.to("cpu")
    return parts


def _autoencoder_stage(
    config: TrainConfig, parts: Parts, accelerator: Accelerator, workers: int
) -> Stage:
    vae = parts.vae
    if config.encoder == "patches":
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def loss(batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        images, cover = (part.to(accelerator.device) for part in batch)
        images = images.contiguous(memory_format=torch.channels_last)
        with accelerator.autocast():
            posterior = vae.encode(images).latent_dist
            generator = random_numbers(config, step, accelerator)
            noise = torch.randn(posterior.mean.shape, generator=generator)
            latents = posterior.mean + posterior.std * noise.to(accelerator.device)
            decoded = vae.decode(latents).sample
        difference = (decoded - images).float()
        total = reconstruction_loss(difference, cover, config.object_weight)
        if config.encoder == "learned":
            total = total + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()
        psnr = -10 * torch.log10(difference.square().mean() / 4)
        return total, {"loss": total.item(), "psnr": psnr.item()}

    return Stage(
        "autoencoder",
        vae,
        loss,
        batches(lambda first, n: draw_covered(config, first, n), config, accelerator, workers),
        config.hours * 3600 * config.autoencoder_share,
        config.pictures,
        lambda path: autoencoder_grid(vae, config, path),
        config.vae_factor,
    )


def reconstruction_loss(difference: Tensor, cover: Tensor, object_weight: float) -> Tensor:
    """Return mostly the squared error, with some absolute error and some of its slopes.

    Args:
        difference: (B, 3, S, S).
        cover: (B, 1, S, S), where the things are: they count more.
        object_weight: how much more.
    """
    weight = (1 + object_weight * cover) / (1 + object_weight * cover.mean())
    absolute = (weight * difference.abs()).mean() + _edges(weight * difference)
    return 8 * (weight * difference.square()).mean() + 0.15 * absolute


def _edges(difference: Tensor) -> Tensor:
    """Return the mean absolute slope of an error picture: blur costs more than an offset."""
    across = difference[..., 1:] - difference[..., :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, config: TrainConfig, pictures: int = 512) -> None:
    """Rescale the latents to mean 0 and deviation 1 a channel, inside the quant convolutions.

    So a plain pipeline, which multiplies by one number only, sees normalised latents.
    """
    device = vae.device
    found = []
    for first in range(0, pictures, 64):
        images = draw_images(config, TEST_SEEDS + first, 64).to(device)
        found.append(vae.encode(images).latent_dist.mean)
    latents = torch.cat(found)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    encode, decode = vae.quant_conv, vae.post_quant_conv
    assert encode is not None and decode is not None
    count = len(mean)
    encode.bias[:count] -= mean
    encode.weight[:count] /= deviation.view(-1, 1, 1, 1)
    encode.bias[:count] /= deviation
    encode.bias[count:] -= 2 * deviation.log()
    decode.bias += (decode.weight[:, :, 0, 0] * mean).sum(1)
    decode.weight *= deviation.view(1, -1, 1, 1)


def _denoiser_stage(
    config: TrainConfig, parts: Parts, accelerator: Accelerator, workers: int
) -> Stage:
    vae, unet, text_encoder = parts.vae, parts.unet, parts.text_encoder
    vae.requires_grad_(False)
    maps = record_cross_attention(unet) if config.supervision else []
    alpha_bars = parts.scheduler.alphas_cumprod.to(accelerator.device)

    def loss(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        device = accelerator.device
        t, noise = _noise(config, step, accelerator, len(batch.images))
        alpha_bar = alpha_bars[t].view(-1, 1, 1, 1)
        with accelerator.autocast():
            with torch.no_grad():
                images = batch.images.to(device, memory_format=torch.channels_last)
                latents = vae.encode(images).latent_dist.mean
            noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
            target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
            text = text_encoder(batch.ids.to(device))[0]
            maps.clear()
            predicted = unet(noisy, t, text).sample
        fit = _velocity_loss(predicted.float(), target, alpha_bar, batch.cover.to(device), config)
        numbers = {"loss": fit.item()}
        if not maps:
            return fit, numbers
        where = supervision_loss(
            [probs.float() for probs in maps],
            words_on(batch.words, device),
            alpha_bar.flatten().sqrt(),
        )
        numbers["maps"] = where.item()
        return fit + config.supervision * where, numbers

    return Stage(
        "denoiser",
        nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}),
        loss,
        batches(
            lambda first, n: draw_batch(config, parts.tokenizer, first, n),
            config,
            accelerator,
            workers,
        ),
        config.hours * 3600 * (1 if config.warm_start else 1 - config.autoencoder_share),
        config.pictures,
        lambda path: sample_grid(parts, config, path),
    )


def _noise(
    config: TrainConfig, step: int, accelerator: Accelerator, count: int
) -> tuple[Tensor, Tensor]:
    """Return model times (B,), spread evenly over the schedule, and noise (B, C, h, w)."""
    generator = random_numbers(config, step, accelerator)
    side = config.picture_size // config.scale
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    noise = torch.randn(count, config.latent_channels, side, side, generator=generator)
    return (spread * 1000).long().to(accelerator.device), noise.to(accelerator.device)


def _velocity_loss(
    predicted: Tensor, target: Tensor, alpha_bar: Tensor, cover: Tensor, config: TrainConfig
) -> Tensor:
    """Return the min-SNR-5 weighted loss (Hang et al. 2023), heavier inside objects."""
    ratio = alpha_bar / (1 - alpha_bar)
    weight = ratio.clamp_max(5.0) / (ratio + 1)
    inside = 1 + config.object_weight * cover
    inside = inside / inside.mean()
    return (weight * inside * F.mse_loss(predicted, target, reduction="none")).mean() / 0.35
