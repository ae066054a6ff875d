"""Make the parts of a pipeline from a configuration: tokenizer, encoders, U-Net, schedule."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from p2p_lab.models.loading import load
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.tokens import build_tokenizer


@dataclass
class Parts:
    """The models of one pipeline."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler

    @property
    def networks(self) -> tuple[AutoencoderKL | UNet2DConditionModel, ...]:
        """The convolutional networks."""
        return self.vae, self.unet


def build(config: TrainConfig, tokenizer: CLIPTokenizer | None = None) -> Parts:
    """Make a pipeline's parts with fresh parameters, drawn from `config.seed`.

    Args:
        config: Of the run.
        tokenizer: To use; None: one learned from the captions.
    """
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    tokenizer = tokenizer or build_tokenizer(config.vocabulary, config.length)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(config.seed)
        return Parts(
            tokenizer,
            _text_encoder(config, tokenizer),
            _autoencoder(config),
            _unet(config),
            build_scheduler(config.prediction),
        )


def build_scheduler(prediction: str = "v_prediction") -> DDIMScheduler:
    """Return the noise schedule, Stable Diffusion's.

    Args:
        prediction: What the U-Net predicts: the velocity, or the clean latents ("sample").
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def _text_encoder(config: TrainConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_width // 32,
            max_position_embeddings=config.length,
            projection_dim=config.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _autoencoder(config: TrainConfig) -> AutoencoderKL:
    levels = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=4,
        sample_size=config.picture_size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def _unet(config: TrainConfig) -> UNet2DConditionModel:
    levels = len(config.unet_channels)
    return UNet2DConditionModel(
        sample_size=config.picture_size // config.scale,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        layers_per_block=config.unet_layers,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=config.text_width,
        attention_head_dim=config.heads,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def open_start(start: str) -> StableDiffusion:
    """Open the model that a run goes on from.

    Args:
        start: Name or folder of the model, as `p2p_lab.load` takes it.

    Raises:
        ModelError: If there is no such model, or its file is damaged.
        ValueError: If it is another kind of pipeline.
    """
    trained = load(start, "cpu", torch.float32)
    if not isinstance(trained, StableDiffusion):
        raise ValueError(f"{start} is a {type(trained).__name__}; start from a model of scenes.")
    return trained


def take_weights(parts: Parts, trained: StableDiffusion) -> None:
    """Copy a trained model's weights into a pipeline's parts.

    Args:
        parts: Of the same shapes. They may have more tokens, whose embeddings stay fresh, and more
            latent channels, which the U-Net ignores at first; then they keep their autoencoder.
        trained: The model to go on from.

    Raises:
        ValueError: If the shapes differ otherwise, or it predicts something else.
    """
    found, wanted = trained.prediction, parts.scheduler.config.prediction_type
    if found != wanted:
        raise ValueError(
            f"{trained.name} does not fit this run: its U-Net predicts {found!r}, and {wanted!r} "
            f"is asked for. Take --prediction {found}, or leave --warm-start out."
        )
    pairs = [(parts.text_encoder, trained.text_encoder), (parts.unet, trained.module)]
    if is_same_shape(parts, trained):
        pairs.append((parts.vae, trained.vae))
    for ours, theirs in pairs:
        try:
            ours.load_state_dict(_widened(ours.state_dict(), theirs.state_dict()))
        except RuntimeError as error:
            raise ValueError(
                f"{trained.name} does not fit this run: {str(error).splitlines()[1].strip()} "
                "Choose the size with which it was trained, or leave --warm-start out."
            ) from error


def is_same_shape(parts: Parts, trained: StableDiffusion) -> bool:
    """Return whether a trained model has the latents of these parts, so that its decoder fits."""
    return bool(parts.vae.config.latent_channels == trained.vae.config.latent_channels)


def _widened(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return another module's weights, made longer where ours have more tokens or channels."""
    grown = {"conv_in.weight": (1, 0.0), "conv_out.weight": (0, 1.0), "conv_out.bias": (0, 1.0)}
    out = dict(theirs)
    for name, weight in theirs.items():
        axis, factor = grown.get(name, (0, 1.0))
        more = ours[name].shape[axis] - weight.shape[axis] if name in ours else 0
        if more > 0 and (name in grown or "token_embedding" in name):
            fresh = ours[name].narrow(axis, weight.shape[axis], more)
            out[name] = torch.cat([weight, factor * fresh], axis)
    return out
