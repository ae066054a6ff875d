"""Questions 4 and 5 of problem set 2: a map against the truth, in numbers and on the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention import AttentionStore
from p2p_lab.checks.engine.answering import Bundled
from p2p_lab.checks.engine.drivers import measure_and_restore
from p2p_lab.checks.engine.exercise import Wrong, draw, tensor
from p2p_lab.checks.engine.loaded import bundled
from p2p_lab.checks.engine.question import Args, Mistake, Question
from p2p_lab.checks.engine.watching import Rules
from p2p_lab.checks.fixtures.noised_scenes import NoisedScene, draw_noised_scene
from p2p_lab.sampling.observing import maps_of_call

Enlarge = Callable[[Tensor, tuple[int, ...]], Tensor]


# 4: a map against a mask ------------------------------------------------------------------------


def _draw_score(rng: random.Random, easy: bool) -> Args:
    small, large = rng.choice([((8, 8), (32, 32)), ((6, 9), (24, 36)), ((5, 7), (30, 42))])
    seed = rng.randrange(2**31)
    heat = 0.02 + _smooth(draw(*small, seed=seed))
    mask = _smooth(draw(*(small if easy else large), seed=seed + 1)) > 0.45
    return heat * rng.choice([0.5, 1.0]), mask


def _smooth(noise: Tensor) -> Tensor:
    """Return a smooth map in [0, 0.9] from noise."""
    soft = F.avg_pool2d(noise[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    return 0.9 * (soft - soft.min()) / (soft.max() - soft.min())


def _resize(mode: str, **how: Any) -> Enlarge:
    return lambda heat, size: F.interpolate(heat[None, None], size=size, mode=mode, **how)[0, 0]


def _scored(
    enlarge: Enlarge = _resize("bilinear"),  # noqa: B008 - a function, made once
    *,
    level: float | None = None,
    kind: str = "iou",
) -> Callable[..., tuple[bool, float]]:
    """Return a scoring function; `level` and `kind` are known mistakes."""

    def answer(heat: Tensor, mask: Tensor) -> tuple[bool, float]:
        big = enlarge(heat, tuple(mask.shape))
        found = big > (big.max() / 2 if level is None else level)
        shared, joint = (found & mask).sum(), (found | mask).sum()
        below = {"iou": joint, "mask": mask.sum(), "found": found.sum(),
                 "dice": (found.sum() + mask.sum()) / 2}[kind]  # fmt: skip
        hit = mask.flatten()[big.argmax()]
        return bool(hit), float(shared / below.clamp(min=1))

    return answer


def _peak_of_mask(heat: Tensor, mask: Tensor) -> tuple[bool, float]:
    """Look for the peak at the map's own place in the larger mask."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return bool(mask[row, column]), _scored()(heat, mask)[1]


def _read_pair(value: Any, args: Args) -> Tensor:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise Wrong("It must return two things: whether the peak lies inside, and the IoU.")
    return torch.stack([tensor(part, (), "a single number,") for part in value])


def _why_score(value: Tensor, args: Args) -> str:
    heat, mask = args
    right = _scored()(heat, mask)
    if bool(value[0]) != right[0]:
        return "Pointing is wrong: enlarge the map first, then look where its maximum lies."
    return f"Pointing is right; the IoU is {right[1]:.3f}, not {float(value[1]):.3f}."


SCORE: Question = Question(
    id="ps2.score",
    title="Is the map true?",
    signature="f(heat (h, w), mask (H, W) bool) -> (peak inside: bool, IoU: float)",
    hints=(
        "Enlarge the map to the mask's size first (bilinear); both numbers are read off there.",
        "The found region is where the enlarged map is above half of *its own* maximum.",
        "IoU counts positions: those in both regions, over those in at least one of them. The peak "
        "is the position of the largest value of the enlarged map.",
    ),
    draw=_draw_score,
    right=_scored(),
    read=_read_pair,
    otherwise=_why_score,
    mistakes=(
        Mistake(
            "The threshold is 0.5 itself; it is half of the map's maximum.",
            _scored(level=0.5),
            easy=True,
        ),
        Mistake(
            "The IoU is shared area over joint area; this divides by the mask's area.",
            _scored(kind="mask"),
            easy=True,
        ),
        Mistake(
            "The IoU is shared area over joint area; this divides by the found area.",
            _scored(kind="found"),
            easy=True,
        ),
        Mistake(
            "This is Dice, shared area over the mean of both; IoU divides by the joint area.",
            _scored(kind="dice"),
            easy=True,
        ),
        Mistake(
            "The map was enlarged with align_corners=True, which shifts it.",
            _scored(_resize("bilinear", align_corners=True)),
        ),
        Mistake(
            "The map was enlarged with nearest neighbours; use mode='bilinear'.",
            _scored(_resize("nearest")),
        ),
        Mistake(
            "The map was enlarged with mode='bicubic', which overshoots; use 'bilinear'.",
            _scored(_resize("bicubic")),
        ),
        Mistake(
            "The peak's place in the small map was looked up in the large mask; enlarge first.",
            _peak_of_mask,
        ),
    ),
    done="Maps smaller than their masks, not square: pointing and IoU agree.",
    cases=5,
)


# 5: the bundled model ---------------------------------------------------------------------------


@cache
def record_of(noised: NoisedScene) -> AttentionStore:
    """Return the maps of a noised scene as the package records them."""
    return maps_of_call(bundled(), noised.latents, noised.t, noised.conditioning, noised.prompt)


def _iou(
    tokens: Callable[[list[int]], list[int]] = list,
    enlarge: Enlarge = _resize("bilinear"),  # noqa: B008 - a function, made once
    site: int | None = None,
) -> Callable[..., float]:
    """Return a function (model, noised) -> IoU; what is given are known mistakes."""

    def answer(model: Any, noised: NoisedScene) -> float:
        store = record_of(noised)
        names = [name for name in store.means if store.sites[name].size == (16, 16)]
        one = None if site is None else names[site]
        maps = store.token_maps(resolution=16, site=one)  # (L, 16, 16)
        return _scored(enlarge)(maps[tokens(noised.tokens)].sum(0), noised.mask)[1]

    return answer


def _leaves(model: Any, noised: NoisedScene) -> float:
    """Leave another processor on the model."""
    name, old = next(iter(model.module.attn_processors.items()))
    model.module.set_attn_processor({**model.module.attn_processors, name: type(old)()})
    return _iou()(model, noised)


def _read_scene(value: Any, args: Args) -> Tensor:
    if not value["restored"]:
        raise Wrong("It left its processors on the model: put the old ones back at the end.")
    return tensor(value["value"], (), "a single number,")


def _why_scene(value: Tensor, args: Args) -> str:
    noised = args[1]
    return (
        f"For {noised.prompt.text!r} it says {float(value):.3f}; the map of {noised.word!r}, mean "
        f"of all 16 × 16 cross-attention layers and heads, has the IoU {_iou()(None, noised):.3f}."
    )


SCENE: Question = Question(
    id="ps2.scene",
    title="Score the bundled model's map",
    signature="f(model, noised) -> IoU of the map of noised.tokens with noised.mask",
    hints=(
        "Which layers have 16 × 16 positions is seen by the number of pixels of a recorded map.",
        "Give every layer a Recorder, predict once, put the old processors back, whatever happens. "
        "set_attn_processor takes one processor or a dictionary of them.",
        "Of each map with 256 pixels take the word's tokens and add them up, then the mean over "
        "heads; the mean of these over layers is 16 rows of 16, and question 4 scores it.",
    ),
    draw=lambda rng, easy: (Bundled(), draw_noised_scene(rng.randrange(2**20), phrase=not easy)),
    right=_iou(),
    read=_read_scene,
    otherwise=_why_scene,
    mistakes=(
        Mistake("It left its processors on the model: put the old ones back.", _leaves, easy=True),
        Mistake(
            "The tokens are off by one: noised.tokens counts the start token.",
            _iou(tokens=lambda tokens: [token - 1 for token in tokens]),
            easy=True,
        ),
        Mistake(
            "Only the first 16 × 16 layer is used; it is the mean of all.", _iou(site=0), easy=True
        ),
        Mistake(
            "Only the last 16 × 16 layer is used; it is the mean of all.", _iou(site=-1), easy=True
        ),
        Mistake(
            "Only the first of noised.tokens is used; a phrase's map is the sum of its tokens.",
            _iou(tokens=lambda tokens: tokens[:1]),
        ),
        Mistake(
            "Only the last of noised.tokens is used; a phrase's map is the sum of its tokens.",
            _iou(tokens=lambda tokens: tokens[-1:]),
        ),
        Mistake(
            "The map was enlarged with nearest neighbours; use your score of question 4.",
            _iou(enlarge=_resize("nearest")),
            easy=True,
        ),
    ),
    done="The IoU agrees with the package's own record, and the model is as it was.",
    cases=2,
    tolerance=0.005,
    rules=Rules(
        may_use=(
            "p2p_lab.models",
            "p2p_lab.tokens.prompt",
            "diffusers.models.attention",
            "diffusers.models.unets",
            *(f"diffusers.models.attention_processor.{part}{name}" for part in ("", "Attention.")
              for name in ("head_to_batch_dim", "batch_to_head_dim")),
        ),
        attention=False,
    ),
    drive=measure_and_restore,
)  # fmt: skip
