"""The decoder's last level, made crisp against a small discriminator.

A denoiser predicts the mean of what may be there, so its latents are soft, and a decoder that
learned on true latents draws them softly. Here the last level alone goes on learning, on the
latents that the U-Net itself predicts from noised ones, beside true ones; a discriminator of
patches, thrown away afterwards, asks that what is decoded cannot be told from true pictures.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from p2p_lab.training.build import Parts
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.data import Batch
from p2p_lab.training.denoising import clean_of
from p2p_lab.training.feeding import random_numbers
from p2p_lab.training.reading import TextReader
from p2p_lab.training.reconstruction import reconstruction_loss, slopes
from p2p_lab.training.setting import Setting

LATEST = 500  # of 1000: from more noise a prediction shows other things than the true picture
TRUE_SHARE = 0.25  # of the latents are the encoder's own
ADVERSARIAL = 0.1  # weight of the discriminator's opinion
SLOW_START = 3200  # pictures over which that weight grows
CHANNELS = (3, 24, 48, 96)  # of the discriminator
RATE = 0.3  # factor of the learning rate


class LastLevel(nn.Module):
    """The decoder's layers at the full size; they share its parameters."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.block, self.norm = vae.decoder.up_blocks[-1], vae.decoder.conv_norm_out
        self.out = vae.decoder.conv_out

    def forward(self, hidden: Tensor) -> Tensor:
        """Return pictures (B, 3, S, S) of hidden states (B, C, S, S)."""
        picture: Tensor = self.out(F.silu(self.norm(self.block(hidden))))
        return picture


def before_last(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return the hidden states (B, C, S, S) that the decoder's last level sees.

    Args:
        vae: The autoencoder.
        latents: (B, L, h, w).
    """
    hidden: Tensor = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(latents)))
    for block in vae.decoder.up_blocks[:-1]:
        hidden = block(hidden)
    return hidden


class Discriminator(nn.Module):
    """Tells true pictures from decoded ones, patch by patch, 22 pixels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, 2, 1))
            for before, after in zip(CHANNELS, CHANNELS[1:], strict=False)
        )
        self.out = spectral_norm(nn.Conv2d(CHANNELS[-1], 1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return an opinion (B, 1, S/8, S/8), large where true, and the features under it.

        Args:
            pictures: (B, 3, S, S) in [−1, 1].
        """
        features = []
        for layer in self.layers:
            pictures = F.leaky_relu(layer(pictures), 0.2)
            features.append(pictures)
        return self.out(pictures), features


class SharpeningLoss:
    """The loss of the last level and of its discriminator, as a function of a batch and a step.

    Each learns from its own part: no gradient goes from one to the other.
    """

    def __init__(self, config: TrainConfig, parts: Parts, setting: Setting) -> None:
        self.config, self.parts, self.setting = config, parts, setting
        self.read = TextReader(config, parts, setting.device)
        self.alpha_bars = parts.scheduler.alphas_cumprod.to(setting.device)
        for module in (parts.vae, parts.unet, parts.text_encoder):
            module.requires_grad_(False)
        self.last = LastLevel(parts.vae).requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(config.seed)  # the same in every process
            self.discriminator = Discriminator().to(setting.device)

    @property
    def module(self) -> nn.ModuleDict:
        """What learns."""
        return nn.ModuleDict({"last": self.last, "discriminator": self.discriminator})

    def __call__(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and numbers for the log; the masks of the batch are at full size."""
        images = batch.images.to(self.setting.device, memory_format=torch.channels_last)
        cover = batch.cover.to(self.setting.device)
        with torch.no_grad(), self.setting.autocast():
            latents = self.soft(images, batch.ids.to(self.setting.device), step)
            hidden = before_last(self.parts.vae, latents)
        hidden.requires_grad_()  # or torch 2.13's group norm crashes on channels-last memory
        with self.setting.autocast():
            decoded = self.last(hidden).float()
            hinge = hinge_loss(self.discriminator, images, decoded.detach())
            adversarial = self._adversarial(images, decoded)
        close = reconstruction_loss(decoded - images, cover, self.config.object_weight)
        weight = ADVERSARIAL * min(1.0, step * self.config.batch / SLOW_START)
        numbers = {"loss": close.item(), "adversarial": adversarial.item(), "hinge": hinge.item()}
        numbers["slopes"] = (slopes(decoded.detach()) / slopes(images)).item()
        return close + weight * adversarial + hinge, numbers

    @torch.no_grad()
    def soft(self, images: Tensor, ids: Tensor, step: int) -> Tensor:
        """Return latents (B, L, h, w) as the U-Net predicts them, some as they truly are.

        Args:
            images: (B, 3, S, S) in [−1, 1].
            ids: (B, T), their prompts.
            step: Of the stage, from which the noise follows.
        """
        generator = random_numbers(self.config, step, self.setting)
        clean: Tensor = self.parts.vae.encode(images).latent_dist.mean
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        t = torch.randint(LATEST, (len(clean),), generator=generator).to(clean.device)
        alpha_bar = self.alpha_bars[t].view(-1, 1, 1, 1)
        noisy = self.parts.scheduler.add_noise(clean, noise, t)
        predicted = self.parts.unet(noisy, t, self.read(ids, generator)).sample
        kind = str(self.parts.scheduler.config.prediction_type)
        true = torch.rand(len(clean), 1, 1, 1, generator=generator).to(clean.device) < TRUE_SHARE
        guessed = clean_of(predicted, noisy, alpha_bar, kind)
        return torch.where(true, clean, guessed)

    def _adversarial(self, images: Tensor, decoded: Tensor) -> Tensor:
        """Return how little the discriminator takes decoded pictures for true ones."""
        self.discriminator.requires_grad_(False)
        opinion, features = self.discriminator(decoded)
        with torch.no_grad():
            wanted = self.discriminator(images)[1]
        self.discriminator.requires_grad_(True)
        apart = [
            (ours.mean((2, 3)) - theirs.mean((2, 3))).abs().mean()
            for ours, theirs in zip(features, wanted, strict=True)
        ]
        loss: Tensor = torch.stack(apart).sum() - opinion.mean()
        return loss


def hinge_loss(discriminator: Discriminator, images: Tensor, decoded: Tensor) -> Tensor:
    """Return the discriminator's loss: opinions of true pictures above 1, of others below −1."""
    true, false = discriminator(images)[0], discriminator(decoded)[0]
    return F.relu(1 - true).mean() + F.relu(1 + false).mean()
