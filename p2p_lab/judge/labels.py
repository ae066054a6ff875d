"""What the judge is asked, as lists of names, and the true answers of a batch of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.scenes import Pictures, Scene, World
from p2p_lab.scenes.vocabulary import TIMES

NATURAL = "natural"  # the attribute of an object that is drawn in its own colours
VISIBLE_SHARE = 16 / 64**2  # of the picture: what shows less of itself is asked for nowhere


@dataclass(frozen=True)
class Labels:
    """The names that the judge can answer with, in the order of its outputs."""

    objects: tuple[str, ...]
    attributes: tuple[str, ...]  # the first one is "natural"
    places: tuple[str, ...]
    times: tuple[str, ...]
    weathers: tuple[str, ...]
    styles: tuple[str, ...]

    @classmethod
    def of_world(cls, world: World) -> Labels:
        """Take the names from the part of the vocabulary that pictures are drawn from."""
        attributes = (NATURAL, *world.attributes)
        return cls(world.objects, attributes, world.places, TIMES, world.weathers, world.styles)

    @classmethod
    def from_dict(cls, names: dict[str, Any]) -> Labels:
        """Take the names from a card."""
        return cls(**{field.name: tuple(names[field.name]) for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """Return the names for a card."""
        return asdict(self)


@dataclass(frozen=True)
class Truth:
    """The true answers of a batch; −1 means that a question is not asked.

    Attributes:
        present: (B, O) one or zero; −1 where an object shows too little of itself.
        attribute: (B, O) index of the attribute of a present object.
        masks: (B, O, M, M) visible part of each object, in [0, 1].
        place, time, weather, style: (B,) indices.
        degree: (B,) strength of the weather; −1 in clear weather.
    """

    present: Tensor
    attribute: Tensor
    masks: Tensor
    place: Tensor
    time: Tensor
    weather: Tensor
    style: Tensor
    degree: Tensor


def true_answers(
    scenes: Sequence[Scene], pictures: Pictures, labels: Labels, mask_size: int
) -> Truth:
    """Return what a perfect judge would say of drawn scenes."""
    count, objects = len(scenes), len(labels.objects)
    small = F.adaptive_avg_pool2d(pictures.masks, mask_size)  # (B, K, M, M)
    masks = torch.zeros(count, objects, mask_size, mask_size)
    attribute = torch.full((count, objects), -1)
    for b, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            row = labels.objects.index(thing.name)
            masks[b, row] += small[b, k]
        for name in {thing.name for thing in scene.things}:
            attribute[b, labels.objects.index(name)] = _attribute_of(scene, name, labels)
    masks = masks.clamp(0, 1)
    share = masks.mean((2, 3))  # (B, O)
    present = (share >= VISIBLE_SHARE).long()
    present[(share > 0) & (share < VISIBLE_SHARE)] = -1
    attribute[present != 1] = -1
    return Truth(
        present,
        attribute,
        masks,
        torch.tensor([labels.places.index(scene.place) for scene in scenes]),
        torch.tensor([labels.times.index(scene.time) for scene in scenes]),
        torch.tensor([labels.weathers.index(scene.weather) for scene in scenes]),
        torch.tensor([labels.styles.index(scene.style) for scene in scenes]),
        torch.tensor([scene.degree if scene.weather != "clear" else -1.0 for scene in scenes]),
    )


def _attribute_of(scene: Scene, name: str, labels: Labels) -> int:
    """Return the attribute of an object, or −1 where the scene leaves it open.

    A fruit cake is coloured by its fruit, and two things of one name may differ.
    """
    found = {thing.attribute for thing in scene.things if thing.name == name}
    if len(found) > 1 or (scene.relation == "cake" and name == "cake"):
        return -1
    return labels.attributes.index(found.pop() or NATURAL)
