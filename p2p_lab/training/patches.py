"""A fixed linear encoder inside Stable Diffusion's autoencoder: principal components of patches.

Each latent position holds the leading principal components of its f×f pixel patch, so that
only the decoder is left to learn. On two cores that is the difference between a blurred and a
clear picture: an encoder learned in minutes used four of its eight channels.

How the convolutional encoder computes it: stride-2 convolutions move 2×2 pixels into channels
(f = 4 is two of them), residual branches are zero, and constant channels keep the last group
norm's statistics still, so that norm and SiLU act almost linearly; the last convolution is a
least-squares fit to the components.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.data import draw_images

CONSTANT = 4.0  # of the channels that keep the norm still
SHIFT = 4.0  # SiLU is almost linear from here on
POSTERIOR_STD = 0.02
PICTURES = 512


def rows_of(pixels: Tensor, patch: int) -> Tensor:
    """Return the patches (N, 3·patch²) of pictures (B, 3, S, S), position by position."""
    rows: Tensor = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    return rows


def components(pixels: Tensor, patch: int, count: int) -> tuple[Tensor, Tensor]:
    """Return mean (P,) and scaled components (P, count) of patches, P = 3·patch².

    A component with variance λ is scaled by λ^(−1/4): half way between plain principal
    components, whose detail drowns in the first noise, and whitened ones, in which detail counts
    as much as layout. The mean variance of the scaled components is 1.
    """
    rows = rows_of(pixels, patch)
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    scale = values**-0.25
    scale = scale / (values * scale**2).mean().sqrt()
    return mean, vectors * scale


def fit(inputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the least-squares affine map (I + 1, O) from rows (N, I) to rows (N, O)."""
    known = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1).double()
    ridge = 1e-4 * torch.eye(known.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted.double())
    affine: Tensor = solved.to(wanted.dtype)
    return affine


@torch.no_grad()
def install_patch_encoder(vae: AutoencoderKL, config: TrainConfig) -> None:
    """Write the fixed encoder into an autoencoder with two downsamplings.

    Raises:
        ValueError: If the channels cannot hold the patches.
    """
    if len(config.vae_channels) != 3 or config.vae_channels[0] < 12 or config.vae_channels[1] < 48:
        raise ValueError(
            "The patch encoder needs three levels of at least 12, 48 and 64 channels; got "
            f"{config.vae_channels}. Choose encoder='learned' for other shapes."
        )
    encoder: Any = vae.encoder
    for block in [*encoder.down_blocks, encoder.mid_block]:
        for resnet in block.resnets:
            clear(resnet.conv2)
    identity(encoder.conv_in, 3)
    first, second, third = encoder.down_blocks
    space_to_depth(first.downsamplers[0].conv, 3)
    identity(second.resnets[0].conv_shortcut, 12)
    space_to_depth(second.downsamplers[0].conv, 12)
    spread(third.resnets[0].conv_shortcut, 48, vae.config.norm_num_groups)
    nn.init.ones_(encoder.conv_norm_out.weight)
    nn.init.constant_(encoder.conv_norm_out.bias, SHIFT)
    identity(vae.quant_conv, 2 * config.latent_channels)
    pixels = draw_images(config, ENCODERS.start, PICTURES)
    mean, basis = components(pixels, config.scale, config.latent_channels)
    fit_last(vae, pixels, (rows_of(pixels, config.scale) - mean) @ basis)


def clear(conv: nn.Conv2d) -> Tensor:
    """Set a convolution to zero and return its bias."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    return nn.init.zeros_(conv.bias)


def identity(conv: nn.Conv2d, channels: int) -> None:
    """Make a convolution pass its first channels on and drop the rest."""
    clear(conv)
    middle = conv.kernel_size[0] // 2
    for c in range(channels):
        conv.weight[c, c, middle, middle] = 1


def space_to_depth(conv: nn.Conv2d, channels: int) -> None:
    """Make a stride-2 convolution move each 2×2 block of pixels into four channels."""
    clear(conv)
    for c in range(channels):
        for tap in range(4):
            conv.weight[4 * c + tap, c, tap // 2, tap % 2] = 1


def spread(conv: nn.Conv2d, held: int, groups: int) -> None:
    """Share `held` channels out over the norm's groups, with constants in the places left."""
    bias = clear(conv)
    size, each = conv.out_channels // groups, held // groups
    for g in range(groups):
        for k in range(size):
            if k < each:
                conv.weight[g * size + k, g * each + k, 0, 0] = 1
            else:
                bias[g * size + k] = CONSTANT if k % 2 else -CONSTANT


def fit_last(vae: AutoencoderKL, pixels: Tensor, wanted: Tensor) -> None:
    """Fit the encoder's last convolution to the latents (N, C), a row for each position."""
    fitted = fit(features_of(vae.encoder, pixels), wanted)
    last: Any = vae.encoder.conv_out
    channels = wanted.shape[1]
    clear(last)
    last.weight[:channels, :, 1, 1] = fitted[:-1].T
    last.bias[:channels] = fitted[-1]
    last.bias[channels:] = 2 * torch.tensor(POSTERIOR_STD).log()


def features_of(encoder: Any, pixels: Tensor) -> Tensor:
    """Return what the last convolution sees, a row for each latent position."""
    seen: list[Tensor] = []
    hook = encoder.conv_out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for first in range(0, len(pixels), 64):
        encoder(pixels[first : first + 64])
    hook.remove()
    return torch.cat(seen).permute(0, 2, 3, 1).flatten(0, 2)
