"""Tiny random pipelines of every family: made with diffusers' classes, saved as real ones are.

Each is opened again by the package, and by diffusers' own pipeline for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.conftest import save_sd, save_sdxl, scheduler, seeded, tiny_text_encoder, tiny_unet
from tests.family_words import unigram_tokenizer, wordpiece_tokenizer
from tests.worlds import LENGTH, tiny_tokenizer

SEED, STEPS, WIDTH = 3, 4, 16


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        label: Its name in the table.
        save: Writes a tiny pipeline to a folder.
        scale: Guidance at which a plain run equals the pipeline's own bit for bit.
        options: What the pipeline is called with besides.
        parts: The pipeline's networks, and what they are called in the package's model.
        refused: Features that do not exist for it, with the words of the refusal.
    """

    label: str
    save: Callable[[Path], Any]
    scale: float = 4.0
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def pipeline_picture(folder: Path, model: Any, text: str, family: Family) -> Tensor:
    """Make a picture with diffusers' own pipeline, by DDIM or the flow's own steps, (3, H, W).

    Its networks are checked to hold the weights of the package's model and then exchanged for those
    very ones: the same numbers elsewhere in memory can take another kernel and round otherwise.
    """
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    if "FlowMatch" not in type(pipe.scheduler).__name__:
        config = dict(pipe.scheduler.config)
        settings = {"clip_sample": False, **config, "variance_type": "fixed_small"}
        pipe.scheduler = diffusers.DDIMScheduler.from_config(settings)
    for part, name in family.parts.items():
        mine, theirs = getattr(model, name), getattr(pipe, part)
        pairs = zip(mine.state_dict().items(), theirs.state_dict().items(), strict=True)
        assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs), part
        pipe.register_modules(**{part: mine})
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": family.scale, **family.options}
    pictures = pipe(
        text,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
        **options,
    )
    return torch.from_numpy(pictures.images[0]).permute(2, 0, 1)  # (3, H, W)


def sharp(module: Any, factor: float = 4.0) -> Any:
    """Make a random network's attention uneven: what looks alike everywhere would hide mistakes."""
    for name, part in module.named_modules():
        if name.endswith("to_q"):
            part.weight.mul_(factor)
    return module


def deep_vae(levels: int = 4, **changes: Any) -> Any:
    """An autoencoder that shrinks by eight, as the pipelines of some families expect."""
    from diffusers import AutoencoderKL

    settings: dict[str, Any] = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    return seeded(lambda: AutoencoderKL(**{**settings, **changes}))


def save_ldm(folder: Path) -> None:
    """Latent diffusion with a BERT of its own."""
    from diffusers import LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    tokenizer = wordpiece_tokenizer()
    config = LDMBertConfig(
        vocab_size=len(tokenizer),
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=WIDTH,
        max_position_embeddings=77,
    )
    pipeline = LDMTextToImagePipeline(
        vqvae=deep_vae(),
        bert=seeded(lambda: LDMBertModel(config)),
        tokenizer=tokenizer,
        unet=sharp(tiny_unet()),
        scheduler=scheduler(),
    )
    pipeline.to(torch.float32).save_pretrained(folder)


def tiny_t5(length: int, width: int = WIDTH) -> tuple[Any, Any]:
    """A T5 encoder of one layer, and its tokenizer."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = unigram_tokenizer(length)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return seeded(lambda: T5EncoderModel(config)), tokenizer


def save_pixart(folder: Path, *, sigma: bool = False) -> None:
    """PixArt: α is told the picture's size, Σ is not."""
    import diffusers

    encoder, tokenizer = tiny_t5(LENGTH)
    transformer = seeded(
        lambda: diffusers.PixArtTransformer2DModel(
            sample_size=8 if sigma else 128,
            patch_size=2,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=12 if not sigma else 8,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16 if sigma else 24,
            caption_channels=WIDTH,
            use_additional_conditions=not sigma,
            norm_type="ada_norm_single",
        )
    )
    kind = diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline
    pipeline = kind(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=deep_vae(),
        transformer=sharp(transformer),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="linear"),
    )
    pipeline.to(torch.float32).save_pretrained(folder)
    if not sigma:
        (folder / "card.json").write_text('{"defaults": {"height": 64, "width": 64}}')


def if_scheduler() -> Any:
    """IF's own settings: a learned variance, dynamic thresholding."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )


def if_unet(**changes: Any) -> Any:
    """A U-Net of IF: text and image keys in one softmax, noise and variance out."""
    settings: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (32, 32),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "cross_attention_dim": 32,
        "encoder_hid_dim": 32,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "resnet_time_scale_shift": "scale_shift",
        "cross_attention_norm": "group_norm",
        "act_fn": "gelu",
        "attention_head_dim": 16,
        "norm_num_groups": 8,
    }
    return tiny_unet(**{**settings, **changes})


def save_if(folder: Path) -> None:
    """The base stage of DeepFloyd IF."""
    from diffusers import IFPipeline

    encoder, tokenizer = tiny_t5(77, 32)
    pipeline = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        unet=sharp(if_unet()),
        scheduler=if_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float32).save_pretrained(folder)


def save_if_upscaler(folder: Path) -> None:
    """Its later stage: attention at the bottleneck alone, the small picture beside the noise."""
    from diffusers import IFSuperResolutionPipeline

    encoder, tokenizer = tiny_t5(77, 32)
    unet = if_unet(
        sample_size=32,
        in_channels=6,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
        mid_block_only_cross_attention=True,
        class_embed_type="timestep",
    )
    pipeline = IFSuperResolutionPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        unet=sharp(unet),
        scheduler=if_scheduler(),
        image_noising_scheduler=if_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float32).save_pretrained(folder)


def flow_vae() -> Any:
    """An autoencoder with a shift, as those of flow-matching models are."""
    return deep_vae(levels=2, shift_factor=0.1, scaling_factor=1.5)


def save_sd3(folder: Path) -> None:
    """Stable Diffusion 3: two CLIPs and a T5, image before text."""
    import diffusers

    encoder, tokenizer = tiny_t5(LENGTH, 2 * WIDTH)
    transformer = seeded(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
        )
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=sharp(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(),
        text_encoder=tiny_text_encoder(projection=True),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=tiny_text_encoder(projection=True),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=tokenizer,
    )
    pipeline.to(torch.float32).save_pretrained(folder)


def save_flux(folder: Path) -> None:
    """Flux: text before image, rotary embeddings, a guidance number told to the denoiser."""
    import diffusers

    encoder, tokenizer = tiny_t5(LENGTH, 2 * WIDTH)
    transformer = seeded(
        lambda: diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        )
    )
    pipeline = diffusers.FluxPipeline(
        transformer=sharp(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flow_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
    )
    pipeline.to(torch.float32).save_pretrained(folder)
    (folder / "card.json").write_text('{"defaults": {"height": 32, "width": 32}}')


NOT_FOR_FLOWS = {
    "negative-prompt": "was derived for models of noise under guidance",
    "null-text": "tunes the empty prompt of models of noise under guidance",
    "edit-friendly": "measures the noise maps of a stochastic sampler",
}
NO_BINS = {"use_resolution_binning": False, "max_sequence_length": LENGTH}

FLUX = {"guidance_scale": 3.5, "height": 32, "width": 32, "max_sequence_length": LENGTH}
SIDE = {"height": 64, "width": 64}

IF_PARTS = {"unet": "module", "text_encoder": "text_encoder"}
LDM_PARTS = {"unet": "module", "vqvae": "vae", "bert": "text_encoder"}
SD_PARTS = {**IF_PARTS, "vae": "vae"}
XL_PARTS = {**SD_PARTS, "text_encoder_2": "text_encoder_2"}
PIXART_PARTS = {"transformer": "module", "vae": "vae", "text_encoder": "text_encoder"}
SD3_PARTS = {
    **PIXART_PARTS,
    "text_encoder_2": "text_encoder_2",
    "text_encoder_3": "text_encoder_3",
}
FLUX_PARTS = {**PIXART_PARTS, "text_encoder": "clip", "text_encoder_2": "text_encoder"}
save_sd2 = partial(save_sd, prediction_type="v_prediction")
save_sigma = partial(save_pixart, sigma=True)

FAMILIES = {
    "ldm": Family("Latent diffusion", save_ldm, parts=LDM_PARTS),
    "sd1": Family("Stable Diffusion 1.x", save_sd, parts=SD_PARTS),
    "sd2": Family("Stable Diffusion 2.x (v)", save_sd2, parts=SD_PARTS),
    "sdxl": Family("SDXL", save_sdxl, parts=XL_PARTS),
    "if": Family("DeepFloyd IF, base stage", save_if, parts=IF_PARTS),
    "pixart-alpha": Family(
        "PixArt-α", save_pixart, options={**NO_BINS, **SIDE}, parts=PIXART_PARTS
    ),
    "pixart-sigma": Family("PixArt-Σ", save_sigma, options=NO_BINS, parts=PIXART_PARTS),
    "sd3": Family(
        "Stable Diffusion 3 (joint)",
        save_sd3,
        options={"max_sequence_length": LENGTH},
        parts=SD3_PARTS,
        refused=NOT_FOR_FLOWS,
    ),
    "flux": Family(
        "Flux (joint)", save_flux, 1.0, options=FLUX, parts=FLUX_PARTS, refused=NOT_FOR_FLOWS
    ),
}
