"""Make the parts of a pipeline from a configuration: tokenizer, encoders, U-Net, schedule."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from p2p_lab.models.loading import load
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.scenes import caption, sample_scene
from p2p_lab.training.config import TrainConfig

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TOKENIZER_CAPTIONS = 20_000


@dataclass
class Parts:
    """The models of one pipeline."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler


def build_tokenizer(config: TrainConfig) -> CLIPTokenizer:
    """Learn a byte-level BPE tokenizer from the captions of the full world.

    Common words become one token, rare ones two or more; any text can be encoded.

    Raises:
        ValueError: when the vocabulary cannot hold the bytes.
    """
    alphabet = sorted(ByteLevel.alphabet())
    letters = alphabet + [letter + "</w>" for letter in alphabet]
    if config.vocabulary < len(letters) + 2:
        raise ValueError(
            f"The vocabulary must hold {len(letters)} bytes and 2 marks; got "
            f"{config.vocabulary} entries. Set TrainConfig.vocabulary to at least 560."
        )
    vocab = {token: i for i, token in enumerate([*letters, BOS, EOS])}
    empty = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=config.length)
    texts = (caption(sample_scene(i), i).text for i in range(TOKENIZER_CAPTIONS))
    learned = empty.train_new_from_iterator(texts, vocab_size=config.vocabulary)
    if learned("cat").input_ids[0] != learned.bos_token_id:
        raise ValueError(
            "The tokenizer lost its start mark; another transformers version is needed."
        )
    return learned


def build(config: TrainConfig) -> Parts:
    """Make a pipeline's parts with fresh parameters, drawn from `config.seed`."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    tokenizer = build_tokenizer(config)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(config.seed)
        return Parts(
            tokenizer,
            _text_encoder(config, tokenizer),
            _autoencoder(config),
            _unet(config),
            build_scheduler(),
        )


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule: Stable Diffusion's, with the velocity as target."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
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


def take_weights(parts: Parts, start: str) -> None:
    """Copy a trained model's weights into a pipeline's parts, and take over its tokenizer.

    Args:
        parts: of the same shapes.
        start: name or folder of the model, as `p2p_lab.load` takes it.

    Raises:
        ModelError: when there is no such model, or its file is damaged.
        ValueError: when it is another kind of pipeline, or its shapes differ.
    """
    trained = load(start, "cpu", torch.float32)
    if not isinstance(trained, StableDiffusion):
        raise ValueError(f"{start} is a {type(trained).__name__}; start from a model of scenes.")
    parts.tokenizer = trained.tokenizer
    for ours, theirs in (
        (parts.vae, trained.vae),
        (parts.unet, trained.module),
        (parts.text_encoder, trained.text_encoder),
    ):
        try:
            ours.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"{start} does not fit this run: {str(error).splitlines()[1].strip()} "
                "Choose the size with which it was trained, or leave --warm-start out."
            ) from error
