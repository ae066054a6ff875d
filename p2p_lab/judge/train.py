"""Train the judge on scenes that the generator never sees, spoiled as a generator might.

The loop is that of the generators (`training.stage`): the learning rate follows the clock or a
number of pictures, the averaged weights are kept, and a stopped run goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.judge.distort import distort
from p2p_lab.judge.labels import Labels, Truth, true_answers
from p2p_lab.judge.network import MASK_SIZE, Answers, JudgeNet
from p2p_lab.scenes import WORLDS, render, sample_scene
from p2p_lab.scenes.splits import JUDGE_TRAINING, Split
from p2p_lab.training.checkpoint import begin_run
from p2p_lab.training.ranges import check_ranges
from p2p_lab.training.stage import Stage, run_stage

STAGE = "network"  # the folder of checkpoints and log
SCENES_A_RUN = 8_000_000  # each training seed has scenes of its own
UNSEEN_EVERY = 8  # one picture in eight holds a pair of words that the generator never saw


@dataclass(frozen=True)
class JudgeConfig:
    """What a training run of the judge is.

    Attributes:
        world: Vocabulary of `p2p_lab.scenes` to answer with.
        picture_size: Side in pixels of the pictures that it reads.
        minutes: Wall time; pictures: if set it replaces the clock.
        batch: Pictures a step.
        learning_rate: The highest one; muon_factor: Muon's in units of it.
        constant_until: Part of the run after which the rate falls.
        ema: Decay of the averaged weights, a step.
        seed: Of parameters, scenes and distortions.
    """

    world: str = "small"
    minutes: float = 12.0
    pictures: int = 0
    batch: int = 32
    learning_rate: float = 2e-3
    muon_factor: float = 1.5
    constant_until: float = 0.0
    ema: float = 0.998
    seed: int = 0
    picture_size: int = 64

    def __post_init__(self) -> None:
        check_ranges(self)
        JUDGE_TRAINING.seed(self.seed * SCENES_A_RUN + max(0, self.pictures - 1))

    def digest(self) -> str:
        """Return a short hash of all that must agree between a run and its resumption."""
        fields = asdict(self)
        for free in ("minutes", "pictures"):
            fields.pop(free)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def draw(
    config: JudgeConfig,
    labels: Labels,
    first: int,
    split: Split = JUDGE_TRAINING,
    *,
    spoiled: bool = True,
) -> tuple[Tensor, Truth]:
    """Return the pictures (B, 3, S, S) and true answers of the batch at `first` of a split."""
    start = split.seed(first)
    scenes = [
        sample_scene(start + i, config.world, unseen=(first + i) % UNSEEN_EVERY == 0)
        for i in range(config.batch)
    ]
    pictures = render(scenes, config.picture_size)
    truth = true_answers(scenes, pictures, labels, MASK_SIZE)
    if not spoiled:
        return pictures.images, truth
    generator = torch.Generator().manual_seed(start)
    images, masks = distort(pictures.images, truth.masks, generator)
    return images, Truth(**{**vars(truth), "masks": masks})


def loss_of(answers: Answers, truth: Truth) -> dict[str, Tensor]:
    """Return the loss of each question."""
    asked = truth.present >= 0
    present = F.binary_cross_entropy_with_logits(
        answers.present, truth.present.clamp_min(0).float(), weight=asked.float(), reduction="sum"
    ) / len(asked)
    weather = truth.degree >= 0
    degree = (answers.degree.sigmoid() - truth.degree).abs()[weather].sum() / max(len(weather), 1)
    return {
        "present": present,
        "masks": mask_loss(answers.masks, truth.masks),
        "attribute": F.cross_entropy(
            answers.attribute.flatten(0, 1), truth.attribute.flatten(), ignore_index=-1
        ),
        "place": F.cross_entropy(answers.place, truth.place),
        "time": F.cross_entropy(answers.time, truth.time),
        "weather": F.cross_entropy(answers.weather, truth.weather),
        "style": F.cross_entropy(answers.style, truth.style),
        "degree": 2 * degree,
    }


def mask_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Return the cross-entropy of masks (B, O, M, M); each thing counts alike, however small.

    Args:
        scores: (B, 1 + O, M, M), "no object" first.
        masks: The true shares of the objects.
    """
    truth = torch.cat([(1 - masks.sum(1, keepdim=True)).clamp(0, 1), masks], 1)
    missed = -(scores.log_softmax(1) * truth).sum((2, 3))  # (B, 1 + O)
    area = truth.sum((2, 3))
    there = area > 1
    return (missed / area.clamp_min(1))[there].sum() / len(scores)


def train(config: JudgeConfig, out: Path, *, checkpoint_seconds: float = 60.0) -> JudgeNet:
    """Train a judge, going on from the checkpoint in `out` if there is one.

    Returns:
        The network with averaged weights, ready to read.

    Raises:
        ResumeError: If `out` holds a run with another configuration.
    """
    begin_run(out, config.digest(), asdict(config))
    labels = Labels.of_world(WORLDS[config.world])
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(config.seed)
        net = JudgeNet(labels, config.picture_size)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stage = stage_of(config, net, labels)
    run_stage(stage, config, Accelerator(cpu=True), out, checkpoint_seconds=checkpoint_seconds)
    return net.eval()


def stage_of(config: JudgeConfig, net: JudgeNet, labels: Labels) -> Stage:
    """Return what a judge's training does at each step, for `run_stage`."""
    outer = {id(p) for p in net.outer()}

    def loss(batch: tuple[Tensor, Truth], step: int) -> tuple[Tensor, dict[str, float]]:
        images, truth = batch
        net.train()
        images = images.contiguous(memory_format=torch.channels_last)
        hints = truth.masks if step % 2 else None  # half the time its own masks
        losses = loss_of(net(images, hints), truth)
        return torch.stack(list(losses.values())).sum(), {k: v.item() for k, v in losses.items()}

    def batches(step: int) -> Iterator[tuple[Tensor, Truth]]:
        first = config.seed * SCENES_A_RUN
        return (draw(config, labels, first + k * config.batch) for k in itertools.count(step))

    return Stage(
        STAGE,
        net,
        loss,
        batches,
        60 * config.minutes,
        config.pictures,
        preview=lambda path: None,
        inner=lambda _, p: p.ndim >= 2 and id(p) not in outer,
    )
