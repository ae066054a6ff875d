"""Questions of problem set 2: attention with a mask, a processor that records, and true scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention import Controller, Rows, attached, find_sites
from p2p_lab.checks.exercise import Wrong, agree, call, draw, tensor
from p2p_lab.checks.layers import layer, output_of, probs_of
from p2p_lab.checks.loaded import bundled
from p2p_lab.checks.looks import Look, draw_scenes, look_at
from p2p_lab.checks.question import Question
from p2p_lab.metrics import mask_iou

Answer = Callable[..., Any]


def _judge_probs(answer: Answer, seed: int, easy: bool) -> str:
    for n, (pixels, length, d) in enumerate([(9, 6, 4), (4, 8, 16), (12, 5, 9)]):
        q, k = draw(2, pixels, d, seed=seed + n), draw(2, length, d, seed=seed + n + 50)
        mask = torch.ones(length, dtype=torch.bool)
        if not easy:
            mask[-1 - n :] = False
        got = tensor(call(answer, q, k, mask), (2, pixels, length), "(heads, pixels, L)")
        scores = q @ k.transpose(-1, -2) / d**0.5
        plain = scores.softmax(-1)
        agree(
            got,
            scores.masked_fill(~mask, -torch.inf).softmax(-1),
            {
                "The mask is not used: padding still gets attention.": plain,
                "The padding was set to zero after the softmax, so the rows no longer sum to 1: "
                "mask the scores.": plain * mask,
                "The scores of padding were set to 0; exp(0) is 1, so it still gets attention. Set "
                "them to −∞.": (scores * mask).softmax(-1),
                "The mask is turned round: it is true where a token may be read.": (
                    scores.masked_fill(mask, -1e9).softmax(-1)
                ),
                "The scores are not divided by √d.": (scores * d**0.5)
                .masked_fill(~mask, -torch.inf)
                .softmax(-1),
                "The softmax runs over the pixels; it runs over the tokens.": scores.softmax(-2),
            },
            "The probabilities differ from the softmax over the tokens that may be read.",
        )
    return "Three sizes: rows sum to 1, and padding gets nothing."


def _judge_processor(answer: Answer, seed: int, easy: bool) -> str:
    cases = [(True, 1)] if easy else [(True, 2), (False, 1), (False, 4)]
    for cross, heads in cases:
        attn, x, context = layer(seed, cross=cross, heads=heads)
        got = tensor(call(answer, attn, x, context), tuple(x.shape), "(B, pixels, C)")
        kind = "cross" if cross else "self"
        _agree_output(got, attn, x, context, f"In {kind}-attention with {heads} head(s)")
    return "The processor does what diffusers' own does."


def _agree_output(got: Tensor, attn: Any, x: Tensor, context: Tensor | None, where: str) -> None:
    agree(
        got,
        output_of(attn, x, context),
        {
            "The scores are not divided by √d of one head.": output_of(
                attn, x, context, scale=False
            ),
            "The scores are divided by √ of all channels: d is the size of one head.": output_of(
                attn, x, context, whole=True
            ),
            "The heads are not split: each head has a softmax of its own.": output_of(
                attn, x, context, split=False
            ),
            "The last projection is missing: attn.to_out[0].": output_of(
                attn, x, context, out=False
            ),
            "The input was added at the end. The block around the layer does that.": (
                output_of(attn, x, context) + x
            ),
        },
        f"{where} the output differs from diffusers' own.",
    )


def _judge_recorder(answer: Answer, seed: int, easy: bool) -> str:
    recorder = call(answer)
    made = [layer(seed + n, cross=cross, heads=2) for n, cross in enumerate((True, False, True))]
    for attn, x, context in made[:1] if easy else made:
        got = tensor(call(recorder, attn, x, context), tuple(x.shape), "(B, pixels, C)")
        _agree_output(got, attn, x, context, "While it records")
    texts = [case for case in made if case[2] is not None][: 1 if easy else 2]
    maps = getattr(recorder, "maps", None)
    if not isinstance(maps, list):
        raise Wrong("A recorder has a list .maps, empty at first; it got none.")
    if len(maps) != len(texts):
        raise Wrong(
            f"{len(texts)} call(s) read a text, and .maps holds {len(maps)}. Append one entry for "
            "each cross-attention call, none for self-attention."
        )
    for kept, (attn, x, context) in zip(maps, texts, strict=True):
        right = probs_of(attn, x, context)
        mistakes = {
            "The heads were averaged; keep them, (B, heads, pixels, L).": right.mean(
                1, keepdim=True
            ).expand_as(right),
            "These are the scores, before the softmax.": right.log(),
        }
        agree(tensor(kept, tuple(right.shape), "(B, heads, pixels, L)"), right, mistakes,
              "A recorded map differs from the call's probabilities.")  # fmt: skip
    return "Every text that was read is recorded, and the output stays what it was."


def _judge_score(answer: Answer, seed: int, easy: bool) -> str:
    shapes = [((8, 8), (8, 8))] if easy else [((8, 8), (32, 32)), ((6, 9), (24, 36))]
    for n, (small, large) in enumerate(shapes):
        for m in range(3):
            heat = 0.02 + _smooth(draw(*small, seed=seed + 7 * n + m))
            mask = _smooth(draw(*large, seed=seed + 7 * n + m + 90)) > 0.45
            value = call(answer, heat, mask)
            got = _pair(value)
            big = F.interpolate(heat[None, None], size=large, mode="bilinear")[0, 0]
            right = _score(big, mask)
            corners = F.interpolate(
                heat[None, None], size=large, mode="bilinear", align_corners=True
            )[0, 0]
            agree(
                got,
                right,
                {
                    "The threshold is 0.5 itself; it is half of the map's maximum.": (
                        _score(big, mask, level=0.5)
                    ),
                    "The IoU is shared area over joint area; this divides by the mask's area.": (
                        torch.stack([right[0], (big > big.max() / 2)[mask].double().mean()])
                    ),
                    "The map was enlarged with align_corners=True, which shifts it.": (
                        _score(corners, mask)
                    ),
                    "The map was enlarged with nearest neighbours; use mode='bilinear'.": (
                        _score(F.interpolate(heat[None, None], size=large)[0, 0], mask)
                    ),
                },
                "Pointing or IoU differs: enlarge the map, then its peak, then half its maximum.",
            )
    return "Maps smaller than their masks, not square: pointing and IoU agree."


def _smooth(noise: Tensor) -> Tensor:
    """Return a smooth map in [0, 0.9] from noise."""
    soft = F.avg_pool2d(noise[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    return 0.9 * (soft - soft.min()) / (soft.max() - soft.min())


def _score(big: Tensor, mask: Tensor, level: float | None = None) -> Tensor:
    """Return (pointing, IoU) of a map of the mask's size."""
    found = big > (big.max() / 2 if level is None else level)
    union = (found | mask).sum().clamp(min=1)
    hit = mask.flatten()[big.argmax()].double()
    return torch.stack([hit, (found & mask).sum().double() / union])


def _pair(value: Any) -> Tensor:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise Wrong("It must return two things: whether the peak lies inside, and the IoU.")
    return torch.stack([tensor(part, (), "a single number,") for part in value])


@torch.no_grad()
def scene_iou(look: Look) -> float:
    """Return the IoU of the object's 16 × 16 map with the truth, as the package records it."""
    model = bundled()
    sites = find_sites(model.module, look.latents.shape[-2:])  # type: ignore[arg-type]
    watcher = Controller(sites, Rows(source=slice(0, 1)))
    with attached(model.module, watcher, sites):
        watcher.begin_step(0)
        model.predict(look.latents, look.t, look.conditioning)
        watcher.end_step(look.latents, None)
    store = watcher.stores(look.prompt, ())[0]
    size = (look.mask.shape[0], look.mask.shape[1])
    heat = store.map(look.word, occurrence=0, resolution=16, size=size)
    return mask_iou(heat, look.mask, threshold=0.5)


def _judge_scene(answer: Answer, seed: int, easy: bool) -> str:
    model, module = bundled(), cast(Any, bundled().module)
    for scene in draw_scenes(seed, 1 if easy else 3):
        look = look_at(model, scene)
        before = dict(module.attn_processors)
        try:
            value = call(partial(answer, model, look))
        finally:
            after = dict(module.attn_processors)
            module.set_attn_processor(dict(before))
        got, right = float(tensor(value, (), "a single number,")), scene_iou(look)
        if abs(got - right) > 0.005:
            raise Wrong(
                f"For {look.prompt.text!r} it says {got:.3f}; the map of {look.word!r}, mean of "
                f"all 16 × 16 cross-attention layers and heads, has the IoU {right:.3f}."
            )
        if any(after[name] is not kept for name, kept in before.items()):
            raise Wrong("It left its processors on the model: put the old ones back at the end.")
    return "The IoU agrees with the package's own record, and the model is as it was."


QUESTIONS = (
    Question(
        id="ps2.probs",
        title="Attention that leaves the padding out",
        signature="f(q (heads, pixels, d), k (heads, L, d), mask (L,) bool: tokens that may be "
        "read) -> (heads, pixels, L)",
        hints=(
            "Scores first, divided by √d. What must a score be, for its softmax to be 0?",
            "scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)",
        ),
        judge=_judge_probs,
        control=lambda q, k, mask: torch.zeros(*q.shape[:2], k.shape[1]),
    ),
    Question(
        id="ps2.processor",
        title="An attention processor",
        signature="f(attn, hidden_states (B, pixels, C), encoder_hidden_states=None) -> "
        "(B, pixels, C)",
        hints=(
            "attn.to_q, to_k and to_v project; the text is encoder_hidden_states, or the picture "
            "itself. Split into attn.heads, softmax, join, attn.to_out[0].",
            "x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) splits; .transpose(1, 2).flatten(2) "
            "joins again.",
        ),
        judge=_judge_processor,
        control=lambda attn, x, context=None: torch.zeros_like(x),
    ),
    Question(
        id="ps2.recorder",
        title="A processor that records",
        signature="a class: Recorder() has a list .maps; calling it like a processor returns the "
        "output and, where a text is read, appends the probabilities (B, heads, pixels, L)",
        hints=(
            "Keep your processor's arithmetic, and append probs where encoder_hidden_states is "
            "given.",
            "self.maps.append(probs.detach()) after the softmax, under `if encoder_hidden_states "
            "is not None`.",
        ),
        judge=_judge_recorder,
        control=lambda: _Zeros(),
    ),
    Question(
        id="ps2.score",
        title="Is the map true?",
        signature="f(heat (h, w), mask (H, W) bool) -> (peak inside: bool, IoU: float)",
        hints=(
            "Enlarge the map to the mask's size first (bilinear); both numbers are read off there.",
            "found = big > big.max() / 2; IoU = (found & mask).sum() / (found | mask).sum()",
        ),
        judge=_judge_score,
        control=lambda heat, mask: (True, 2.0),
    ),
    Question(
        id="ps2.scene",
        title="Score the bundled model's map",
        signature="f(model, look) -> IoU of the map of look.tokens with look.mask",
        hints=(
            "Give every layer a Recorder, predict once, put the old processors back. The 16 × 16 "
            "layers' maps have 256 pixels.",
            "old = dict(model.module.attn_processors); model.module.set_attn_processor({name: "
            "recorder for name in old}); maps = those of shape[2] == 256, [0, :, :, "
            "look.tokens].sum(-1).mean(0) each; reshape the mean to (16, 16).",
        ),
        judge=_judge_scene,
        control=lambda model, look: 2.0,
    ),
)


class _Zeros:
    """A recorder that returns zeros: the known wrong answer."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(self, attn: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)
