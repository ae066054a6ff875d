"""How good a model of the scene world is: does it draw what is asked, and do its maps point?

    python benchmarks/model.py [--quick] [--json] [--model NAME_OR_PATH]
    python benchmarks/model.py --eye grid.png      48 fixed captions, to be looked at one by one
    python benchmarks/model.py --faders            how faders answer, word by word

Captions of scenes that no training run draws are given to the model, and the judge reads the
pictures. `object_success`, `attribute_success` and `scene_success` are the shares of pictures in
which all asked objects are seen; all asked attributes; place, time, weather and style, the unsaid
day, clear sky and 3d style included. `held_out_success`: objects and attributes, in scenes with a
pair of words that never occurs in training. `pointing` and `iou`: the mean map of each object word
over the recommended sites against the object's mask, half on noised true scenes and half on
generated pictures (against the judge's masks). `ceiling` holds the judge's own successes on true
renders of the same scenes: no model can be expected above it. A cascade's pictures are finished by
its later stage; its maps are the base stage's, and there is no autoencoder to measure.
`attention_supervision` is the weight of the loss that taught the maps where to look; Stable
Diffusion's is 0. What it changes is on the model's card, from two runs that differ in it alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.eye import FADERS, captions, eye, fader_table
from benchmarks.full_pipeline import FullPipeline
from benchmarks.model_maps import Points, read_true_scenes, recommended, score_maps
from p2p_lab.judge import Finding, Judge, load_judge
from p2p_lab.models.loading import WEIGHTS
from p2p_lab.scenes import Scene, caption, render, sample_scene
from p2p_lab.scenes.splits import MODEL


@dataclass(frozen=True)
class Counts:
    """How many pictures of each kind are drawn."""

    scenes: int
    held_out: int
    truth: int
    timed: int


FULL, QUICK = Counts(120, 60, 64, 5), Counts(16, 8, 12, 2)


def known_scenes(judge: Judge, world: str, count: int, *, unseen: bool) -> list[Scene]:
    """Return test scenes of a world that hold only what the judge knows."""
    found: list[Scene] = []
    for seed in map(MODEL.seed, range(100 * count)):
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


def draw_and_read(
    pipeline: FullPipeline, judge: Judge, scenes: list[Scene], points: Points | None
) -> list[Finding]:
    """Generate a picture of each scene's caption, and hold it to the scene."""
    sites = recommended(pipeline.model)
    found = []
    for i, scene in enumerate(scenes):
        text = caption(scene)
        record = "store" if points is not None else "none"
        run, picture = pipeline.draw(text.text, i, record)
        seen = judge.read(picture)
        found.append(judge.holds(seen, scene))
        if points is not None and run.attention is not None:
            score_maps(points, run.attention, sites, scene, text, seen)
        print(f"\r{i + 1}/{len(scenes)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


@torch.no_grad()
def autoencoder_psnr(model: Any, world: str, count: int) -> float:
    """Return the PSNR in dB of true pictures after the autoencoder, from the mean squared error."""
    scenes = [sample_scene(MODEL.seed(i), world) for i in range(count)]
    errors = []
    for first in range(0, count, 16):
        images = render(scenes[first : first + 16], model.defaults.height).images
        back = model.decode(model.encode(images.to(model.device, model.dtype))).cpu().float()
        errors.append((back - images).square().mean((1, 2, 3)))
    return float(-10 * torch.log10(torch.cat(errors).mean()))


def seconds_per_image(pipeline: FullPipeline, count: int) -> float:
    """Return the median time of a plain picture with guidance, all of the machine's cores."""
    spent = []
    for seed in range(count + 1):
        start = time.perf_counter()
        pipeline.draw("a cat in a field", seed)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])  # the first one warms up


def size_mb(name: str | None, model: Any) -> float:
    """Return the size of a model's folder in MB."""
    given = Path(name or "")
    folder = given if name and given.is_dir() else WEIGHTS / model.name
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
    pipeline = FullPipeline.open(name)
    model, side = pipeline.model, pipeline.size[0]
    settings = model.card.raw.get("config", {})
    world = settings.get("world", "small")
    timed = seconds_per_image(pipeline, counts.timed)
    scenes = known_scenes(judge, world, counts.scenes, unseen=False)
    pairs = known_scenes(judge, world, counts.held_out, unseen=True)
    drawn = Points()
    seen = shares(draw_and_read(pipeline, judge, scenes, drawn), scenes)
    held = both(draw_and_read(pipeline, judge, pairs, None))
    truth = read_true_scenes(pipeline, scenes[: counts.truth])
    best = [judge.holds(render(scene, side).images[0], scene) for scene in scenes]
    rare = [judge.holds(render(scene, side).images[0], scene) for scene in pairs]
    decoded = {}
    if pipeline.later is None:
        decoded["autoencoder_psnr"] = autoencoder_psnr(model, world, max(counts.truth, 16))
    return {
        **seen,
        "held_out_success": held,
        "pointing": (drawn.pointing + truth.pointing) / 2,
        "iou": (drawn.iou + truth.iou) / 2,
        **decoded,
        "seconds_per_image": timed,
        "size_mb": size_mb(name, model),
        "pointing_truth": truth.pointing,
        "pointing_generated": drawn.pointing,
        "iou_truth": truth.iou,
        "iou_generated": drawn.iou,
        "ceiling": {**shares(best, scenes), "held_out_success": both(rare)},
        "model": model.name,
        "world": world,
        "pictures": counts.scenes + counts.held_out,
        "steps": model.defaults.steps,
        "guidance_scale": model.defaults.guidance_scale,
        "threads": torch.get_num_threads(),
        "sites": recommended(model),
        "attention_supervision": settings.get("supervision", 0),
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def look(options: argparse.Namespace) -> dict[str, Any]:
    """Draw what is to be looked at, or follow the faders; return what was found."""
    pipeline, judge = FullPipeline.open(options.model), load_judge(options.judge)
    found: dict[str, Any] = {"model": pipeline.model.name}
    if options.eye:
        texts = captions()[: options.samples]
        found["eye"] = eye(pipeline, judge, options.eye, texts)
        for row in found["eye"]:
            right = all(row[name] for name in ("objects", "attributes", "scene"))
            print(f"{row['seed']:3} {'    ' if right else 'miss'} {row['caption']}")
        print(f"Wrote {options.eye}: say of each picture whether it is well drawn.")
    if options.faders:
        found["faders"] = fader_table(pipeline, judge, FADERS[: options.samples])
        for row in found["faders"]:
            print(
                f"{row['word']:8} correlation {row['correlation']:.2f}, along {row['along']:.2f}, "
                f"pixels changed from 1 to 3 {row['changed']:.1%}, range {row['range']:.2f}"
            )
    if options.json:
        print(json.dumps(found))
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure a model and print its numbers."""
    parser = argparse.ArgumentParser("benchmarks/model.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    parser.add_argument("--judge", help="folder of a judge; the bundled one")
    parser.add_argument("--quick", action="store_true", help="few pictures: a minute, rough")
    parser.add_argument("--samples", type=int, help="pictures of each kind")
    parser.add_argument("--eye", type=Path, help="only draw the fixed captions to this picture")
    parser.add_argument("--faders", action="store_true", help="only measure how faders answer")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    if options.eye or options.faders:
        return look(options)
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
