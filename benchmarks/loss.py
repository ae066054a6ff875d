"""How well a model denoises scenes that no run saw: its training loss, with the same noise for all.

    python benchmarks/loss.py [--model NAME_OR_PATH ...] [--pictures 384] [--json]

The judge soon counts nearly every picture as right, and the loss in a run's log is that of the
scenes it learns on, of noise drawn anew. Here scenes, captions, times and noise are fixed, so two
models of one size can be compared to the last digit. `loss` is the velocity loss as in the log
(things count four times, noise levels by min-SNR-5), `maps` the attention loss, `coarse` and
`detail` the mean squared errors of a nested latent's first eight channels and of the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from accelerate import Accelerator

import p2p_lab
from p2p_lab.scenes.splits import MODEL
from p2p_lab.training.build import Parts
from p2p_lab.training.config import SIZES, TrainConfig
from p2p_lab.training.data import draw_batch
from p2p_lab.training.latent import denoising_loss, prepare
from p2p_lab.training.reading import TextReader
from p2p_lab.training.setting import Setting

BATCH = 32


def open_parts(name: str | None) -> tuple[TrainConfig, Parts]:
    """Open a model as a run would that goes on from it.

    Args:
        name: A bundled model's name or a folder; None: the best installed.

    Raises:
        ValueError: If `p2p_lab.training` did not make it, or made another kind of model.
    """
    model = p2p_lab.load(name)
    size = model.card.raw.get("config", {}).get("size")
    config = SIZES.get(size)
    if not isinstance(config, TrainConfig):
        kinds = [key for key, one in SIZES.items() if isinstance(one, TrainConfig)]
        raise ValueError(
            f"{model.name} was trained as {size!r}. Its loss is not measured here: take a latent "
            f"model that was trained as one of {', '.join(kinds)}."
        )
    config = dataclasses.replace(config, warm_start=name or model.name)
    return config, prepare(config)


@torch.no_grad()
def measure(config: TrainConfig, parts: Parts, pictures: int) -> dict[str, float]:
    """Return the mean loss of a model, and its parts, over fixed scenes and noise."""
    setting = Setting(Accelerator(cpu=True), Path())
    loss = denoising_loss(config, parts, setting)
    read = TextReader(config, parts, setting.device)
    total: Counter[str] = Counter()
    for done in range(0, pictures, BATCH):
        count = min(BATCH, pictures - done)
        batch = draw_batch(config, parts.tokenizer, MODEL.seed(done), count)
        latents = parts.vae.encode(batch.images).latent_dist.mean
        generator = torch.Generator().manual_seed(done)
        _, numbers = loss(latents, read(batch.ids, generator), batch, generator)
        for key, value in numbers.items():
            total[key] += value * count / pictures
    return dict(total)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure models and print their losses."""
    parser = argparse.ArgumentParser("benchmarks/loss.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=[None], help="names or folders of models")
    parser.add_argument("--pictures", type=int, default=384, help="scenes to denoise")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    if options.pictures < 1:
        parser.error(f"--pictures must be at least 1, got {options.pictures}.")
    opened = [open_parts(name) for name in options.model]
    found = {}
    for config, parts in opened:
        found[config.warm_start] = numbers = measure(config, parts, options.pictures)
        shown = ", ".join(f"{key} {value:.4f}" for key, value in numbers.items())
        print(f"{config.warm_start}: {shown}, over {options.pictures} scenes", flush=True)
    if options.json:
        print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
