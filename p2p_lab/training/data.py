"""Scenes for training, drawn on the fly: pictures, token ids and the masks of words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.scenes import caption, render, sample_scene
from p2p_lab.training.config import RunConfig

SUPERVISED = ("object", "attribute", "place")


@dataclass(frozen=True)
class Words:
    """The supervised words of a batch, one row a word.

    Attributes:
        picture: (N,) the picture in which the word stands.
        tokens: (N, L) one over the number of its tokens at its tokens, else zero.
        masks: (N, h, w) what it describes, at the resolution that is denoised.
    """

    picture: Tensor
    tokens: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        images: (B, 3, S, S) in [−1, 1]; (B, C, h, w) if they are latents from a cache.
        ids: (B, L) tokens of the prompts.
        cover: (B, 1, h, w) what things cover.
        words: The supervised words.
    """

    images: Tensor
    ids: Tensor
    cover: Tensor
    words: Words


def draw_images(config: RunConfig, first: int, count: int) -> Tensor:
    """Return the pictures (B, 3, S, S) in [−1, 1] of `count` scenes from seed `first` on."""
    return draw_covered(config, first, count)[0]


def draw_covered(config: RunConfig, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Return pictures in [−1, 1] and what their things cover (B, 1, S, S)."""
    scenes = [sample_scene(first + i, config.world) for i in range(count)]
    pictures = render(scenes, config.picture_size)
    return pictures.images * 2 - 1, pictures.masks.sum(1, keepdim=True).clamp(0, 1)


def draw_batch(
    config: RunConfig, tokenizer: Any, first: int, count: int, side: int | None = None
) -> Batch:
    """Return pictures with their prompts and true masks; some prompts are left empty.

    Args:
        config: Of the run.
        tokenizer: Any that tells character offsets.
        first: Seed of the first scene.
        count: Number of scenes.
        side: Of the masks; None: what the first network denoises, along one side.
    """
    scenes = [sample_scene(first + i, config.world) for i in range(count)]
    pictures = render(scenes, config.picture_size)
    captions = [caption(scene, scene.seed) for scene in scenes]
    generator = torch.Generator().manual_seed(config.seed + first)
    dropped = torch.rand(count, generator=generator) < config.prompt_dropout
    texts = ["" if gone else text.text for text, gone in zip(captions, dropped, strict=True)]
    encoded = tokenizer(
        texts,
        padding="max_length",
        max_length=config.length,
        truncation=True,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    side = side or config.picture_size // config.scale
    picture, tokens, masks = [], [], []
    for b, text in enumerate(captions):
        if dropped[b]:
            continue
        for phrase in text.phrases:
            if phrase.kind not in SUPERVISED:
                continue
            inside = (encoded.offset_mapping[b, :, 0] >= phrase.start) & (
                encoded.offset_mapping[b, :, 1] <= phrase.end
            )
            inside &= encoded.offset_mapping[b, :, 1] > encoded.offset_mapping[b, :, 0]
            mask = F.adaptive_avg_pool2d(pictures.phrase_mask(b, phrase)[None], side)[0]
            if inside.any() and mask.sum() > 1:
                picture.append(b)
                tokens.append(inside.float() / inside.sum())
                masks.append(mask)
    cover = F.adaptive_avg_pool2d(pictures.masks.sum(1, keepdim=True).clamp(0, 1), side)
    words = Words(
        torch.tensor(picture, dtype=torch.long),
        torch.stack(tokens) if tokens else torch.zeros(0, config.length),
        torch.stack(masks) if masks else torch.zeros(0, side, side),
    )
    return Batch(pictures.images * 2 - 1, encoded.input_ids, cover, words)
