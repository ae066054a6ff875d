"""A finished run, read from its CSV: the tables that its report and its figures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.editing import summary
from benchmarks.editing.ablations import Axis, axes
from benchmarks.editing.cases import Case, make_case
from benchmarks.editing.defaults import Trial, choose, trials
from benchmarks.editing.table import read_csv
from benchmarks.records import Row
from p2p_lab.judge import load_judge


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        rows: its measurements.
        maps: scores of maps by class of words and slice.
        tuning, reporting: its cases.
        axes: what the tuning half tried.
        trials: every value of every setting, the chosen ones marked.
    """

    rows: Sequence[Row]
    maps: Sequence[Row]
    tuning: Sequence[Case]
    reporting: Sequence[Case]
    axes: Sequence[Axis]
    trials: Sequence[Trial]

    @staticmethod
    def read(path: Path) -> Results:
        """Read a run; its cases are drawn again from their numbers and its seed."""
        found = read_csv(path)
        rows = [row for row in found if row["method"] != "maps"]
        judge, seed = load_judge(), int(found[0]["seed"])
        numbers = sorted({row["case"] for row in rows})
        cases = [make_case(number, judge, seed=seed) for number in numbers]
        scenes = {row["case"]: row["scene"] for row in rows}
        if any(scenes[case.number] != case.seed for case in cases):
            raise ValueError(
                f"{path} was measured on other cases than are drawn now "
                f"({found[0]['versions']}). Run the benchmark again."
            )
        said = dict(part.split(" ", 1) for part in found[0]["versions"].split("; "))
        tried = axes(float(said["guidance"]), int(said["steps"]))
        tuning = [case for case in cases if case.half == "tuning"]
        return Results(
            rows,
            [row for row in found if row["method"] == "maps"],
            tuning,
            [case for case in cases if case.half == "reporting"],
            tried,
            trials(tuning, rows, tried) if tuning else [],
        )

    @property
    def table(self) -> dict[str, dict[str, Any]]:
        """Return the numbers of every contender on the reporting half."""
        names = summary.contenders(choose(self.trials) if self.trials else {})
        return summary.sum_up(summary.shared(self.reporting, summary.index(self.rows), names))

    @property
    def curves(self) -> list[dict[str, Any]]:
        """Return every value of every axis on the tuning half."""
        return summary.curves(self.tuning, summary.index(self.rows), self.axes)

    def __str__(self) -> str:
        """Say what was run."""
        said = self.rows[0]["versions"]
        count = len(self.tuning), len(self.reporting)
        return f"{count[1]} reporting and {count[0]} tuning cases, {len(self.rows)} rows\n{said}"
