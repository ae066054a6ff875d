"""Write what a trained cascade is, from its run's logs and its benchmark: card, curve, pictures.

    python benchmarks/model.py --json --model p2p_lab/weights/cascade-64-v1 | tail -1 > bench.json
    python tools/cascade_card.py --run runs/cascade --weights p2p_lab/weights/cascade-64-v1 \
        --benchmark bench.json

Writes `README.md` and the facts of both stages' `card.json` in the weights' folder,
`docs/cascade_curve.png`, `docs/cascade_samples.png`, and the figures between this tool's marks of
`docs/model.md`. Every number comes from a file; nothing is typed in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import p2p_lab
from model_card import LICENCE, LIMITS, draw_samples, kind, known, sample_captions
from run_facts import MEANING, count_parameters, draw_curve, fill, last_line, read_log, slope

TOOL = "tools/cascade_card.py"
SUPER = "super"


def collect(run: Path | None, weights: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return all facts of a cascade from its card, its logs and its benchmark."""
    facts: dict[str, Any] = json.loads((weights / "card.json").read_text())
    facts.pop("files", None)
    if run:
        facts |= read_stages(run)
    parameters = count_parameters(weights / "unet"), count_parameters(weights / SUPER / "unet")
    facts |= {"base_parameters": parameters[0], "super_parameters": parameters[1]}
    facts["text_parameters"] = count_parameters(weights / "text_encoder")
    facts |= {"name": weights.name, "metrics": numbers}
    return facts | {"licence": LICENCE, "map_sites": numbers["sites"]}


def read_stages(run: Path) -> dict[str, Any]:
    """Return what the two stages of a run ended with, and their logs' digest."""
    facts: dict[str, Any] = {}
    digest = hashlib.sha256()
    for stage in ("base", SUPER):
        path = run / stage / "log.jsonl"
        digest.update(path.read_bytes())
        log = read_log(path)
        end = {name: log[-1][name] for name in ("pictures", "seconds", "loss", "maps")}
        facts[f"{stage}_stage"] = {**end, "slope": round(slope(log, "loss"), 5)}
    return facts | {"log": digest.hexdigest()}


def figures(facts: dict[str, Any], beside: dict[str, Any]) -> str:
    """Return the paragraph and the table that docs and card share."""
    numbers, base, later = facts["metrics"], facts["base_stage"], facts["super_stage"]
    return "\n".join(
        [
            f"`{facts['name']}`: {facts['base_parameters'] / 1e6:.1f} million parameters in the "
            f"base stage, {facts['super_parameters'] / 1e6:.1f} in the later one, "
            f"{facts['text_parameters'] / 1e6:.1f} in the text encoder; trained for "
            f"{(base['seconds'] + later['seconds']) / 3600:.1f} hours: {base['pictures']:,} "
            f"pictures and {later['pictures']:,}. The velocity losses ended at {base['loss']:.4f} "
            f"and {later['loss']:.4f} and changed by {base['slope']:+.4f} and "
            f"{later['slope']:+.4f} over the last tenth of each stage.",
            "",
            f"`python benchmarks/model.py --model {facts['name']}`: {numbers['pictures']} pictures "
            "of unseen captions, drawn by the base stage and finished by the later one; the maps "
            f"are the base stage's. {numbers['steps']} and "
            f"{facts['later_defaults']['steps']} steps, {numbers['threads']} threads. Beside it "
            "the latent model on the same captions.",
            "",
            table(numbers, beside),
        ]
    )


def table(numbers: dict[str, Any], beside: dict[str, Any]) -> str:
    """Return the benchmark as a table, beside another model's."""
    rows = [
        f"| | `{numbers['model']}` | `{beside['model']}` | the judge on true renders |",
        "|---|---|---|---|",
    ]
    for key, meaning in MEANING.items():
        if key in numbers:
            ceiling = numbers["ceiling"].get(key, "")
            row = f"| {meaning} (`{key}`) | {numbers[key]:.3g} | {beside[key]:.3g} | {ceiling} |"
            rows.append(row)
    return "\n".join(rows)


def card_text(facts: dict[str, Any], shared: str) -> str:
    """Return the model card."""
    config = facts["config"]
    name = kind(facts["name"])
    return f"""# {facts["name"]}

A cascade in pixel space, the paper's own kind of model, of the same world of emoji scenes as
`scenes-128`: a base stage draws {config["base_size"]}² pixels with hybrid attention (text tokens
and image positions in one softmax), a later stage in `{SUPER}/` enlarges them to
{config["picture_size"]}². Both are plain diffusers folders (`IFPipeline`,
`IFSuperResolutionPipeline`).

```python
import p2p_lab
base, larger = p2p_lab.load("{name}"), p2p_lab.load("{name}/{SUPER}")
small = p2p_lab.generate(base, "a cat in a field", seed=0)
p2p_lab.generate(larger.on(small, seed=0), "a cat in a field", seed=0)
```

## What it knows
{known(config["world"])}

## How good it is
{shared}

`docs/cascade_samples.png` shows the captions of the latent model's grid, in the same order and with
the same seeds, nothing chosen by hand.

## How it was made
- Data: scenes drawn on the fly by `p2p_lab.scenes` (world "{config["world"]}"), seeds from 0 on; a
  tenth of the pairs of words is held out. No photograph, no text from elsewhere.
- Command: `python -m p2p_lab.training {facts["command"]}`, seed {config["seed"]}.
- Logs: SHA-256 `{facts["log"]}`, base then later stage; curves in `docs/cascade_curve.png`.
- Configuration, checksums and all numbers: `card.json`, one for each stage.
- **Attention supervision**: weight {config["supervision"]:g}, in both stages. A loss asks the maps
  of objects, attributes and places to cover what they describe; large cascades are not trained so.
- Both stages predict the velocity, where Imagen's predict the noise; the channels kept for a
  learned variance stay zero.

## Limits and bias
{LIMITS}
- What {config["base_size"]}² pixels cannot hold (whiskers, spokes) the later stage invents.

## Licence
{LICENCE}.
"""


def main() -> None:
    """Write the card, the curve, the sample grid and the page's figures."""
    parser = argparse.ArgumentParser("tools/cascade_card.py", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of the training run, for its curve")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the cascade")
    parser.add_argument("--benchmark", type=Path, required=True, help="its last line, in a file")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    numbers = last_line(options.benchmark)
    facts = collect(options.run, options.weights, numbers)
    later: dict[str, Any] = json.loads((options.weights / SUPER / "card.json").read_text())
    facts["later_defaults"] = later["defaults"]
    shared = figures(facts, p2p_lab.load("scenes-128").card.raw["metrics"])
    if options.run:
        draw_curve(options.run, options.docs / "cascade_curve.png")
    captions = sample_captions(facts["config"]["world"])
    draw_samples(options.weights, captions, options.docs / "cascade_samples.png")
    from p2p_lab.training.export import write_card

    later |= {key: facts[key] for key in ("name", "log", "super_stage", "licence")}
    write_card(options.weights / SUPER, {k: v for k, v in later.items() if k != "files"})
    (options.weights / "README.md").write_text(card_text(facts, shared), encoding="utf-8")
    write_card(options.weights, facts)
    fill(options.docs / "model.md", TOOL, shared)
    print(shared)


if __name__ == "__main__":
    main()
