"""Scenes in words and back: the caption of a scene, and the scene of a caption.

    [a pencil sketch of] SUBJECT [on the left] [in a (very) snowy field] [at night]
    SUBJECT = a [small] [red] cat [wearing a crown] | A next to B | A riding B
            | A on top of B | A under a tree | a basket of apples | a lemon cake

Every content word of a caption knows what it describes, so that its true mask is known.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from p2p_lab.scenes.scene import LAYOUTS, Scene, Thing, checked_scene, crown_on
from p2p_lab.scenes.vocabulary import (
    ATTRIBUTES,
    BESIDE,
    DEGREES,
    FULL,
    MEDIUM,
    OBJECTS,
    PLACES,
    RELATIONS,
    SIDES,
    SIZES,
    STYLE_PHRASES,
    TIME_PHRASES,
    WEATHERS,
    nearest,
    synonyms,
)

DETAIL_WORDS = ("left", "middle", "right", "facing", "medium", "large")


@dataclass(frozen=True)
class Phrase:
    """A word or phrase of a caption and what it describes.

    Attributes:
        start, end: Characters of the caption.
        kind: "object", "attribute", "size", "facing", "side", "place", "time", "weather" or
            "style".
        things: Indices into `Scene.things` (empty: the background or the whole picture).
    """

    start: int
    end: int
    kind: str
    things: tuple[int, ...] = ()


@dataclass(frozen=True)
class Caption:
    """A caption with its described phrases in reading order."""

    text: str
    phrases: tuple[Phrase, ...]


class _Writer:
    """Join words and note where each described phrase stands."""

    def __init__(self, detail: bool) -> None:
        self.detail = detail
        self.text = ""
        self.phrases: list[Phrase] = []

    def say(self, words: str, kind: str = "", things: tuple[int, ...] = ()) -> None:
        if not words:
            return
        start = len(self.text) + bool(self.text)
        self.text += (" " if self.text else "") + words
        if kind:
            self.phrases.append(Phrase(start, len(self.text), kind, things))


def article(word: str) -> str:
    """Return the indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"


def caption(scene: Scene, seed: int | None = None, *, detail: bool = False) -> Caption:
    """Return a caption of a scene.

    Args:
        scene: The scene.
        seed: Choose paraphrases at random; `None` gives the plainest wording.
        detail: Say also how large the things are, on which side they stand and whether their
            art is mirrored ("facing right"): "a large cat on the left facing right in a field".

    Raises:
        ValueError: If it is something else, such as its text.
    """
    checked_scene(scene)
    rng = random.Random(seed) if seed is not None else None
    writer = _Writer(detail)
    if scene.style != "3d" or (rng is not None and rng.random() < 0.3):
        writer.say(_pick(STYLE_PHRASES[scene.style], rng), "style")
    _say_subject(writer, scene, rng)
    if scene.named_place or scene.weather != "clear":
        _say_place(writer, scene, rng)
    if scene.time in TIME_PHRASES:
        writer.say(_pick(TIME_PHRASES[scene.time], rng), "time")
    return Caption(writer.text, tuple(writer.phrases))


def _pick(options: tuple[str, ...], rng: random.Random | None) -> str:
    return options[0] if rng is None or rng.random() < 0.7 else rng.choice(options)


def _say_subject(writer: _Writer, scene: Scene, rng: random.Random | None) -> None:
    index = {thing.role: i for i, thing in enumerate(scene.things) if thing.role != "content"}
    contents = tuple(i for i, thing in enumerate(scene.things) if thing.role == "content")
    subject = index["subject"]
    if scene.relation == "basket":
        writer.say("a")
        writer.say("basket", "object", (subject,))
        writer.say("of")
        writer.say(OBJECTS[scene.things[contents[0]].name].plural, "object", contents)
        _say_side(writer, scene.things[subject], subject)
    elif scene.relation == "cake":
        fruit = scene.things[contents[0]].name
        writer.say(article(fruit))
        writer.say(fruit, "object", contents)
        writer.say("cake", "object", (subject,))
        _say_side(writer, scene.things[subject], subject)
    else:
        _say_thing(writer, scene.things[subject], subject, rng)
        _say_side(writer, scene.things[subject], subject)
        if "worn" in index:
            writer.say("wearing a")
            writer.say("crown", "object", (index["worn"],))
        if "second" in index:
            link = _pick(BESIDE, rng) if scene.relation == "next to" else scene.relation
            writer.say(link)
            _say_thing(writer, scene.things[index["second"]], index["second"], rng)


def _say_thing(writer: _Writer, thing: Thing, index: int, rng: random.Random | None) -> None:
    name = thing.name
    if rng is not None and OBJECTS[name].synonyms and rng.random() < 0.1:
        name = rng.choice(OBJECTS[name].synonyms)
    size = thing.size or (_size_word(thing.scale) if writer.detail else "")
    writer.say(article(size or thing.attribute or name))
    writer.say(size, "size", (index,))
    writer.say(thing.attribute, "attribute", (index,))
    writer.say(name, "object", (index,))
    if writer.detail:
        writer.say("facing right" if thing.flip else "facing left", "facing", (index,))


def _size_word(scale: float) -> str:
    """Return the word for a thing that is neither small nor big."""
    return "medium" if scale < MEDIUM else "large"


def _say_side(writer: _Writer, thing: Thing, index: int) -> None:
    if writer.detail:
        writer.say(_side_of(thing), "side", (index,))


def _side_of(thing: Thing) -> str:
    return next(word for word, end in SIDES.items() if thing.x < end)


def _say_place(writer: _Writer, scene: Scene, rng: random.Random | None) -> None:
    """Return the place with its weather before the noun: "in a very snowy field"."""
    words = _pick(PLACES[scene.place], rng).split()
    if scene.weather == "clear":
        writer.say(" ".join(words[:-1]))
        writer.say(words[-1], "place")
        return
    degree = min(DEGREES, key=lambda word: abs(DEGREES[word] - scene.degree))
    head = [word for word in words[:-1] if word != "plain"]
    head = ["a" if word == "an" else word for word in head]
    writer.say(" ".join(head))
    writer.say(f"{degree} {scene.weather}".strip(), "weather")
    writer.say(" ".join(words[len(head) : -1]))
    writer.say(words[-1], "place")


def parse(text: str, seed: int = 0) -> Scene:
    """Read a caption back to a scene; what it does not say is drawn from `seed`.

    Raises:
        ValueError: If a word cannot be read; the message names the first one.
    """
    if not isinstance(text, str):
        raise ValueError(f"A caption is a text; got a {type(text).__name__}: {text!r:.60}.")
    words = re.findall(r"[a-z0-9'-]+", text.lower())
    rng = random.Random(seed)
    style, words = _read_style(words)
    time, words = _read_time(words)
    side, words = _read_side(words)
    place, weather, degree, named, words = _read_place(words, rng)
    scene = _move_to(_read_subject(words, rng, text), side)
    return replace(
        scene,
        style=style,
        time=time,
        place=place,
        weather=weather,
        degree=degree,
        named_place=named,
        seed=seed,
    )


def _find(words: list[str], phrase: str) -> int:
    """Return where a phrase starts among words, or −1."""
    part = phrase.split()
    for i in range(len(words) - len(part) + 1):
        if words[i : i + len(part)] == part:
            return i
    return -1


def _read_style(words: list[str]) -> tuple[str, list[str]]:
    for style, phrases in STYLE_PHRASES.items():
        for phrase in phrases:
            if _find(words, phrase) == 0:
                return style, words[len(phrase.split()) :]
    return "3d", words


def _read_time(words: list[str]) -> tuple[str, list[str]]:
    for time, phrases in TIME_PHRASES.items():
        for phrase in phrases:
            at = _find(words, phrase)
            if at >= 0:
                return time, words[:at] + words[at + len(phrase.split()) :]
    return "day", words


def _read_side(words: list[str]) -> tuple[str, list[str]]:
    for side in SIDES:
        at = _find(words, side)
        if at >= 0:
            return side, words[:at] + words[at + len(side.split()) :]
    return "", words


def _move_to(scene: Scene, side: str) -> Scene:
    """Shift a scene so that its subject stands on a side; a thing beside it changes places."""
    ends = [0.0, *SIDES.values()]
    if not side or _side_of(scene.subject) == side:
        return scene
    if scene.relation == "next to":
        things = (replace(thing, x=1 - thing.x) for thing in scene.things)
    else:
        number = list(SIDES).index(side)
        shift = (ends[number] + min(ends[number + 1], 1.0)) / 2 - scene.subject.x
        things = (replace(thing, x=min(max(thing.x + shift, 0), 1)) for thing in scene.things)
    return replace(scene, things=tuple(things))


def _read_place(words: list[str], rng: random.Random) -> tuple[str, str, float, bool, list[str]]:
    weather = next((word for word in words if word in WEATHERS), "clear")
    degree = 0.0
    if weather != "clear":
        at = words.index(weather)
        before = words[at - 1] if at and words[at - 1] in DEGREES else ""
        degree = DEGREES[before]
        words = words[: at - bool(before)] + words[at + 1 :]
    for place, phrases in PLACES.items():
        for phrase in phrases:
            for wording in (phrase, phrase.replace(" plain ", " ")):
                at = _find(words, wording)
                if at >= 0:
                    rest = words[:at] + words[at + len(wording.split()) :]
                    return place, weather, degree, True, rest
    return rng.choice(("plain", "field")), weather, degree, False, words


def _read_subject(words: list[str], rng: random.Random, text: str) -> Scene:
    joined = " ".join(words)
    for relation in (*RELATIONS[1:5], "beside", "and"):
        first, found, second = joined.partition(f" {relation} ")
        if found:
            kind = "next to" if relation in BESIDE else relation
            return _arrange(kind, _read_thing(first, text), _read_thing(second, text), rng)
    fruits = {kind.plural: name for name, kind in OBJECTS.items() if kind.plural}
    match = re.fullmatch(r"an? basket of (\w+)", joined)
    if match and match[1] in fruits:
        return _hold("basket", fruits[match[1]], rng)
    match = re.fullmatch(r"an? (\w+) cake", joined)
    if match and match[1] in fruits.values():
        return _hold("cake", match[1], rng)
    return _arrange("one", _read_thing(joined, text), None, rng)


@dataclass(frozen=True)
class _Said:
    """What a caption says of one thing; `flip` is None where it says nothing."""

    name: str
    attribute: str = ""
    size: str = ""
    crowned: bool = False
    flip: bool | None = None

    def scale_near(self, scale: float, relation: str) -> float:
        """Return the scale that the words allow and that is nearest to the layout's."""
        if self.size in SIZES:
            return {"small": 0.31, "big": 0.79}[self.size]
        low, high = {"medium": (0.0, MEDIUM - 0.01), "large": (MEDIUM, 1.0)}.get(
            self.size, (0.42, 0.66) if relation == "one" else (0.0, 1.0)
        )
        return min(max(scale, low), high)


def _read_thing(words: str, text: str) -> _Said:
    """Return what is said of one thing."""
    body, crowned, _ = words.partition(" wearing a crown")
    body, facing, _ = body.partition(" facing ")
    flip = words.split(" facing ")[1].startswith("right") if facing else None
    parts = re.sub(r"^an? ", "", body).split()
    size = parts.pop(0) if parts and parts[0] in (*SIZES, "medium", "large") else ""
    attribute = parts.pop(0) if parts and parts[0] in ATTRIBUTES else ""
    name = synonyms().get(" ".join(parts), " ".join(parts))
    if name not in OBJECTS:
        near = nearest(name, tuple(OBJECTS) + tuple(synonyms()) + ATTRIBUTES) if name else []
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Cannot read {name!r} in the caption {text!r} as an object.{hint}")
    return _Said(name, attribute, size, bool(crowned), flip)


def _arrange(relation: str, first: _Said, second: _Said | None, rng: random.Random) -> Scene:
    """Lay named things out as the world lays such scenes out."""
    layout = LAYOUTS[relation](rng, FULL)
    things = []
    for thing in layout:
        phrase = {"subject": first, "second": second}.get(thing.role)
        if phrase is not None:
            thing = replace(
                thing,
                name=phrase.name,
                attribute=phrase.attribute,
                size=phrase.size if phrase.size in SIZES else "",
                scale=phrase.scale_near(thing.scale, relation),
                flip=thing.flip if phrase.flip is None else phrase.flip,
            )
            things.append(thing)
    if first.crowned:
        things.append(crown_on(next(thing for thing in things if thing.role == "subject")))
    return Scene(tuple(things), relation)


def _hold(relation: str, fruit: str, rng: random.Random) -> Scene:
    things = LAYOUTS[relation](rng, FULL)
    scene = Scene(things, relation)
    return scene.with_thing("content", name=fruit)
