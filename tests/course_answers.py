"""Known wrong answers to the problem sets: what students really hand in, and what each one costs.

By problem set: a name, the stub cell that it replaces, its text there, and the test cells that must
fail, with the points that they carry. Everything else is as in the model answer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WrongAnswer:
    """Hold one wrong answer and the test cells that it must fail, no others."""

    name: str
    cell: str
    text: str
    fails: tuple[str, ...]

    @property
    def lost(self) -> int:
        """Return the points lost: 1 for an easy or own cell, 2 for a hidden one."""
        return sum(2 if cell.endswith("hidden") else 1 for cell in self.fails)


def _some(cell: str, text: str, *, name: str, also: tuple[str, ...] = ()) -> WrongAnswer:
    """Say that the easy cases pass and the others fail."""
    return WrongAnswer(name, cell, text, (f"{cell}-own", f"{cell}-hidden", *also))


def _all(cell: str, text: str, *, name: str, also: tuple[str, ...] = ()) -> WrongAnswer:
    """Say that all three tests of a question fail."""
    return WrongAnswer(name, cell, text, (f"{cell}-easy", f"{cell}-own", f"{cell}-hidden", *also))


WRONG: dict[str, tuple[WrongAnswer, ...]] = {
    "ps1": (
        _some(
            "words",
            """
def words(text, offsets):
    spans = []
    for word in text.split():  # by spelling: a second "cat" is found where the first one stands
        start = text.index(word)
        inside = [t for t, (a, b) in enumerate(offsets) if a < b and start <= a < start + len(word)]
        spans.append((inside[0], inside[-1] + 1))
    return spans
""",
            name="finds words by their spelling",
        ),
        _some(
            "alignment",
            """
def alignment(source, target):
    at, found = 0, []
    for word in target:  # the next equal word, so that an early match blocks later ones
        later = [i for i in range(at, len(source)) if source[i] == word]
        found.append(later[0] if later else None)
        at = later[0] + 1 if later else at
    return found
""",
            name="takes the next equal word",
            also=("prompts-own", "prompts-hidden"),
        ),
        _some(
            "refine_mapper",
            """
def refine_mapper(partner, length):
    mapper, matched = torch.zeros(length, length), torch.zeros(length)
    for j, i in enumerate(partner):  # the padding is forgotten
        if i is not None:
            mapper[i, j], matched[j] = 1, 1
    return mapper, matched
""",
            name="forgets the padding",
        ),
        _some(
            "swap_mapper",
            """
def swap_mapper(source_spans, target_spans, length):
    mapper = torch.zeros(length, length)
    for (a, b), (c, d) in zip(source_spans, target_spans):
        if b - a == d - c:
            mapper[range(a, b), range(c, d)] = 1
        else:
            mapper[a:b, c:d] = 1 / (b - a)  # the mean: a growing word gets louder
    return mapper
""",
            name="takes the mean of a word",
        ),
        _all(
            "prompts",
            """
def align_prompts(source, target):
    partner = [j if j < source.end else None for j in range(target.end)]  # place by place
    return refine_mapper(partner, len(target))
""",
            name="aligns place by place",
        ),
    ),
    "ps2": (
        _some(
            "probs",
            """
def probs(q, k, mask):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) * mask  # masked after the softmax
""",
            name="masks after the softmax",
        ),
        _some(
            "processor",
            """
def processor(attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # one softmax for all heads
    return attn.to_out[0](weights @ v)
""",
            name="does not split the heads",
        ),
        _some(
            "recorder",
            """
class Recorder:
    def __init__(self):
        self.maps = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        self.maps.append(weights)  # self-attention too
        return attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))
""",
            name="records self-attention too",
        ),
        _some(
            "score",
            """
def score(heat, mask):
    big = F.interpolate(heat[None, None], size=mask.shape)[0, 0]  # nearest neighbours
    found = big > big.max() / 2
    iou = (found & mask).sum() / (found | mask).sum()
    return bool(mask.flatten()[big.argmax()]), float(iou)
""",
            name="enlarges with nearest neighbours",
            also=("scene-easy", "scene-own", "scene-hidden"),
        ),
        _all(
            "scene",
            """
def scene_iou(model, look):
    recorder, old = Recorder(), dict(model.module.attn_processors)
    model.module.set_attn_processor(dict.fromkeys(old, recorder))
    with torch.no_grad():
        model.predict(look.latents, look.t, look.conditioning)
    layers = [m[0] for m in recorder.maps if m.shape[2] == 256]
    heats = [m[:, :, look.tokens].sum(-1).mean(0) for m in layers]
    return score(torch.stack(heats).mean(0).reshape(16, 16), look.mask)[1]
""",
            name="leaves its recorder on the model",
        ),
    ),
    "ps3": (
        _some(
            "swap",
            """
def swap(source, target, mapper, inside):
    return source @ mapper  # the windows are not used
""",
            name="ignores the windows",
        ),
        _all(
            "refine",
            """
def refine(source, target, partner):
    return source[..., [-1 if i is None else i for i in partner]]
""",
            name="gives new tokens the last column",
        ),
        _some(
            "reweight",
            """
def reweight(probs, scales):
    probs = probs.clone()
    for token, scale in scales.items():
        probs[..., token] *= max(scale, 0)  # negative scales are cut off
    return probs
""",
            name="cuts negative scales off",
        ),
        _some(
            "gains",
            """
def gains(matched, steps, window, own, faders):
    inside = torch.zeros(steps, len(matched), dtype=torch.bool)
    inside[round(window[0] * steps) : round(window[1] * steps)] = True  # own is not used
    takes = inside & matched
    factors = torch.tensor([float(faders.get(j, 1)) for j in range(len(matched))])
    return takes * factors, (~takes) * factors
""",
            name="ignores the words' own windows",
        ),
        _all(
            "edits",
            """
def my_edits(old, new):
    return [Replace(cross=(0, 0), self_attention=(0, 0))]  # lets everything go
""",
            name="lets everything go",
        ),
    ),
    "ps4": (
        _all(
            "inverse",
            """
def inverse(latents, noise_pred, alpha_bar, noisier_bar):
    clean = (latents - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
    return noisier_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise_pred  # the old level's noise
""",
            name="uses the old level's noise",
            also=tuple(
                f"{cell}-{part}"
                for cell in ("loop", "retrace", "drift")
                for part in ("easy", "own", "hidden")
            ),
        ),
        _some(
            "loop",
            """
def way_back(predict, latents, alpha_bar, alpha_bar_next):
    noise_pred, path = predict(latents, len(alpha_bar) - 1), [latents]  # asked once only
    for step in reversed(range(len(alpha_bar))):
        path.append(inverse(path[-1], noise_pred, alpha_bar_next[step], alpha_bar[step]))
    return torch.stack(path[::-1])
""",
            name="predicts only once",
            also=("retrace-easy", "retrace-own", "retrace-hidden", "drift-own", "drift-hidden"),
        ),
        _all(
            "null_text",
            """
def null_text(guided, pivots, embed, inner_steps, rate):
    return embed.expand(len(pivots) - 1, -1)  # tunes nothing
""",
            name="tunes nothing",
        ),
        _all(
            "retrace",
            """
def retrace(model, picture, text, guidance_scale, steps):
    run = p2p_lab.invert(model, picture[0].permute(1, 2, 0).numpy(), text, steps=steps)
    return psnr(run.pixels, picture[0])  # "direct": not what was asked for
""",
            name="measures another method",
        ),
        _some(
            "drift",
            """
def drift(predict, push, latents, alpha_bar, alpha_bar_next):
    pivots, apart = way_back(predict, latents, alpha_bar, alpha_bar_next), [torch.tensor(0.0)]
    for step in range(len(alpha_bar)):  # each step starts from the pivot: errors do not add up
        z = pivots[step]
        z = inverse(z, predict(z, step) + push(z, step), alpha_bar[step], alpha_bar_next[step])
        apart.append((z - pivots[step + 1]).square().mean().sqrt())
    return torch.stack(apart)
""",
            name="starts every step from the pivot",
        ),
    ),
}
