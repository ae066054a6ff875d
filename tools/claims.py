"""What the lessons claim, each sentence with the printed number that it follows from.

    python tools/claims.py                            every claim, on the committed outputs
    python tools/claims.py --seed 5 02_word_swap      run a lesson again with another seed

The table is `notebooks/claims.toml`. An entry has the lesson, the sentence as it stands there, a
piece of the code that prints the numbers, and what must hold: `n("late", 2)` is the second number
after the word "late" in the cell's output, `after("late")` the rest of that line. Claims that say
"here" are about the shown picture alone; all others must hold on other seeds too. Every sentence
with a comparing word is in the table as a claim, or, where it claims no result (a question, a
definition, a task), as `plain`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "notebooks"
TABLE = LESSONS / "claims.toml"
COMPARING = re.compile(
    r"\b(more|most|less|least|better|best|worse|worst|smaller|smallest|larger|largest|higher|highest"
    r"|lower|lowest|nearer|nearest|farther|fewer|stronger|weaker|finer|sharper|faster|slower)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Claim:
    """One sentence of a lesson and the comparison that it makes.

    Attributes:
        lesson: Name of the notebook, without its ending.
        says: The sentence, or the part of it that compares, as it stands in the notebook.
        code: A piece of the one code cell that prints the numbers.
        holds: A comparison of numbers `n(label, which)` and `before(label)`.
    """

    lesson: str
    says: str
    code: str
    holds: str

    @property
    def here(self) -> bool:
        """Whether the sentence is about the shown picture alone."""
        return re.search(r"\b[Hh]ere\b", self.says) is not None


def read_claims() -> list[Claim]:
    """Return all claims of the table."""
    return [Claim(**entry) for entry in tomllib.loads(TABLE.read_text("utf-8"))["claim"]]


def read_plain() -> list[tuple[str, str]]:
    """Return lesson and piece of each comparing sentence that claims no result."""
    entries = tomllib.loads(TABLE.read_text("utf-8"))["plain"]
    return [(lesson, piece) for lesson, pieces in entries.items() for piece in pieces]


def comparing(notebook: Any) -> list[str]:
    """Return the sentences of the text that compare, those of folded answers left out."""
    found: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown" or "solution" in cell.metadata.get("tags", ()):
            continue
        text = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)
        text = " ".join(text.split("**References.**")[0].split())
        found += [one for one in re.split(r"(?<=[.!?])\s+", text) if COMPARING.search(one)]
    return found


def text_of(cell: Any) -> str:
    """Return what a code cell printed."""
    outputs = [o for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]
    return "".join(output.text for output in outputs)


def reader(text: str) -> Callable[..., float]:
    """Return `n(label, which=1)`: the number so many places after a label, on the label's line."""

    def n(label: str, which: int = 1) -> float:
        lines = [line.split(label, 1)[1] for line in text.splitlines() if label in line]
        found = _NUMBER.findall(lines[0]) if lines else []
        if len(found) < which:
            raise LookupError(f"there is no number {which} after {label!r} in {text!r}")
        return float(found[which - 1].replace("−", "-"))

    return n


def reader_before(text: str) -> Callable[[str], float]:
    """Return `before(label)`: the last number on a label's line that stands before the label."""

    def before(label: str) -> float:
        lines = [line.split(label, 1)[0] for line in text.splitlines() if label in line]
        found = _NUMBER.findall(lines[0]) if lines else []
        if not found:
            raise LookupError(f"there is no number before {label!r} in {text!r}")
        return float(found[-1].replace("−", "-"))

    return before


def reader_after(text: str) -> Callable[[str], str]:
    """Return `after(label)`: what stands behind a label, to the end of its line."""

    def after(label: str) -> str:
        lines = [line.split(label, 1)[1] for line in text.splitlines() if label in line]
        if not lines:
            raise LookupError(f"there is no {label!r} in {text!r}")
        return lines[0]

    return after


def fault_of(claim: Claim, notebook: Any) -> str:
    """Return what is wrong with a claim in an executed notebook, or ""."""
    sources = " ".join(" ".join(c.source.split()) for c in notebook.cells)
    if " ".join(claim.says.split()) not in sources:
        return f"{claim.lesson} does not say {claim.says!r}"
    cells = [c for c in notebook.cells if c.cell_type == "code" and claim.code in c.source]
    if len(cells) != 1:
        return f"{claim.lesson} has {len(cells)} code cells with {claim.code!r}"
    text = text_of(cells[0])
    numbers = {"n": reader(text), "before": reader_before(text), "after": reader_after(text)}
    known = {**numbers, "abs": abs, "min": min, "max": max, "__builtins__": {}}
    try:
        holds = bool(eval(claim.holds, known))
    except LookupError as error:
        return f"{claim.lesson}, {claim.code}: {error}"
    return "" if holds else f"{claim.lesson} says {claim.says!r}, but not {claim.holds}:\n{text}"


def with_seed(notebook: Any, seed: int) -> bool:
    """Put another seed in the notebook's constants; return whether it names any."""
    found = False
    for cell in notebook.cells:
        new = reseeded(cell.source, seed) if cell.cell_type == "code" else None
        if new is not None:
            cell.source, found = new, True
    return found


def reseeded(source: str, seed: int) -> str | None:
    """Return code in which SEED and SCENE_SEED are another number; None without either.

    They may be unpacked from a tuple. Lists of seeds that are made of SEED follow it.
    """
    lines, found = source.splitlines(), False
    for number, line in enumerate(lines):
        names, equals, values = line.partition(" = ")
        parts = [name.strip() for name in names.split(",")] if equals else []
        items = re.split(r",\s*(?![^\[\(]*[\]\)])", values)
        if not {"SEED", "SCENE_SEED"} & set(parts) or len(items) != len(parts):
            continue
        for name in {"SEED", "SCENE_SEED"} & set(parts):
            items[parts.index(name)] = str(seed)
        lines[number], found = f"{names} = {', '.join(items)}", True
    return "\n".join(lines) if found else None


def main(argv: Sequence[str] | None = None) -> int:
    """Check the claims; return how many fail, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="names of lessons; none: all")
    parser.add_argument("--seed", type=int, help="run the lessons again with this seed")
    options = parser.parse_args(argv)
    claims = [c for c in read_claims() if not options.lessons or c.lesson in options.lessons]
    faults, checked = [], 0
    for lesson in sorted({claim.lesson for claim in claims}):
        notebook = nbformat.read(LESSONS / f"{lesson}.ipynb", as_version=4)
        if options.seed is not None:
            from notebooks import execute

            if not with_seed(notebook, options.seed):
                print(f"{lesson}: names no SEED, so it was not run again")
                continue
            execute(notebook, LESSONS)
        asked = [c for c in claims if c.lesson == lesson and not (options.seed and c.here)]
        faults += [fault for claim in asked if (fault := fault_of(claim, notebook))]
        checked += len(asked)
        print(f"{lesson}: {len(asked)} claims")
    print("\n".join(faults) or f"{checked} claims hold.")
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main())
