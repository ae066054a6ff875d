"""The peak memory of drawing and editing on large models, computed from their shapes.

    python benchmarks/peak_memory.py            SD 1.5, SDXL, SD3.5-medium and FLUX-schnell, fp16

Every network is built on PyTorch's meta device, which has shapes and no memory, and one step of
each kind is run there (`p2p_lab.sampling.peak_memory`). GiB for one picture; what CUDA itself needs
(0.5 to 1 GiB) comes on top. With model offloading one network lies on the device at a time: the
columns "offloaded".
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tape_memory import sd1, sdxl

from p2p_lab.models import Defaults, Denoiser
from p2p_lab.models.flux import Flux
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.models.stable_diffusion_3 import StableDiffusion3
from p2p_lab.models.stable_diffusion_xl import StableDiffusionXL
from p2p_lab.sampling.peak_memory import GIB, peak_memory
from tests.family_words import unigram_tokenizer
from tests.worlds import tiny_tokenizer

ACTIONS = ("generate", "record", "edit", "joint_edit")


def on_meta(build: Callable[[], Any]) -> Any:
    """Build a network in half precision without memory."""
    with torch.device("meta"):
        return torch.nn.Module.to(build(), torch.float16).eval().requires_grad_(False)


def clip(width: int, layers: int, heads: int, *, projection: int = 0) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, projection_dim=projection or width,
    )  # fmt: skip
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return on_meta(lambda: kind(config))


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return on_meta(lambda: T5EncoderModel(config))


def vae(channels: int = 4, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return on_meta(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=channels,
            **settings,
        )
    )


def parts(module: Callable[[], Any], side: int, steps: int, scale: float) -> dict[str, Any]:
    """Return what all models of the table have."""
    return {
        "name": "shapes",
        "module": on_meta(module),
        "tokenizer": tiny_tokenizer(77),
        "scheduler_config": {},
        "defaults": Defaults(side, side, steps, scale),
    }


def sd15_model() -> Denoiser:
    return StableDiffusion(**parts(sd1, 512, 50, 7.5), vae=vae(), text_encoder=clip(768, 12, 12))


def sdxl_model() -> Denoiser:
    return StableDiffusionXL(
        **parts(sdxl, 1024, 50, 5.0),
        vae=vae(force_upcast=False),  # in the repaired autoencoder; the first one runs in float32
        text_encoder=clip(768, 12, 12),
        text_encoder_2=clip(1280, 32, 20, projection=1280),
        tokenizer_2=tiny_tokenizer(77),
    )


def sd35_medium_model() -> Denoiser:
    from diffusers import SD3Transformer2DModel

    def module() -> Any:
        return SD3Transformer2DModel(
            sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip

    return StableDiffusion3(
        **parts(module, 1024, 40, 4.5),
        vae=vae(16, shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=clip(768, 12, 12, projection=768),
        text_encoder_2=clip(1280, 32, 20, projection=1280),
        tokenizer_2=tiny_tokenizer(77),
        text_encoder_3=t5(),
        tokenizer_3=unigram_tokenizer(256),
    )


def flux_schnell_model() -> Denoiser:
    from diffusers import FluxTransformer2DModel

    shared = parts(lambda: FluxTransformer2DModel(guidance_embeds=False), 1024, 4, 1.0)
    return Flux(
        **{**shared, "tokenizer": unigram_tokenizer(256)},
        vae=vae(16, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=t5(),
        clip=clip(768, 12, 12),
        clip_tokenizer=tiny_tokenizer(77),
    )


MODELS: Mapping[str, Callable[[], Denoiser]] = {
    "SD 1.5, 512²": sd15_model,
    "SDXL, 1024²": sdxl_model,
    "SD3.5-medium, 1024²": sd35_medium_model,
    "FLUX-schnell, 1024²": flux_schnell_model,
}


def row(model: Denoiser) -> list[float]:
    """Return a model's columns in GiB."""
    peak = peak_memory(model)
    networks = {n: part for n, part in vars(model).items() if isinstance(part, torch.nn.Module)}
    weights = {n: sum(p.nbytes for p in part.parameters()) for n, part in networks.items()}
    encoders = max(size for name, size in weights.items() if name not in ("module", "vae"))

    def offloaded(step: int) -> int:
        return max(encoders, weights["module"] + step, weights["vae"] + peak.decode)

    sizes = [peak.weights, *(peak.total(action) for action in ACTIONS)]
    sizes += [offloaded(peak.generate), offloaded(peak.joint_edit), peak.decode, peak.tape]
    return [size / GIB for size in sizes]


def main() -> int:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    names = ["weights", "generate", "record", "edit from tape", "joint edit"]
    names += ["generate, offloaded", "joint edit, offloaded", "decoding", "tape"]
    print("| model | " + " | ".join(names) + " |")
    print("|---|" + "--:|" * len(names))
    for name, build in MODELS.items():
        cells = [name, *(f"{size:.1f}" for size in row(build()))]
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
