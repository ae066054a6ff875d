"""Exercises of lesson 1: attention probabilities, mean maps, pointing, and a processor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.checks.engine.exercise import (
    Exercise,
    NotAttempted,
    Wrong,
    agree,
    call,
    draw,
    tensor,
)


def attention_probs(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √d): for each pixel, how much it looks at each token."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (..., pixels, L)
    return torch.softmax(scores, dim=-1)


def _test_probs(answer: Callable[..., Any]) -> str:
    for seed, (pixels, length, d) in enumerate([(16, 5, 4), (9, 9, 16), (4, 7, 1)]):
        q, k = draw(2, 3, pixels, d, seed=seed), draw(2, 3, length, d, seed=seed + 50)
        axes = "(B, heads, pixels, L)"
        got = tensor(call(answer, q, k), (2, 3, pixels, length), axes)
        scores = q @ k.transpose(-1, -2)
        agree(
            got,
            attention_probs(q, k),
            {
                "The scores are not divided by √d, so the softmax is too sharp.": scores.softmax(
                    -1
                ),
                "The scores are divided by d; the paper divides by √d.": (scores / d).softmax(-1),
                "The softmax runs over the pixels. Each pixel shares its attention among the "
                "tokens: softmax over the last axis.": (scores / d**0.5).softmax(-2),
                "These are scores, before the softmax.": scores / d**0.5,
                "These are raw products: divide by √d and take the softmax.": scores,
            },
            "The probabilities differ from softmax(q kᵀ / √d).",
        )
    return "Three sizes, several heads: every row sums to 1 and agrees."


def average_maps(sites: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return one map (H, W) of one word from all sites (T, heads, h, w)."""
    maps = []
    for probs in sites:
        mean = probs.mean(dim=(0, 1))  # over steps and heads -> (h, w)
        maps.append(F.interpolate(mean[None, None], size=size, mode="bilinear")[0, 0])
    return torch.stack(maps).mean(dim=0)


def _resized(site: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
    return F.interpolate(site.mean(dim=(0, 1))[None, None], size=size, **how)[0, 0]


def _test_average(answer: Callable[..., Any]) -> str:
    for seed, size in enumerate([(16, 16), (16, 24)]):
        shapes = [(4, 2, 8, 8), (4, 8, 4, 4), (4, 2, 16, 12)]
        sites = [draw(*s, seed=seed + 7 * i).abs() for i, s in enumerate(shapes)]
        got = tensor(call(answer, sites, size), size, "(H, W)")
        one = torch.stack([_resized(s, size, mode="bilinear") for s in sites])
        weights = torch.tensor([s[1] for s in shapes], dtype=torch.float32)
        agree(
            got,
            one.mean(0),
            {
                "The sites are added up; take their mean.": one.sum(0),
                "The heads of all sites are pooled, so a site with many heads counts more. "
                "Average within each site first.": (
                    one * (weights / weights.sum())[:, None, None]
                ).sum(0),
                "The maps are enlarged with nearest neighbours; use mode='bilinear'.": torch.stack(
                    [_resized(s, size, mode="nearest") for s in sites]
                ).mean(0),
                "The maps are enlarged with align_corners=True, which shifts them towards the "
                "middle; leave it out.": torch.stack(
                    [_resized(s, size, mode="bilinear", align_corners=True) for s in sites]
                ).mean(0),
                "Only the last step is used; take the mean over steps.": torch.stack(
                    [_resized(s[-1:], size, mode="bilinear") for s in sites]
                ).mean(0),
                "Only the first site is used.": one[0],
            },
            "The mean over steps, heads and sites differs.",
        )
    return "Three sites of different size and number of heads, two picture sizes: all agree."


def points_inside(heat: Tensor, mask: Tensor) -> bool:
    """Return whether the map's highest value (h, w) lies inside the true mask (H, W)."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    y = int((row + 0.5) * mask.shape[0] / heat.shape[0])
    x = int((column + 0.5) * mask.shape[1] / heat.shape[1])
    return bool(mask[y, x])


def _pointing_case(
    size: tuple[int, int], factor: int, peak: tuple[int, int], cells: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Build a map that has its peak in one cell, and a mask of whole cells."""
    heat = 0.4 * draw(*size, seed=3).abs().clamp(max=1)
    heat[peak] = 1.0
    grid = torch.zeros(size, dtype=torch.bool)
    for cell in cells:
        grid[cell] = True
    return heat, grid.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def _middle_case() -> tuple[Tensor, Tensor]:
    """Build a map whose peak's cell is larger than the object in its middle."""
    heat, mask = _pointing_case((8, 8), 8, (2, 5), [])
    mask[8 * 2 + 2 : 8 * 2 + 7, 8 * 5 + 2 : 8 * 5 + 7] = True
    return heat, mask


def _test_pointing(answer: Callable[..., Any]) -> str:
    middle = [(r, c) for r in range(2, 6) for c in range(2, 6)]
    around = [(r, c) for r in range(8) for c in range(8) if (r, c) != (3, 4)]
    cases = [
        (_pointing_case((8, 8), 1, (3, 4), middle), True, "a peak inside the mask"),
        (_pointing_case((8, 8), 1, (0, 7), middle), False, "a peak outside the mask"),
        (
            _pointing_case((8, 8), 1, (1, 6), [(1, 6), (1, 5)]),
            True,
            "a peak in row 1, column 6: the row comes first",
        ),
        (
            _pointing_case((8, 8), 4, (5, 6), [(5, 6), (5, 5)]),
            True,
            "a mask four times as large as the map: scale the peak's place",
        ),
        (
            _pointing_case((6, 9), 2, (4, 7), [(4, 7)]),
            True,
            "a map of 6×9: height and width differ",
        ),
        (
            _pointing_case((8, 8), 2, (3, 4), around),
            False,
            "a mask that holds nearly all of the map but not its peak",
        ),
        (
            _middle_case(),
            True,
            "a small mask around the middle of the peak's cell, which its corner misses: add one "
            "half before scaling",
        ),
    ]
    for (heat, mask), right, what in cases:
        got = call(answer, heat, mask)
        try:
            found = float(got)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("It must return one yes or no: True when the peak is inside.") from None
        if found not in (0.0, 1.0):
            raise Wrong(f"It must return True or False, got {found:.3g}. Only the peak counts.")
        if bool(found) != right:
            raise Wrong(f"It says {bool(found)} for {what}; right is {right}.")
    return "Seven maps, also not square and smaller than their mask: all judged rightly."


def processor(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Compute one attention layer of a diffusers U-Net, with its probabilities in plain sight."""
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    batch, pixels, _ = hidden_states.shape
    q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
    q, k, v = (x.reshape(batch, x.shape[1], attn.heads, -1).transpose(1, 2) for x in (q, k, v))
    probs = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    output = (probs @ v).transpose(1, 2).reshape(batch, pixels, -1)  # heads side by side again
    projected: Tensor = attn.to_out[0](output)
    return projected


@cache
def _attention(cross: bool, heads: int) -> Any:
    """Build a small attention layer of diffusers, always the same."""
    from diffusers.models.attention_processor import Attention

    with torch.random.fork_rng():
        torch.manual_seed(11 + heads)
        width = 6 if cross else None
        layer = Attention(query_dim=8, cross_attention_dim=width, heads=heads, dim_head=8 // heads)
    return layer.eval().requires_grad_(False)


def _layer_output(attn: Any, x: Tensor, context: Tensor, *, scale: bool, out: bool) -> Tensor:
    """Compute the layer, leaving something out as a mistake would."""
    q, k, v = (
        t.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for t in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
    )
    probs = (q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5 if scale else 1)).softmax(-1)
    y = (probs @ v).transpose(1, 2).flatten(2)
    return attn.to_out[0](y) if out else y  # type: ignore[no-any-return]


def _test_processor(answer: Callable[..., Any]) -> str:
    from diffusers.models.attention_processor import AttnProcessor

    made = _made(answer)
    for cross, heads in ((True, 1), (True, 2), (False, 2)):
        attn = _attention(cross, heads)
        x = draw(2, 9, 8, seed=heads)
        context = draw(2, 5, 6, seed=9) if cross else None
        got = tensor(call(made, attn, x, context), (2, 9, 8), "(B, pixels, channels)")
        keys = x if context is None else context
        whole = attn.to_q(x), attn.to_k(keys), attn.to_v(keys)
        agree(
            got,
            AttnProcessor()(attn, x, encoder_hidden_states=context),
            {
                "The scores are not divided by √d of one head.": _layer_output(
                    attn, x, keys, scale=False, out=True
                ),
                "The heads are not split: each head has a softmax of its own.": attn.to_out[0](
                    (whole[0] @ whole[1].mT / whole[0].shape[-1] ** 0.5).softmax(-1) @ whole[2]
                ),
                "The last projection is missing: attn.to_out[0].": _layer_output(
                    attn, x, keys, scale=True, out=False
                ),
                "The input was added at the end. The block around the layer does that.": (
                    _layer_output(attn, x, keys, scale=True, out=True) + x
                ),
            },
            f"It differs from diffusers' own processor in {'cross' if cross else 'self'}-attention "
            f"with {heads} head(s).",
        )
    return "Cross- and self-attention, one head and two: equal to diffusers' own processor."


def _made(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Return the processor itself: a class is instantiated."""
    if not inspect.isclass(answer):
        return answer
    try:
        made: Callable[..., Any] = cast(Any, answer)()
        return made
    except NotImplementedError:
        raise NotAttempted from None
    except Exception as error:
        raise Wrong(
            f"The class could not be made without arguments: {type(error).__name__}: {error}"
        ) from None


EXERCISES = (
    Exercise(
        id="01.attention_probs",
        title="Attention probabilities",
        difficulty=1,
        minutes=4,
        signature="f(q (B, heads, pixels, d), k (B, heads, L, d)) -> (B, heads, pixels, L)",
        hints=(
            "Scores first: every query times every key, divided by √d. Then a softmax.",
            "q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, then .softmax(dim=-1) over the tokens.",
        ),
        right=attention_probs,
        tested_by=_test_probs,
    ),
    Exercise(
        id="01.average_maps",
        title="One map of a word from all sites",
        difficulty=2,
        minutes=6,
        signature="f(sites: list of (T, heads, h, w), size (H, W)) -> (H, W)",
        hints=(
            "Average each site over its steps and heads, enlarge it, then average the sites.",
            "F.interpolate(mean[None, None], size=size, mode='bilinear')[0, 0] enlarges a map.",
        ),
        right=average_maps,
        tested_by=_test_average,
    ),
    Exercise(
        id="01.pointing",
        title="Does the map point at the object?",
        difficulty=2,
        minutes=6,
        signature="f(heat (h, w), mask (H, W)) -> True or False",
        hints=(
            "Find the row and column of the largest value, then the same place in the mask.",
            "divmod(int(heat.argmax()), heat.shape[1]) gives row and column; multiply each plus "
            "one half by mask size over map size.",
        ),
        right=points_inside,
        tested_by=_test_pointing,
    ),
    Exercise(
        id="01.processor",
        title="An attention processor of your own",
        difficulty=3,
        minutes=10,
        signature="f(attn, hidden_states (B, pixels, C), encoder_hidden_states=None) -> "
        "(B, pixels, C)",
        hints=(
            "Project with attn.to_q, to_k, to_v; split in attn.heads; softmax; times v; join the "
            "heads; attn.to_out[0]. Without a text the layer looks at the picture itself.",
            "x.reshape(B, n, attn.heads, -1).transpose(1, 2) splits the heads; afterwards "
            ".transpose(1, 2).reshape(B, pixels, -1) joins them.",
        ),
        right=processor,
        tested_by=_test_processor,
    ),
)
