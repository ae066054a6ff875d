"""What a picture holds, what was wanted of it, and whether the two agree: plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from p2p_lab.judge.labels import NATURAL, Labels
from p2p_lab.scenes import Scene, nearest, parse

# Colours and materials that these objects have by themselves in the art: a red apple is an
# apple in its own colours too. A test holds the table to the sprites.
OWN_ATTRIBUTES = {
    "apple": "red",
    "strawberry": "red",
    "mushroom": "red",
    "balloon": "red",
    "car": "red",
    "frog": "green",
    "tree": "green",
    "cactus": "green",
    "turtle": "green",
    "crown": "golden",
    "lemon": "yellow",
    "banana": "yellow",
    "pumpkin": "orange",
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the judge sees in one picture.

    Attributes:
        probabilities: Of each object that the judge knows to be in the picture.
        threshold: Probability from which on an object counts as present.
        attributes: Of each object, the probability of each attribute, "natural" included.
        masks: Of each object, where it shows, (H, W) in [0, 1] at the picture's size.
        scene: Of "place", "time", "weather" and "style", the probability of each name.
        degree: Strength of the weather from 0 to 1; 0 in clear weather.
    """

    probabilities: Mapping[str, float]
    threshold: float
    attributes: Mapping[str, Mapping[str, float]]
    masks: Mapping[str, Tensor] = field(repr=False)
    scene: Mapping[str, Mapping[str, float]]
    degree: float

    @property
    def objects(self) -> tuple[str, ...]:
        """Name the objects present, the surest first."""
        found = [name for name, p in self.probabilities.items() if p >= self.threshold]
        return tuple(sorted(found, key=lambda name: -self.probabilities[name]))

    def attribute(self, name: str) -> str:
        """Name the likeliest attribute of an object; "natural" means its own colours."""
        return _likeliest(self.attributes[name])

    @property
    def place(self) -> str:
        """Name the likeliest place."""
        return _likeliest(self.scene["place"])

    @property
    def time(self) -> str:
        """Name the likeliest time of day."""
        return _likeliest(self.scene["time"])

    @property
    def weather(self) -> str:
        """Name the likeliest weather."""
        return _likeliest(self.scene["weather"])

    @property
    def style(self) -> str:
        """Name the likeliest style."""
        return _likeliest(self.scene["style"])

    def __repr__(self) -> str:
        """Return in one line what is seen."""
        things = [
            f"{'' if self.attribute(name) == NATURAL else self.attribute(name) + ' '}{name}"
            f" {self.probabilities[name]:.2f}"
            for name in self.objects
        ]
        strength = f" {self.degree:.1f}" if self.weather != "clear" else ""
        return (
            f"Verdict({', '.join(things) or 'nothing known'}; place {self.place}, "
            f"time {self.time}, weather {self.weather}{strength}, style {self.style})"
        )


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=lambda name: probabilities[name])


@dataclass(frozen=True)
class Wanted:
    """What a picture must hold; whatever is empty or None is not asked.

    Attributes:
        objects: Must be there; absent: must not.
        attributes: Of objects, by name.
        place, time, weather, style: Names.
    """

    objects: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    place: str | None = None
    time: str | None = None
    weather: str | None = None
    style: str | None = None

    @classmethod
    def from_scene(cls, scene: Scene) -> Wanted:
        """Ask for what a scene's caption says, and for the day, clear sky and 3d it leaves out."""
        things = scene.things
        attributes = {thing.name: thing.attribute for thing in things if thing.attribute}
        names = tuple(dict.fromkeys(thing.name for thing in things))
        twice = {
            name for name in attributes if len({t.attribute for t in things if t.name == name}) > 1
        }
        return cls(
            names,
            attributes={name: word for name, word in attributes.items() if name not in twice},
            place=scene.place if scene.named_place else None,
            time=scene.time,
            weather=scene.weather,
            style=scene.style,
        )

    @classmethod
    def from_caption(cls, text: str) -> Wanted:
        """Ask for what a caption says.

        Raises:
            ValueError: If the grammar of `p2p_lab.scenes` cannot read the caption.
        """
        return cls.from_scene(parse(text))

    def check_known(self, labels: Labels) -> None:
        """Refuse what the judge has never learned to see.

        Raises:
            ValueError: If a word is unknown; the message names it and what is near.
        """
        asked = [("object", name, labels.objects) for name in (*self.objects, *self.absent)]
        asked += [("object", name, labels.objects) for name in self.attributes]
        asked += [("attribute", word, labels.attributes) for word in self.attributes.values()]
        asked += [
            (question, name, getattr(labels, f"{question}s"))
            for question in ("place", "time", "weather", "style")
            if (name := getattr(self, question)) is not None
        ]
        for question, name, known in asked:
            if name not in known:
                near = " or ".join(map(repr, nearest(name, known)))
                hint = f"did you mean {near}?" if near else f"it knows {', '.join(known)}."
                raise ValueError(f"The judge has not learned the {question} {name!r}; {hint}")


@dataclass(frozen=True)
class Finding:
    """Whether a picture holds what was wanted; true in an `if` when it does.

    Attributes:
        objects: The objects wanted are there and the unwanted ones are not.
        attributes: The objects with a wanted attribute are there and have it.
        scene: Place, time, weather and style are as wanted.
        failures: A phrase for each thing that is not.
    """

    objects: bool
    attributes: bool
    scene: bool
    failures: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.objects and self.attributes and self.scene


def compare(verdict: Verdict, wanted: Wanted) -> Finding:
    """Compare a verdict with what was wanted."""
    seen = verdict.objects
    objects = [f"no {name}" for name in wanted.objects if name not in seen]
    objects += [f"a {name} that should not be there" for name in wanted.absent if name in seen]
    attributes = []
    for name, word in wanted.attributes.items():
        if name not in seen:
            attributes.append(f"no {name} to be {word}")
        elif word not in _said_of(verdict, name):
            attributes.append(f"the {name} is {verdict.attribute(name)}, not {word}")
    scene = [
        f"the {question} is {getattr(verdict, question)}, not {name}"
        for question in ("place", "time", "weather", "style")
        if (name := getattr(wanted, question)) is not None and getattr(verdict, question) != name
    ]
    return Finding(not objects, not attributes, not scene, (*objects, *attributes, *scene))


def _said_of(verdict: Verdict, name: str) -> set[str]:
    """Return the attributes that one may rightly say of an object."""
    seen, natural = verdict.attribute(name), OWN_ATTRIBUTES.get(name)
    return {
        seen,
        NATURAL if seen == natural else seen,
        natural or seen if seen == NATURAL else seen,
    }
