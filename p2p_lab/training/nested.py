"""A fixed linear encoder for pictures of 128 pixels whose first channels are those of 64.

A latent position holds 32 numbers for its 8×8 pixel patch. The first 8 are what the encoder of
the 64-pixel model says of the halved picture; the others are the leading principal components of
what the patch holds beyond the best linear prediction from those 8:

    z = [z₈, (x − E[x | z₈]) V diag(s)],   s_i ∝ λ_i^(−1/4)

with λ, V the eigenvalues and vectors of the rest. So a U-Net that draws the first 8 channels can
go on from where it stands, and the picture gains its edges in the others.

The convolutional encoder computes the map in three strides of two: 3 → 12 channels (pixels), 12 →
32 (of a 4×4 block: the 12 averages that z₈ needs, and the 20 directions that the others need
most), 32 → 32 (the latents). Residual branches are zero and constant channels hold the last group
norm still, as in `patches`.
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
from p2p_lab.training.patches import (
    SHIFT,
    clear,
    components,
    fit,
    fit_last,
    identity,
    rows_of,
    space_to_depth,
    spread,
)

PATCH = 8
COARSE = 8  # channels of the halved picture
HELD = 32  # features of a 4×4 block that the encoder carries on
PICTURES = 512


def halved_map(patch: int = PATCH) -> Tensor:
    """Return the matrix (3·patch², 3·(patch/2)²) that averages 2×2 pixels of a patch."""
    eye = torch.eye(3 * patch * patch).view(-1, 3, patch, patch)
    return F.avg_pool2d(eye, 2).flatten(1)


@torch.no_grad()
def coarse_map(pixels: Tensor, start: Any | None) -> Tensor:
    """Return the affine map (193, 8) from a patch to its first 8 channels.

    Args:
        pixels: (B, 3, 128, 128) to fit on.
        start: The autoencoder of a 64-pixel model, or None: principal components of the halved
            pictures, as that model's own.
    """
    small = F.avg_pool2d(pixels, 2)
    rows = rows_of(small, PATCH // 2)
    if start is None:
        mean, basis = components(small, PATCH // 2, COARSE)
        weight, bias = basis, -mean @ basis
    else:
        parts = [start.encode(part).latent_dist.mean for part in torch.split(small, 64)]
        found = fit(rows, torch.cat(parts).permute(0, 2, 3, 1).flatten(0, 2))
        weight, bias = found[:-1], found[-1]
    return torch.cat([halved_map() @ weight, bias[None]])


@torch.no_grad()
def nested_map(pixels: Tensor, channels: int, start: Any | None) -> Tensor:
    """Return the affine map (193, channels) from a patch to its latents; the last row is the bias.

    The detail channels are scaled as the coarse ones are: by the same constant times λ^(−1/4).
    """
    rows = rows_of(pixels, PATCH).double()
    coarse = coarse_map(pixels, start).double()
    known = rows @ coarse[:-1] + coarse[-1]
    back = fit(known, rows)
    rest = rows - known @ back[:-1] - back[-1]
    values, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))
    values, vectors = values.flip(0), vectors.flip(1)
    count = channels - COARSE
    power = back[:-1].square().sum(1) * known.var(0)  # of each coarse channel in the pixels
    constant = (known.std(0) / power**0.25).mean()
    scaled = vectors[:, :count] * (constant * values[:count] ** -0.25)
    detail = torch.eye(len(vectors), dtype=rows.dtype) - coarse[:-1] @ back[:-1]
    bias = -(coarse[-1] @ back[:-1] + back[-1]) @ scaled
    return torch.cat([coarse, torch.cat([detail @ scaled, bias[None]])], 1).float()


def held_directions(weight: Tensor) -> Tensor:
    """Return the orthonormal directions (48, 32) of a 4×4 block that carry the map best.

    Args:
        weight: (192, C) from an 8×8 patch to latents; its four blocks share the directions.
    """
    blocks = F.unfold(weight.T.reshape(-1, 3, PATCH, PATCH), 4, stride=4)  # (C, 48, 4)
    stacked = blocks.permute(1, 0, 2).flatten(1)  # (48, 4 C)
    averages = torch.linalg.qr(halved_map(4)).Q  # (48, 12)
    left = stacked - averages @ (averages.T @ stacked)
    return torch.cat([averages, torch.linalg.svd(left).U[:, : HELD - averages.shape[1]]], 1)


@torch.no_grad()
def install_nested_encoder(vae: AutoencoderKL, config: TrainConfig, start: Any | None) -> None:
    """Write the fixed encoder into an autoencoder with three downsamplings.

    Args:
        vae: To change.
        config: Of the run.
        start: The autoencoder of a 64-pixel model whose channels come first, or None.

    Raises:
        ValueError: If the channels cannot hold the patches.
    """
    least = (12, HELD, HELD, 2 * HELD)
    got = config.vae_channels
    if len(got) != 4 or any(a < b for a, b in zip(got, least, strict=True)):
        raise ValueError(
            f"The nested encoder needs four levels of at least {least} channels; got {got}. "
            "Choose encoder='learned' for other shapes."
        )
    pixels = draw_images(config, ENCODERS.start, PICTURES)
    affine = nested_map(pixels, config.latent_channels, start)
    directions = held_directions(affine[:-1])
    encoder: Any = vae.encoder
    for block in [*encoder.down_blocks, encoder.mid_block]:
        for resnet in block.resnets:
            clear(resnet.conv2)
    identity(encoder.conv_in, 3)
    first, second, third, last = encoder.down_blocks
    space_to_depth(first.downsamplers[0].conv, 3)
    identity(second.resnets[0].conv_shortcut, 12)
    _project(second.downsamplers[0].conv, directions)
    identity(third.resnets[0].conv_shortcut, HELD)
    _gather(third.downsamplers[0].conv, affine[:-1], directions)
    spread(last.resnets[0].conv_shortcut, config.latent_channels, vae.config.norm_num_groups)
    nn.init.ones_(encoder.conv_norm_out.weight)
    nn.init.constant_(encoder.conv_norm_out.bias, SHIFT)
    identity(vae.quant_conv, 2 * config.latent_channels)
    fit_last(vae, pixels, rows_of(pixels, PATCH) @ affine[:-1] + affine[-1])


def _project(conv: nn.Conv2d, directions: Tensor) -> None:
    """Make a stride-2 convolution take 2×2 positions of 12 channels to 32 directions.

    Channel 4 c + tap of the input is pixel (tap // 2, tap % 2) of colour c of a 2×2 block.
    """
    clear(conv)
    basis = directions.T.reshape(HELD, 3, 4, 4)
    for tap in range(4):
        for near in range(4):
            y, x = 2 * (tap // 2) + near // 2, 2 * (tap % 2) + near % 2
            for colour in range(3):
                conv.weight[:HELD, 4 * colour + near, tap // 2, tap % 2] = basis[:, colour, y, x]


def _gather(conv: nn.Conv2d, weight: Tensor, directions: Tensor) -> None:
    """Make a stride-2 convolution take 2×2 positions of 32 directions to the latents."""
    clear(conv)
    blocks = F.unfold(weight.T.reshape(-1, 3, PATCH, PATCH), 4, stride=4)  # (C, 48, 4)
    for tap in range(4):
        conv.weight[: len(blocks), :HELD, tap // 2, tap % 2] = blocks[:, :, tap] @ directions
