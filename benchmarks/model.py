"""How good a model of the scene world is: does it draw what is asked, and do its maps point?

    python benchmarks/model.py [--quick] [--json] [--model NAME_OR_PATH]

Captions of scenes that no training run draws are given to the model, and the judge reads the
pictures. `object_success`, `attribute_success` and `scene_success` are the shares of pictures in
which all asked objects are seen; all asked attributes; place, time, weather and style, the unsaid
day, clear sky and 3d style included. `held_out_success`: objects and attributes, in scenes with a
pair of words that never occurs in training. `pointing` and `iou`: the mean map of each object word
over the recommended sites against the object's mask, half on noised true scenes and half on
generated pictures (against the judge's masks). `ceiling` holds the judge's own successes on true
renders of the same scenes: no model can be expected above it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

import p2p_lab
from p2p_lab.attention import AttentionStore, Controller, Rows, attached, find_sites
from p2p_lab.judge import Finding, Judge, Verdict, load_judge
from p2p_lab.metrics import mask_iou, pointing_accuracy
from p2p_lab.models.loading import WEIGHTS
from p2p_lab.scenes import Caption, Phrase, Scene, caption, render, sample_scene

FIRST_SEED = 1_500_000_000  # beyond the generator's training scenes, below the judge's
STEPS = 20
TIMES = (200, 400, 600, 800)  # model times of the noised true scenes
GRID = (16, 16)
MAP_THRESHOLD = 0.5  # of a map's maximum: from there on a position counts as the object


@dataclass(frozen=True)
class Counts:
    """How many pictures of each kind are drawn."""

    scenes: int
    held_out: int
    truth: int
    timed: int


FULL, QUICK = Counts(120, 60, 64, 5), Counts(16, 8, 12, 2)


@dataclass
class Points:
    """Maps against masks: how many were scored, how many pointed, the sum of their IoUs."""

    words: int = 0
    hits: float = 0.0
    overlap: float = 0.0

    def add(self, heat: Tensor, mask: Tensor) -> None:
        """Score one map (h, w) against the mask (H, W) of its object."""
        self.words += 1
        self.hits += pointing_accuracy(heat, mask > 0.5)
        small = F.adaptive_avg_pool2d(mask[None, None].float(), heat.shape)[0, 0]
        self.overlap += mask_iou(heat, small > 0.5, threshold=MAP_THRESHOLD)

    @property
    def pointing(self) -> float:
        return self.hits / max(self.words, 1)

    @property
    def iou(self) -> float:
        return self.overlap / max(self.words, 1)


def known_scenes(judge: Judge, world: str, count: int, *, unseen: bool) -> list[Scene]:
    """Return test scenes of a world that hold only what the judge knows."""
    found: list[Scene] = []
    for seed in range(FIRST_SEED, FIRST_SEED + 100 * count):
        scene = sample_scene(seed, world, unseen=unseen)
        known = all(
            thing.name in judge.labels.objects
            and (thing.attribute or "natural") in judge.labels.attributes
            for thing in scene.things
        )
        known &= scene.place in judge.labels.places and scene.style in judge.labels.styles
        known &= scene.weather in judge.labels.weathers
        found += [scene] if known else []
        if len(found) == count:
            return found
    raise ValueError(f"The judge knows too little of the world {world!r}: train it on that world.")


def object_phrases(text: Caption) -> Iterator[tuple[Phrase, str, int]]:
    """Yield each object's phrase, its word and which occurrence of the word it is."""
    for phrase in text.phrases:
        if phrase.kind == "object":
            word = text.text[phrase.start : phrase.end]
            yield phrase, word, text.text[: phrase.start].split().count(word)


def recommended(model: Any) -> list[str]:
    """Name the sites whose maps are best to look at: the card's, else middle and upward ones."""
    sites = find_sites(model.module, model.latent_shape(size_of(model))[1:])
    chosen = [name for name in model.card.map_sites if name in sites]
    usual = [n for n, s in sites.items() if s.kind == "cross" and s.place in ("mid", "up")]
    return chosen or usual


def size_of(model: Any) -> tuple[int, int]:
    return model.defaults.height, model.defaults.width


def mean_map(store: AttentionStore, sites: list[str], word: str, occurrence: int) -> Tensor:
    """Return a word's map, mean over sites, at 16 × 16."""
    maps = [store.map(word, occurrence=occurrence, site=name, size=GRID) for name in sites]
    return torch.stack(maps).mean(0)


def draw_and_read(
    model: Any, judge: Judge, scenes: list[Scene], points: Points | None
) -> list[Finding]:
    """Generate a picture of each scene's caption, and hold it to the scene."""
    sites = recommended(model)
    found = []
    for i, scene in enumerate(scenes):
        text = caption(scene)
        record = "store" if points is not None else "none"
        run = p2p_lab.generate(model, text.text, seed=i, steps=STEPS, record=record)
        seen = judge.read(run.pixels)
        found.append(judge.holds(seen, scene))
        if points is not None and run.attention is not None:
            score_maps(points, run.attention, sites, scene, text, seen)
        print(f"\r{i + 1}/{len(scenes)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def score_maps(
    points: Points,
    store: AttentionStore,
    sites: list[str],
    scene: Scene,
    text: Caption,
    truth: Verdict | Tensor,
) -> None:
    """Score the maps of all object words; things that cover under two positions are left out."""
    for phrase, word, occurrence in object_phrases(text):
        name = scene.things[phrase.things[0]].name
        if isinstance(truth, Verdict):
            if name not in truth.objects:
                continue
            mask = truth.masks[name]
        else:
            mask = truth[list(phrase.things)].sum(0).clamp(0, 1)
        if mask.mean() * GRID[0] * GRID[1] >= 2:
            points.add(mean_map(store, sites, word, occurrence), mask)


@torch.no_grad()
def read_true_scenes(model: Any, scenes: list[Scene]) -> Points:
    """Score maps on noised true scenes, each at several model times."""
    points, sites = Points(), recommended(model)
    alpha_bars = DDIMScheduler.from_config(dict(model.scheduler_config)).alphas_cumprod
    size = size_of(model)
    all_sites = find_sites(model.module, model.latent_shape(size)[1:])
    for i, scene in enumerate(scenes):
        text, pictures = caption(scene), render(scene, size[0])
        prompt = model.prompt(text.text)
        latents = model.encode(pictures.images.to(model.device, model.dtype))
        for t in TIMES:
            generator = torch.Generator().manual_seed(1000 * i + t)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            noisy = alpha_bars[t].sqrt() * latents + (1 - alpha_bars[t]).sqrt() * noise
            controller = Controller(all_sites, Rows(source=slice(0, 1)))
            with model.lock, attached(model.module, controller, all_sites):
                controller.begin_step(0)
                model.predict(noisy, torch.tensor(t), model.encode_prompt(prompt, size))
                controller.end_step(noisy, None)
            store = controller.stores(prompt)[0]
            score_maps(points, store, sites, scene, text, pictures.masks[0])
    return points


@torch.no_grad()
def autoencoder_psnr(model: Any, world: str, count: int) -> float:
    """Return the PSNR in dB of true pictures after the autoencoder, from the mean squared error."""
    scenes = [sample_scene(FIRST_SEED + i, world) for i in range(count)]
    errors = []
    for first in range(0, count, 16):
        images = render(scenes[first : first + 16], size_of(model)[0]).images
        back = model.decode(model.encode(images.to(model.device, model.dtype))).cpu().float()
        errors.append((back - images).square().mean((1, 2, 3)))
    return float(-10 * torch.log10(torch.cat(errors).mean()))


def seconds_per_image(model: Any, count: int) -> float:
    """Return the median time of a plain picture with guidance, all of the machine's cores."""
    spent = []
    for seed in range(count + 1):
        start = time.perf_counter()
        p2p_lab.generate(model, "a cat in a field", seed=seed, steps=STEPS, record="none")
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])  # the first one warms up


def size_mb(name: str | None) -> float:
    """Return the size of a model's folder in MB."""
    names = p2p_lab.list_models()
    if name is not None and Path(name).is_dir():
        folder = Path(name)
    else:
        folder = max(
            WEIGHTS.glob(f"{name or names[0]}-v*"), key=lambda path: int(path.name.split("-v")[-1])
        )
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def shares(found: list[Finding], scenes: list[Scene]) -> dict[str, float]:
    """Return the share of pictures in which all objects, all attributes, and the scene hold."""
    asked = [
        finding
        for finding, scene in zip(found, scenes, strict=True)
        if any(thing.attribute for thing in scene.things)
    ]
    return {
        "object_success": statistics.fmean(finding.objects for finding in found),
        "attribute_success": statistics.fmean(finding.attributes for finding in asked or found),
        "scene_success": statistics.fmean(finding.scene for finding in found),
    }


def both(found: list[Finding]) -> float:
    return statistics.fmean(finding.objects and finding.attributes for finding in found)


def measure(name: str | None, judge: Judge, counts: Counts) -> dict[str, Any]:
    """Return all numbers of a model."""
    model = p2p_lab.load(name)
    world = model.card.raw.get("config", {}).get("world", "small")
    timed = seconds_per_image(model, counts.timed)
    scenes = known_scenes(judge, world, counts.scenes, unseen=False)
    pairs = known_scenes(judge, world, counts.held_out, unseen=True)
    drawn = Points()
    seen = shares(draw_and_read(model, judge, scenes, drawn), scenes)
    held = both(draw_and_read(model, judge, pairs, None))
    truth = read_true_scenes(model, scenes[: counts.truth])
    best = [judge.holds(render(scene, size_of(model)[0]).images[0], scene) for scene in scenes]
    rare = [judge.holds(render(scene, size_of(model)[0]).images[0], scene) for scene in pairs]
    return {
        **seen,
        "held_out_success": held,
        "pointing": (drawn.pointing + truth.pointing) / 2,
        "iou": (drawn.iou + truth.iou) / 2,
        "autoencoder_psnr": autoencoder_psnr(model, world, max(counts.truth, 16)),
        "seconds_per_image": timed,
        "size_mb": size_mb(name),
        "pointing_truth": truth.pointing,
        "pointing_generated": drawn.pointing,
        "iou_truth": truth.iou,
        "iou_generated": drawn.iou,
        "ceiling": {**shares(best, scenes), "held_out_success": both(rare)},
        "model": model.name,
        "world": world,
        "pictures": counts.scenes + counts.held_out,
        "steps": STEPS,
        "guidance_scale": model.defaults.guidance_scale,
        "threads": torch.get_num_threads(),
        "sites": recommended(model),
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure a model and print its numbers."""
    parser = argparse.ArgumentParser("benchmarks/model.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    parser.add_argument("--judge", help="folder of a judge; the bundled one")
    parser.add_argument("--quick", action="store_true", help="few pictures: a minute, rough")
    parser.add_argument("--samples", type=int, help="pictures of each kind")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    counts = QUICK if options.quick else FULL
    if options.samples:
        counts = Counts(options.samples, options.samples, options.samples, 1)
    numbers = rounded(measure(options.model, load_judge(options.judge), counts))
    for key, value in numbers.items():
        print(f"{key:20} {value}")
    if options.json:
        print(json.dumps(numbers))
    return dict(numbers)


if __name__ == "__main__":
    main()
