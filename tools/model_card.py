"""Write what a trained model is, from its run's logs and its benchmark: card, curve, pictures.

    python benchmarks/model.py --json --model p2p_lab/weights/scenes-64-v1 | tail -1 > bench.json
    python tools/model_card.py --run runs/small --weights p2p_lab/weights/scenes-64-v1 \
        --benchmark bench.json [--matched bench-without-supervision.json]

Writes `README.md` and the facts of `card.json` in the weights' folder, `docs/training_curve.png`,
`docs/samples.png`, and the figures between the marks of `docs/model.md`. Every number comes from
a file; nothing is typed in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from p2p_lab.scenes import WORLDS, caption, sample_scene

START, END = "<!-- figures: tools/model_card.py -->", "<!-- end of figures -->"
GRID_SEED, GRID_COUNT, GRID_COLUMNS = 1_600_000_000, 24, 6
STEPS = 20
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
MEANING = {
    "object_success": "pictures in which the judge sees every object asked for",
    "attribute_success": "pictures in which every asked colour or material is on its object",
    "scene_success": "pictures with the place, time, weather and style asked for",
    "held_out_success": "objects and attributes right, for pairs never seen in training",
    "pointing": "object words whose map is strongest on the object",
    "iou": "overlap of an object word's map with the object's mask",
    "autoencoder_psnr": "dB, unseen pictures after the autoencoder",
    "seconds_per_image": f"{STEPS} steps with guidance",
    "size_mb": "MB on disk",
}
CURVES = {
    "autoencoder": {"psnr": "PSNR (dB)"},
    "denoiser": {"loss": "velocity loss", "maps": "attention loss"},
}
TITLES = {"autoencoder": "Autoencoder", "denoiser": "U-Net and text encoder"}
LICENCE = "Apache-2.0 (weights); the art of the training pictures is Fluent Emoji, MIT"


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the lines of a log, where a resumption repeats some the later ones."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = {line["pictures"]: line for line in lines}
    return [last[pictures] for pictures in sorted(last)]


def slope(log: list[dict[str, float]], key: str) -> float:
    """Return by how much a number changed over the last tenth of the pictures, a line's fit."""
    import numpy as np

    tail = [line for line in log if line["pictures"] >= 0.9 * log[-1]["pictures"]]
    if len(tail) < 2:
        return 0.0
    x, y = [line["pictures"] for line in tail], [line[key] for line in tail]
    return float(np.polyfit(x, y, 1)[0] * (x[-1] - x[0]))


def draw_curve(run: Path, target: Path) -> None:
    """Draw the stages of a run: what was learned against the pictures seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stages = [s for s in ("autoencoder", "denoiser") if (run / s / "log.jsonl").is_file()]
    figure, axes = plt.subplots(
        1, len(stages), figsize=(4.5 * len(stages), 3.2), layout="constrained", squeeze=False
    )
    for axis, stage in zip(axes[0], stages, strict=True):
        log = read_log(run / stage / "log.jsonl")
        x = [line["pictures"] / 1e3 for line in log]
        for key, label in CURVES[stage].items():
            if key in log[-1]:
                axis.plot(x, [line[key] for line in log], label=label)
        axis.set(title=TITLES[stage], xlabel="thousand pictures", ylabel="dB, or loss")
        axis.set(yscale="linear" if stage == "autoencoder" else "log")
        axis.legend()
        axis.grid(alpha=0.3)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_samples(weights: Path, world: str, target: Path) -> list[str]:
    """Draw the grid that anyone can repeat: caption and noise i from seed i."""
    import torch

    import p2p_lab
    from p2p_lab.training.preview import to_grid

    model = p2p_lab.load(weights)
    texts = [caption(sample_scene(GRID_SEED + i, world)).text for i in range(GRID_COUNT)]
    pictures = [
        p2p_lab.generate(model, text, seed=i, steps=STEPS, record="none").pixels.float()
        for i, text in enumerate(texts)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    to_grid(torch.stack(pictures), GRID_COLUMNS).save(target, optimize=True)
    return texts


def table(numbers: dict[str, Any], size: str, matched: dict[str, Any] | None) -> str:
    """Return the benchmark as a table, with the bar and whether it is reached."""
    head = "| | measured | bar | reached | the judge on true renders |"
    rule = "|---|---|---|---|---|"
    if matched:
        head, rule = head + " without attention supervision |", rule + "---|"
    rows = [head, rule]
    for key, bar in BARS[size].items():
        value = numbers[key]
        good = value <= bar if key in LOWER_IS_BETTER else value >= bar
        sign = "≤" if key in LOWER_IS_BETTER else "≥"
        ceiling = numbers.get("ceiling", {}).get(key, "")
        row = f"| {MEANING[key]} (`{key}`) | {value:.3g} | {sign} {bar:g} "
        row += f"| {'yes' if good else 'no'} | {ceiling} |"
        rows.append(row + (f" {matched[key]:.3g} |" if matched else ""))
    return "\n".join(rows)


def figures(facts: dict[str, Any], numbers: dict[str, Any], matched: dict[str, Any] | None) -> str:
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
        table(numbers, facts["config"]["size"], matched),
    ]
    if matched is None:
        lines += ["", "A matched run without attention supervision has not been made."]
    return "\n".join(lines)


def card_text(facts: dict[str, Any], shared: str, captions: list[str]) -> str:
    """Return the model card."""
    world = WORLDS[facts["config"]["world"]]
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
- Objects: {", ".join(world.objects)}.
- Colours and materials: {", ".join(world.attributes)}; sizes small and big.
- Places: {", ".join(world.places)}; day, night and sunset; weather {", ".join(world.weathers)},
  with *slightly* and *very*.
- Styles: {", ".join(world.styles)}. Compositions: {", ".join(world.relations)}.

## How good it is
{shared}

`docs/samples.png` shows 24 captions that it never saw, caption and noise i from seed i, nothing
chosen by hand (`tools/model_card.py` draws it again):

{named}

## How it was made
- Data: scenes drawn on the fly by `p2p_lab.scenes` (world "{world.name}"), seeds from 0 on; a
  tenth of the pairs of words is held out. No photograph, no text from elsewhere.
- Command: `python -m p2p_lab.training {facts["command"]}`, seed
  {facts["config"]["seed"]}.{went_on(facts)}
- Log: SHA-256 `{facts["log"]}`; curve in `docs/training_curve.png`.
- Configuration, checksums and all numbers: `card.json`.
- **Attention supervision**: weight {facts["config"]["supervision"]:g}. A loss asks the maps of
  objects, attributes and places to cover what they describe. Stable Diffusion is not trained so:
  maps of this model are cleaner than those that emerge by themselves.

## Limits and bias
- It knows the words above and nothing else; other words are read as noise. It cannot draw people,
  text, numbers of things, or anything from a photograph.
- All objects come from one emoji set with one artist's idea of each thing, seen from one side; a
  "house" is a detached European one, a "car" a red one, and food and animals are a North American
  and European choice. What is common here says nothing about the world.
- Colours leak between words, as in every model with a causal text encoder: "red" keeps acting
  after its own token.

## Licence
{LICENCE}.
"""


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


def count_parameters(weights: Path) -> int:
    """Return the number of parameters in all safetensors files of a folder."""
    from safetensors import safe_open

    total = 0
    for path in weights.rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def fill(page: Path, text: str) -> None:
    """Put the figures between the marks of a page."""
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Write the card, the curve, the sample grid and the page's figures."""
    parser = argparse.ArgumentParser("tools/model_card.py", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--benchmark", type=Path, required=True, help="its last line, in a file")
    parser.add_argument("--matched", type=Path, help="the same of the run without supervision")
    parser.add_argument(
        "--sites", action="store_true", help="show the benchmark's sites by default"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    numbers = json.loads(options.benchmark.read_text().splitlines()[-1])
    matched = json.loads(options.matched.read_text().splitlines()[-1]) if options.matched else None
    facts = collect(options.run, options.weights, numbers)
    if options.sites:  # changes which maps every figure shows: run the notebooks again
        facts["map_sites"] = numbers["sites"]
    if matched:
        facts["metrics_without_supervision"] = matched
    shared = figures(facts, numbers, matched)
    draw_curve(options.run, options.docs / "training_curve.png")
    captions = draw_samples(options.weights, facts["config"]["world"], options.docs / "samples.png")
    from p2p_lab.training.export import write_card

    (options.weights / "README.md").write_text(card_text(facts, shared, captions))
    write_card(options.weights, facts)
    fill(options.docs / "model.md", shared)
    print(shared)


if __name__ == "__main__":
    main()
