"""The five attention families as tiny random modules, each with inputs to call it on.

Every family gets a batch of two rows with equal latents and different text, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.conftest import seeded, tiny_unet

TEXT = 6
WIDTH = 32


@dataclass(frozen=True)
class Family:
    """A denoiser, and how to call it with a text (2, TEXT, WIDTH)."""

    name: str
    module: Any
    latent_size: tuple[int, int]
    call: Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard noise in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def text(seed: int = 1) -> Tensor:
    """Draw text embeddings, (2, TEXT, WIDTH)."""
    return draw(2, TEXT, WIDTH, seed=seed)


def twice(x: Tensor) -> Tensor:
    """Give both rows the same latents."""
    return x.expand(2, *x.shape[1:])


def sd() -> Family:
    """The U-Net of Stable Diffusion: attention to text alone, and to the image alone."""
    module = tiny_unet(cross_attention_dim=WIDTH)
    x = twice(draw(1, 4, 16, 8))
    return Family("sd", module, (16, 8), lambda t: module(x, 500, t).sample)


def deepfloyd() -> Family:
    """The U-Net of IF (Imagen's form): one softmax over text and image."""
    module = tiny_unet(
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 32),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        cross_attention_norm="group_norm",
        act_fn="gelu",
        attention_head_dim=16,
        norm_num_groups=8,
    )
    x = twice(draw(1, 3, 16, 8))
    return Family("if", module, (16, 8), lambda t: module(x, 500, t).sample)


def pixart() -> Family:
    """PixArt: a transformer with cross-attention and a mask over the text."""
    from diffusers import PixArtTransformer2DModel

    module = seeded(
        lambda: PixArtTransformer2DModel(
            sample_size=8,
            patch_size=2,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            use_additional_conditions=False,
        )
    )
    x, mask = twice(draw(1, 4, 12, 8)), torch.ones(2, TEXT)
    mask[1, -2:] = 0
    return Family(
        "pixart",
        module,
        (12, 8),
        lambda t: (
            module(
                x,
                encoder_hidden_states=t,
                timestep=torch.full((2,), 500),
                encoder_attention_mask=mask,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        ),
    )


def sd3() -> Family:
    """Stable Diffusion 3: joint attention, image before text, and a layer of self-attention."""
    from diffusers import SD3Transformer2DModel

    module = seeded(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
        )
    )
    x, pooled = twice(draw(1, 4, 12, 8)), twice(draw(1, 16))
    return Family(
        "sd3",
        module,
        (12, 8),
        lambda t: (
            module(
                x,
                encoder_hidden_states=t,
                pooled_projections=pooled,
                timestep=torch.full((2,), 500.0, dtype=torch.float64),
            ).sample
        ),
    )


def flux() -> Family:
    """Flux: joint attention, text before image, rotary embeddings."""
    from diffusers import FluxTransformer2DModel

    module = seeded(
        lambda: FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
        )
    )
    h, w = 6, 4
    grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1)
    ids = torch.cat([torch.zeros(h * w, 1), grid.reshape(-1, 2)], dim=1)
    x, pooled = twice(draw(1, h * w, 4)), twice(draw(1, 16))
    return Family(
        "flux",
        module,
        (2 * h, 2 * w),
        lambda t: (
            module(
                hidden_states=x,
                encoder_hidden_states=t,
                pooled_projections=pooled,
                timestep=torch.full((2,), 0.5, dtype=torch.float64),
                img_ids=ids,
                txt_ids=torch.zeros(TEXT, 3),
            ).sample
        ),
    )


FAMILIES = {"sd": sd, "if": deepfloyd, "pixart": pixart, "sd3": sd3, "flux": flux}
