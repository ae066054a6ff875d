"""The judge's network: a small U-shaped convolutional net with one head for each question.

    picture (B, 3, S, S), S = 64 or 128 → features at 32², 16², 8², 4² and back up to 32²
    masks = a softmax over the objects at 32²; presence and scene = pooled features;
    attribute of an object = features pooled under that object's mask

It knows nothing of scenes: names come in as counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.judge.labels import Labels

PICTURE_SIZES = (64, 128)
MASK_SIZE = 32


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, a normalisation over the batch, and a rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions around which the input is carried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ReLU(x + f(x))."""
        return F.relu(x + self.second(self.first(x)))


@dataclass(frozen=True)
class Answers:
    """The network's outputs, before softmax or sigmoid.

    Attributes:
        present: (B, O); attribute: (B, O, A).
        masks: (B, 1 + O, 32, 32), "no object" first: at each position one of them wins.
        place, time, weather, style: (B, number of names); degree: (B,).
    """

    present: Tensor
    masks: Tensor
    attribute: Tensor
    place: Tensor
    time: Tensor
    weather: Tensor
    style: Tensor
    degree: Tensor


class JudgeNet(nn.Module):
    """Read a picture: objects, their masks and attributes, place, time, weather, style."""

    def __init__(self, labels: Labels, picture_size: int = 64) -> None:
        super().__init__()
        if picture_size not in PICTURE_SIZES:
            raise ValueError(
                f"A judge reads pictures of {PICTURE_SIZES} pixels; got {picture_size}."
            )
        self.picture_size = picture_size
        objects, attributes = len(labels.objects), len(labels.attributes)
        self.sizes = [len(labels.places), len(labels.times), len(labels.weathers)]
        self.sizes += [len(labels.styles), 1]
        self.stem = convolution(3, 32, 5, 2)  # 32²
        if picture_size == 128:
            self.stem = nn.Sequential(convolution(3, 16, 5, 2), convolution(16, 32, 3, 2))
        self.down16 = nn.Sequential(convolution(32, 64, 3, 2), Residual(64))
        self.down8 = nn.Sequential(convolution(64, 128, 3, 2), Residual(128))
        self.down4 = convolution(128, 128, 3, 2)
        self.up8 = convolution(128, 64)
        self.up16 = convolution(64, 64)
        self.narrow = nn.Conv2d(64, 32, 1)
        self.up32 = convolution(32, 48)
        self.masks = nn.Conv2d(48, 1 + objects, 1)
        pooled = 2 * 128 + 2 * 64
        self.present = nn.Sequential(nn.Linear(pooled, 96), nn.ReLU(), nn.Linear(96, objects))
        self.peak_scale = nn.Parameter(torch.tensor(1.0))
        self.scene = nn.Sequential(
            nn.Linear(pooled + 96, 96), nn.ReLU(), nn.Linear(96, sum(self.sizes))
        )
        self.kind = nn.Embedding(objects, 16)
        self.attribute = nn.Sequential(
            nn.Linear(48 + 64 + 16 + 96, 64), nn.ReLU(), nn.Linear(64, attributes)
        )

    def outer(self) -> list[nn.Parameter]:
        """Return the parameters of the first and the last layers."""
        heads = (self.present, self.scene, self.attribute)
        ends = [self.stem, self.masks, self.kind, *(head[-1] for head in heads)]
        return [p for layer in ends for p in layer.parameters()]

    def forward(self, images: Tensor, hints: Tensor | None = None) -> Answers:
        """Read pictures.

        Args:
            images: (B, 3, S, S) in [0, 1].
            hints: (B, O, 32, 32) true masks for the attribute head, in training.
        """
        x32 = self.stem(images * 4 - 2)  # (B, 32, 32, 32)
        x16 = self.down16(x32)  # (B, 64, 16, 16)
        x8 = self.down8(x16)  # (B, 128, 8, 8)
        x4 = self.down4(x8)  # (B, 128, 4, 4)
        y8 = self.up8(x8 + _double(x4))  # (B, 64, 8, 8)
        y16 = self.up16(x16 + _double(y8))  # (B, 64, 16, 16)
        y32 = self.up32(x32 + _double(self.narrow(y16)))  # (B, 48, 32, 32)
        masks = self.masks(y32)  # (B, 1 + O, 32, 32)
        shares = masks.softmax(1)[:, 1:]  # (B, O, 32, 32)
        pooled = torch.cat([_pool(x4), _pool(y16)], 1)  # (B, 384)
        around = torch.cat([pooled, _pool(y32)], 1)  # (B, 480)
        area = shares.sum((2, 3))  # (B, O), in cells of 32²
        place, time, weather, style, degree = self.scene(around).split(self.sizes, 1)
        return Answers(
            self.present(pooled) + self.peak_scale * (area + 0.5).log(),
            masks,
            self._attributes(y32, y16, around, shares if hints is None else hints),
            place,
            time,
            weather,
            style,
            degree[:, 0],
        )

    def _attributes(self, y32: Tensor, y16: Tensor, around: Tensor, masks: Tensor) -> Tensor:
        """Return (B, O, A) from the features under each mask."""
        share = masks.detach().flatten(2)  # (B, O, 1024)
        share = share / (share.sum(-1, keepdim=True) + 1e-3)
        coarse = (
            F.adaptive_avg_pool2d(share.view(*share.shape[:2], MASK_SIZE, MASK_SIZE), 16).flatten(2)
            * 4
        )
        fine = share @ y32.flatten(2).transpose(1, 2)  # (B, O, 48)
        wide = coarse @ y16.flatten(2).transpose(1, 2)  # (B, O, 64)
        batch, objects = share.shape[:2]
        kind = self.kind.weight.expand(batch, -1, -1)  # (B, O, 16)
        scene = around[:, None, -96:].expand(-1, objects, -1)  # (B, O, 96)
        return self.attribute(torch.cat([fine, wide, kind, scene], -1))  # type: ignore[no-any-return]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _pool(x: Tensor) -> Tensor:
    """Return the mean and the largest value of each channel: (B, 2C)."""
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
