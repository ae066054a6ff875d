"""The options that say how to edit and with which model, and the edits that they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2p_lab.edits import Edit


def add_edit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to edit."""
    how = parser.add_argument_group("the edit")
    how.add_argument(
        "--edit", choices=("replace", "refine"), help="word swap or added phrase (default: chosen)"
    )
    how.add_argument(
        "--cross", metavar="END", type=window, help="window of cross-attention: 0.8 or 0.1:0.8"
    )
    how.add_argument(
        "--self-attention", metavar="END", type=window, help="window of self-attention: 0.4"
    )
    how.add_argument(
        "--reweight", metavar="WORD=C", type=weight, action="append", default=[],
        help="multiply a word's attention; may be given often",
    )  # fmt: skip
    how.add_argument(
        "--blend", metavar="WORDS", help="change only where these words are: cat or cat:dog"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model runs where."""
    parser.add_argument("--model", help="bundled name, folder or hub id (default: bundled)")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")


def window(text: str) -> tuple[float, float]:
    """Read "0.8" as (0, 0.8) and "0.1:0.8" as (0.1, 0.8)."""
    start, _, end = text.rpartition(":")
    try:
        return float(start or 0), float(end)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no window; write its end, as 0.8, or both ends, as 0.1:0.8"
        ) from None


def weight(text: str) -> tuple[str, float]:
    """Read "snowy=2" as ("snowy", 2.0)."""
    word, _, scale = text.rpartition("=")
    try:
        if not word.strip():
            raise ValueError
        return word.strip(), float(scale)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no weight; write WORD=NUMBER, as snowy=2 or 'polar bear'=0.5"
        ) from None


def named_edits(options: argparse.Namespace, kind: Any) -> list[Edit]:
    """Return an aligner of this kind and the other edits that the options name.

    Raises:
        ValueError: If a window or a weight is not possible, or a blend names no word.
    """
    from p2p_lab.edits import LocalBlend, Reweight

    windows = {"cross": options.cross, "self_attention": options.self_attention}
    edits: list[Any] = [kind(**{k: v for k, v in windows.items() if v is not None})]
    edits += [Reweight(word, scale) for word, scale in options.reweight]
    if options.blend is not None:
        edits.append(LocalBlend(*_named_blend(options.blend)))
    return edits


def _named_blend(text: str) -> tuple[list[str], list[str]]:
    before, after = blend_words(text)
    if not before and not after:
        raise ValueError(f"--blend {text!r} names no word: name the prompts' own, as cat:dog.")
    return before, after


def blend_words(text: str | None) -> tuple[list[str], list[str]]:
    """Read "cat:dog" as words of the source and of the target; one side stands for both."""
    before, _, after = (text or "").partition(":")
    return _words(before), _words(after or before)


def _words(text: str) -> list[str]:
    """Read "cat, hat" as two words or phrases."""
    return [word.strip() for word in text.split(",") if word.strip()]
