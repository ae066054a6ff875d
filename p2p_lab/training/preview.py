"""Pictures of how far a run is: reconstructions and samples, as PNG grids."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from p2p_lab.files import whole_file
from p2p_lab.images import to_image
from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training.build import Parts
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.data import draw_images

PROMPTS = (
    "a cat in a field",
    "a red car in a city at night",
    "a penguin next to a pumpkin on a beach",
    "a golden rabbit wearing a crown",
    "a dog riding a bicycle in a field",
    "a castle in the very snowy mountains",
    "a pencil sketch of a house in a field",
    "a basket of lemons on a beach at sunset",
    "a pumpkin cake on a plain background",
    "an icy rocket in space",
    "a sailboat on a foggy beach",
    "a frog next to a mushroom in a field",
)


def to_grid(images: Tensor, columns: int = 6) -> Image.Image:
    """Return pictures (B, 3, S, S) in [0, 1] side by side."""
    rows = -(-len(images) // columns)
    side = images.shape[-1]
    sheet = torch.ones(3, rows * side, columns * side)
    for i, image in enumerate(images):
        y, x = i // columns * side, i % columns * side
        sheet[:, y : y + side, x : x + side] = image
    return to_image(sheet)


def save_grid(images: Tensor, path: Path) -> None:
    """Write pictures (B, 3, S, S) in [0, 1] side by side to one file, whole or not at all."""
    with whole_file(path) as draft:
        to_grid(images).save(draft, "png")


@torch.no_grad()
def autoencoder_grid(vae: AutoencoderKL, config: TrainConfig, path: Path) -> None:
    """Save unseen pictures above their reconstructions."""
    images = draw_images(config, ENCODERS.start, 12).to(vae.device)
    decoded = vae.decode(vae.encode(images).latent_dist.mean).sample
    save_grid(torch.cat([images, decoded]).cpu() / 2 + 0.5, path)


def assemble(parts: Parts) -> StableDiffusionPipeline:
    """Return the parts as a plain Stable Diffusion pipeline."""
    pipeline = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def sample_grid(parts: Parts, config: TrainConfig, path: Path) -> None:
    """Save a picture of each preview prompt, always from the same noise."""
    side = config.picture_size
    images = assemble(parts)(
        list(PROMPTS),
        height=side,
        width=side,
        num_inference_steps=20,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(i) for i in range(len(PROMPTS))],
        output_type="pt",
    ).images
    save_grid(images.float().cpu(), path)
