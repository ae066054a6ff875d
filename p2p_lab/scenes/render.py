"""Draw scenes: sprites over places, then light, weather and style, with exact masks.

`render` draws a batch at once; nothing here is random beyond the scenes themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.devices import cpu_by_default
from p2p_lab.scenes import backgrounds
from p2p_lab.scenes.art import FRUIT_RAMPS, LEVELS, sprite
from p2p_lab.scenes.grammar import Phrase
from p2p_lab.scenes.scene import Scene, Thing, checked_scene

MAX_SIZE = 256
PAPER = torch.tensor([0.97, 0.95, 0.90], dtype=torch.float32).view(3, 1, 1)


@dataclass(frozen=True)
class Pictures:
    """A batch of drawn scenes.

    Attributes:
        images: (B, 3, S, S) in [0, 1].
        masks: (B, K, S, S) in [0, 1], the visible part of each thing; K is the largest
            number of things in the batch, unused planes are zero.
    """

    images: Tensor
    masks: Tensor

    def phrase_mask(self, index: int, phrase: Phrase) -> Tensor:
        """Return the true mask (S, S) of a phrase of picture `index`.

        A place means all that no thing covers; weather, time and style the whole picture.
        """
        masks = self.masks[index]
        if phrase.things:
            return masks[list(phrase.things)].sum(0).clamp(0, 1)
        if phrase.kind == "place":
            return (1 - masks.sum(0)).clamp(0, 1)
        return torch.ones_like(masks[0])


@cpu_by_default()
def render(scenes: Sequence[Scene] | Scene, size: int = 128) -> Pictures:
    """Draw scenes.

    Args:
        scenes: One scene or a sequence.
        size: Side of the pictures in pixels, at most 256; the bundled model draws 128.

    Raises:
        ValueError: If the size is out of range, there is no scene, or one is something else.
    """
    scenes = _listed(scenes)
    if not scenes:
        raise ValueError("There is no scene to render; pass at least one.")
    if not 16 <= size <= MAX_SIZE:
        raise ValueError(f"A picture's side lies between 16 and {MAX_SIZE} pixels; got {size}.")
    u = torch.stack([_numbers(scene.seed) for scene in scenes])  # (B, 16)
    light = torch.tensor([backgrounds.LIGHT[scene.time] for scene in scenes], dtype=torch.float32)[
        ..., None, None
    ]
    images, ground = _places(scenes, u, size)
    images = _weather_behind(scenes, images, ground, light)
    colours, masks = _things(scenes, size)
    images = _compose(scenes, images, colours, masks, light)
    images = _weather_before(scenes, images, u, light, size)
    return Pictures(_styles(scenes, images), _visible(masks))


def _listed(scenes: Any) -> list[Scene]:
    """Return one or several scenes as a list."""
    several = isinstance(scenes, Iterable) and not isinstance(scenes, str)
    return [checked_scene(scene) for scene in (scenes if several else [scenes])]


def _numbers(seed: int) -> Tensor:
    return torch.rand(
        16, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32, device="cpu"
    )


def _places(scenes: Sequence[Scene], u: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Draw the places; return pictures (B, 3, S, S) and ground masks (B, 1, S, S)."""
    images = torch.empty(len(scenes), 3, size, size, dtype=torch.float32)
    ground = torch.empty(len(scenes), 1, size, size, dtype=torch.float32)
    groups: dict[tuple[str, str], list[int]] = {}
    for i, scene in enumerate(scenes):
        groups.setdefault((scene.place, scene.time), []).append(i)
    for (place, time), rows in groups.items():
        images[rows], ground[rows] = backgrounds.PLACES[place](u[rows], time, size)
    flat = [i for i, scene in enumerate(scenes) if scene.style == "flat"]
    if flat:
        images[flat] = (images[flat] * 6).round() / 6
    drawn = [i for i, scene in enumerate(scenes) if scene.style == "sketch"]
    if drawn:  # a faint place, so that its lines stay behind the things
        images[drawn] = 0.5 * images[drawn] + 0.5 * PAPER
    return images, ground


def _degree(scenes: Sequence[Scene], weather: str) -> tuple[list[int], Tensor]:
    rows = [i for i, scene in enumerate(scenes) if scene.weather == weather and scene.degree > 0]
    return rows, torch.tensor([scenes[i].degree for i in rows], dtype=torch.float32).view(
        -1, 1, 1, 1
    )


def _weather_behind(
    scenes: Sequence[Scene], images: Tensor, ground: Tensor, light: Tensor
) -> Tensor:
    """Apply what weather does to the place, before the things stand in it."""
    rows, degree = _degree(scenes, "snowy")
    if rows:
        cold = 0.25 * degree * (light[rows] * 0.9 - images[rows])
        images[rows] = backgrounds.snow_on_ground(
            images[rows] + cold, ground[rows], degree, light[rows]
        )
    rows, degree = _degree(scenes, "foggy")
    if rows:
        images[rows] += 0.82 * degree * (light[rows] * 0.86 - images[rows])
    rows, degree = _degree(scenes, "rainy")
    if rows:
        images[rows] *= 1 - 0.35 * degree
    return images


def _weather_before(
    scenes: Sequence[Scene], images: Tensor, u: Tensor, light: Tensor, size: int
) -> Tensor:
    """Apply the weather that falls in front of the things."""
    rows, degree = _degree(scenes, "snowy")
    if rows:
        cover = backgrounds.flakes(u[rows], degree, size)
        images[rows] += cover * (light[rows].clamp_min(0.75) - images[rows])
    rows, degree = _degree(scenes, "foggy")
    if rows:
        images[rows] += 0.38 * degree * (light[rows] * 0.86 - images[rows])
    rows, degree = _degree(scenes, "rainy")
    if rows:
        cover = backgrounds.rain(u[rows], degree, size)
        images[rows] += cover * (light[rows] * 0.9 - images[rows])
    return images


def _sprite_of(thing: Thing, scene: Scene, size: int) -> tuple[int, Tensor]:
    """Return the level and the sprite that suits the drawn size of a thing."""
    pixels = thing.scale * size
    level = max(k for k, side in enumerate(LEVELS) if side >= min(pixels, LEVELS[0]))
    attribute = thing.attribute
    if scene.relation == "cake" and thing.name == "cake":
        fruit = next(other.name for other in scene.things if other.role == "content")
        attribute = FRUIT_RAMPS[fruit]
    return level, sprite(thing.name, scene.style, attribute, level)


def _things(scenes: Sequence[Scene], size: int) -> tuple[Tensor, Tensor]:
    """Warp all sprites to their places.

    Returns:
        Premultiplied colours (B, K, 3, S, S) and covers (B, K, S, S).
    """
    count = max(len(scene.things) for scene in scenes)
    out = torch.zeros(len(scenes), max(count, 1), 4, size, size, dtype=torch.float32)
    groups: dict[int, list[tuple[int, int, Thing, Tensor]]] = {}
    for b, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            level, art = _sprite_of(thing, scene, size)
            groups.setdefault(level, []).append((b, k, thing, art))
    for members in groups.values():
        art = torch.stack([member[3] for member in members])  # (N, 4, side, side)
        theta = torch.tensor(
            [_affine(member[2]) for member in members], dtype=torch.float32
        )  # (N, 2, 3)
        grid = F.affine_grid(theta, [len(members), 4, size, size], align_corners=False)
        warped = F.grid_sample(art, grid, align_corners=False)  # (N, 4, S, S)
        out[[member[0] for member in members], [member[1] for member in members]] = warped
    return out[:, :, :3], out[:, :, 3]


def _affine(thing: Thing) -> list[list[float]]:
    """Return the map from picture to sprite coordinates, both in [−1, 1]."""
    across = (-1 if thing.flip else 1) / thing.scale
    return [
        [across, 0.0, -across * (2 * thing.x - 1)],
        [0.0, 1 / thing.scale, -(2 * thing.y - 1) / thing.scale],
    ]


def _compose(
    scenes: Sequence[Scene], images: Tensor, colours: Tensor, masks: Tensor, light: Tensor
) -> Tensor:
    """Lay the things over the place, back to front; they dim less at night than the place."""
    lit = 0.45 + 0.55 * light
    for k in range(masks.shape[1]):
        images = images * (1 - masks[:, k : k + 1]) + colours[:, k] * lit
    return images


def _visible(masks: Tensor) -> Tensor:
    """Return the part of each thing that no later thing hides: (B, K, S, S)."""
    seen = masks.clone()
    free = torch.ones_like(masks[:, 0])
    for k in reversed(range(masks.shape[1])):
        seen[:, k] = masks[:, k] * free
        free = free * (1 - masks[:, k])
    return seen


def _styles(scenes: Sequence[Scene], images: Tensor) -> Tensor:
    rows = [i for i, scene in enumerate(scenes) if scene.style == "sketch"]
    if rows:
        images[rows] = pencil(images[rows])
    return images.clamp(0, 1)


def pencil(images: Tensor) -> Tensor:
    """Turn pictures (B, 3, S, S) into tinted pencil drawings: dark edges on warm paper."""
    size = images.shape[-1]
    grey = images.mean(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    edge = ((dx**2 + dy**2).sqrt() * (size / 64) ** 0.5 * 2.2 - 0.08).clamp(0, 1)
    tint = PAPER + 0.45 * (images - PAPER)
    drawing: Tensor = tint * (1 - 0.85 * edge)
    return drawing
