"""Write what a trained model is, from its run's logs and its benchmark: card, curve, pictures.

    python benchmarks/model.py --json --model p2p_lab/weights/scenes-64-v1 | tail -1 > bench.json
    python tools/model_card.py --run runs/small --weights p2p_lab/weights/scenes-64-v1 \
        --benchmark bench.json [--matched runs/sup with.json runs/nosup without.json]

`--matched` names two runs that differ in their attention supervision alone, and their benchmarks.

Writes `README.md` and the facts of `card.json` in the weights' folder, `docs/training_curve.png`,
`docs/samples.png`, and the figures between the marks of `docs/model.md`. Every number comes from
a file; nothing is typed in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_pipeline import FullPipeline
from matched import pair_table, read_matched
from p2p_lab.scenes import WORLDS, caption, sample_scene
from p2p_lab.scenes.splits import SAMPLES
from run_facts import MEANING, count_parameters, draw_curve, fill, read_log, slope

TOOL = "tools/model_card.py"
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
LOWER_IS_BETTER = ("seconds_per_image", "size_mb")
LIMITS = """- It knows the words above and nothing else; other words are read as noise. It cannot
  draw people, text, numbers of things, or anything from a photograph.
- All objects come from one emoji set with one artist's idea of each thing, seen from one side; a
  "house" is a detached European one, a "car" a red one, and food and animals are a North American
  and European choice. What is common here says nothing about the world."""
LICENCE = "Apache-2.0 (weights); the art of the training pictures is Fluent Emoji, MIT"


def draw_samples(weights: Path, world: str, target: Path) -> list[str]:
    """Draw the grid that anyone can repeat: caption and noise i from seed i."""
    import torch

    from p2p_lab.training.preview import to_grid

    pipeline = FullPipeline.open(str(weights))
    texts = [caption(sample_scene(SAMPLES.seed(i), world)).text for i in range(GRID_COUNT)]
    pictures = [pipeline.draw(text, seed=i)[1].float() for i, text in enumerate(texts)]
    target.parent.mkdir(parents=True, exist_ok=True)
    to_grid(torch.stack(pictures), GRID_COLUMNS).save(target, optimize=True)
    return texts


def table(numbers: dict[str, Any], size: str) -> str:
    """Return the benchmark as a table, with the bar and whether it is reached."""
    rows = ["| | measured | bar | reached | the judge on true renders |", "|---|---|---|---|---|"]
    for key, bar in BARS[size].items():
        value = numbers[key]
        good = value <= bar if key in LOWER_IS_BETTER else value >= bar
        sign = "≤" if key in LOWER_IS_BETTER else "≥"
        ceiling = numbers.get("ceiling", {}).get(key, "")
        row = f"| {MEANING[key]} (`{key}`) | {value:.3g} | {sign} {bar:g} "
        rows.append(row + f"| {'yes' if good else 'no'} | {ceiling} |")
    return "\n".join(rows)


def figures(facts: dict[str, Any], numbers: dict[str, Any]) -> str:
    """Return the paragraph and the table that docs and card share."""
    before, ends = facts.get("before"), facts["denoiser"]
    seconds = facts["autoencoder"]["seconds"] + ends["seconds"]
    seconds += before["denoiser"]["seconds"] if before else 0
    earlier = f"{before['denoiser']['pictures']:,} as `{before['name']}` and " if before else ""
    lines = [
        f"`{facts['name']}`: {facts['parameters'] / 1e6:.1f} million parameters, trained for "
        f"{seconds / 3600:.1f} hours: {facts['autoencoder']['pictures']:,} pictures through the "
        f"autoencoder ({facts['autoencoder']['psnr']:.1f} dB in training), "
        f"{earlier}{ends['pictures']:,} through the U-Net and text encoder. The velocity loss "
        f"ended at {ends['loss']:.4f} and changed by {ends['slope']:+.4f} over the last tenth "
        "of the run.",
        "",
        f"`python benchmarks/model.py --model {facts['name']}`: {numbers['pictures']} pictures of "
        f"unseen captions, {numbers['steps']} steps, guidance {numbers['guidance_scale']:g}, "
        f"{numbers['threads']} threads.",
        "",
        table(numbers, facts["config"]["size"]),
    ]
    if "matched" in facts:
        lines += ["", pair_table(facts["matched"]["with"], facts["matched"]["without"])]
    return "\n".join(lines)


def card_text(facts: dict[str, Any], shared: str, captions: list[str]) -> str:
    """Return the model card."""
    named = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(captions))
    return f"""# {facts["name"]}

A small text-to-image model of a world of emoji scenes, in Stable Diffusion's folder format. It
is made for teaching: every lesson, panel and benchmark of p2p_lab runs on it, offline, in
seconds on a CPU.

```python
import p2p_lab
p2p_lab.generate(p2p_lab.load("{facts["name"].rsplit("-v", 1)[0]}"), "a cat in a field", seed=0)
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
- Log: SHA-256 `{facts["log"]}`; curve in `docs/training_curve.png`.
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
  `{before["name"]}`, made by `{before["command"]}` from nothing.
  That model's autoencoder and tokenizer were kept; U-Net and text encoder learned on."""


def collect(run: Path, weights: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return all facts of a model from its card, its logs and its benchmark."""
    facts: dict[str, Any] = json.loads((weights / "card.json").read_text())
    facts.pop("files", None)
    begun = facts["config"].get("warm_start")
    if begun and "before" not in facts:
        card = json.loads((weights.parent / begun / "card.json").read_text())
        facts["before"] = {key: card[key] for key in ("name", "command", "log", "denoiser")}
        facts["autoencoder"] = card["autoencoder"]
    for stage, key in (("autoencoder", "psnr"), ("denoiser", "loss")):
        if begun and stage == "autoencoder":
            continue  # it was kept as it came
        log = read_log(run / stage / "log.jsonl")
        end = {name: log[-1][name] for name in ("pictures", "seconds", key)}
        facts[stage] = {**end, "slope": round(slope(log, key), 5)}
    digest = hashlib.sha256((run / "denoiser/log.jsonl").read_bytes()).hexdigest()
    facts = {"command": "", **facts, "log": digest, "metrics": numbers, "licence": LICENCE}
    facts["parameters"] = count_parameters(weights)
    return facts


def main() -> None:
    """Write the card, the curve, the sample grid and the page's figures."""
    parser = argparse.ArgumentParser("tools/model_card.py", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--benchmark", type=Path, required=True, help="its last line, in a file")
    names = ("RUN", "BENCHMARK") * 2
    parser.add_argument("--matched", type=Path, nargs=4, metavar=names, help="see above")
    parser.add_argument(
        "--sites", action="store_true", help="show the benchmark's sites by default"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    numbers = json.loads(options.benchmark.read_text().splitlines()[-1])
    facts = collect(options.run, options.weights, numbers)
    if options.sites:  # changes which maps every figure shows: run the notebooks again
        facts["map_sites"] = numbers["sites"]
    if options.matched:
        told, untold = (read_matched(*options.matched[i : i + 2]) for i in (0, 2))
        facts["matched"] = {"with": told, "without": untold}
    shared = figures(facts, numbers)
    draw_curve(options.run, options.docs / "training_curve.png")
    captions = draw_samples(options.weights, facts["config"]["world"], options.docs / "samples.png")
    from p2p_lab.training.export import write_card

    (options.weights / "README.md").write_text(card_text(facts, shared, captions))
    write_card(options.weights, facts)
    fill(options.docs / "model.md", TOOL, shared)
    print(shared)


if __name__ == "__main__":
    main()
