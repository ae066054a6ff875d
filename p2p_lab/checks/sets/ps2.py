"""Questions of problem set 2: attention with a mask, processors, and true scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.drivers import record_calls
from p2p_lab.checks.engine.exercise import Wrong, draw, tensor
from p2p_lab.checks.engine.question import Args, Mistake, Question, gap, reader
from p2p_lab.checks.engine.watching import Rules
from p2p_lab.checks.fixtures.layers import gain_on_scores, layer, output_of, probs_of
from p2p_lab.checks.sets.ps2_scores import SCENE, SCORE

_OWN = Rules(attention=False)
_FOLDS = ("head_to_batch_dim", "batch_to_head_dim")
_LAYER = "diffusers.models.attention_processor"
_LAYER_RULES = Rules(
    may_use=tuple(f"{_LAYER}.{part}{name}" for part in ("", "Attention.") for name in _FOLDS),
    attention=False,
)


# 1: a mask --------------------------------------------------------------------------------------


def _draw_probs(rng: random.Random, easy: bool) -> Args:
    pixels, length, d = rng.choice([(9, 6, 4), (4, 8, 16), (12, 5, 9)])
    seed, mask = rng.randrange(2**31), torch.ones(length, dtype=torch.bool)
    if not easy:
        mask[-rng.randint(1, 3) :] = False
    return 2 * draw(2, pixels, d, seed=seed), draw(2, length, d, seed=seed + 1), mask


def _scores(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (heads, pixels, L)
    return scores


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


PROBS: Question = Question(
    id="ps2.probs",
    title="Attention that leaves the padding out",
    signature="f(q (heads, pixels, d), k (heads, L, d), mask (L,) bool: True where a token may be "
    "read) -> (heads, pixels, L)",
    hints=(
        "Scores first, divided by √d. What must a score be, for its softmax to be 0?",
        "Masking after the softmax is too late: the rows would no longer sum to 1.",
        "exp of minus infinity is 0. So give the scores of masked tokens that value (a tensor has "
        "a method that fills where a mask is true), then take the softmax over the tokens.",
    ),
    draw=_draw_probs,
    right=lambda q, k, mask: _masked(_scores(q, k), mask),
    read=reader(lambda q, k, mask: (*q.shape[:2], len(mask)), "(heads, pixels, L)"),
    otherwise=lambda value, args: (
        "The probabilities differ from the softmax over the tokens that may be read. "
        + gap(PROBS, value, args)
    ),
    mistakes=(
        Mistake(
            "The scores are not divided by √d.",
            lambda q, k, mask: _masked(q @ k.mT, mask),
            easy=True,
        ),
        Mistake(
            "The scores are divided by d; it is √d.",
            lambda q, k, mask: _masked(q @ k.mT / q.shape[-1], mask),
            easy=True,
        ),
        Mistake(
            "The softmax runs over the pixels; it runs over the tokens.",
            lambda q, k, mask: _scores(q, k).softmax(-2),
            easy=True,
        ),
        Mistake(
            "These are scores, before the softmax.",
            lambda q, k, mask: _scores(q, k).masked_fill(~mask, -1e9),
            easy=True,
        ),
        Mistake(
            "The mask is turned round: it is true where a token may be read.",
            lambda q, k, mask: _scores(q, k).masked_fill(mask, -1e9).softmax(-1),
            easy=True,
        ),
        Mistake(
            "The mask is not used: padding still gets attention.",
            lambda q, k, mask: _scores(q, k).softmax(-1),
        ),
        Mistake(
            "The padding was set to zero after the softmax, so the rows no longer sum to 1: "
            "mask the scores.",
            lambda q, k, mask: _scores(q, k).softmax(-1) * mask,
        ),
        Mistake(
            "The scores of padding were set to 0; exp(0) is 1, so it still gets attention. Set "
            "them to −∞.",
            lambda q, k, mask: (_scores(q, k) * mask).softmax(-1),
        ),
        Mistake(
            "A small negative number was put in place of −∞: a little attention leaks to padding.",
            lambda q, k, mask: _scores(q, k).masked_fill(~mask, -2.0).softmax(-1),
        ),
    ),
    done="Masks of several lengths: rows sum to 1, and padding gets nothing.",
    rules=_OWN,
)


# 2: a processor with a fader --------------------------------------------------------------------


def _draw_processor(rng: random.Random, easy: bool) -> Args:
    cross, heads = (True, 1) if easy else rng.choice([(True, 2), (False, 1), (False, 4), (True, 4)])
    seed = rng.randrange(2**31)
    attn, x, text = layer(seed, cross=cross, heads=heads)
    gain = None
    if cross and not easy:
        gain = torch.tensor([rng.choice([1.0, 1.0, 2.5, 0.0, -1.0]) for _ in range(5)])
    return attn, x, text, None, gain


def _processor(**how: bool) -> Callable[..., Tensor]:
    return lambda attn, x, context=None, mask=None, gain=None: output_of(
        attn, x, context, mask, gain, **how
    )


def _where(value: Tensor, args: Args) -> str:
    attn, _, text, _, gain = args
    kind = "self" if text is None else "cross"
    with_gain = "" if gain is None else f" and gain {[round(float(g), 1) for g in gain]}"
    return f"In {kind}-attention with {attn.heads} head(s){with_gain} the output differs. " + gap(
        PROCESSOR, value, args
    )


PROCESSOR: Question = Question(
    id="ps2.processor",
    title="An attention processor with a fader",
    signature="f(attn, hidden_states (B, pixels, C), encoder_hidden_states=None, "
    "attention_mask=None, gain=None or (L,)) -> (B, pixels, C)",
    hints=(
        "attn.to_q, to_k and to_v project; the text is encoder_hidden_states, or the picture "
        "itself where there is none.",
        "Split the channels into attn.heads parts, one softmax for each; the gain scales the "
        "columns of what comes out of it; then the values, the heads side by side, attn.to_out[0].",
        "Shapes on the way: (B, n, C) becomes (B, heads, n, C / heads) and, at the end, "
        "(B, pixels, C) again: unflatten and transpose, then transpose and flatten.",
    ),
    draw=_draw_processor,
    right=_processor(),
    read=reader(lambda attn, x, *rest: tuple(x.shape), "(B, pixels, C)"),
    otherwise=_where,
    mistakes=(
        Mistake(
            "The scores are not divided by √d of one head.", _processor(scale=False), easy=True
        ),
        Mistake(
            "The last projection is missing: attn.to_out[0].", _processor(out=False), easy=True
        ),
        Mistake(
            "The input was added at the end. The block around the layer does that.",
            lambda attn, x, *rest: output_of(attn, x, *rest) + x,
            easy=True,
        ),
        Mistake("Zeros came back.", lambda attn, x, *rest: torch.zeros_like(x), easy=True),
        Mistake(
            "The scores are divided by √ of all channels: d is the size of one head.",
            _processor(whole=True),
        ),
        Mistake("The heads are not split: each has a softmax of its own.", _processor(split=False)),
        Mistake(
            "The gain is not used.",
            lambda attn, x, context, *rest: output_of(attn, x, context),
        ),
        Mistake(
            "The rows were renormalised after the gain; the paper does not do that.",
            _processor(renormalise=True),
        ),
        Mistake(
            "The gain was put on the scores; it scales the probabilities, after the softmax.",
            gain_on_scores,
        ),
    ),
    done="Cross- and self-attention, several heads, gains of 0, below and above 1: all agree.",
    cases=4,
    rules=_LAYER_RULES,
)


# 3: a processor that records --------------------------------------------------------------------


def _draw_recorder(rng: random.Random, easy: bool) -> Args:
    seed = rng.randrange(2**31)
    kinds = (True,) if easy else (True, False, True)
    return ([layer(seed + n, cross=cross, heads=2) for n, cross in enumerate(kinds)],)


class _Recorder:
    """A recorder; `keep` says what it keeps of each call, None for nothing."""

    def __init__(self, keep: Callable[..., Any] = lambda probs, calls: probs, **how: bool) -> None:
        self.maps: list[Tensor] = []
        self._keep, self._how, self._calls = keep, how, 0

    def __call__(self, attn: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the layer's output."""
        self._calls += 1
        kept = self._keep(probs_of(attn, x, context), self._calls)
        if context is not None and kept is not None:
            self.maps.append(kept)
        return output_of(attn, x, context, None, None, **self._how)


class _RecordsAll(_Recorder):
    def __call__(self, attn: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Keep the maps of self-attention too."""
        if context is None:
            self.maps.append(probs_of(attn, x, None))
        return super().__call__(attn, x, context)


def _read_recorder(value: Any, args: Args) -> Tensor:
    """Return all outputs and maps, flat."""
    cases = args[0]
    texts = [case for case in cases if case[2] is not None]
    maps = value["maps"]
    if not isinstance(maps, list):
        raise Wrong("A recorder has a list .maps, empty at first; it got none.")
    if len(maps) != len(texts):
        raise Wrong(
            f"{len(texts)} of {len(cases)} calls read a text, and .maps holds {len(maps)} entries. "
            "Append one for each cross-attention call, none for self-attention."
        )
    parts = [tensor(out, (2, 9, 8), "(B, pixels, C)") for out in value["outputs"]]
    parts += [_map(kept, case[0].heads) for kept, case in zip(maps, texts, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def _map(kept: Any, heads: int) -> Tensor:
    shape = tuple(getattr(kept, "shape", ()))
    if shape == (2, 9, 5):
        raise Wrong("The heads were averaged; keep them, (B, heads, pixels, L).")
    if shape == (2 * heads, 9, 5):
        raise Wrong("The heads lie in the first axis; give them one, (B, heads, pixels, L).")
    return tensor(kept, (2, heads, 9, 5), "(B, heads, pixels, L)")


def _why_recorder(value: Tensor, args: Args) -> str:
    outputs = 2 * 9 * 8 * len(args[0])
    right = _read_recorder(record_calls(_Recorder, *args), args)
    if not torch.allclose(value[:outputs], right[:outputs], atol=1e-4):
        return "While it records the output differs from the layer's own."
    return "The output is right; a recorded map differs from the call's probabilities."


RECORDER: Question = Question(
    id="ps2.recorder",
    title="A processor that records",
    signature="a class: Recorder() has a list .maps; calling it like a processor returns the "
    "output and, where a text is read, appends the probabilities (B, heads, pixels, L)",
    hints=(
        "Keep your processor's arithmetic. Which of its tensors is the map?",
        "It is what comes out of the softmax, before it meets the values; whether a text is read "
        "is seen by one argument.",
        "Append to self.maps only where encoder_hidden_states is given, cut from the graph, and "
        "return the output in both cases.",
    ),
    draw=_draw_recorder,
    right=_Recorder,
    read=_read_recorder,
    otherwise=_why_recorder,
    mistakes=(
        Mistake(
            "The maps are scores, before the softmax.",
            lambda: _Recorder(lambda probs, calls: probs.log()),
            easy=True,
        ),
        Mistake(
            "The maps are right, the outputs are not: the last projection is missing.",
            lambda: _Recorder(out=False),
            easy=True,
        ),
        Mistake("Nothing is recorded.", lambda: _Recorder(lambda probs, calls: None), easy=True),
        Mistake("Self-attention is recorded too.", _RecordsAll),
        Mistake(
            "Only the first call is recorded.",
            lambda: _Recorder(lambda probs, calls: probs if calls == 1 else None),
        ),
    ),
    done="Every text that was read is recorded, and the output stays what it was.",
    cases=2,
    rules=_LAYER_RULES,
    drive=record_calls,
)

QUESTIONS = (PROBS, PROCESSOR, RECORDER, SCORE, SCENE)
