"""The loss of a denoiser: what it predicts of noised pictures, and where its words look.

With x_t = √ᾱ x + √(1 − ᾱ) ε a denoiser learns the velocity √ᾱ ε − √(1 − ᾱ) x, the noise ε, or the
clean x itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.training.config import RunConfig
from p2p_lab.training.data import Batch
from p2p_lab.training.feeding import words_on
from p2p_lab.training.setting import Setting
from p2p_lab.training.supervision import TrainingMaps, supervision_loss

USUAL_LOSS = 0.35  # brings the loss to the size for which `supervision` is chosen


class DenoisingLoss:
    """The loss of one U-Net, as a function of clean pictures (or latents) and their texts.

    Args:
        config: Of the run.
        unet: The denoiser.
        scheduler: Its noise levels, and what it predicts.
        setting: Where and in which precision it is computed.
        side: Of what is denoised, in positions.
        early: Beginning of the names of the sites whose maps are not supervised.
        coarse: Number of leading channels that count fully; 0: all do.
        detail: What the other channels count.
    """

    def __init__(
        self,
        config: RunConfig,
        unet: nn.Module,
        scheduler: Any,
        setting: Setting,
        *,
        side: int,
        early: str,
        coarse: int = 0,
        detail: float = 1.0,
    ) -> None:
        self.config, self.unet, self.setting = config, unet, setting
        self.coarse, self.detail = coarse, detail
        self.prediction = str(scheduler.config.prediction_type)
        self.alpha_bars = scheduler.alphas_cumprod.to(setting.device)
        self.maps = TrainingMaps(unet, (side, side), early) if config.supervision else None

    def __call__(
        self,
        clean: Tensor,
        text: Tensor,
        batch: Batch,
        generator: torch.Generator,
        beside: Tensor | None = None,
        level: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and numbers for the log.

        Args:
            clean: (B, C, h, w), pictures in [−1, 1] or latents.
            text: (B, L, D).
            batch: Their words and what things cover, at (h, w).
            generator: Of times and noise.
            beside: (B, C', h, w), further channels of the input.
            level: (B,), their noise level.
        """
        t, noise = times_and_noise(clean, generator)
        alpha_bar = self.alpha_bars[t].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
        seen = noisy if beside is None else torch.cat([noisy, beside], 1)
        predicted = self._predict(seen, t, text, level)[:, : clean.shape[1]]
        cover = batch.cover.to(clean.device)
        errors = denoising_errors(predicted, clean, noise, alpha_bar, self.prediction)
        weight = error_weight(alpha_bar, self.prediction) * inside_weight(cover, self.config)
        channels = channel_weight(clean.shape[1], self.coarse, self.detail).to(clean.device)
        fit = (weight * channels * errors).mean() / USUAL_LOSS
        numbers = {"loss": fit.item()}
        if self.coarse:
            numbers["coarse"] = errors[:, : self.coarse].mean().item()
            numbers["detail"] = errors[:, self.coarse :].mean().item()
        if self.maps is None:
            return fit, numbers
        words = words_on(batch.words, clean.device)
        where = supervision_loss(self.maps.recorded, words, alpha_bar.flatten().sqrt())
        numbers["maps"] = where.item()
        return fit + self.config.supervision * where, numbers

    def _predict(self, seen: Tensor, t: Tensor, text: Tensor, level: Tensor | None) -> Tensor:
        seen = seen.contiguous(memory_format=torch.channels_last)
        with self.setting.autocast():
            if self.maps is None:
                output = self.unet(seen, t, text, class_labels=level)
            else:
                with self.maps.attached():
                    output = self.unet(seen, t, text, class_labels=level)
        predicted: Tensor = output.sample.float()
        return predicted


def denoising_errors(
    predicted: Tensor, clean: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: str
) -> Tensor:
    """Return the squared errors (B, C, h, w) of what was predicted.

    Args:
        predicted: (B, C, h, w).
        clean: (B, C, h, w), what was noised.
        noise: (B, C, h, w), what was added.
        alpha_bar: (B, 1, 1, 1).
        prediction: "v_prediction", "epsilon" or "sample".
    """
    target = clean if prediction == "sample" else noise
    if prediction == "v_prediction":
        target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    return F.mse_loss(predicted, target, reduction="none")


def clean_of(predicted: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction: str) -> Tensor:
    """Return the clean latents or pictures (B, C, h, w) that a prediction says are there.

    Args:
        predicted: (B, C, h, w).
        noisy: (B, C, h, w), what it was predicted from.
        alpha_bar: (B, 1, 1, 1).
        prediction: "v_prediction", "epsilon" or "sample".
    """
    if prediction == "sample":
        return predicted
    if prediction == "epsilon":
        return (noisy - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()
    return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * predicted


def error_weight(alpha_bar: Tensor, prediction: str) -> Tensor:
    """Return what an error counts at a noise level, min-SNR-5 (Hang et al. 2023, 2303.09556).

    With r = ᾱ/(1 − ᾱ), an error of the picture counts min(r, 5); that is min(r, 5)/r for an error
    of the noise and min(r, 5)/(r + 1) for one of the velocity, so all predictions weigh alike.

    Args:
        alpha_bar: (B, 1, 1, 1).
        prediction: "v_prediction", "epsilon" or "sample".
    """
    ratio = alpha_bar / (1 - alpha_bar)
    whole = {"v_prediction": ratio + 1, "epsilon": ratio, "sample": torch.ones_like(ratio)}
    return ratio.clamp_max(5.0) / whole[prediction]


def inside_weight(cover: Tensor, config: RunConfig) -> Tensor:
    """Return what an error counts at each position, more inside things, 1 in the mean.

    Args:
        cover: (B, 1, h, w), where the things are.
        config: Of the run.
    """
    inside = 1 + config.object_weight * cover
    return inside / inside.mean()


def channel_weight(channels: int, coarse: int, detail: float) -> Tensor:
    """Return what an error counts in each channel, (C, 1, 1), 1 in the mean.

    Args:
        channels: Number of channels C.
        coarse: How many leading ones count fully; 0: all.
        detail: What each of the others counts.
    """
    weight = torch.ones(channels, 1, 1)
    if coarse:
        weight[coarse:] = detail
    return weight / weight.mean()


def times_and_noise(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return model times (B,), spread evenly over the schedule, and noise (B, C, h, w)."""
    count = len(clean)
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    noise = torch.randn(clean.shape, generator=generator)
    return (spread * 1000).long().to(clean.device), noise.to(clean.device)
