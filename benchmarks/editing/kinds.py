"""The kinds of edit that the world can express, each a change of a scene.

A change takes a scene and a source of chance, and returns the scene before and after it, or None
where the scene does not lend itself. Nothing is known here of models and pictures.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from p2p_lab.judge.verdict import OWN_ATTRIBUTES
from p2p_lab.scenes import Scene
from p2p_lab.scenes.vocabulary import COLOURS, MATERIALS, OBJECTS, World

Pair = tuple[Scene, Scene]
Change = Callable[[Scene, random.Random, World], "Pair | None"]
USUAL_DEGREE, STRONG, WEAK = 0.7, 1.0, 0.35  # "snowy", "very snowy", "slightly snowy"


def change_object(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Swap the subject for another thing of its group."""
    taken = {thing.name for thing in scene.things} | {"basket", "crown"}
    group = OBJECTS[scene.subject.name].group
    others = [n for n in world.objects if OBJECTS[n].group == group and n not in taken]
    if not others:
        return None
    return scene, scene.with_thing("subject", name=rng.choice(others))


def delete_object(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Take the crown off, or take away the second of two things."""
    roles = {thing.role for thing in scene.things}
    if "worn" in roles:
        return scene, _without(scene, "worn", scene.relation)
    if scene.relation == "next to":
        return scene, _without(scene, "second", "one")
    return None


def add_object(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Put a crown on, or a second thing beside the first."""
    found = delete_object(scene, rng, world)
    return None if found is None else found[::-1]


def change_colour(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Give the subject a colour, or another one."""
    return _attribute(scene, rng, [word for word in world.attributes if word in COLOURS])


def change_material(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Make the subject of a material, or of another one."""
    return _attribute(scene, rng, [word for word in world.attributes if word in MATERIALS])


def change_background(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Move everything to another place; space has neither weather nor time."""
    plain = scene.time == "day" and scene.weather == "clear"
    others = [p for p in world.places if p != scene.place and (plain or p != "space")]
    return scene, replace(scene, place=rng.choice(others))


def change_weather(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Change the time of day or the weather."""
    if scene.place == "space":
        return None
    if rng.random() < 0.5:
        times = [time for time in ("night", "sunset") if time != scene.time]
        return scene, replace(scene, time=rng.choice(times))
    others = [w for w in world.weathers if w not in ("clear", scene.weather)]
    return scene, replace(scene, weather=rng.choice(others), degree=USUAL_DEGREE)


def change_style(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Draw the same in another style."""
    return scene, replace(scene, style=rng.choice([s for s in world.styles if s != scene.style]))


def change_amount(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Turn the weather up or down, or the subject's colour or material down."""
    if scene.weather != "clear" and rng.random() < 0.7:
        source = replace(scene, degree=USUAL_DEGREE)
        return source, replace(source, degree=rng.choice((WEAK, STRONG)))
    said = scene.subject.attribute
    if not said or said == OWN_ATTRIBUTES.get(scene.subject.name):
        return None
    return scene, scene.with_thing("subject", attribute="")


def change_two(scene: Scene, rng: random.Random, world: World) -> Pair | None:
    """Make two changes at once."""
    first, second = rng.choice(COMPOSITIONS)
    once = first(scene, rng, world)
    twice = None if once is None else second(once[1], rng, world)
    return None if twice is None else (scene, twice[1])


COMPOSITIONS: tuple[tuple[Change, Change], ...] = (
    (change_object, change_colour),
    (change_object, change_background),
    (change_colour, change_weather),
    (change_material, change_style),
    (change_background, change_style),
    (change_object, change_weather),
)
KINDS: dict[str, Change] = {
    "object": change_object,
    "add": add_object,
    "delete": delete_object,
    "colour": change_colour,
    "material": change_material,
    "background": change_background,
    "weather": change_weather,
    "style": change_style,
    "amount": change_amount,
    "two": change_two,
}


def _without(scene: Scene, role: str, relation: str) -> Scene:
    things = tuple(thing for thing in scene.things if thing.role != role)
    return replace(scene, things=things, relation=relation)


def _attribute(scene: Scene, rng: random.Random, words: list[str]) -> Pair | None:
    """Change the subject's attribute within its family: a colour stays a colour."""
    before, own = scene.subject.attribute, OWN_ATTRIBUTES.get(scene.subject.name)
    if before and before not in words:
        return None
    others = [word for word in words if word not in (before, own)]
    return scene, scene.with_thing("subject", attribute=rng.choice(others))
