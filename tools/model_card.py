"""Write what a trained model is, from its run's logs and its benchmarks: card, curve, pictures.

    python benchmarks/model.py --json --model p2p_lab/weights/scenes-128-v4 | tail -1 > bench.json
    python tools/model_card.py --weights p2p_lab/weights/scenes-128-v4 --benchmark bench.json \
        [--run runs/s128] [--beside other.json] [--frechet ours.json other.json]
        [--faders faders.json] [--eye misdrawn.json]

`--run` draws the curve of a run and takes what its stages ended with. `--beside` and `--frechet`
hold another model's numbers for comparison. `--eye` is what a reader of the grid of the fixed
captions (`benchmarks/model.py --eye`) wrote down: {"13": "a bicycle without its frame", …}.

Writes `README.md` and the facts of `card.json` in the weights' folder, `docs/training_curve.png`,
`docs/samples.png`, and the figures between the marks of `docs/model.md`. Every number comes from
a file; nothing is typed in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_pipeline import FullPipeline
from matched import pair_table, read_matched
from p2p_lab.scenes import WORLDS, caption, sample_scene
from p2p_lab.scenes.splits import SAMPLES
from run_facts import MEANING, count_parameters, draw_curve, fill, last_line, read_log, slope

TOOL = "tools/model_card.py"
EYE = Path("benchmarks/eye_captions.txt")
GRID_COUNT, GRID_COLUMNS = 24, 6
BARS = {
    "small": {
        "object_success": 0.85,
        "attribute_success": 0.90,
        "scene_success": 0.90,
        "held_out_success": 0.75,
        "pointing": 0.95,
        "iou": 0.60,
        "autoencoder_psnr": 28.0,
        "seconds_per_image": 1.5,
        "size_mb": 25.0,
    },
    "scenes-128": {
        "object_success": 0.97,
        "attribute_success": 0.96,
        "scene_success": 0.97,
        "held_out_success": 0.92,
        "pointing": 0.98,
        "iou": 0.72,
        "autoencoder_psnr": 33.0,
        "seconds_per_image": 1.5,
        "size_mb": 25.0,
    },
    "full": {
        "object_success": 0.95,
        "attribute_success": 0.95,
        "scene_success": 0.95,
        "held_out_success": 0.90,
        "pointing": 0.98,
        "iou": 0.70,
        "autoencoder_psnr": 32.0,
        "seconds_per_image": 2.5,
        "size_mb": 25.0,
    },
}
WELL_DRAWN, FRECHET_SHARE = 43, 0.5  # of the fixed captions; of the other model's distance
CORRELATION, CHANGED = 0.9, 0.03  # of a fader: with the amount seen; pixels from 1 to 3
STAGES = {
    "denoiser": "U-Net and text encoder",
    "autoencoder": "decoder",
    "sharpening": "decoder's last level, against a discriminator,",
}
LOWER_IS_BETTER = ("seconds_per_image", "size_mb")
LIMITS = """- It knows the words above and nothing else; other words are read as noise. It cannot
  draw people, text, numbers of things, or anything from a photograph.
- All objects come from one emoji set with one artist's idea of each thing, seen from one side; a
  "house" is a detached European one, a "car" a red one, and food and animals are a North American
  and European choice. What is common here says nothing about the world."""
LICENCE = "Apache-2.0 (weights); the art of the training pictures is Fluent Emoji, MIT"


def sample_captions(world: str) -> list[str]:
    """Return the captions of the grid that anyone can repeat."""
    return [caption(sample_scene(SAMPLES.seed(i), world)).text for i in range(GRID_COUNT)]


def draw_samples(weights: Path, texts: list[str], target: Path) -> None:
    """Draw the grid of captions, the noise of number i from seed i."""
    import torch

    from p2p_lab.training.preview import to_grid

    pipeline = FullPipeline.open(str(weights))
    pictures = [pipeline.draw(text, seed=i)[1].float() for i, text in enumerate(texts)]
    target.parent.mkdir(parents=True, exist_ok=True)
    to_grid(torch.stack(pictures), GRID_COLUMNS).save(target, optimize=True)


def table(numbers: dict[str, Any], beside: dict[str, Any], size: str) -> str:
    """Return the benchmark as a table, with the bar and whether it is reached."""
    other = f" `{beside['model']}` |" if beside else ""
    rows = [f"| | measured | bar | reached | the judge on true renders |{other}"]
    rows.append("|---|---|---|---|---|" + "---|" * bool(beside))
    for key, bar in BARS[size].items():
        value = numbers[key]
        good = value <= bar if key in LOWER_IS_BETTER else value >= bar
        sign = "≤" if key in LOWER_IS_BETTER else "≥"
        ceiling = numbers.get("ceiling", {}).get(key, "")
        row = f"| {MEANING[key]} (`{key}`) | {value:.3g} | {sign} {bar:g} "
        row += f"| {'yes' if good else 'no'} | {ceiling} |"
        rows.append(row + (f" {beside[key]:.3g} |" if beside else ""))
    return "\n".join(rows)


def figures(facts: dict[str, Any], numbers: dict[str, Any]) -> str:
    """Return the paragraph and the tables that docs and card share."""
    parts = [
        made(facts),
        f"`python benchmarks/model.py --model {facts['name']}`: {numbers['pictures']} pictures of "
        f"unseen captions, {numbers['steps']} steps, guidance {numbers['guidance_scale']:g}, "
        f"{numbers['threads']} threads.",
        table(numbers, facts.get("beside", {}), facts["config"]["size"]),
    ]
    parts += [say(facts[key]) for key, say in MORE.items() if key in facts]
    return "\n\n".join(parts)


def made(facts: dict[str, Any]) -> str:
    """Say how large the model is and what it learned on."""
    ends = facts["denoiser"]
    parts = [f"`{facts['name']}`: {facts['parameters'] / 1e6:.1f} million parameters."]
    for stage, what in STAGES.items():
        if (end := facts.get(stage)) is None:
            continue
        leg = f"The {what} learned on {end['pictures']:,} pictures"
        parts.append(f"{leg} in {spent(end['seconds'])}{earlier(end)}{steepness(end)}.")
    parts.append(f"The velocity loss ended at {ends['loss']:.4f}{progress(facts)}.")
    return " ".join(parts)


def spent(seconds: float) -> str:
    """Say a time in hours, or in minutes if it is short."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 1800 else f"{seconds / 60:.0f} minutes"


def steepness(end: dict[str, Any]) -> str:
    """Say how steep the edges are that a sharpened decoder draws."""
    return f"; slopes ended at {end['slopes']:.2f} of the true ones" if "slopes" in end else ""


def progress(facts: dict[str, Any]) -> str:
    """Say how fast the loss fell at the end, and what the whole last run made of it."""
    ends, before = facts["denoiser"], facts.get("before", {"name": ""})
    parts = []
    if "slope" in ends:
        parts.append(f", {ends['slope']:+.4f} over the last tenth of the run as the rate went to 0")
    if kind(before["name"]) == kind(facts["name"]):  # their losses are of the same latents
        start = before["denoiser"]["loss"]
        parts.append(
            f"; that of `{before['name']}` was {start:.4f}, so the {ends['pictures']:,} pictures "
            f"brought {start - ends['loss']:.4f}"
        )
    return "".join(parts)


def kind(name: str) -> str:
    """Return a model's name without its version."""
    return name.rsplit("-v", 1)[0]


def earlier(end: dict[str, Any]) -> str:
    """Say what a stage had learned on before its last run."""
    return f", after {end['before']} in earlier runs" if "before" in end else ""


def say_frechet(found: dict[str, Any]) -> str:
    """Say how far the pictures are from renders, in another network's features."""
    share = found["distance"] / found["other"]
    return (
        f"Fréchet distance of {found['pictures']} pictures to true renders "
        f"(`python benchmarks/frechet.py`): **{found['distance']:.1f}**; `{found['other_name']}`, "
        f"enlarged: {found['other']:.1f}, so {share:.2f} of it (bar: {FRECHET_SHARE:g}). Renders "
        f"among themselves: {found['floor']:.1f}."
    )


def say_faders(rows: list[dict[str, Any]]) -> str:
    """Say how pictures answer when a word's weight is turned from −2 to 4."""
    lines = [
        "Faders (`python benchmarks/model.py --faders`): the rank correlation of a word's weight, "
        f"−2 to 4, with the amount that the judge sees (bar: {CORRELATION:g}), and the share of "
        f"pixels that change from weight 1 to 3 (bar: {CHANGED:.0%} in half of the words). Where "
        "the judge answers yes or no, it soon says 1.000 and cannot tell more from enough; *along* "
        "is the rank correlation of the weight with the picture's place on the line from the mean "
        "colour of true pictures without the word to that of true pictures with it.",
        "",
        "| word | correlation | along | changed | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        good = row["correlation"] >= CORRELATION, row["changed"] >= CHANGED
        missed = [name for name, ok in zip(("correlation", "change"), good, strict=True) if not ok]
        lines.append(
            f"| {row['word']} | {row['correlation']:.2f} | {row['along']:.2f} "
            f"| {row['changed']:.1%} "
            f"| {'below: ' + ', '.join(missed) if missed else ''} |"
        )
    return "\n".join(lines)


def say_misdrawn(found: dict[str, str]) -> str:
    """Say which of the fixed captions are not well drawn."""
    captions = EYE.read_text(encoding="utf-8").splitlines()
    good = len(captions) - len(found)
    lines = [
        f"Looked at one by one (`python benchmarks/model.py --eye grid.png`): **{good} of "
        f"{len(captions)}** fixed captions are well drawn: every thing whole, its parts in their "
        f"places (bar: {WELL_DRAWN}). Not so, by the seed of their noise:",
        "",
    ]
    for seed, what in sorted(found.items(), key=lambda item: int(item[0])):
        lines.append(f"- {seed}, “{captions[int(seed)]}”: {what}")
    return "\n".join(lines)


def say_matched(pair: dict[str, Any]) -> str:
    """Say what attention supervision does."""
    return pair_table(pair["with"], pair["without"])


MORE: dict[str, Callable[[Any], str]] = {
    "frechet": say_frechet,
    "faders": say_faders,
    "misdrawn": say_misdrawn,
    "matched": say_matched,
}


def card_text(facts: dict[str, Any], shared: str, captions: list[str]) -> str:
    """Return the model card."""
    named = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(captions))
    return f"""# {facts["name"]}

A small text-to-image model of a world of emoji scenes, in Stable Diffusion's folder format. It
is made for teaching: every lesson, panel and benchmark of p2p_lab runs on it, offline, in
seconds on a CPU.

```python
import p2p_lab
p2p_lab.generate(p2p_lab.load("{kind(facts["name"])}"), "a cat in a field", seed=0)
```

## What it knows
{known(facts["config"]["world"])}

## How good it is
{shared}

`docs/samples.png` shows 24 captions that it never saw, caption and noise i from seed i, nothing
chosen by hand (`tools/model_card.py` draws it again):

{named}

## How it was made
- Data: scenes drawn on the fly by `p2p_lab.scenes` (world "{facts["config"]["world"]}"), seeds
  from 0 on; a tenth of the pairs of words is held out. No photograph, no text from elsewhere.
- Command: `python -m p2p_lab.training {facts["command"]}`, seed
  {facts["config"]["seed"]}.{went_on(facts)}
- Log: SHA-256 `{facts["log"]}`.
- Configuration, checksums and all numbers: `card.json`.
- **Attention supervision**: weight {facts["config"]["supervision"]:g}. A loss asks the maps of
  objects, attributes and places to cover what they describe. Stable Diffusion is not trained so:
  maps of this model are cleaner than those that emerge by themselves.

## Limits and bias
{LIMITS}
- Colours leak between words, as in every model with a causal text encoder: "red" keeps acting
  after its own token.

## Licence
{LICENCE}.
"""


def known(name: str) -> str:
    """Say what a model of a world can be asked for."""
    world = WORLDS[name]
    return f"""- Objects: {", ".join(world.objects)}.
- Colours and materials: {", ".join(world.attributes)}; sizes small and big.
- Places: {", ".join(world.places)}; day, night and sunset; weather {", ".join(world.weathers)},
  with *slightly* and *very*.
- Styles: {", ".join(world.styles)}. Compositions: {", ".join(world.relations)}."""


def went_on(facts: dict[str, Any]) -> str:
    """Say from which model a run went on, and how that one was made."""
    before = facts.get("before")
    if before is None:
        return ""
    return f""" It went on from
  `{before["name"]}`, made by `{before["command"]}`.{went_on(before)}"""


def collect(run: Path | None, weights: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return all facts of a model from its card, its logs and its benchmark."""
    facts: dict[str, Any] = json.loads((weights / "card.json").read_text())
    facts.pop("files", None)
    begun = facts["config"].get("warm_start")
    if begun and "before" not in facts:
        card = json.loads((weights.parent / begun / "card.json").read_text())
        facts["before"] = {key: card[key] for key in ("name", "command", "log", "denoiser")}
        facts["autoencoder"] = card["autoencoder"]
    ends = (("autoencoder", "psnr"), ("denoiser", "loss"), ("sharpening", "slopes"))
    for stage, key in ends:
        path = run / stage / "log.jsonl" if run else None
        if path and path.is_file():  # a stage that this run did not train is kept as it came
            log = read_log(path)
            end = {name: log[-1][name] for name in ("pictures", "seconds", key)}
            kept = {k: v for k, v in facts.get(stage, {}).items() if k == "before"}
            facts[stage] = {**end, "slope": round(slope(log, key), 5), **kept}
    if "before" in facts and "before" not in facts["denoiser"]:
        facts["denoiser"]["before"] = f"{facts['before']['denoiser']['pictures']:,} pictures"
    if run and (run / "denoiser/log.jsonl").is_file():
        facts["log"] = hashlib.sha256((run / "denoiser/log.jsonl").read_bytes()).hexdigest()
    facts = {"command": "", **facts, "metrics": numbers, "licence": LICENCE}
    facts["parameters"] = count_parameters(weights)
    return facts


def compare(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two models' Fréchet distances to the same renders."""
    names = ("distance", "floor", "pictures")
    found = {name: ours[name] for name in names}
    if other["pictures"] != ours["pictures"]:
        raise ValueError("The two distances must be of equally many pictures; measure one again.")
    return {**found, "other": other["distance"], "other_name": other["model"]}


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser("tools/model_card.py", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of the training run")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--benchmark", type=Path, required=True, help="its last line, in a file")
    parser.add_argument("--beside", type=Path, help="the benchmark of a model to compare with")
    parser.add_argument("--frechet", type=Path, nargs=2, metavar=("OURS", "OTHER"))
    parser.add_argument("--faders", type=Path, help="what benchmarks/model.py --faders found")
    parser.add_argument("--eye", type=Path, help="what is misdrawn, by number")
    names = ("RUN", "BENCHMARK") * 2
    parser.add_argument(
        "--matched", type=Path, nargs=4, metavar=names, help="runs that differ in supervision"
    )
    parser.add_argument(
        "--sites", action="store_true", help="show the benchmark's sites by default"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    return parser.parse_args()


def gather(options: argparse.Namespace, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return all facts, those of the other benchmarks included."""
    facts = collect(options.run, options.weights, numbers)
    if options.sites:  # changes which maps every figure shows: run the notebooks again
        facts["map_sites"] = numbers["sites"]
    if options.matched:
        told, untold = (read_matched(*options.matched[i : i + 2]) for i in (0, 2))
        facts["matched"] = {"with": told, "without": untold}
    if options.beside:
        facts["beside"] = last_line(options.beside)
    if options.frechet:
        facts["frechet"] = compare(*(last_line(path) for path in options.frechet))
    if options.faders:
        facts["faders"] = last_line(options.faders)["faders"]
    if options.eye:
        facts["misdrawn"] = json.loads(options.eye.read_text(encoding="utf-8"))
    return facts


def main() -> None:
    """Write the card, the curve, the sample grid and the page's figures."""
    options = parse_options()
    numbers = last_line(options.benchmark)
    facts = gather(options, numbers)
    shared = figures(facts, numbers)
    if options.run:
        draw_curve(options.run, options.docs / "training_curve.png")
    captions = sample_captions(facts["config"]["world"])
    draw_samples(options.weights, captions, options.docs / "samples.png")
    from p2p_lab.training.export import write_card

    (options.weights / "README.md").write_text(card_text(facts, shared, captions))
    write_card(options.weights, facts)
    fill(options.docs / "model.md", TOOL, shared)
    print(shared)


if __name__ == "__main__":
    main()
