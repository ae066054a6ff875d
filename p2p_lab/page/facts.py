"""What the page must know of a model beside its graphs: sizes, words, schedules, examples.

Nothing of it is written by hand but the examples, and of these only those whose words the model
knows are kept. Schedules come from the model's own settings, one a number of steps.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from p2p_lab import __version__
from p2p_lab.judge import Judge
from p2p_lab.models.identity import short_digest
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.models.vocabulary import unknown_words
from p2p_lab.page.networks import Denoising
from p2p_lab.sampling import edit, generate
from p2p_lab.sampling.schedules import schedule_for
from p2p_lab.scenes.vocabulary import OBJECTS
from p2p_lab.tokens import Prompt

FORMAT = 1
STEPS = (*range(1, 21), 25, 30, 40, 50)
LIVE_STEPS = 5  # as good as 20 with the bundled model, and quick enough to follow the hand
MORE = {"weathers": ("slightly", "very"), "times": ("dusk",), "attributes": ("small", "big")}
EXAMPLES = (
    ("a cat next to a house in a snowy field", "a dog next to a house in a snowy field"),
    ("a rabbit in a field", "a rabbit wearing a crown in a field"),
    ("a castle on a beach", "a castle on a beach at night"),
    ("a red car in a city", "a wooden car in a city"),
    ("a basket of apples on a plain background", "a basket of lemons on a plain background"),
    ("a penguin riding a bicycle in the mountains", "a frog riding a bicycle in the mountains"),
    ("a tree in a very snowy field", "a tree in a slightly snowy field"),
    ("a rocket in space", "a pencil sketch of a rocket in space"),
)
SEEDS = range(1, 7)  # tried for each example


def facts_of(model: StableDiffusion, denoising: Denoising, judge: Judge | None) -> dict[str, Any]:
    """Return the facts of an exported model, ready for JSON."""
    defaults, empty = model.defaults, model.prompt("")
    size = (defaults.height, defaults.width)
    gates = [site.pixels for site in denoising.sites if not site.has_text]
    return {
        "format": FORMAT,
        "version": __version__,
        "name": model.name,
        "digest": short_digest(model),
        "size": list(size),
        "latents": list(model.latent_shape(size)),
        "tokens": len(empty),
        "width": int(model.text_encoder.config.hidden_size),
        "steps": defaults.steps,
        "live_steps": LIVE_STEPS,
        "guidance_scale": defaults.guidance_scale,
        "prediction": model.prediction,
        "schedules": schedules_of(model, size),
        "self_pixels": gates,
        "tape": denoising.tape_size,
        "map_grid": list(denoising.map_sites[0].size),
        "blend_grid": list(denoising.blend_sites[0].size),
        "words": sorted(model.card.vocabulary),
        "kinds": kinds_of(model, judge),
        "examples": examples_of(model, judge),
        "judge": None
        if judge is None
        else {**judge.labels.to_dict(), "threshold": judge.threshold},
    }


def schedules_of(model: StableDiffusion, size: tuple[int, int]) -> dict[str, Any]:
    """Return a DDIM table for each number of steps: time, noise level before and after."""
    found = {}
    for steps in sorted({*STEPS, model.defaults.steps, LIVE_STEPS}):
        try:
            grid = model.latent_shape(size)[1:]
            table = schedule_for(model, "ddim", steps, grid)
        except ValueError:
            continue  # more steps than this model's settings allow
        columns = (table.timesteps, table.alpha_bar, table.alpha_bar_next)
        found[str(steps)] = {
            "clip": table.clip,
            "rows": [[float(x) for x in row] for row in zip(*columns, strict=True)],
        }
    return found


def kinds_of(model: StableDiffusion, judge: Judge | None) -> list[list[str]]:
    """Return groups of words that stand for each other: objects, colours, places, weather."""
    if judge is None:
        return []
    labels = judge.labels.to_dict()
    groups = [[*names, *MORE.get(kind, ())] for kind, names in labels.items()]
    others = {name: kind.synonyms + (kind.plural,) for name, kind in OBJECTS.items()}
    groups[0] += list(chain.from_iterable(others.get(name, ()) for name in groups[0]))
    known = model.card.vocabulary
    return [[word for word in dict.fromkeys(group) if word in known] for group in groups]


def examples_of(model: StableDiffusion, judge: Judge | None) -> list[dict[str, Any]]:
    """Return prompts to begin with: words that the model knows, and a seed that does well."""
    return [
        {"source": source, "target": target, "seed": good_seed(model, judge, source, target)}
        for source, target in EXAMPLES
        if all(_knows(model, text) for text in (source, target))
    ]


def good_seed(model: StableDiffusion, judge: Judge | None, source: str, target: str) -> int:
    """Return the first seed of which the judge sees what both prompts say, in as few steps as live.

    Without one, or without a judge, the first seed.
    """
    for seed in SEEDS if judge is not None else ():
        assert judge is not None
        drawn = generate(model, source, seed=seed, steps=LIVE_STEPS)
        if judge.holds(drawn, source) and judge.holds(edit(drawn, target), target):
            return seed
    return SEEDS[0]


def _knows(model: StableDiffusion, text: str) -> bool:
    """Return whether a text fits the model and has only words that it was trained on."""
    try:
        prompt = Prompt.of(text, model.tokenizer)
    except ValueError:  # too long
        return False
    return not unknown_words(prompt, model.card.vocabulary)
