"""Train the judge on scenes that the generator never sees, spoiled as a generator might.

The learning rate follows the clock (or a number of pictures); the averaged weights are kept.
A checkpoint is one safetensors file, replaced in one move, so that a kill spoils nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.codec import DamagedError, decode_known
from p2p_lab.files import append_line, whole_file
from p2p_lab.judge.distort import distort
from p2p_lab.judge.labels import Labels, Truth, true_answers
from p2p_lab.judge.network import MASK_SIZE, PICTURE_SIZE, Answers, JudgeNet
from p2p_lab.judge.optim import Optimiser
from p2p_lab.scenes import WORLDS, render, sample_scene
from p2p_lab.scenes.splits import JUDGE_TRAINING, Split

SCENES_A_RUN = 8_000_000  # each training seed has scenes of its own
UNSEEN_EVERY = 8  # one picture in eight holds a pair of words that the generator never saw


class ResumeError(ValueError):
    """A training run of the judge cannot go on from what is on disk."""


@dataclass(frozen=True)
class _Facts:
    """What a checkpoint has beside its tensors, as text."""

    step: str
    seconds: str
    config: str

    def __post_init__(self) -> None:
        """Refuse numbers that are none."""
        int(self.step), float(self.seconds)


@dataclass(frozen=True)
class JudgeConfig:
    """What a training run of the judge is.

    Attributes:
        world: vocabulary of `p2p_lab.scenes` to answer with.
        minutes: wall time; pictures: if set it replaces the clock.
        batch: pictures a step.
        learning_rate: the highest one.
        seed: of parameters, scenes and distortions.
    """

    world: str = "small"
    minutes: float = 12.0
    pictures: int = 0
    batch: int = 32
    learning_rate: float = 2e-3
    average: float = 0.998
    seed: int = 0

    def identity(self) -> str:
        """Return what must agree between a run and its resumption, as text."""
        fields = asdict(self)
        for free in ("minutes", "pictures"):
            fields.pop(free)
        return json.dumps(fields, sort_keys=True)


def draw(
    config: JudgeConfig,
    labels: Labels,
    first: int,
    split: Split = JUDGE_TRAINING,
    *,
    spoiled: bool = True,
) -> tuple[Tensor, Truth]:
    """Return the pictures (B, 3, 64, 64) and true answers of the batch at `first` of a split."""
    start = split.seed(first)
    scenes = [
        sample_scene(start + i, config.world, unseen=(first + i) % UNSEEN_EVERY == 0)
        for i in range(config.batch)
    ]
    pictures = render(scenes, PICTURE_SIZE)
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
        masks: the true shares of the objects.
    """
    truth = torch.cat([(1 - masks.sum(1, keepdim=True)).clamp(0, 1), masks], 1)
    missed = -(scores.log_softmax(1) * truth).sum((2, 3))  # (B, 1 + O)
    area = truth.sum((2, 3))
    there = area > 1
    return (missed / area.clamp_min(1))[there].sum() / len(scores)


def train(config: JudgeConfig, out: Path, *, save_seconds: float = 60.0) -> JudgeNet:
    """Train a judge, going on from the checkpoint in `out` if there is one.

    Returns:
        The network with averaged weights, ready to read.

    Raises:
        ResumeError: when `out` holds a run with another configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    labels = Labels.of_world(WORLDS[config.world])
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(config.seed)
        net = JudgeNet(labels)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimiser = Optimiser(net, net.outer(), config.learning_rate)
    step, spent = _resume(out, config, net, average, optimiser)
    started = saved = time.monotonic()
    recent: dict[str, float] = {}
    while True:
        now = time.monotonic()
        seconds = spent + now - started
        fraction = _fraction(config, step, seconds)
        if fraction >= 1 or now - saved > save_seconds:
            saved = now
            _save(out, config, net, average, optimiser, step, seconds)
        if fraction >= 1:
            break
        losses = _step(config, labels, net, optimiser, step, fraction)
        _move_average(net, average, min(config.average, (1 + step) / (10 + step)))
        step += 1
        recent = {k: 0.97 * recent.get(k, v) + 0.03 * v for k, v in losses.items()}
        if step % 50 == 0:
            _log(out, step * config.batch, seconds, fraction, recent)
    net.load_state_dict(average)
    return net.eval()


def _fraction(config: JudgeConfig, step: int, seconds: float) -> float:
    if config.pictures:
        return step * config.batch / config.pictures
    return seconds / (60 * config.minutes)


def _step(
    config: JudgeConfig,
    labels: Labels,
    net: JudgeNet,
    optimiser: Optimiser,
    step: int,
    fraction: float,
) -> dict[str, float]:
    """Take one step of the optimiser; return the loss of each question."""
    images, truth = draw(config, labels, config.seed * SCENES_A_RUN + step * config.batch)
    net.train()
    images = images.contiguous(memory_format=torch.channels_last)
    hints = truth.masks if step % 2 else None  # half the time its own masks
    losses = loss_of(net(images, hints), truth)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    warm = min(1.0, (step + 1) * config.batch / 800)
    optimiser.step(warm * (0.5 + 0.5 * math.cos(math.pi * fraction)))
    return {name: loss.item() for name, loss in losses.items()}


@torch.no_grad()
def _move_average(net: JudgeNet, average: dict[str, Tensor], decay: float) -> None:
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


def _log(out: Path, pictures: int, seconds: float, fraction: float, now: dict[str, float]) -> None:
    line = {"pictures": pictures, "seconds": round(seconds, 1), "fraction": round(fraction, 4)}
    line |= {name: round(value, 4) for name, value in now.items()}
    append_line(out / "log.jsonl", json.dumps(line))
    print(pictures, {k: round(v, 3) for k, v in now.items()}, flush=True)


def _save(
    out: Path,
    config: JudgeConfig,
    net: JudgeNet,
    average: dict[str, Tensor],
    optimiser: Optimiser,
    step: int,
    seconds: float,
) -> None:
    """Write everything that a resumption needs; the old checkpoint stays until it is whole."""
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser.state().items()}
    facts = {"step": str(step), "seconds": str(seconds), "config": config.identity()}
    with whole_file(out / "checkpoint.safetensors") as draft:
        save_file({name: t.contiguous() for name, t in tensors.items()}, draft, metadata=facts)


def _resume(
    out: Path,
    config: JudgeConfig,
    net: JudgeNet,
    average: dict[str, Tensor],
    optimiser: Optimiser,
) -> tuple[int, float]:
    """Load the checkpoint, if any; return the step and the seconds spent before."""
    path = out / "checkpoint.safetensors"
    if not path.is_file():
        return 0, 0.0
    try:
        facts, tensors = _read(path)
        if facts.config != config.identity():
            raise ResumeError(
                f"{path} was made with {facts.config}, this run has {config.identity()}; "
                "use the same options or choose another --out folder."
            )
        _check_alike(_under(tensors, "net."), net.state_dict())
        _check_alike(_under(tensors, "average."), average)
    except DamagedError as error:
        raise ResumeError(
            f"{path} is damaged: {error}. Delete it to begin this run again."
        ) from error
    net.load_state_dict(_under(tensors, "net."))
    for name, tensor in _under(tensors, "average.").items():
        average[name].copy_(tensor)
    optimiser.load_state(_under(tensors, "optimiser."))
    return int(facts.step), float(facts.seconds)


def _read(path: Path) -> tuple[_Facts, dict[str, Tensor]]:
    """Read a checkpoint's facts and tensors.

    Raises:
        DamagedError: when it is none, or not as it was written.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = decode_known(_Facts, file.metadata() or {})
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedError(str(error)) from error


def _check_alike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise if tensors are not those of these names and shapes."""
    shapes = [{name: tuple(t.shape) for name, t in part.items()} for part in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise DamagedError("its tensors are not those of this network")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
