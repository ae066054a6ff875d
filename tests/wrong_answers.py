"""Known wrong answers to the exercises, each with a part of the sentence that must name its fault.

By exercise id: the answers that students really give. The course kit grades them too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from p2p_lab.checks import exercises
from p2p_lab.checks.fixtures.aligning import by_place, heaviest_block, pairs_when_equally_long
from p2p_lab.checks.lessons.lesson_09 import _SAY, _variant

Answer = Callable[..., Any]


def right(exercise_id: str) -> Answer:
    return exercises()[exercise_id].right


def _in_place(probs: Any, tokens: Any, scale: Any) -> Any:
    probs[..., tokens] *= scale
    return probs


def _greedy(source: list[str], target: list[str]) -> list[int | None]:
    """Give every target word the first equal source word."""
    return [source.index(word) if word in source else None for word in target]


def _first_free(source: list[str], target: list[str]) -> list[int | None]:
    """Walk on to the next equal word, so that one early match blocks the others."""
    at, found = 0, []
    for word in target:
        later = [i for i in range(at, len(source)) if source[i] == word]
        found.append(later[0] if later else None)
        at = later[0] + 1 if later else at
    return found


def _same_place(source: Any, target: Any, good: Any) -> Any:
    found = good.clone()
    for (a, b), (c, d) in zip(source, target, strict=True):
        if b - a == d - c:
            found[:, c:d] = torch.eye(len(good))[:, c:d]
    return found


def _mapper(kind: str) -> Answer:
    def answer(source: Any, target: Any, length: int) -> Any:
        good = right("02.mapper")(source, target, length)
        return {
            "transposed": good.T,
            "identity": torch.eye(length),
            "ones": (good > 0).float(),
            "short": good[:5, :5],
            "twice": 2 * good,
            "same place": _same_place(source, target, good),
        }[kind]

    return answer


def _processor(*, scale: bool = True, split: bool = True, out: bool = True) -> Answer:
    def answer(attn: Any, x: Any, context: Any = None, mask: Any = None) -> Any:
        context = x if context is None else context
        heads = attn.heads if split else 1
        q, k, v = (
            t.unflatten(-1, (heads, -1)).transpose(1, 2)
            for t in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
        )
        probs = (q @ k.mT / (q.shape[-1] ** 0.5 if scale else 1)).softmax(-1)
        y = (probs @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](y) if out else y

    return answer


def _compose(change: Callable[[Any, Any], Any]) -> Answer:
    def answer(matched: Any, inside: Any, tokens: Any, scale: Any) -> Any:
        good = right("04.compose")
        return change(good(matched, inside, tokens, scale), good(matched, inside, tokens, 1.0))

    return answer


def _step(z: Any, e: Any, a: Any, b: Any) -> Any:
    return b**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e


def _null(change: Callable[[Any, Any, Any], Any], reduce: str = "mean") -> Answer:
    def answer(pivot: Any, z: Any, null: Any, text: Any, s: Any, a: Any, b: Any) -> Any:
        return F.mse_loss(_step(z, change(null, text, s), a, b), pivot, reduction=reduce)

    return answer


def _guided(null: Any, text: Any, s: Any) -> Any:
    return null + s * (text - null)


def _heat(maps: Any, *, pool: bool = True, top: bool = True, tokens: bool = True) -> Any:
    heat = (maps.sum(1) if tokens else maps[:, 0]).mean(0)
    heat = F.max_pool2d(heat[None, None], 3, 1, 1)[0, 0] if pool else heat
    return heat / heat.max() if top else heat


def _ratio(heat: Any) -> Any:
    pooled = F.max_pool2d(heat[None, None], 3, 1, 1)[0, 0]
    return pooled / pooled.max()


def _carried(rows, region, down, right, *, fill="mean", late=False):
    there = region.roll((down, right), (0, 1))
    mean = rows[~region & ~there].mean(dim=0)
    moved = rows.clone()
    if not late and fill is not None:
        moved[region] = mean if fill == "mean" else fill
    moved[there] = rows.roll((down, right), (0, 1))[there]
    if late:
        moved[region] = mean
    return moved


def _resized(m: Any, size: Any, mode: str = "bilinear", **how: Any) -> Any:
    return F.interpolate(m[None, None], size=size, mode=mode, **how)[0, 0]


def _staged(
    *,
    prompts: Any = None,
    seeds: Any = None,
    again: bool = False,
    chain: bool = True,
    turn: int = 1,
) -> Answer:
    """Carry two pictures through the stages in a way of one's own."""

    def answer(base: Any, stages: Any, source: str, target: str, seed: int) -> Any:
        first = pair = base(source, target)
        texts = (source, target) if prompts is None else prompts(source, target)
        numbers = (seed, seed) if seeds is None else seeds(seed)
        for stage in stages:
            if again:
                base(source, target)
            shown = pair if chain else first
            pair = [stage(*one) for one in zip(shown, texts, numbers, strict=True)]
        return tuple(pair)[::turn]

    return answer


def _edit_alone(base: Any, stages: Any, source: str, target: str, seed: int) -> Any:
    before, after = base(source, target)
    for stage in stages:
        after = stage(after, target, seed)
    return before, after


def _path(
    *,
    step: Callable[..., Any] | None = None,
    ask: Callable[..., Any] = lambda predict, path, t, last: predict(path[-1], t),
    order: Callable[[int, int], int] = lambda t, last: t,
) -> Answer:
    """Walk back to noise in a way of one's own."""

    def answer(z: Any, predict: Any, bar: Any) -> Any:
        path, last = [z], len(bar) - 2
        for t in reversed(range(last + 1)):
            t = order(t, last)
            noise = ask(predict, path, t, last)
            move = step or (lambda z, e, bar, t: _step(z, e, bar[t + 1], bar[t]))
            path.append(move(path[-1], noise, bar, t))
        return torch.stack(path[::-1])

    return answer


def _old_noise(z: Any, e: Any, bar: Any, t: int) -> Any:
    a, b = bar[t + 1], bar[t]
    return b**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - a) ** 0.5 * e


def _edited(row: int, taken: Any) -> Answer:
    """Write some rows' maps into one row of the batch."""

    def answer(probs: Any, P: Any) -> Any:  # noqa: N803
        edited = probs.clone()
        edited[row] = taken(probs, P)
        return edited

    return answer


def _both_of(*rows: int) -> Answer:
    """Edit two rows of the batch."""

    def answer(probs: Any, P: Any) -> Any:  # noqa: N803
        edited = probs.clone()
        for row in rows:
            edited[row] = probs[0 if row < 2 else 2] @ P
        return edited

    return answer


def _outline(large: Any, q: Any, top: Any = None) -> Any:
    return large > q * (large.max() if top is None else top)


def _rows_of_one(probs: Any) -> Any:
    return probs / probs.sum(-1, keepdim=True)


WRONG: dict[str, list[tuple[Answer, str]]] = {
    "00.words": [
        (lambda s, t: set(right("00.words")(s, t)), "a set, which has no order"),
        (lambda s, t: [(w, v) for w, v in zip(s.split(), t.split(), strict=True)], "did not chan"),
        (
            lambda s, t: [
                (a, b)
                for a, b in zip(s.split(), t.split(), strict=True)
                if a not in t.split() and b not in s.split()
            ],
            "compare place by place",
        ),
        (lambda s, t: [(b, a) for a, b in right("00.words")(s, t)], "turned round"),
        (lambda s, t: right("00.words")(s, t)[::-1], "not in the order"),
        (lambda s, t: [b for _, b in right("00.words")(s, t)], "a list of pairs"),
    ],
    "00b.noise": [
        (lambda z, e, a: a * z + (1 - a) * e, "square roots"),
        (lambda z, e, a: (1 - a) ** 0.5 * z + a**0.5 * e, "exchanged"),
        (lambda z, e, a: z + (1 - a) ** 0.5 * e, "has to fade"),
        (lambda z, e, a: a**0.5 * z + e, "full strength"),
        (lambda z, e, a: a**0.5 * z + (1 - a) ** 0.5 * torch.randn(z.shape), "differ"),
    ],
    "00b.guide": [
        (lambda n, p, s: n + s * (n - p), "away from the text"),
        (lambda n, p, s: p + s * (p - n), "begin at the empty prompt's"),
        (lambda n, p, s: s * p, "alone is scaled"),
        (lambda n, p, s: s * (p - n), "Only the difference"),
        (lambda n, p, s: (n + s * (p - n))[0], "It returned shape"),
    ],
    "01.attention_probs": [
        (lambda q, k: (q @ k.mT).softmax(-1), "not divided by √d"),
        (lambda q, k: (q @ k.mT / q.shape[-1]).softmax(-1), "divides by √d"),
        (lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-2), "over the pixels"),
        (lambda q, k: q @ k.mT / q.shape[-1] ** 0.5, "before the softmax"),
        (lambda q, k: (k @ q.mT / q.shape[-1] ** 0.5).softmax(-1), "It returned shape"),
    ],
    "01.average_maps": [
        (lambda m, size: sum(_resized(x.mean((0, 1)), size) for x in m), "added up"),
        (
            lambda m, size: sum(_resized(x.mean((0, 1)), size, "nearest") for x in m) / len(m),
            "nearest",
        ),
        (
            lambda m, size: (
                sum(_resized(x.mean((0, 1)), size, align_corners=True) for x in m) / len(m)
            ),
            "align_corners",
        ),
        (lambda m, size: sum(_resized(x[-1].mean(0), size) for x in m) / len(m), "last step"),
        (lambda m, size: _resized(m[0].mean((0, 1)), size), "first site"),
    ],
    "01.pointing": [
        (
            lambda h, m: bool(
                m[
                    tuple(
                        int(i * m.shape[0] / h.shape[0])
                        for i in divmod(int(h.argmax()), h.shape[1])
                    )
                ]
            ),
            "add one half before scaling",
        ),
        (lambda h, m: h.argmax() == m.float().argmax(), "It says"),
        (lambda h, m: bool(m[divmod(int(h.argmax()), h.shape[1])]), "four times as large"),
        (lambda h, m: bool(m.T[divmod(int(h.argmax()), h.shape[1])]), "the row comes first"),
        (lambda h, m: _resized(h, m.shape)[m].sum() / _resized(h, m.shape).sum(), "Only the peak"),
        (lambda h, m: True, "a peak outside the mask"),
    ],
    "01.processor": [
        (_processor(scale=False), "not divided by √d"),
        (_processor(split=False), "heads are not split"),
        (_processor(out=False), "last projection"),
        (lambda attn, x, c=None: x + _processor()(attn, x, c), "block around"),
        (lambda attn, x, c: _processor()(attn, x, c.clone()), "It raised AttributeError"),
    ],
    "02.mapper": [
        (_mapper("same place"), "written at (j, j)"),
        (_mapper("transposed"), "transposed"),
        (_mapper("identity"), "moves all later words"),
        (_mapper("ones"), "column sums to 1"),
        (_mapper("short"), "It returned shape (5, 5)"),
        (_mapper("twice"), "words' columns differ"),
    ],
    "02.swap": [
        (lambda s, t, p, inside: t, "take the source's"),
        (lambda s, t, p, inside: s @ p, "Outside the window it still injects"),
        (lambda s, t, p, inside: s @ p.T if inside else t, "transposed"),
        (lambda s, t, p, inside: s if inside else t, "without the mapper"),
        (lambda s, t, p, inside: (s @ p + t) / 2 if inside else t, "averages"),
    ],
    "02.rows": [
        (lambda probs, P: probs.clone(), "Nothing is edited"),
        (lambda probs, P: (probs[2:3] @ P).expand(4, -1, -1, -1), "All rows were edited"),
        (lambda probs, P: probs @ P, "Every row was mapped"),
        (_edited(slice(2, 4), lambda probs, P: probs[2] @ P), "Both conditional rows"),
        (_both_of(1, 3), "Both rows of the target"),
        (_both_of(1), "unconditional row of the target"),
        (_edited(1, lambda probs, P: probs[2] @ P), "Row 1 got the maps"),
        (_edited(3, lambda probs, P: probs[0] @ P), "from an unconditional row"),
        (_edited(2, lambda probs, P: probs[3] @ P), "the wrong way"),
        (_edited(3, lambda probs, P: probs[2]), "mapper was left out"),
        (lambda probs, P: right("02.rows")(probs, P)[3], "It returned shape"),
    ],
    "02.window": [
        (lambda w, n: range(-int(-w[0] * n // 1), -int(-w[1] * n // 1)), "rounded up"),
        (lambda w, n: range(int(w[0] * n), int(w[1] * n)), "Round to the nearest"),
        (lambda w, n: range(round(w[0] * n), round(w[1] * n) + 1), "The end is counted in".lower()),
        (
            lambda w, n: range(n - round(w[1] * n), n - round(w[0] * n)),
            "time runs the wrong way",
        ),
        (lambda w, n: range(0, round(w[1] * n)), "begins at step 0"),
        (lambda w, n: 8, "It must return steps"),
    ],
    "02.unequal": [
        (lambda c, m: c.sum(-1, keepdim=True).expand(-1, m), "Share it out"),
        (lambda c, m: c.mean(-1, keepdim=True).expand(-1, m), "total attention changes"),
        (lambda c, m: c.sum(-1, keepdim=True).expand(-1, m) / m, "one to one"),
        (lambda c, m: c[:, :1].expand(-1, m), "first column alone"),
    ],
    "03.alignment": [
        (lambda s, t: heaviest_block(s, t), "longest equal block"),
        (lambda s, t: by_place(s, t, {}), "same place"),
        (
            lambda s, t: pairs_when_equally_long(s, t, {}),
            "has no partner: None",
        ),
        (_greedy, "used twice"),
        (_first_free, "longest common sequence"),
        (lambda s, t: [j if j < len(s) else None for j in range(len(t))], "has no partner"),
        (lambda s, t: right("03.alignment")(s, t)[:-1], "entries for"),
        (lambda s, t: [None] * len(t), "Nothing is paired"),
    ],
    "03.refine": [
        (lambda s, t, a: t.clone(), "returns the target unchanged"),
        (
            lambda s, t, a: torch.where(torch.tensor([i is not None for i in a]), s, t),
            "column A(j)",
        ),
        (
            lambda s, t, a: torch.stack(
                [s[..., i] if i is not None else 0 * s[..., 0] for i in a], -1
            ),
            "New tokens got zeros",
        ),
        (
            lambda s, t, a: s[..., [-1 if i is None else i for i in a]],
            "last column",
        ),
        (lambda s, t, a: right("03.refine")(t, s, a), "exchanged"),
    ],
    "03.blend": [
        (lambda m, th: _ratio(m.sum(1).amax(0)) > th, "largest site"),
        (lambda m, th: _ratio(m.amax(1).mean(0)) > th, "sum of its tokens"),
        (lambda m, th: _heat(m, top=False) > th, "divided by its maximum"),
        (lambda m, th: _heat(m, pool=False) > th, "max-pool is missing"),
        (lambda m, th: _heat(m) <= th, "turned round"),
        (lambda m, th: _heat(m, tokens=False) > th, "first token"),
        (lambda m, th: _heat(m), "0 and 1"),
    ],
    "04.reweight": [
        (
            lambda p, i, c: (q := right("04.reweight")(p, i, c)) / q.sum(-1, keepdim=True),
            "renormalised",
        ),
        (lambda p, i, c: p * c, "All columns"),
        (_in_place, "in place"),
        (lambda p, i, c: right("04.reweight")(p.mT, i, c).mT, "last axis"),
        (lambda p, i, c: right("04.reweight")(p, i[:1], c), "first token"),
    ],
    "04.compose": [
        (_compose(lambda good, plain: plain), "fader is missing"),
        (_compose(lambda good, plain: (good[0], plain[1])), "Only the source's gain"),
        (_compose(lambda good, plain: (plain[0], good[1])), "Only the target's gain"),
        (_compose(lambda good, plain: good[::-1]), "exchanged"),
        (_compose(lambda good, plain: good[0]), "two tensors"),
        (
            lambda m, i, w, c: right("04.compose")(m, torch.ones_like(i), w, c),
            "window is ignored",
        ),
    ],
    "04.negative": [
        (lambda p, v, j, c: right("04.reweight")(p, [j], c) @ v, "whole output"),
        (lambda p, v, j, c: c * p[:, j, None] * v[j], "scale − 1"),
        (lambda p, v, j, c: (1 - c) * p[:, j, None] * v[j], "sign"),
        (
            lambda p, v, j, c: (
                ((q := right("04.reweight")(p, [j], c)) / q.sum(-1, keepdim=True) - p) @ v
            ),
            "other words change",
        ),
    ],
    "05.ddim_step": [
        (lambda z, e, a, b: (z - (1 - a) ** 0.5 * e) / a**0.5, "clean picture"),
        (lambda z, e, a, b: b * (z - (1 - a) * e) / a + (1 - b) * e, "square roots"),
        (lambda z, e, a, b: _step(z, e, b, a), "exchanged"),
        (lambda z, e, a, b: _step(z, e, a, b) + 0.1 * torch.randn(z.shape), "no fresh noise"),
        (lambda z, e, a, b: b**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5, "left out"),
    ],
    "05.ddim_inverse": [
        (lambda z, predict, bar: z.expand(len(bar), *z.shape), "no step is taken"),
        (lambda *given: right("05.ddim_inverse")(*given).flip(0), "from picture to noise"),
        (_path(step=lambda z, e, bar, t: _step(z, e, bar[t], bar[t + 1])), "exchanged"),
        (_path(step=_old_noise), "noise of the old level"),
        (_path(ask=lambda predict, path, t, last: predict(path[0], last)), "predicted once"),
        (_path(ask=lambda predict, path, t, last: predict(path[0], t)), "picture's latents"),
        (
            _path(ask=lambda predict, path, t, last: predict(path[-1], min(t + 1, last))),
            "another step",
        ),
        (_path(ask=lambda predict, path, t, last: predict(path[-1], t + 1)), "knows the steps"),
        (_path(order=lambda t, last: last - t), "wrong order"),
        (lambda *given: right("05.ddim_inverse")(*given)[0], "It returned shape"),
    ],
    "05.null_loss": [
        (_null(_guided, "sum"), "added up"),
        (_null(lambda null, text, s: text), "Guidance is missing"),
        (_null(lambda null, text, s: text + s * (null - text)), "null + s"),
        (_null(lambda null, text, s: null), "not used"),
        (_null(lambda null, text, s: _guided(null, text, s).detach()), "no gradient"),
        (_null(_guided, "none"), "It returned shape"),
    ],
    "06.resize_map": [
        (lambda m, size, q: _resized(_outline(m, q).float(), size, "nearest") > 0, "stairs"),
        (lambda m, size, q: _resized(_outline(m, q).float(), size) > 0.5, "compared again"),
        (lambda m, size, q: _resized(_outline(m, q).float(), size) > 0, "reaches is taken"),
        (lambda m, size, q: _outline(_resized(m, size, align_corners=True), q), "align_corners"),
        (lambda m, size, q: _outline(_resized(m, size[::-1]), q), "Height and width"),
        (lambda m, size, q: _outline(_resized(m, size)[None, None], q), "[0, 0]"),
        (lambda m, size, q: _resized(m, size) > q, "taken as it is"),
        (lambda m, size, q: _outline(_resized(m, size), q, m.max()), "no pixel reaches"),
        (lambda m, size, q: ~_outline(_resized(m, size), q), "Inside and outside"),
        (lambda m, size, q: _resized(m, size), "0 and 1"),
    ],
    "06.move_rows": [
        (lambda r, m, y, x: r.roll((y, x), (0, 1)), "Only the rows of the region"),
        (lambda r, m, y, x: _carried(r, m, y, x, fill=None), "a ghost stays"),
        (lambda r, m, y, x: _carried(r, m, y, x, fill=0), "do not sum to 1"),
        (lambda r, m, y, x: _carried(r, m, -y, -x), "opposite way"),
        (lambda r, m, y, x: _carried(r, m, x, y), "exchanged"),
        (lambda r, m, y, x: _carried(r, m, y, x, late=True), "overlap"),
        (lambda r, m, y, x: r[..., 0], "(h, w, L)"),
    ],
    "07.steps": [
        (lambda allowed, once, each: max(0, round((allowed - once) / each)), "rounded to the n"),
        (lambda allowed, once, each: allowed // each, "left out"),
        (lambda allowed, once, each: max(0, allowed // (once + each)), "kept once"),
        (lambda allowed, once, each: -(-(allowed - once) // each), "round down"),
        (lambda allowed, once, each: (allowed - once) // each, "no step does"),
        (lambda allowed, once, each: (allowed - once) / each, "a whole number"),
    ],
    "07.rows": [
        (lambda count, steps, taped: count * steps * (2 if taped else 4), "source itself"),
        (lambda count, steps, taped: steps + count * steps * (1 if taped else 2), "Guidance"),
        (lambda count, steps, taped: 2 * steps * (1 + count), "four rows a step"),
        (lambda count, steps, taped: 2 * steps * (1 + 2 * count), "two rows a step"),
    ],
    "07.half": [
        (lambda q, k: (q @ k.T / q.shape[-1] ** 0.5).softmax(-1), "largest number"),
        (lambda q, k: (q.float() @ k.float().T / q.shape[-1] ** 0.5).softmax(-1), "q.dtype"),
        (lambda q, k: (q.float() @ k.float().T).softmax(-1).half(), "not divided"),
        (
            lambda q, k: (q.float() @ k.float().T / q.shape[-1] ** 0.5).softmax(0).half(),
            "positions",
        ),
    ],
    "08.cascade": [
        (_staged(seeds=lambda seed: (seed, seed + 1)), "from different noise"),
        (_staged(seeds=lambda seed: (0, 0)), "not the one that was given"),
        (_staged(prompts=lambda s, t: (s, s)), f'"{"a cat on a beach"}" with the other'),
        (_staged(prompts=lambda s, t: (t, t)), f'"{"a dog on a beach"}" with the other'),
        (_staged(again=True), "runs once"),
        (_staged(chain=False), "not the result before it"),
        (_staged(turn=-1), "two pictures are exchanged"),
        (_edit_alone, "each for both pictures"),
        (lambda base, stages, s, t, seed: base(t, s), "source prompt first"),
        (lambda *given: right("08.cascade")(*given)[1], "two pictures: the large"),
    ],
    "08.hybrid": [
        (lambda a, b, P: torch.cat([a[..., : len(P)] @ P, a[..., len(P) :]], -1), "keeps its own"),
        (lambda a, b, P: b.clone(), "come from the source"),
        (lambda a, b, P: torch.cat([a[..., : len(P)] @ P.T, b[..., len(P) :]], -1), "turned round"),
        (lambda a, b, P: torch.cat([a[..., : len(P)], b[..., len(P) :]], -1), "not used"),
        (lambda a, b, P: _rows_of_one(right("08.hybrid")(a, b, P)), "renormalised"),
        (lambda a, b, P: b[..., : len(P)].copy_(a[..., : len(P)] @ P) is None or b, "in place"),
    ],
    "09.flow_edit": [
        *((partial(_variant, mistake=name), say[:40]) for name, say in _SAY.items()),
        (lambda v, x, s, n: x.clone(), "differs"),
        (lambda v, x, s, n: x.add_(right("09.flow_edit")(v, x, s, n) - x), "in place"),
    ],
    "09.pairs": [
        (lambda before, after, asked: True, "nothing happened"),
        (lambda before, after, asked: before != after, "another thing"),
        (
            lambda before, after, asked: all(after[k] == v for k, v in asked.items()),
            "place changed",
        ),
        (
            lambda a, b, asked: b["thing"] == asked["thing"] and b["place"] == a["place"],
            "one came",
        ),
        (lambda before, after, asked: False, "has to be kept"),
        (lambda before, after, asked: after, "Return True to keep"),
    ],
}
