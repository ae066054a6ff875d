"""Scenes drawn from seeds, and one look of a model at them: for questions that measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from p2p_lab.checks.loaded import bundled
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.sampling import make_schedule, noise_of
from p2p_lab.scenes import Scene, caption, render, sample_scene
from p2p_lab.tokens import Prompt

NOISED_STEP, NOISED_STEPS = 8, 20


@dataclass(frozen=True, eq=False)
class NoisedScene:
    """What the model needs for one look at a drawn scene, and the truth.

    Attributes:
        latents: The picture with noise, (1, C, h, w).
        t: The model time of that noise.
        conditioning: The caption, encoded.
        prompt: The caption with its tokens.
        word: The object that the caption is about, or the object with its attribute.
        tokens: Its token positions.
        mask: Where it is, (H, W) booleans: exact, as the picture was drawn.
        picture: The picture, (3, H, W) in [0, 1].
    """

    latents: Tensor
    t: Tensor
    conditioning: Conditioning
    prompt: Prompt
    word: str
    tokens: list[int]
    mask: Tensor
    picture: Tensor


@torch.no_grad()
def noise_scene(model: Denoiser, scene: Scene, *, phrase: bool = False) -> NoisedScene:
    """Draw a scene, add the noise of step 8 of 20, and keep its truth: z = √ᾱ z_0 + √(1−ᾱ) ε.

    Args:
        model: The bundled model.
        scene: What to draw.
        phrase: Look for the object with its attribute, as "red car", in place of its noun alone.
    """
    size = (model.defaults.height, model.defaults.width)
    drawn, words = render(scene, size[0]), caption(scene)
    clean = model.encode(drawn.images.to(model.device, model.dtype))  # (1, C, h, w)
    schedule = make_schedule(model.scheduler_config, "ddim", NOISED_STEPS)
    level, noise = schedule.alpha_bar[NOISED_STEP], noise_of(0, tuple(clean.shape))
    prompt = model.prompt(words.text)
    named = next(p for p in words.phrases if p.kind == "object")
    first = next((p for p in words.phrases if phrase and p.kind == "attribute"), named)
    word = words.text[first.start : named.end]
    return NoisedScene(
        latents=level**0.5 * clean + (1 - level) ** 0.5 * noise.to(clean),
        t=schedule.timesteps[NOISED_STEP],
        conditioning=model.encode_prompt(prompt, size),
        prompt=prompt,
        word=word,
        tokens=prompt.tokens_of(word, 0),
        mask=drawn.phrase_mask(0, named) > 0.5,
        picture=drawn.images[0],
    )


def draw_noised_scene(seed: int, *, phrase: bool) -> NoisedScene:
    """Draw a look of the bundled model at a scene: at an object, or at one with an attribute."""
    return noise_scene(bundled(), draw_scenes(seed, 1, _has_attribute if phrase else None)[0],
                   phrase=phrase)  # fmt: skip


def _has_attribute(scene: Scene) -> bool:
    return any(phrase.kind == "attribute" for phrase in caption(scene).phrases)


def draw_scenes(
    seed: int, number: int, wanted: Callable[[Scene], bool] | None = None
) -> list[Scene]:
    """Draw scenes from a seed, plain enough to be looked at: one object, by day, in clear weather.

    Args:
        seed: The same seed gives the same scenes.
        number: How many.
        wanted: What they have to be beside that.
    """
    found: list[Scene] = []
    for i in count():
        scene = sample_scene(1000 * seed + i, "small")
        plain = scene.relation == "one" and len(scene.things) == 1 and scene.named_place
        plain = plain and scene.style == "3d" and scene.time == "day" and scene.weather == "clear"
        if plain and (wanted is None or wanted(scene)):
            found.append(scene)
        if len(found) == number:
            return found
    raise AssertionError("count() has no end")
