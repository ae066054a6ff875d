"""How good a judge is, on renders that no training run has seen: one number a question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.judge.labels import NATURAL, Labels, Truth
from p2p_lab.judge.network import Answers, JudgeNet
from p2p_lab.judge.train import JudgeConfig, draw
from p2p_lab.judge.verdict import OWN_ATTRIBUTES
from p2p_lab.scenes.splits import Split
from p2p_lab.scenes.vocabulary import DEGREES

Pairs = tuple[Tensor, Tensor]  # what was said, what is true


@torch.no_grad()
def collect(
    net: JudgeNet, config: JudgeConfig, labels: Labels, split: Split, count: int, *, spoiled: bool
) -> tuple[Answers, Truth]:
    """Return answers and truth of the first `count` pictures of a split, in whole batches."""
    predicted, true = [], []
    for first in range(0, count, config.batch):
        images, truth = draw(config, labels, first, split, spoiled=spoiled)
        predicted.append(net(images))
        true.append(truth)
    return _join(Answers, predicted), _join(Truth, true)


def _join(kind: Callable[..., Any], parts: list[Any]) -> Any:
    return kind(**{name: torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])})


def best_threshold(answers: Answers, truth: Truth) -> float:
    """Return the probability of presence at which most pictures have all objects right."""
    probabilities = answers.present.sigmoid()
    grid = [k / 40 for k in range(4, 37)]
    scores = [_exact(probabilities >= level, truth) for level in grid]
    best = max(scores)
    near = [level for level, score in zip(grid, scores, strict=True) if score >= best - 1e-6]
    return near[len(near) // 2]


def _exact(predicted: Tensor, truth: Truth) -> float:
    right = (predicted == (truth.present == 1)) | (truth.present < 0)
    return float(right.all(1).float().mean())


def measure(answers: Answers, truth: Truth, labels: Labels, threshold: float) -> dict[str, float]:
    """Return the scores of a judge.

    Keys: "objects" is the share of pictures in which every object is right; "object_recall" and
    "object_precision" count objects; "attribute" counts the attributes of present objects, where
    an object's own colour may be called natural; "attribute_strict" does not; "degree" is the
    share with the right word of slightly, nothing, very; "mask_iou" the mean over objects.
    """
    predicted, there = answers.present.sigmoid() >= threshold, truth.present == 1
    asked = truth.present >= 0
    named = truth.attribute >= 0
    attribute = answers.attribute.argmax(-1)
    same = _same_look(labels, truth.attribute) == _same_look(labels, attribute)
    scores = {
        "objects": _exact(predicted, truth),
        "object_recall": float(predicted[there].float().mean()),
        "object_precision": float(there[predicted & asked].float().mean()),
        "attribute": float(same[named].float().mean()),
        "attribute_strict": float((attribute == truth.attribute)[named].float().mean()),
        "mask_iou": _iou(answers.masks.softmax(1)[:, 1:] > 0.5, truth.masks > 0.5, there),
        "degree": _degree(answers, truth),
    }
    for question in ("place", "time", "weather", "style"):
        right = getattr(answers, question).argmax(-1) == getattr(truth, question)
        scores[question] = float(right.float().mean())
    return {name: round(score, 4) for name, score in scores.items()}


def _same_look(labels: Labels, attribute: Tensor) -> Tensor:
    """Replace "natural" by the attribute that an object has by itself: (B, O)."""
    word_attributes = torch.arange(len(labels.attributes)).repeat(len(labels.objects), 1)  # (O, A)
    for row, name in enumerate(labels.objects):
        if OWN_ATTRIBUTES.get(name) in labels.attributes:
            word_attributes[row, labels.attributes.index(NATURAL)] = labels.attributes.index(
                OWN_ATTRIBUTES[name]
            )
    return word_attributes.expand(len(attribute), -1, -1).gather(
        -1, attribute.clamp_min(0)[..., None]
    )[..., 0]


def _iou(predicted: Tensor, true: Tensor, there: Tensor) -> float:
    both = (predicted & true).sum((2, 3))[there]
    either = (predicted | true).sum((2, 3))[there].clamp_min(1)
    return float((both / either).mean())


def _degree(answers: Answers, truth: Truth) -> float:
    levels = torch.tensor(sorted(DEGREES.values()))
    asked = truth.degree >= 0

    def nearest(values: Tensor) -> Tensor:
        return (values[:, None] - levels).abs().argmin(1)

    right = nearest(answers.degree.sigmoid()[asked]) == nearest(truth.degree[asked])
    return float(right.float().mean())
