"""What is in a picture: a `Scene`, drawn at random from a `World`.

A scene holds numbers only (what, where, how large, which light), so that the same scene
can be drawn at any size, described in words, edited by `dataclasses.replace` and scored.
Lengths are fractions of the picture's side; y grows downwards.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from p2p_lab.scenes.vocabulary import (
    ANIMALS,
    ATTRIBUTES,
    DEGREES,
    FRUITS,
    OBJECTS,
    PLACES,
    RELATIONS,
    RIDES,
    SHELTERS,
    SIZES,
    STYLES,
    TIMES,
    WEATHERS,
    WORLDS,
    World,
    require,
)


@dataclass(frozen=True)
class Thing:
    """One drawn object. `role` says what it is to the caption."""

    name: str
    x: float
    y: float
    scale: float
    attribute: str = ""
    size: str = ""
    flip: bool = False
    role: str = "subject"  # "subject", "second", "worn", "content" (a fruit that gives a kind)

    def __post_init__(self) -> None:
        require(self.name, tuple(OBJECTS), "object")
        if self.attribute:
            require(self.attribute, ATTRIBUTES, "attribute")
        if self.size:
            require(self.size, SIZES, "size")


@dataclass(frozen=True)
class Scene:
    """A whole picture in numbers; `things` run from back to front.

    Attributes:
        relation: How subject and second stand to one another.
        degree: How strong the weather is, from 0 to 1.
        seed: The texture of place and weather (hills, clouds, flakes).
        named_place: Whether a caption says the place.
    """

    things: tuple[Thing, ...]
    relation: str = "one"
    place: str = "plain"
    time: str = "day"
    weather: str = "clear"
    degree: float = 0.0
    style: str = "3d"
    seed: int = 0
    named_place: bool = True

    def __post_init__(self) -> None:
        require(self.relation, RELATIONS, "relation")
        require(self.place, tuple(PLACES), "place")
        require(self.time, TIMES, "time")
        require(self.weather, WEATHERS, "weather")
        require(self.style, STYLES, "style")
        if not 0 <= self.degree <= 1:
            raise ValueError(f"A weather's degree lies between 0 and 1; got {self.degree}.")

    @property
    def subject(self) -> Thing:
        """The thing that the caption is about."""
        return next(thing for thing in self.things if thing.role == "subject")

    def with_thing(self, role: str, **changes: object) -> Scene:
        """Return the scene with the things of one role changed."""
        things = tuple(
            replace(thing, **changes) if thing.role == role else thing  # type: ignore[arg-type]
            for thing in self.things
        )
        return replace(self, things=things)


def checked_scene(value: Any) -> Scene:
    """Return a scene as it is.

    Raises:
        ValueError: If it is something else, such as its caption.
    """
    if isinstance(value, Scene):
        return value
    raise ValueError(
        f"{value!r:.60} is a {type(value).__name__}, not a Scene: `parse` reads one from its "
        "caption, `sample_scene` draws one at random."
    )


def held_out(first: str, second: str) -> bool:
    """Return whether a pair (object and attribute, or two objects) never occurs in training."""
    pair = "|".join(sorted((first, second)))
    return zlib.crc32(pair.encode()) % 10 == 0


def scene_pairs(scene: Scene) -> list[tuple[str, str]]:
    """Return the pairs of words in a scene that may be held out."""
    named = [thing for thing in scene.things if thing.role in ("subject", "second", "content")]
    pairs = [(thing.name, thing.attribute) for thing in named if thing.attribute]
    names = sorted({thing.name for thing in named})
    return pairs + [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


def sample_scene(seed: int, world: World | str = "full", *, unseen: bool = False) -> Scene:
    """Draw a scene at random.

    Args:
        seed: The same seed gives the same scene on every machine.
        world: The vocabulary to draw from.
        unseen: Ask for a scene that holds at least one held-out pair; otherwise none does.
    """
    if isinstance(world, str):
        require(world, tuple(WORLDS), "world named")
        world = WORLDS[world]
    rng = random.Random(f"scene {seed}")  # text seeds are mixed; small integers are not
    while True:
        scene = _draw(rng, world)
        if any(held_out(*pair) for pair in scene_pairs(scene)) == unseen:
            return scene


def _draw(rng: random.Random, world: World) -> Scene:
    weights = {"one": 10, "next to": 6, "riding": 3, "on top of": 2, "under": 2}
    relation = rng.choices(world.relations, [weights.get(name, 1.5) for name in world.relations])[0]
    place = rng.choice(world.places)
    things = LAYOUTS[relation](rng, world)
    sky = place != "space"
    time = rng.choices(TIMES, (3, 1, 1))[0] if sky else "day"
    weather, degree = "clear", 0.0
    if sky and rng.random() < 0.45:
        weather = rng.choice([name for name in world.weathers if name != "clear"])
        degree = rng.choice(list(DEGREES.values()))
    return Scene(
        things,
        relation,
        place,
        time,
        weather,
        degree,
        rng.choices(world.styles, [2.0] + [1.0] * (len(world.styles) - 1))[0],
        rng.randrange(2**31),
        rng.random() < 0.85,
    )


def _attribute(rng: random.Random, world: World, chance: float = 0.45) -> str:
    return rng.choice(world.attributes) if rng.random() < chance else ""


def _size(rng: random.Random) -> tuple[str, float]:
    """Return a size word (often none) and the scale that goes with it."""
    word = rng.choices(("", "small", "big"), (6, 1, 1))[0]
    low, high = {"": (0.42, 0.66), "small": (0.26, 0.36), "big": (0.72, 0.86)}[word]
    return word, rng.uniform(low, high)


def _one(rng: random.Random, world: World) -> tuple[Thing, ...]:
    name = rng.choice([word for word in world.objects if word != "basket"])
    size, scale = _size(rng)
    x, y = _free_spot(rng, scale)
    subject = Thing(name, x, y, scale, _attribute(rng, world), size, rng.random() < 0.5)
    return (subject, *_worn(rng, world, subject))


def _free_spot(rng: random.Random, scale: float) -> tuple[float, float]:
    """Return a centre that keeps a thing of this scale inside the picture, mostly low."""
    margin = scale / 2
    y = rng.uniform(max(margin, 0.42), max(1 - margin, 0.43))
    return rng.uniform(margin, 1 - margin), min(y, 1 - margin)


def _worn(rng: random.Random, world: World, wearer: Thing) -> tuple[Thing, ...]:
    """Return a crown on an animal's head in one case of four."""
    if "crown" not in world.objects or wearer.name not in ANIMALS or rng.random() > 0.25:
        return ()
    return (crown_on(wearer),)


def crown_on(wearer: Thing) -> Thing:
    """Return a crown that sits on the head of `wearer`."""
    scale = wearer.scale * 0.5
    y = max(wearer.y - wearer.scale * 0.48, scale * 0.45)
    return Thing("crown", wearer.x, y, scale, role="worn")


def _beside(rng: random.Random, world: World) -> tuple[Thing, ...]:
    names = [word for word in world.objects if word != "basket"]
    first, second = rng.sample(names, 2)
    left, right = rng.uniform(0.22, 0.30), rng.uniform(0.70, 0.78)
    places = [left, right] if rng.random() < 0.5 else [right, left]
    scales = [rng.uniform(0.34, 0.46) for _ in range(2)]
    things = [
        Thing(name, x, rng.uniform(0.45, 0.74), scale, _attribute(rng, world, 0.35), "", flip, role)
        for name, x, scale, flip, role in zip(
            (first, second),
            places,
            scales,
            (rng.random() < 0.5, rng.random() < 0.5),
            ("subject", "second"),
            strict=True,
        )
    ]
    return (*things, *_worn(rng, world, things[0]))


def _riding(rng: random.Random, world: World) -> tuple[Thing, ...]:
    rider = rng.choice([word for word in ANIMALS if word in world.objects])
    ride = rng.choice([word for word in RIDES if word in world.objects and word != rider])
    return _stacked(rng, world, rider, ride, overlap=0.30)


def _on_top(rng: random.Random, world: World) -> tuple[Thing, ...]:
    top, base = rng.sample([word for word in world.objects if word != "basket"], 2)
    return _stacked(rng, world, top, base, overlap=0.12)


def _stacked(
    rng: random.Random, world: World, top: str, base: str, overlap: float
) -> tuple[Thing, ...]:
    scale, above = rng.uniform(0.44, 0.58), rng.uniform(0.34, 0.42)
    x = rng.uniform(scale / 2, 1 - scale / 2)
    y = rng.uniform(0.66, 0.76)
    lower = Thing(base, x, y, scale, _attribute(rng, world, 0.35), "", rng.random() < 0.5, "second")
    height = y - scale / 2 - above / 2 + overlap * scale
    upper = Thing(top, x + rng.uniform(-0.04, 0.04), height, above, _attribute(rng, world, 0.35))
    return (upper, lower)


def _under(rng: random.Random, world: World) -> tuple[Thing, ...]:
    shelter = rng.choice([word for word in SHELTERS if word in world.objects])
    names = [word for word in world.objects if word not in (shelter, "basket", "house", "castle")]
    x = rng.uniform(0.38, 0.62)
    roof = Thing(shelter, x, rng.uniform(0.36, 0.42), rng.uniform(0.7, 0.8), role="second")
    low = Thing(
        rng.choice(names),
        x + rng.choice((-1, 1)) * rng.uniform(0.12, 0.22),
        rng.uniform(0.74, 0.80),
        rng.uniform(0.32, 0.40),
        _attribute(rng, world, 0.35),
    )
    return (roof, low)


def _basket(rng: random.Random, world: World) -> tuple[Thing, ...]:
    fruit = rng.choice([word for word in FRUITS if word in world.objects])
    scale = rng.uniform(0.5, 0.74)
    x, y = _free_spot(rng, scale)
    y = max(y, 0.56)
    fruits = tuple(
        Thing(fruit, x + dx * scale, y - (0.13 + dy) * scale, 0.42 * scale, role="content")
        for dx, dy in ((-0.2, rng.uniform(0, 0.06)), (0.2, rng.uniform(0, 0.06)), (0, 0.10))
    )
    return (*fruits, Thing("basket", x, y, scale))


def _cake(rng: random.Random, world: World) -> tuple[Thing, ...]:
    fruit = rng.choice([word for word in FRUITS if word in world.objects])
    scale = rng.uniform(0.5, 0.72)
    x, y = _free_spot(rng, scale)
    y = max(y, 0.58)
    top = Thing(fruit, x, y - 0.36 * scale, 0.42 * scale, role="content")
    return (Thing("cake", x, y, scale), top)


LAYOUTS: dict[str, Callable[[random.Random, World], tuple[Thing, ...]]] = {
    "one": _one,
    "next to": _beside,
    "riding": _riding,
    "on top of": _on_top,
    "under": _under,
    "basket": _basket,
    "cake": _cake,
}
