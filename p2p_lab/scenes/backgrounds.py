"""Draw places, light and weather: pure tensor functions over a batch of scenes.

All pictures are (B, 3, S, S) in [0, 1]. `u` is a batch of random numbers (B, 16) in
[0, 1), which give each picture its own hills, hues and phases. Textures are soft on
purpose: fine ones cost an autoencoder most and teach nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Colours of the sky (top, bottom) and of the light on everything, for each time.
SKIES = {
    "day": ((0.36, 0.62, 0.93), (0.78, 0.90, 0.98)),
    "sunset": ((0.36, 0.25, 0.52), (1.0, 0.60, 0.30)),
    "night": ((0.03, 0.04, 0.14), (0.12, 0.15, 0.33)),
}
LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.74, 0.60), "night": (0.30, 0.34, 0.58)}


def coordinates(size: int) -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres, each (1, 1, S, S), in (0, 1)."""
    line = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None, None], y[None, None]


def _colour(*rgb: float) -> Tensor:
    return torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)


def _mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return a + (b - a) * weight


def _number(u: Tensor, k: int, low: float, high: float) -> Tensor:
    """Return the k-th random number of each picture, scaled: (B, 1, 1, 1)."""
    return (low + (high - low) * u[:, k]).view(-1, 1, 1, 1)


def _below(edge: Tensor, y: Tensor, size: int) -> Tensor:
    """Return a soft mask of what lies below an edge (one pixel wide)."""
    return ((y - edge) * size + 0.5).clamp(0, 1)


def _waves(u: Tensor, x: Tensor, k: int, height: float) -> Tensor:
    """Return a smooth hill line around zero: (B, 1, 1, S) broadcast over y."""
    first = torch.sin(_number(u, k, 4, 9) * x + _number(u, k + 1, 0, 6.3))
    second = torch.sin(_number(u, k + 2, 9, 16) * x + _number(u, k + 3, 0, 6.3))
    return height * (first + 0.4 * second)


def _gradient(top: Tensor, bottom: Tensor, y: Tensor) -> Tensor:
    return _mix(top, bottom, y.clamp(0, 1))


def sky(u: Tensor, time: str, size: int) -> Tensor:
    """Draw the sky: a gradient, with a moon and a few stars at night and a low sun at sunset."""
    x, y = coordinates(size)
    top, bottom = (_colour(*c) for c in SKIES[time])
    picture = _gradient(top, bottom, y / 0.7).expand(len(u), 3, size, size)
    if time == "day":
        cloud = _blob(x, y, _number(u, 0, 0.1, 0.9), _number(u, 1, 0.08, 0.26), 0.16, 0.045)
        return _mix(picture, _colour(1, 1, 1), 0.75 * cloud)
    if time == "sunset":
        sun = _blob(x, y, _number(u, 0, 0.15, 0.85), _number(u, 1, 0.30, 0.42), 0.085, 0.085)
        return _mix(picture, _colour(1, 0.93, 0.60), sun)
    for k in range(5):
        star = _blob(x, y, _number(u, 2 + k, 0, 1), _number(u, 8 + k, 0, 0.4), 0.016, 0.016)
        picture = _mix(picture, _colour(0.85, 0.87, 1), 0.8 * star)
    moon = _blob(x, y, _number(u, 0, 0.12, 0.88), _number(u, 1, 0.1, 0.24), 0.075, 0.075)
    return _mix(picture, _colour(0.98, 0.96, 0.82), moon)


def _blob(x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, rx: float, ry: float) -> Tensor:
    """Return a soft ellipse."""
    distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
    return torch.sigmoid(6 * (1 - distance))


Place = Callable[[Tensor, str, int], tuple[Tensor, Tensor]]


def plain(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw one pastel colour, a little darker below."""
    _, y = coordinates(size)
    hue = _number(u, 0, 0, 6.283)
    shifts = torch.tensor([0.0, 2.094, 4.189], dtype=torch.float32).view(1, 3, 1, 1)
    base = 0.80 + 0.13 * torch.cos(hue + shifts)
    picture = (base * (1.06 - 0.16 * y)).clamp(0, 1)
    return picture.expand(len(u), 3, size, size) * _colour(*LIGHT[time]), torch.zeros(
        1, dtype=torch.float32
    )


def _land(
    u: Tensor, time: str, size: int, near: Tensor, far: Tensor, height: float
) -> tuple[Tensor, Tensor]:
    """Draw two hill lines under the sky; return the picture and the ground's mask."""
    x, y = coordinates(size)
    light = _colour(*LIGHT[time])
    horizon = _number(u, 13, 0.48, 0.62)
    back = _below(horizon + _waves(u, x, 2, height), y, size)
    front = _below(horizon + 0.13 + _waves(u, x, 6, height), y, size)
    picture = _mix(sky(u, time, size), far * light, back)
    return _mix(picture, near * light * (1.12 - 0.25 * y), front), torch.maximum(back, front)


def field(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw green hills."""
    return _land(u, time, size, _colour(0.40, 0.72, 0.25), _colour(0.55, 0.80, 0.40), 0.03)


def desert(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw orange dunes."""
    return _land(u, time, size, _colour(0.90, 0.66, 0.36), _colour(0.82, 0.52, 0.28), 0.05)


def snowfield(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw white hills."""
    return _land(u, time, size, _colour(0.95, 0.97, 1.0), _colour(0.80, 0.87, 0.96), 0.03)


def beach(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw sand, a shore and the sea."""
    x, y = coordinates(size)
    light = _colour(*LIGHT[time])
    horizon = _number(u, 13, 0.42, 0.52)
    water = _below(horizon, y, size)
    shore = horizon + 0.16 + _waves(u, x, 2, 0.015)
    sand, foam = _below(shore, y, size), _below(shore - 0.025, y, size)
    sea = _gradient(_colour(0.10, 0.45, 0.72), _colour(0.25, 0.70, 0.80), (y - horizon) / 0.2)
    picture = _mix(sky(u, time, size), sea * light, water)
    picture = _mix(picture, _colour(0.93, 0.97, 0.98) * light, foam)
    return _mix(picture, _colour(0.95, 0.84, 0.60) * light * (1.1 - 0.2 * y), sand), water


def sea(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw open water with slow waves."""
    x, y = coordinates(size)
    light = _colour(*LIGHT[time])
    horizon = _number(u, 13, 0.40, 0.55)
    water = _below(horizon, y, size)
    ripple = 0.5 + 0.5 * torch.sin(
        60 * (y - horizon).clamp_min(0) ** 0.7 + 5 * _waves(u, x, 2, 0.4)
    )
    deep = _mix(_colour(0.08, 0.36, 0.66), _colour(0.20, 0.55, 0.80), ripple)
    return _mix(sky(u, time, size), deep * light, water), water


def river(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw a meadow with a blue river across it."""
    picture, ground = field(u, time, size)
    x, y = coordinates(size)
    middle = _number(u, 10, 0.74, 0.82) + _waves(u, x, 2, 0.02)
    inside = _below(middle - 0.06, y, size) * (1 - _below(middle + 0.06, y, size))
    return _mix(picture, _colour(0.25, 0.58, 0.90) * _colour(*LIGHT[time]), inside), ground


def mountains(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw two ridges with white tops and a green foot."""
    x, y = coordinates(size)
    light = _colour(*LIGHT[time])
    picture = sky(u, time, size)
    for k, base, colour in ((2, 0.20, (0.52, 0.56, 0.68)), (5, 0.30, (0.38, 0.42, 0.52))):
        fold = ((x * _number(u, k, 1.4, 2.2) + _number(u, k + 1, 0, 2)) % 1 - 0.5).abs() * 2
        edge = base + 0.34 * fold * _number(u, k + 2, 0.8, 1.1)
        ridge = _below(edge, y, size)
        cap = 1 - _below(edge + 0.09 * (1.1 - fold), y, size)
        rock = _mix(_colour(*colour), _colour(0.95, 0.97, 1.0), cap)
        picture = _mix(picture, rock * light, ridge)
    foot = _below(_number(u, 13, 0.62, 0.70) + _waves(u, x, 8, 0.02), y, size)
    return _mix(picture, _colour(0.42, 0.60, 0.32) * light * (1.1 - 0.2 * y), foot), foot


def city(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw a row of houses behind a road; windows are lit at night."""
    x, y = coordinates(size)
    light = _colour(*LIGHT[time])
    picture = sky(u, time, size)
    ground = _number(u, 13, 0.64, 0.72)
    column = (x * 6 + _number(u, 0, 0, 1)).floor()
    chance = (torch.sin(column * 12.9898 + _number(u, 1, 0, 60)) * 43758.5453) % 1
    tall = _below(ground - 0.18 - 0.34 * chance, y, size)
    walls = _mix(_colour(0.62, 0.52, 0.50), _colour(0.50, 0.58, 0.70), (chance * 7.3) % 1)
    inside = (x * 6 + _number(u, 0, 0, 1)) % 1
    pane = ((inside * 2 % 1 - 0.5).abs() < 0.22) & (((y * 12) % 1 - 0.5).abs() < 0.24)
    glow = _colour(1.0, 0.85, 0.45) if time == "night" else _colour(0.74, 0.80, 0.86) * light
    houses = _mix(walls * light, glow, 0.55 * pane.float())
    picture = _mix(picture, houses, tall)
    road = _below(ground, y, size)
    return _mix(picture, _colour(0.46, 0.46, 0.50) * light * (1.15 - 0.2 * y), road), road


def space(u: Tensor, time: str, size: int) -> tuple[Tensor, Tensor]:
    """Draw a dark sky with a nebula, a few stars and a ringless planet."""
    x, y = coordinates(size)
    glow = torch.sin(3 * x + 2 * y + _number(u, 0, 0, 6.3)) * torch.sin(
        2 * y - 3 * x + _number(u, 1, 0, 6.3)
    )
    picture = _mix(_colour(0.04, 0.03, 0.12), _colour(0.24, 0.10, 0.36), 0.5 + 0.5 * glow)
    for k in range(6):
        star = _blob(x, y, _number(u, 2 + k, 0, 1), _number(u, 8 + k, 0, 1), 0.017, 0.017)
        picture = _mix(picture, _colour(0.95, 0.95, 1.0), star)
    cx, cy = _number(u, 14, 0.1, 0.9), _number(u, 15, 0.08, 0.3)
    planet = _blob(x, y, cx, cy, 0.1, 0.1)
    shade = _mix(_colour(0.85, 0.55, 0.40), _colour(0.45, 0.22, 0.30), (x - cx) * 5 + 0.5)
    return _mix(picture, shade.clamp(0, 1), planet), torch.zeros(1, dtype=torch.float32)


PLACES: dict[str, Place] = {
    "plain": plain,
    "field": field,
    "beach": beach,
    "desert": desert,
    "snowfield": snowfield,
    "mountains": mountains,
    "city": city,
    "sea": sea,
    "space": space,
    "river": river,
}


def snow_on_ground(picture: Tensor, ground: Tensor, degree: Tensor, light: Tensor) -> Tensor:
    """Cover the ground with snow; `degree` (B, 1, 1, 1), `light` (B, 3, 1, 1)."""
    return _mix(picture, 0.96 * light, ground * 0.85 * degree)


def flakes(u: Tensor, degree: Tensor, size: int) -> Tensor:
    """Return the cover (B, 1, S, S) of falling snow: more and more flakes with the degree."""
    x, y = coordinates(size)
    cover = torch.zeros(len(u), 1, size, size, dtype=torch.float32)
    for k in range(26):
        cx = _scatter(u[:, 0], 2 * k)
        cy = _scatter(u[:, 2], 2 * k + 1)
        shown = (degree * 26 - k).clamp(0, 1)
        cover = torch.maximum(cover, shown * _blob(x, y, cx, cy, 0.022, 0.022))
    return 0.9 * cover


def _scatter(u: Tensor, k: int) -> Tensor:
    """Return the k-th number in [0, 1) that grows from each u: (B, 1, 1, 1)."""
    return ((torch.sin(k * 12.9898 + u * 78.233) * 43758.5453) % 1).view(-1, 1, 1, 1)


def rain(u: Tensor, degree: Tensor, size: int) -> Tensor:
    """Return the cover (B, 1, S, S) of slanted streaks."""
    x, y = coordinates(size)
    across = x * math.cos(0.25) + y * math.sin(0.25)
    along = y * math.cos(0.25) - x * math.sin(0.25)
    lane = (across * 15 + _number(u, 0, 0, 9)).floor()
    phase = (torch.sin(lane * 78.233 + _number(u, 1, 0, 60)) * 43758.5453) % 1
    dash = ((along * 3 + phase * 7) % 1) < 0.45 * degree
    thin = ((across * 15 + _number(u, 0, 0, 9)) % 1 - 0.5).abs() < 0.2
    return 0.55 * (dash & thin).float()
