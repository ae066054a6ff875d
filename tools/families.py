"""The table of model families in docs/backbones.md, made from what the tests say: family × feature.

    python tools/families.py          run the tests of the families and write the table
    python tools/families.py --show   the same, printed instead of written

A cell holds ✓ if every test of that family and feature passed, ✗ if one did not, and a letter where
the feature is refused, with the reason below. `tests/test_families.py` compares the page with the
table that these tests promise, so neither can drift alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TESTS = ROOT / "tests" / "test_families.py"
PAGE = ROOT / "docs" / "backbones.md"
START, END = "<!-- families -->", "<!-- /families -->"
FEATURES = {
    "load": "load",
    "record": "record",
    "replace": "replace",
    "refine": "refine",
    "reweight": "reweight",
    "local blend": "blend",
    "cached source": "cached",
    "ddim": "ddim",
    "negative-prompt": "neg.",
    "null-text": "null",
    "direct": "direct",
    "edit-friendly": "e.-f.",
}
Cells = dict[tuple[str, str], list[str]]


class Outcomes:
    """A pytest plugin that notes the outcome of each test under its family and feature."""

    def __init__(self) -> None:
        self.cells: Cells = {}
        self.places: dict[str, tuple[str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        self.places = {item.nodeid: place for item in items if (place := place_of(item))}

    def pytest_runtest_logreport(self, report: Any) -> None:
        place = self.places.get(report.nodeid)
        if place is not None and (report.when == "call" or report.outcome != "passed"):
            self.cells.setdefault(place, []).append(report.outcome)


def place_of(item: Any) -> tuple[str, str] | None:
    """Tell a test's row and column; None for tests that fill no cell."""
    given = getattr(item, "callspec", None)
    if given is None:
        return None
    key = given.params.get("family") or given.params.get("key")
    feature = given.params.get("method") or getattr(item.function, "feature", None)
    return (str(key), str(feature)) if key and feature in FEATURES else None


def promised() -> Cells:
    """Return the cells that the tests promise: all passed, but for what is refused."""
    from tests.family_pipelines import FAMILIES

    return {(key, feature): ["passed"] for key in FAMILIES for feature in FEATURES}


def table(cells: Mapping[tuple[str, str], list[str]]) -> str:
    """Write the table, with the reasons of what is refused below it."""
    from tests.family_pipelines import FAMILIES

    reasons: dict[str, str] = {}
    lines = [
        "| family | " + " | ".join(FEATURES.values()) + " |",
        "|---|" + ":-:|" * len(FEATURES),
    ]
    for key, family in FAMILIES.items():
        marks = [
            _mark(cells.get((key, feature), []), family.refused.get(feature), reasons)
            for feature in FEATURES
        ]
        lines.append(f"| {family.label} | " + " | ".join(marks) + " |")
    notes = " ".join(
        f"{letter}: refused, as this inversion {reason}." for reason, letter in reasons.items()
    )
    return "\n".join([*lines, "", notes]).strip()


def _mark(outcomes: list[str], refused: str | None, reasons: dict[str, str]) -> str:
    if not outcomes or "failed" in outcomes:
        return "✗"
    if refused is None:
        return "✓" if set(outcomes) == {"passed"} else "✗"
    return reasons.setdefault(refused, "abcdefgh"[len(reasons)])


def block(text: str) -> str:
    """Return what stands between the markers of a text."""
    return text.split(START)[1].split(END)[0].strip()


def main() -> int:
    """Run the tests, then write or print the table; return 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="print the table, write nothing")
    show = parser.parse_args().show
    import pytest

    outcomes = Outcomes()
    failed = pytest.main(["-q", str(TESTS)], plugins=[outcomes])
    made = table(outcomes.cells)
    if show:
        print(made)
    else:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
