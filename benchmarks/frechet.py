"""How far generated pictures are from renders, in the features of a small network of their own.

    python benchmarks/frechet.py [--model NAME_OR_PATH] [--pictures 300] [--json]
    python benchmarks/frechet.py --train --minutes 8          make the network again

The Fréchet distance (Heusel et al. 2017, 1706.08500) of two sets of features with means μ and
covariances C is |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½). The network is not the judge: it learned
on other scenes to name objects, place, time, weather and style, and to tell clean renders from
blurred, bent, noisy ones; its features are the 64 means of its last layer. A judge says whether
what was asked for is there; this says whether pictures look as renders do, also in what no caption
names. The captions are those of test scenes, so that both sets show the same things. `floor` is the
distance of other renders from those that are compared with: no model comes below it, and it falls
with the number of pictures. Pictures of another size are enlarged to 128 pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.full_pipeline import FullPipeline
from p2p_lab.files import sha256_of, whole_folder
from p2p_lab.judge import Labels
from p2p_lab.judge.distort import distort
from p2p_lab.judge.labels import Truth, true_answers
from p2p_lab.scenes import WORLDS, caption, render, sample_scene
from p2p_lab.scenes.splits import FEATURES, MODEL
from p2p_lab.training.stage import Stage, run_stage

SIZE, WIDTH, MASK = 128, 64, 32
NETWORK = Path(__file__).with_name("features-v1")
QUESTIONS = ("place", "time", "weather", "style")


class Features(nn.Module):
    """Five convolutions of stride two and a mean: pictures (B, 3, 128, 128) to (B, 64)."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96, WIDTH)
        self.layers = nn.Sequential(
            *(_layer(a, b) for a, b in itertools.pairwise(widths)),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )
        counts = [len(getattr(labels, f"{question}s")) for question in QUESTIONS]
        self.sizes = [len(labels.objects), *counts]
        self.heads = nn.Linear(WIDTH, sum(self.sizes) + 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features (B, 64) of pictures in [0, 1]."""
        return self.layers(pictures * 4 - 2).mean((2, 3))

    def loss(self, pictures: Tensor, truth: Truth, spoiled: Tensor) -> Tensor:
        """Return the loss of naming what is in the pictures, and which were spoiled (B,)."""
        present, *scene, worse = self.heads(self(pictures)).split([*self.sizes, 1], 1)
        asked = (truth.present >= 0).float()
        there = truth.present.clamp_min(0).float()
        lost = F.binary_cross_entropy_with_logits(present, there, asked, reduction="sum")
        total = lost / len(pictures)
        total = total + F.binary_cross_entropy_with_logits(worse[:, 0], spoiled)
        for question, said in zip(QUESTIONS, scene, strict=True):
            total = total + F.cross_entropy(said, getattr(truth, question))
        return total


def _layer(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)
    )


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """A training run of the network; the loop's own settings are those of the judge."""

    minutes: float = 8.0
    pictures: int = 0
    world: str = "small"
    batch: int = 32
    learning_rate: float = 2e-3
    muon_factor: float = 1.5
    constant_until: float = 0.2
    ema: float = 0.998

    def digest(self) -> str:
        """Return a short hash of all that must agree between a run and its resumption."""
        fields = {**dataclasses.asdict(self), "minutes": 0, "pictures": 0}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def train(config: FeatureConfig, out: Path) -> tuple[Features, Labels]:
    """Train the network, going on from the checkpoint in `out` if there is one."""
    labels = Labels.of_world(WORLDS[config.world])
    torch.manual_seed(0)
    net = Features(labels)

    def batches(step: int) -> Iterator[tuple[Tensor, Truth, Tensor]]:
        for k in itertools.count(step):
            first = FEATURES.seed(k * config.batch)
            scenes = [sample_scene(first + i, config.world) for i in range(config.batch)]
            drawn = render(scenes, SIZE)
            truth = true_answers(scenes, drawn, labels, MASK)
            half, generator = config.batch // 2, torch.Generator().manual_seed(first)
            worse, _ = distort(drawn.images[:half], truth.masks[:half], generator)
            spoiled = (torch.arange(config.batch) < half).float()
            yield torch.cat([worse, drawn.images[half:]]), truth, spoiled

    def loss(batch: tuple[Tensor, Truth, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        total = net.loss(*batch)
        return total, {"loss": total.item()}

    seconds = 60 * config.minutes
    stage = Stage("features", net, loss, batches, seconds, config.pictures, lambda path: None)
    run_stage(stage, config, Accelerator(cpu=True), out)
    return net.eval(), labels


def save(net: Features, labels: Labels, config: FeatureConfig, folder: Path) -> None:
    """Write the network in half precision with its card; the folder appears whole or not at all."""
    with whole_folder(folder) as draft:
        weights = draft / "features.safetensors"
        save_file({name: t.half().contiguous() for name, t in net.state_dict().items()}, weights)
        weights.chmod(0o644)  # safetensors keeps what it writes to its owner
        about = {"config": dataclasses.asdict(config), "labels": labels.to_dict()}
        card = {"name": folder.name, **about, "files": {weights.name: sha256_of(weights)}}
        (draft / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def open_network(folder: Path = NETWORK) -> Features:
    """Open the network.

    Raises:
        ValueError: If it is not there, or its weights are not those of its card.
    """
    if not (folder / "card.json").is_file():
        raise ValueError(f"There is no network in {folder}: make it again with --train.")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    weights = folder / "features.safetensors"
    if sha256_of(weights) != card["files"][weights.name]:
        raise ValueError(f"{weights} is not the file that its card describes: check it out again.")
    net = Features(Labels.from_dict(card["labels"]))
    net.load_state_dict({name: t.float() for name, t in load_file(weights).items()})
    return net.eval().requires_grad_(False)


@torch.no_grad()
def features_of(net: Features, pictures: Sequence[Tensor]) -> Tensor:
    """Return the features (N, 64), float64, of pictures (3, H, W) in [0, 1]."""
    found = [net(_enlarged(torch.stack(list(part)))) for part in _parts(pictures, 32)]
    return torch.cat(found).double()


def _parts(pictures: Sequence[Tensor], count: int) -> Iterator[Sequence[Tensor]]:
    return (pictures[i : i + count] for i in range(0, len(pictures), count))


def _enlarged(pictures: Tensor) -> Tensor:
    if pictures.shape[-1] == SIZE:
        return pictures
    return F.interpolate(pictures, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)


def distance(one: Tensor, other: Tensor) -> float:
    """Return the Fréchet distance of two sets of features, (N, D) and (M, D)."""
    c1, c2 = one.T.cov(), other.T.cov()
    # The eigenvalues of C₁ C₂ are those of a product of two covariances: real, not negative.
    mixed = torch.linalg.eigvals(c1 @ c2).real.clamp_min(0).sqrt().sum()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    return float(apart + c1.trace() + c2.trace() - 2 * mixed)


def measure(net: Features, name: str | None, count: int) -> dict[str, Any]:
    """Return the distance of a model's pictures from the renders of the same captions."""
    pipeline = FullPipeline.open(name)
    world = pipeline.model.card.raw.get("config", {}).get("world", "small")
    scenes = [sample_scene(MODEL.seed(i), world) for i in range(2 * count)]
    renders = [picture for part in _parts(scenes, 32) for picture in render(part, SIZE).images]
    drawn = []
    for seed, scene in enumerate(scenes[:count]):
        drawn.append(pipeline.draw(caption(scene).text, seed)[1])
        print(f"\r{seed + 1}/{count} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    true, others = features_of(net, renders[:count]), features_of(net, renders[count:])
    return {
        "model": pipeline.model.name,
        "pictures": count,
        "distance": round(distance(features_of(net, drawn), true), 3),
        "floor": round(distance(others, true), 3),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure a model, or train the network."""
    parser = argparse.ArgumentParser("benchmarks/frechet.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--train", action="store_true", help="train the network and save it")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("runs/features"), help="checkpoints")
    parser.add_argument("--save", type=Path, default=NETWORK, help="folder of the network")
    options = parser.parse_args(arguments)
    if options.train:
        if options.save.exists():
            parser.error(f"{options.save} exists; choose another --save folder.")
        config = FeatureConfig(minutes=options.minutes)
        save(*train(config, options.out), config, options.save)
        print(f"Saved {options.save}")
        return {}
    found = measure(open_network(), options.model, options.pictures)
    for key, value in found.items():
        print(f"{key:20} {value}")
    if options.json:
        print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
