"""Scenes in words and back: the caption of a scene, and the scene of a caption.

    [a pencil sketch of] SUBJECT [in a (very) snowy field] [at night]
    SUBJECT = a [small] [red] cat [wearing a crown] | A next to B | A riding B
            | A on top of B | A under a tree | a basket of apples | a lemon cake

Every content word of a caption knows what it describes, so that its true mask is known.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from p2p_lab.scenes.scene import LAYOUTS, Scene, Thing, crown_on
from p2p_lab.scenes.vocabulary import (
    ATTRIBUTES,
    BESIDE,
    DEGREES,
    FULL,
    OBJECTS,
    PLACES,
    RELATIONS,
    SIZES,
    STYLE_PHRASES,
    TIME_PHRASES,
    WEATHERS,
    nearest,
    synonyms,
)


@dataclass(frozen=True)
class Phrase:
    """A word or phrase of a caption and what it describes.

    Attributes:
        start, end: characters of the caption.
        kind: "object", "attribute", "size", "place", "time", "weather" or "style".
        things: indices into `Scene.things` (empty: the background or the whole picture).
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

    def __init__(self) -> None:
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


def caption(scene: Scene, seed: int | None = None) -> Caption:
    """Describe a scene.

    Args:
        scene: the scene.
        seed: choose paraphrases at random; `None` gives the plainest wording.
    """
    rng = random.Random(seed) if seed is not None else None
    writer = _Writer()
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
    elif scene.relation == "cake":
        fruit = scene.things[contents[0]].name
        writer.say(article(fruit))
        writer.say(fruit, "object", contents)
        writer.say("cake", "object", (subject,))
    else:
        _say_thing(writer, scene.things[subject], subject, rng)
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
    writer.say(article(thing.size or thing.attribute or name))
    writer.say(thing.size, "size", (index,))
    writer.say(thing.attribute, "attribute", (index,))
    writer.say(name, "object", (index,))


def _say_place(writer: _Writer, scene: Scene, rng: random.Random | None) -> None:
    """Say the place with its weather before the noun: "in a very snowy field"."""
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
        ValueError: naming the first word that the grammar cannot read.
    """
    words = re.findall(r"[a-z0-9'-]+", text.lower())
    rng = random.Random(seed)
    style, words = _read_style(words)
    time, words = _read_time(words)
    place, weather, degree, named, words = _read_place(words, rng)
    scene = _read_subject(words, rng, text)
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


def _read_thing(words: str, text: str) -> tuple[str, str, str, bool]:
    """Return (object, attribute, size, whether it wears a crown)."""
    body, crowned, _ = words.partition(" wearing a crown")
    parts = re.sub(r"^an? ", "", body).split()
    size = parts.pop(0) if parts and parts[0] in SIZES else ""
    attribute = parts.pop(0) if parts and parts[0] in ATTRIBUTES else ""
    name = synonyms().get(" ".join(parts), " ".join(parts))
    if name not in OBJECTS:
        near = nearest(name, tuple(OBJECTS) + tuple(synonyms()) + ATTRIBUTES) if name else []
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Cannot read {name!r} in the caption {text!r} as an object.{hint}")
    return name, attribute, size, bool(crowned)


def _arrange(
    relation: str,
    first: tuple[str, str, str, bool],
    second: tuple[str, str, str, bool] | None,
    rng: random.Random,
) -> Scene:
    """Lay named things out as the world lays such scenes out."""
    layout = LAYOUTS[relation](rng, FULL)
    things = []
    for thing in layout:
        said = {"subject": first, "second": second}.get(thing.role)
        if said is not None:
            scale = {"small": 0.31, "big": 0.79}.get(said[2], thing.scale)
            scale = min(max(scale, 0.42), 0.66) if not said[2] and relation == "one" else scale
            thing = replace(thing, name=said[0], attribute=said[1], size=said[2], scale=scale)
            things.append(thing)
    if first[3]:
        things.append(crown_on(next(thing for thing in things if thing.role == "subject")))
    return Scene(tuple(things), relation)


def _hold(relation: str, fruit: str, rng: random.Random) -> Scene:
    things = LAYOUTS[relation](rng, FULL)
    scene = Scene(things, relation)
    return scene.with_thing("content", name=fruit)
