"""What a long benchmark has measured so far: one line of JSON each, safe against a kill.

A run that was cut short goes on where it was, and several processes may share the work: each
writes a file of its own and reads everybody's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read the whole lines of a file; one that a kill has torn counts as not measured."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows at the end of a file, on a new line even after a torn one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


@dataclass(frozen=True)
class Records:
    """The records of one run: a folder with one file for each process.

    Attributes:
        folder: where they lie.
        process: number of the process that writes.
        keys: the fields that tell one measurement from another.
    """

    folder: Path
    process: int = 0
    keys: tuple[str, ...] = ("case", "method")

    def claim(self, about: Mapping[str, Any]) -> None:
        """Say what is measured, or check that it is what was measured here before.

        Raises:
            ValueError: if the folder holds the records of another model or other settings.
        """
        path = self.folder / "about.json"
        said = json.loads(json.dumps(about))
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            other = sorted(k for k in {*before, *said} if before.get(k) != said.get(k))
            if other:
                raise ValueError(
                    f"{self.folder} holds records of another run: {', '.join(other)} "
                    f"differ ({[before.get(k) for k in other]}, now {[said.get(k) for k in other]})"
                    ". Name another folder with --records, or start again with --fresh."
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"about.{self.process}.draft"
        draft.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)

    def rows(self) -> list[Row]:
        """Return all rows of all processes, each measurement once, in a fixed order."""
        found: dict[tuple[Any, ...], Row] = {}
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            for row in read_rows(path):
                found.setdefault(self.key(row), row)
        return [found[key] for key in sorted(found, key=repr)]

    def key(self, row: Row) -> tuple[Any, ...]:
        """Return what tells a row from all others."""
        return tuple(row[name] for name in self.keys)

    def done(self) -> set[tuple[Any, ...]]:
        """Return the keys of everything measured so far."""
        return {self.key(row) for row in self.rows()}

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows so that they outlive this process."""
        append_rows(self.folder / f"rows-{self.process}.jsonl", rows)
