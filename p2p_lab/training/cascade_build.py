"""Make the parts of a cascade: tokenizer, text encoder, two U-Nets, their schedules.

The form is Imagen's, on which the paper worked, in diffusers' block types. The base U-Net's
attention is hybrid: one softmax over text tokens and image positions. The super-resolution
U-Net looks at the text at its bottleneck only.
"""

from __future__ import annotations

import logging
import math
import string
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from p2p_lab.scenes import caption, sample_scene
from p2p_lab.training.config import CascadeConfig
from p2p_lab.training.tokens import learn_merges

MARKS = ("<pad>", "</s>", "<unk>")  # T5 gives them the ids 0, 1 and 2
LETTERS = sorted(set(string.ascii_letters + string.digits + string.punctuation))
SPACE = "▁"  # how T5 writes the start of a word
CAPTIONS = 20_000
FORM: dict[str, Any] = {
    "out_channels": 6,  # the noise, and the place of a learned variance, which stays zero
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "norm_num_groups": 16,
}


@dataclass
class CascadeParts:
    """The models of both stages; the text encoder is trained with the base stage."""

    tokenizer: T5Tokenizer
    text_encoder: T5EncoderModel
    base: UNet2DConditionModel
    super: UNet2DConditionModel
    scheduler: DDIMScheduler
    noising: DDPMScheduler

    @property
    def networks(self) -> tuple[UNet2DConditionModel, ...]:
        """The convolutional networks."""
        return self.base, self.super


def build_cascade(config: CascadeConfig) -> CascadeParts:
    """Make a cascade's parts with fresh parameters, drawn from `config.seed`."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    tokenizer = build_t5_tokenizer(config)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(config.seed)
        encoder, base, larger = _text_encoder(config, tokenizer), _base(config), _super(config)
    for unet in (base, larger):
        torch.nn.init.zeros_(unet.conv_out.weight[3:])
        torch.nn.init.zeros_(unet.conv_out.bias[3:])
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return CascadeParts(tokenizer, encoder, base, larger, _scheduler(config), noising)


def build_t5_tokenizer(config: CascadeConfig) -> T5Tokenizer:
    """Learn T5's kind of tokenizer, pieces with log frequencies, from the captions.

    Byte-pair merges propose the pieces and counting weighs them, so that common words become
    one token and rare ones two or more.

    Raises:
        ValueError: If the vocabulary cannot hold the letters.
    """
    fewest = len(MARKS) + len(LETTERS) + 1
    if config.vocabulary < fewest:
        raise ValueError(
            f"The vocabulary must hold {fewest} letters and marks; got {config.vocabulary} "
            f"entries. Set CascadeConfig.vocabulary to at least {fewest}."
        )
    counts: Counter[str] = Counter()
    for i in range(CAPTIONS):
        counts.update(SPACE + word for word in caption(sample_scene(i), i).text.split())
    seen = {
        piece: sum(word.count(piece) * n for word, n in counts.items()) + 0.1
        for piece in _pieces(counts, config.vocabulary - len(MARKS))
    }
    total = sum(seen.values())
    scores = [(mark, 0.0) for mark in MARKS]
    scores += [(piece, math.log(number / total)) for piece, number in seen.items()]
    return T5Tokenizer(vocab=scores, extra_ids=0, model_max_length=config.length)


def _pieces(counts: Counter[str], size: int) -> list[str]:
    """Return the letters and the pieces that byte-pair merges make of the words."""
    alphabet = [*LETTERS, SPACE]
    merges = learn_merges(
        {word: (list(word), n) for word, n in counts.items()}, size - len(alphabet)
    )
    return list(dict.fromkeys([*alphabet, *map("".join, merges)]))


def _text_encoder(config: CascadeConfig, tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=config.text_width,
            d_kv=32,
            d_ff=4 * config.text_width,
            num_layers=config.text_layers,
            num_heads=config.text_width // 32,
            dropout_rate=0.0,
            initializer_factor=0.1,  # embeddings of size 1 would drown what the layers add
        )
    )


def _base(config: CascadeConfig) -> UNet2DConditionModel:
    deeper = len(config.base_channels) - 1
    return UNet2DConditionModel(
        sample_size=config.base_size,
        in_channels=3,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * deeper, "ResnetUpsampleBlock2D"),
        **_shape(config, config.base_channels),
    )


def _super(config: CascadeConfig) -> UNet2DConditionModel:
    levels = len(config.super_channels)
    return UNet2DConditionModel(
        sample_size=config.picture_size,
        in_channels=6,  # the picture in the making, and the small one made large
        down_block_types=("ResnetDownsampleBlock2D",) * levels,
        up_block_types=("ResnetUpsampleBlock2D",) * levels,
        mid_block_only_cross_attention=True,
        class_embed_type="timestep",  # the noise level of the small picture
        **_shape(config, config.super_channels),
    )


def _shape(config: CascadeConfig, channels: tuple[int, ...]) -> dict[str, Any]:
    return {
        **FORM,
        "block_out_channels": channels,
        "layers_per_block": config.unet_layers,
        "attention_head_dim": config.head_width,
        "cross_attention_dim": config.text_width,
        "encoder_hid_dim": config.text_width,
    }


def _scheduler(config: CascadeConfig) -> DDIMScheduler:
    """Return the noise schedule, a cosine (Nichol & Dhariwal 2021), with steps from 0 up.

    `variance_type` is no setting of DDIM. IFPipeline reads it to see whether the network's
    last channels are a variance: here they are not, and are cut off.
    """
    return DDIMScheduler.from_config(
        {
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": config.prediction,
            "clip_sample": True,
            "variance_type": "fixed_small",
        }
    )
