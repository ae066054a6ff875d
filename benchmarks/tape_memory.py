"""What a tape would take on large models, computed from their shapes: nothing is allocated.

    python benchmarks/tape_memory.py            SD 1.x, SDXL, PixArt-Σ, SD3 and Flux, fp16
    python benchmarks/tape_memory.py --steps 28

The denoisers are built on PyTorch's meta device, which has shapes and no memory. For each the
columns say, in MiB for one picture and all steps:

    maps          every attention map, as a naive recording would keep them
    maps, real    the same with the prompt's real tokens among the text keys alone
    tape          queries and keys, as this package keeps them: sites with text, self up to 32²
    tape, 16²     the same with self-attention up to 16² positions alone (the paper's injection)
    words         cross maps alone, real tokens alone: less, but not the same edit, for the paper's
                  code takes the padding's columns from the source too
    weights       the denoiser's own parameters
    on device     the peak of weights and tape, 16² (activations come on top, as without recording)
    on host       the peak on the device if the tape is in the host's memory, as it is where a
                  quarter of the device's free memory cannot hold it: weights and one site's entry
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from p2p_lab.attention import AttentionTape, Site, find_sites, taped_sites

HALF = 2  # bytes of a number in fp16
MIB = 2**20
REAL_TOKENS = 12


@dataclass(frozen=True)
class Shape:
    """A denoiser's shape: how to build it, its latents (h, w) and its number of text tokens."""

    build: Callable[[], torch.nn.Module]
    latents: tuple[int, int]
    tokens: int


def sd1() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def sdxl() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def pixart() -> torch.nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=128, out_channels=8, num_layers=28, use_additional_conditions=False
    )


def sd3() -> torch.nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    )


def flux() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True)


SHAPES: Mapping[str, Shape] = {
    "SD 1.x, 512²": Shape(sd1, (64, 64), 77),
    "SDXL, 1024²": Shape(sdxl, (128, 128), 77),
    "PixArt-Σ, 1024²": Shape(pixart, (128, 128), 300),
    "SD3-medium, 1024²": Shape(sd3, (128, 128), 77 + 256),
    "Flux, 1024²": Shape(flux, (128, 128), 512),
}


def maps(sites: Mapping[str, Site], tokens: int) -> int:
    """Return the numbers in all maps of one step and picture, image queries."""
    return sum(
        s.heads * s.pixels * (s.has_text * tokens + s.has_image * s.pixels) for s in sites.values()
    )


def words(sites: Mapping[str, Site], tokens: int) -> int:
    """Return the numbers in the columns of words alone."""
    return sum(s.heads * s.pixels * tokens for s in sites.values() if s.has_text)


def tape(sites: Mapping[str, Site], steps: int, tokens: int) -> int:
    """Return the bytes of a tape in fp16."""
    return AttentionTape.estimate(sites, steps, torch.float16, tokens)


def row(shape: Shape, steps: int) -> list[float]:
    """Return a model's columns in MiB."""
    with torch.device("meta"):
        module: Any = shape.build()
    sites = find_sites(module, shape.latents)
    large, usual = (taped_sites(sites, pixels) for pixels in (32 * 32, 16 * 16))
    weights = HALF * sum(parameter.numel() for parameter in module.parameters())
    entry = max(tape({name: site}, 1, shape.tokens) for name, site in usual.items())
    sizes = [
        HALF * steps * maps(sites, shape.tokens),
        HALF * steps * maps(sites, REAL_TOKENS),
        tape(large, steps, shape.tokens),
        tape(usual, steps, shape.tokens),
        HALF * steps * words(sites, REAL_TOKENS),
        weights,
        weights + tape(usual, steps, shape.tokens),
        weights + entry,
    ]
    return [size / MIB for size in sizes]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    names = ["maps", "maps, real", "tape", "tape, 16²", "words"]
    names += ["weights", "on device", "on host"]
    print(
        f"MiB, fp16, {steps} steps, one picture, {REAL_TOKENS} real tokens. Computed, not measured."
    )
    print("| model | " + " | ".join(names) + " |")
    print("|---|" + "--:|" * len(names))
    for name, shape in SHAPES.items():
        print(f"| {name} | " + " | ".join(f"{size:,.0f}" for size in row(shape, steps)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
