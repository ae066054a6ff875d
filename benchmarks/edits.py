"""Does the edit work? Prompt edits of scenes whose truth is known, against what they must beat.

    python benchmarks/edits.py --small [--json]
    torchrun --nproc_per_node 2 benchmarks/edits.py          two cores
    accelerate launch --num_processes 4 benchmarks/edits.py  four GPUs
    python benchmarks/edits.py --only tuning

Every case is a scene, an edit of it in words, the exact mask of what may change and what the judge
must see afterwards. Half of the cases choose settings and are tried in all of them (`--only tuning`
stops there and prints the choice); the other half reports: prompt-to-prompt with the package's
defaults and with the chosen ones, with and without a local blend, a plain re-prompt, and diffusers'
image-to-image. Every measurement is a line in the records folder, so a run that was cut short goes
on where it was, with any number of processes. Table, curves and CSV go to benchmarks/results/;
`benchmarks/report.ipynb` draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import diffusers
import torch
from accelerate import PartialState

import p2p_lab
from benchmarks.editing import report, summary
from benchmarks.editing.ablations import axes
from benchmarks.editing.cases import Case, make_cases
from benchmarks.editing.defaults import Trial, choose, trials
from benchmarks.editing.running import NO_SOURCE, Bench
from benchmarks.editing.table import write_csv
from benchmarks.records import Records, Row
from p2p_lab.judge import load_judge
from p2p_lab.models import load

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FULL, SMALL = 320, 40  # cases; a small run has reporting ones only


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks/edits.py", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="40 cases, nothing tuned: minutes")
    parser.add_argument("--cases", type=int, help=f"how many ({FULL}, small {SMALL})")
    parser.add_argument("--only", choices=("tuning", "reporting"), help="one half")
    parser.add_argument("--seed", type=int, default=0, help="other cases (0 to 199)")
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    parser.add_argument("--judge", help="folder of a judge; the bundled one")
    parser.add_argument("--records", type=Path, help="folder to go on with (out/edits-MODEL)")
    parser.add_argument("--results", type=Path, help="folder of the report (benchmarks/results)")
    parser.add_argument("--fresh", action="store_true", help="forget the records and start again")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    if options.small and options.only == "tuning":
        parser.error("a small run tunes nothing: leave out --small or --only tuning")
    options.cases = options.cases or (SMALL if options.small else FULL)
    return options


def halves(options: argparse.Namespace, judge: Any) -> tuple[list[Case], list[Case]]:
    """Return the tuning and the reporting cases of a run."""
    half = options.cases if options.small else max(options.cases // 2, 1)
    if options.small or options.only == "reporting":
        return [], make_cases(half, judge, seed=options.seed, half="reporting")
    tuning = make_cases(half, judge, seed=options.seed, half="tuning")
    if options.only == "tuning":
        return tuning, []
    return tuning, make_cases(half, judge, seed=options.seed, half="reporting")


def said_of(options: argparse.Namespace, model: Any, judge: Any) -> dict[str, Any]:
    """Return what a measurement depends on beside its case."""
    return {
        "seed": options.seed,
        "model": model.name,
        "judge": judge.card.get("name", str(options.judge)),
        "steps": options.steps or model.defaults.steps,
        "guidance": model.defaults.guidance_scale,
        "p2p_lab": p2p_lab.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "device": model.device.type,
    }


def open_records(
    options: argparse.Namespace, state: PartialState, about: dict[str, Any]
) -> Records:
    """Return the records folder, emptied if that is asked for."""
    kind = "small-" if options.small else ""
    folder = options.records or ROOT / "out" / f"edits-{kind}{Path(about['model']).name}"
    fresh = options.fresh or (options.small and options.records is None)
    if fresh and state.is_main_process and folder.is_dir():
        shutil.rmtree(folder)
    state.wait_for_everyone()
    records = Records(folder, state.process_index)
    if state.is_main_process:
        records.claim(about)
    state.wait_for_everyone()
    records.claim(about)
    return records


def measure(
    bench: Bench, tuning: Sequence[Case], reporting: Sequence[Case], state: PartialState
) -> list[Trial]:
    """Measure the tuning half, choose, measure the reporting half; return what was tried."""
    share = (state.process_index, state.num_processes)
    found: list[Trial] = []
    if tuning:
        bench.run(tuning, share=share)
        state.wait_for_everyone()  # the choice needs everybody's cases
        found = trials(tuning, bench.records.rows(), bench.axes)
        bench.chosen = choose(found)
    bench.run(reporting, share=share)
    state.wait_for_everyone()
    print(file=sys.stderr)
    return found


def conclude(
    options: argparse.Namespace,
    bench: Bench,
    about: dict[str, Any],
    cases: tuple[list[Case], list[Case]],
    found: list[Trial],
) -> dict[str, Any]:
    """Write and print the report; return the object of the last line."""
    tuning, reporting = cases
    numbers = {case.number for case in (*tuning, *reporting)}
    rows = [row for row in bench.records.rows() if row["case"] in numbers]
    by, parts, head = summary.index(rows), [], {}
    scored = summary.maps(rows) if reporting else []
    if reporting:
        table = summary.sum_up(summary.shared(reporting, by, summary.contenders(bench.chosen)))
        faded = summary.faders(rows)
        head = summary.headline(table, faded, scored)
        parts.append(report.markdown(about, head, table, faded, scored, missing(rows)))
    if found:
        parts.append(report.defaults_table(found))
        parts.append(report.ablations(summary.curves(tuning, by, bench.axes)))
        head["defaults"] = {name: s.to_dict() for name, s in bench.chosen.items()}
    text = "\n".join(parts)
    print(text)
    whole = not options.small and options.only is None
    folder = options.results or (RESULTS if whole else bench.records.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edits.md").write_text(text, encoding="utf-8")
    write_csv(folder / "edits.csv", rows, scored, about)
    return head


def missing(rows: Sequence[Row]) -> int:
    """Count the reporting cases without a source."""
    return sum(row["method"] == NO_SOURCE and row["half"] == "reporting" for row in rows)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return the object of the last line."""
    options = parse(arguments)
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.device.type == "cpu":
        torch.set_num_threads(1)  # processes are the better use of cores
    model, judge = load(options.model, state.device), load_judge(options.judge)
    about = said_of(options, model, judge)
    cases = halves(options, judge)
    records = open_records(options, state, about)
    tried = axes(about["guidance"], about["steps"])
    bench = Bench(model, judge, records, about["steps"], axes=tried, named=options.model)
    found = measure(bench, *cases, state)
    if not state.is_main_process:
        return {}
    head: dict[str, Any] = rounded(conclude(options, bench, about, cases, found))
    if options.json:
        print(json.dumps(head))
    return head


if __name__ == "__main__":
    main()
