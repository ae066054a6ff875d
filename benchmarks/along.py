"""How much of a word a picture shows, held to true pictures.

A judge that answers yes or no soon says 1.000 and cannot tell more from enough. Light and colour
can: a picture's mean colour lies somewhere on the line from that of true pictures without the word
(0) to that of true pictures with it (1), and may go beyond either.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_lab.scenes import Scene, parse, render

RENDERS = 16  # true pictures at each end of a line


@dataclass(frozen=True)
class Line:
    """The line between two mean colours.

    Attributes:
        start, end: (3,), of true pictures without the word and with it.
    """

    start: Tensor
    end: Tensor

    def position(self, picture: Tensor, region: Tensor) -> float:
        """Return where a picture lies: 0 at the start, 1 at the end.

        Args:
            picture: (3, H, W) in [0, 1].
            region: (H, W), what each pixel counts.
        """
        way = self.end - self.start
        return float((mean_colour(picture, region) - self.start) @ way / (way @ way))


def mean_colour(picture: Tensor, region: Tensor) -> Tensor:
    """Return the mean colour (3,) of a picture (3, H, W) in a region (H, W)."""
    return (picture * region).sum((1, 2)) / region.sum()


def line_of(prompt: str, question: str, size: int) -> Line:
    """Return the line of what a prompt says about a question.

    Args:
        prompt: That the grammar reads, with the word.
        question: "weather", "time", or the name of the thing whose attribute is meant.
        size: Of the true pictures, in pixels.
    """
    there = [parse(prompt, seed) for seed in range(RENDERS)]
    bare = [without(scene, question) for scene in there]
    return Line(_colour(bare, question, size), _colour(there, question, size))


def without(scene: Scene, question: str) -> Scene:
    """Return a scene that says nothing to a question."""
    if question == "weather":
        return dataclasses.replace(scene, weather="clear", degree=0.0)
    if question == "time":
        return dataclasses.replace(scene, time="day")
    things = tuple(
        dataclasses.replace(thing, attribute="") if thing.name == question else thing
        for thing in scene.things
    )
    return dataclasses.replace(scene, things=things)


def _colour(scenes: list[Scene], question: str, size: int) -> Tensor:
    """Return the mean colour (3,) of true pictures, of the whole or of one thing in them."""
    pictures = render(scenes, size)
    found = []
    for b, (scene, picture) in enumerate(zip(scenes, pictures.images, strict=True)):
        names = [thing.name for thing in scene.things]
        whole = torch.ones_like(picture[0])
        region = pictures.masks[b, names.index(question)] if question in names else whole
        found.append(mean_colour(picture, region))
    return torch.stack(found).mean(0)
