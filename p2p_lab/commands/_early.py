"""Refuse bad options before a model is opened, which takes seconds: numbers, words, files."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from p2p_lab.commands._edit_options import blend_words, named_edits

NONE: tuple[object, ...] = (None, [])  # what an option is that is not given


def check_numbers(options: argparse.Namespace) -> None:
    """See that steps, seed and guidance are possible.

    Raises:
        ValueError: If one is not.
    """
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps {options.steps}: a schedule has at least 1 step.")
    seed = getattr(options, "seed", 0)
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed} is not possible: give a whole number from 0 on.")
    scale = options.guidance
    if scale is not None and not (math.isfinite(scale) and scale >= 1):
        raise ValueError(f"--guidance {scale} is not possible: give a number from 1 on.")


def check_edit(options: argparse.Namespace, source: str | None, target: str) -> None:
    """See that windows and weights are possible and that the named words stand in the prompts.

    Args:
        options: Options of the edit.
        source: The source prompt, None where it is not known yet.
        target: The edit's prompt.

    Raises:
        ValueError: If something is not.
    """
    from p2p_lab.edits import Refine

    named_edits(options, Refine)
    before, after = blend_words(options.blend)
    for word in [*(word for word, _ in options.reweight), *after]:
        check_word(word, target)
    for word in before if source is not None else ():
        check_word(word, str(source))


def check_no_edit(options: argparse.Namespace) -> None:
    """See that no option of an edit is given, where there is none.

    Raises:
        ValueError: If one is.
    """
    names = ("edit", "cross", "self_attention", "reweight", "blend")
    named = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in NONE]
    if named:
        raise ValueError(
            f"Options of an edit were given ({', '.join(named)}) and no edit's prompt. Add the "
            "prompt, or leave the options out."
        )


def check_word(word: str, text: str) -> None:
    """See that a word or phrase stands in a prompt.

    Raises:
        ValueError: If it does not; the message lists the prompt's words.
    """
    from p2p_lab.tokens.words import normal, word_chars

    places = word_chars(text)
    phrases = {
        normal(text[start:stop])
        for i, (start, _) in enumerate(places)
        for _, stop in places[i:]
    }  # fmt: skip
    if normal(word) not in phrases:
        words = ", ".join(repr(text[start:stop]) for start, stop in places)
        raise ValueError(f"{word!r} is not in the prompt {text!r}. Its words: {words}.")


def check_model(name: str | None) -> None:
    """See that a model that is named as a path is there.

    Raises:
        FileNotFoundError: If it is not.
        ValueError: If the name is empty.
    """
    if name == "":
        raise ValueError("--model is empty. Name a model, or leave it out to take the best one.")
    if (
        name is not None
        and name.startswith((".", "/", "~"))
        and not Path(name).expanduser().exists()
    ):
        raise FileNotFoundError(f"There is no folder or file {name}. Name one that holds a model.")


def check_picture(path: Path) -> None:
    """See that a picture can be opened.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no picture, broken, or empty.
    """
    from p2p_lab.inversion.pictures import load_image

    load_image(path, 8)
