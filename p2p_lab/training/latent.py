"""What a latent model learns: an autoencoder, a U-Net with its text encoder, crisp edges."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.scenes.grammar import DETAIL_WORDS
from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training.build import Parts, build, is_same_shape, open_start, take_weights
from p2p_lab.training.cache import CachedBatches, SceneCache
from p2p_lab.training.checkpoint import load_checkpoint
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.data import Batch, draw_batch, draw_covered, draw_images
from p2p_lab.training.denoising import DenoisingLoss
from p2p_lab.training.feeding import batches, random_numbers
from p2p_lab.training.nested import COARSE, install_nested_encoder
from p2p_lab.training.patches import install_patch_encoder
from p2p_lab.training.preview import autoencoder_grid, sample_grid
from p2p_lab.training.reading import TextReader
from p2p_lab.training.reconstruction import reconstruction_loss
from p2p_lab.training.setting import Setting
from p2p_lab.training.sharpening import RATE, SharpeningLoss
from p2p_lab.training.stage import Stage
from p2p_lab.training.tokens import extend_tokenizer

KL_WEIGHT = 3e-4
STAGES = ("autoencoder", "denoiser", "sharpening")
EARLY = "down_blocks.0"  # sites that see too little yet to be asked where a word is


def stages_of(config: TrainConfig) -> tuple[str, ...]:
    """Return the stages of a run: a size without time for sharpening has none."""
    return STAGES if config.sharpening_share else STAGES[:-1]


def latent_stages(
    config: TrainConfig, parts: Parts, setting: Setting, names: Sequence[str]
) -> Iterator[Stage]:
    """Return the stages of a latent model, each made when the one before it is over.

    Args:
        config: Of the run.
        parts: To train.
        setting: Where.
        names: Which of `STAGES`. With a fixed encoder the first two need nothing of one another and
            can run at once, each in a process of its own; a last call with all joins them.
    """
    if "autoencoder" in names and _learns_decoder(config):
        yield _autoencoder_stage(config, parts, setting)
        if config.encoder == "learned":
            fold_normalisation(parts.vae, config)
    if "denoiser" in names:
        yield _denoiser_stage(config, parts, setting)
    if "sharpening" in names and "sharpening" in stages_of(config):
        yield _sharpening_stage(config, parts, setting)


def check_start(config: TrainConfig) -> None:
    """Refuse a warm start that a run cannot go on from, before the run begins.

    Raises:
        ModelError: If there is no such model, or its file is damaged.
        ValueError: If it is of another kind or shape.
    """
    if config.warm_start:
        _build_from(config, open_start(config.warm_start))


def _build_from(config: TrainConfig, trained: StableDiffusion | None) -> Parts:
    if trained is None:
        return build(config)
    words = DETAIL_WORDS if config.long_captions else ()
    parts = build(config, extend_tokenizer(trained.tokenizer, words))
    take_weights(parts, trained)
    return parts


def prepare(config: TrainConfig) -> Parts:
    """Return a run's parts before its first step, a fixed encoder and a warm start in place."""
    trained = open_start(config.warm_start) if config.warm_start else None
    parts = _build_from(config, trained)
    if trained is not None and is_same_shape(parts, trained):
        return parts  # with the trained model's own autoencoder
    if config.encoder == "nested":
        install_nested_encoder(parts.vae, config, trained.vae if trained else None)
    elif config.encoder == "patches":
        install_patch_encoder(parts.vae, config)
    return parts


def _learns_decoder(config: TrainConfig) -> bool:
    """Return whether there is an autoencoder to train: a warm start of the same shape has one."""
    return not config.warm_start or config.encoder == "nested"


def denoiser_share(config: TrainConfig) -> float:
    """Return which part of the time the denoiser gets: what the other stages leave."""
    return 1 - config.autoencoder_share * _learns_decoder(config) - config.sharpening_share


def _feed(config: TrainConfig, parts: Parts, out: Path) -> Callable[[int, int], Batch]:
    """Return what gives the denoiser its batches: a cache of latents, or scenes drawn each time."""
    if config.cached:
        cache = SceneCache(config, parts.vae, out / "cache")
        return CachedBatches(cache, parts.tokenizer)
    return lambda first, n: draw_batch(config, parts.tokenizer, first, n)


def _autoencoder_stage(config: TrainConfig, parts: Parts, setting: Setting) -> Stage:
    vae = parts.vae
    seen = dataclasses.replace(config, world=config.decoder_world or config.world)
    if config.encoder != "learned":
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def loss(batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        generator = random_numbers(config, step, setting)
        images, cover = (crop(part, config, step).to(setting.device) for part in batch)
        images = images.contiguous(memory_format=torch.channels_last)
        with setting.autocast():
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            spread = config.latent_noise or posterior.std
            latents = posterior.mean + spread * noise.to(setting.device)
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
        batches(lambda first, n: draw_covered(seen, first, n), config, setting),
        config.hours * 3600 * config.autoencoder_share,
        config.decoder_pictures or config.pictures,
        lambda path: autoencoder_grid(vae, config, path),
        config.vae_factor,
    )


def crop(pictures: Tensor, config: TrainConfig, step: int) -> Tensor:
    """Return a window of pictures (B, C, S, S), a new one each step, in whole latent positions."""
    if not config.crop:
        return pictures
    places = (config.picture_size - config.crop) // config.scale + 1
    y, x = (config.scale * random.Random(f"crop {step} {k}").randrange(places) for k in "yx")
    return pictures[..., y : y + config.crop, x : x + config.crop]  # (B, C, crop, crop)


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, config: TrainConfig, pictures: int = 512) -> None:
    """Rescale the latents to mean 0 and deviation 1 a channel, inside the quant convolutions.

    So a plain pipeline, which multiplies by one number only, sees normalised latents.
    """
    device = vae.device
    found = []
    for first in range(0, pictures, 64):
        images = draw_images(config, ENCODERS.seed(first), 64).to(device)
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


def denoising_loss(config: TrainConfig, parts: Parts, setting: Setting) -> DenoisingLoss:
    """Return the loss of a latent model's U-Net, as its run minimises it."""
    return DenoisingLoss(
        config,
        parts.unet,
        parts.scheduler,
        setting,
        side=config.picture_size // config.scale,
        early=EARLY,
        coarse=COARSE if config.encoder == "nested" else 0,
        detail=config.detail_weight,
    )


def _denoiser_stage(config: TrainConfig, parts: Parts, setting: Setting) -> Stage:
    vae, unet, text_encoder = parts.vae, parts.unet, parts.text_encoder
    vae.requires_grad_(False)
    read = TextReader(config, parts, setting.device)
    denoise = denoising_loss(config, parts, setting)

    def loss(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        generator = random_numbers(config, step, setting)
        latents = batch.images.to(setting.device, memory_format=torch.channels_last)
        with setting.autocast():
            if not config.cached:
                with torch.no_grad():
                    latents = vae.encode(latents).latent_dist.mean
            text = read(batch.ids.to(setting.device), generator)
        return denoise(latents, text, batch, generator)

    return Stage(
        "denoiser",
        nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}),
        loss,
        batches(_feed(config, parts, setting.out), config, setting),
        config.hours * 3600 * denoiser_share(config),
        config.pictures,
        lambda path: _draw_samples(parts, config, path),
    )


def _sharpening_stage(config: TrainConfig, parts: Parts, setting: Setting) -> Stage:
    _take_newest_decoder(parts, config, setting.out)
    learned = nn.ModuleDict({"unet": parts.unet, "text_encoder": parts.text_encoder})
    _take_newest(learned, config, setting.out / "denoiser")
    loss = SharpeningLoss(config, parts, setting)
    side = config.picture_size
    return Stage(
        "sharpening",
        loss.module,
        loss,
        batches(
            lambda first, n: draw_batch(config, parts.tokenizer, first, n, side), config, setting
        ),
        config.hours * 3600 * config.sharpening_share,
        config.pictures,
        lambda path: sample_grid(parts, config, path),
        RATE,
        lambda name, parameter: False,  # Adam for all
    )


def _draw_samples(parts: Parts, config: TrainConfig, path: Path) -> None:
    """Save a grid of samples, with the newest decoder if it learns beside this stage."""
    _take_newest_decoder(parts, config, path.parent.parent)
    sample_grid(parts, config, path)


def _take_newest_decoder(parts: Parts, config: TrainConfig, out: Path) -> None:
    """Take the decoder that was trained beside, if there is one.

    Beside a learned encoder there is none: its latents were normalised when its stage was over.
    """
    if config.encoder != "learned":
        _take_newest(parts.vae, config, out / "autoencoder")


@torch.no_grad()
def _take_newest(module: nn.Module, config: TrainConfig, folder: Path) -> None:
    """Take the averaged weights of a stage's newest checkpoint, if there is one."""
    found = load_checkpoint(folder, config.digest())
    if found is not None:
        for name, parameter in module.named_parameters():
            parameter.copy_(found[0][f"average.{name}"])
