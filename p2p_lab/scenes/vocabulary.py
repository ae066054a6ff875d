"""The words of the scene world: objects, attributes, places, times, weather, styles.

Every word that a caption can hold stands here once, with its synonyms. The room
knows nothing of pixels: `art` holds the pictures of the objects, `backgrounds` those
of the places.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

Group = str  # "animal", "food", "vehicle", "plant" or "thing"


@dataclass(frozen=True)
class Kind:
    """One kind of object: its emoji code points, its group and its other names."""

    code: str
    group: Group
    synonyms: tuple[str, ...] = ()
    plural: str = ""


OBJECTS: dict[str, Kind] = {
    "cat": Kind("1f431", "animal", ("kitten",)),
    "dog": Kind("1f436", "animal", ("puppy",)),
    "rabbit": Kind("1f430", "animal", ("bunny",)),
    "fox": Kind("1f98a", "animal"),
    "bear": Kind("1f43b", "animal"),
    "lion": Kind("1f981", "animal"),
    "elephant": Kind("1f418", "animal"),
    "penguin": Kind("1f427", "animal"),
    "frog": Kind("1f438", "animal"),
    "horse": Kind("1f434", "animal"),
    "turtle": Kind("1f422", "animal", ("tortoise",)),
    "duck": Kind("1f986", "animal"),
    "bird": Kind("1f426", "animal"),
    "butterfly": Kind("1f98b", "animal"),
    "apple": Kind("1f34e", "food", plural="apples"),
    "lemon": Kind("1f34b", "food", plural="lemons"),
    "strawberry": Kind("1f353", "food", plural="strawberries"),
    "pumpkin": Kind("1f383", "food", plural="pumpkins"),
    "banana": Kind("1f34c", "food", plural="bananas"),
    "cake": Kind("1f382", "food"),
    "burger": Kind("1f354", "food", ("hamburger",)),
    "donut": Kind("1f369", "food", ("doughnut",)),
    "bread": Kind("1f35e", "food"),
    "car": Kind("1f697", "vehicle", ("automobile",)),
    "bus": Kind("1f68c", "vehicle"),
    "bicycle": Kind("1f6b2", "vehicle", ("bike",)),
    "rocket": Kind("1f680", "vehicle", ("spaceship",)),
    "sailboat": Kind("26f5", "vehicle", ("boat",)),
    "train": Kind("1f682", "vehicle", ("locomotive",)),
    "tree": Kind("1f333", "plant"),
    "cactus": Kind("1f335", "plant"),
    "sunflower": Kind("1f33b", "plant"),
    "mushroom": Kind("1f344", "plant", ("toadstool",)),
    "house": Kind("1f3e0", "thing", ("home",)),
    "castle": Kind("1f3f0", "thing", ("palace",)),
    "tent": Kind("26fa", "thing"),
    "balloon": Kind("1f388", "thing"),
    "guitar": Kind("1f3b8", "thing"),
    "teddy bear": Kind("1f9f8", "thing", ("teddy",)),
    "crown": Kind("1f451", "thing"),
    "gift": Kind("1f381", "thing", ("present",)),
    "ball": Kind("26bd", "thing", ("football",)),
    "basket": Kind("1f9fa", "thing"),
    "umbrella": Kind("2602-fe0f", "thing"),
}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
MATERIALS = ("golden", "wooden", "icy")
ATTRIBUTES = COLOURS + MATERIALS
SIZES = ("small", "big")
MEDIUM = 0.5  # scale from which a thing that is neither small nor big is called large
SIDES = {"on the left": 0.42, "in the middle": 0.58, "on the right": 1.01}  # x of a thing, up to
TIMES = ("day", "night", "sunset")
WEATHERS = ("clear", "snowy", "foggy", "rainy")
DEGREES: dict[str, float] = {"slightly": 0.35, "": 0.7, "very": 1.0}
STYLES = ("3d", "flat", "sketch")
RELATIONS = ("one", "next to", "riding", "on top of", "under", "basket", "cake")

PLACES: dict[str, tuple[str, ...]] = {
    "plain": ("on a plain background",),
    "field": ("in a field", "in a meadow"),
    "beach": ("on a beach",),
    "desert": ("in a desert",),
    "snowfield": ("in a snowfield",),
    "mountains": ("in the mountains",),
    "city": ("in a city", "in a town"),
    "sea": ("on the sea", "on the ocean"),
    "space": ("in space",),
    "river": ("by a river",),
}
TIME_PHRASES = {"night": ("at night",), "sunset": ("at sunset", "at dusk")}
STYLE_PHRASES = {
    "3d": ("a 3d render of",),
    "flat": ("a flat drawing of",),
    "sketch": ("a pencil sketch of", "a sketch of"),
}
BESIDE = ("next to", "beside", "and")


@dataclass(frozen=True)
class World:
    """The part of the vocabulary that a model is trained on."""

    name: str
    objects: tuple[str, ...]
    attributes: tuple[str, ...]
    places: tuple[str, ...]
    weathers: tuple[str, ...]
    styles: tuple[str, ...]
    relations: tuple[str, ...]


FULL = World("full", tuple(OBJECTS), ATTRIBUTES, tuple(PLACES), WEATHERS, STYLES, RELATIONS)
SMALL = World(
    "small",
    (
        *("cat", "dog", "rabbit", "penguin", "frog", "butterfly"),
        *("apple", "lemon", "pumpkin", "cake", "basket", "crown"),
        *("car", "bicycle", "rocket", "sailboat"),
        *("tree", "cactus", "mushroom", "house", "castle", "balloon"),
    ),
    ("red", "green", "blue", "golden", "wooden", "icy"),
    ("plain", "field", "beach", "mountains", "city", "space"),
    ("clear", "snowy", "foggy"),
    ("3d", "sketch"),
    ("one", "next to", "riding", "basket", "cake"),
)
WORLDS = {"small": SMALL, "full": FULL}

ANIMALS = tuple(name for name, kind in OBJECTS.items() if kind.group == "animal")
RIDES = ("bicycle", "car", "rocket", "sailboat", "bus", "train", "horse", "elephant", "turtle")
FRUITS = ("apple", "lemon", "strawberry", "pumpkin", "banana")
SHELTERS = ("tree", "umbrella")


def synonyms() -> dict[str, str]:
    """Return every other name of an object with the name that the world uses."""
    return {word: name for name, kind in OBJECTS.items() for word in kind.synonyms}


def nearest(word: str, known: tuple[str, ...], count: int = 3) -> list[str]:
    """Return the known words that look most like `word`, best first."""
    return difflib.get_close_matches(word.lower(), known, n=count, cutoff=0.5)


def require(word: str, known: tuple[str, ...], what: str) -> None:
    """Refuse a word that the world does not have.

    Raises:
        ValueError: With the nearest known words.
    """
    if word in known:
        return
    near = nearest(word, known)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}."
    )
    raise ValueError(f"The world has no {what} {word!r}; {hint}")
