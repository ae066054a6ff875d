"""The maps of one denoising call on a given picture: is a heatmap true?

    z = α z_0 + σ ε

A picture gets the noise of one step, the denoiser is called once with a prompt, and its attention
is recorded. Nothing is sampled, so the maps can be held against what is known of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2p_lab.attention import AttentionStore, BatchSlices, Controller, attached, find_sites
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.models.denoiser import checked_model
from p2p_lab.sampling.runs import noise_of
from p2p_lab.sampling.schedules import schedule_for
from p2p_lab.tokens import Prompt


@torch.no_grad()
def observe(
    model: Denoiser, image: Tensor, text: str, *, step: int = 8, steps: int = 20, seed: int = 0
) -> AttentionStore:
    """Return the maps of one denoising call on a picture with noise.

    Args:
        model: Any denoiser of latents or pixels.
        image: The picture, (3, H, W) in [0, 1].
        text: What it shows.
        step: The step whose level of noise is added, 0 (nearly all noise) … steps − 1.
        steps: How many steps the schedule has.
        seed: Draws the noise.

    Raises:
        ValueError: If there is no such step.
    """
    if not 0 <= step < steps:
        raise ValueError(f"There is no step {step}: steps go from 0 to {steps - 1}.")
    size = (int(image.shape[-2]), int(image.shape[-1]))
    schedule = schedule_for(model, "ddim", steps, checked_model(model).latent_shape(size)[1:])
    with model.lock:
        clean = model.encode(image[None].to(model.device, model.dtype))  # (1, C, h, w)
        noise = noise_of(seed, tuple(clean.shape)).to(clean)
        noisy = (schedule.alpha[step] * clean + schedule.sigma[step] * noise).to(clean.dtype)
        prompt = model.prompt(text)
        conditioning = model.encode_prompt(prompt, size)
        return maps_of_call(model, noisy, schedule.timesteps[step], conditioning, prompt)


@torch.no_grad()
def maps_of_call(
    model: Denoiser, latents: Tensor, time: Tensor, conditioning: Conditioning, prompt: Prompt
) -> AttentionStore:
    """Return the maps of one call of the denoiser, without guidance.

    Args:
        model: Any denoiser.
        latents: What it is given, (1, C, h, w).
        time: The model's time.
        conditioning: The encoded prompt, one row.
        prompt: The prompt, whose tokens are the maps' columns.
    """
    sites = find_sites(model.module, (int(latents.shape[-2]), int(latents.shape[-1])))
    controller = Controller(sites, BatchSlices(source=slice(0, 1)))
    with attached(model.module, controller, sites):
        controller.begin_step(0)
        model.predict(latents, time, conditioning)
        controller.end_step(latents, None)
    return controller.stores(prompt, model.card.map_sites)[0]
