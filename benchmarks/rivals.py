"""What came after Prompt-to-Prompt, scored on the same cases with the same judge.

    python benchmarks/rivals.py --quick          a few cases, the settings of the last full run
    python benchmarks/rivals.py                  goes on where it was; writes its pages
    python benchmarks/rivals.py --report         writes the report of what was measured so far
    python benchmarks/rivals.py --report --compare theirs.json
                                                 with what differs from a run on another machine

Cases are those of `benchmarks/edits.py` with other scenes. The tuning half chooses one of equally
many settings for each method; the reporting half measures those. Each measurement is a line in the
records folder. One thread, float32 and noise drawn on the CPU: the scores are the same to the digit
on every machine with the same versions; the seconds are CPU seconds of this one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import diffusers
import torch

import p2p_lab
from benchmarks.records import Records
from benchmarks.rivalry.report import markdown, readme, summary
from benchmarks.rivalry.results import RESULTS, differences, read_results, write_results
from benchmarks.rivalry.running import Bench, balanced
from benchmarks.rivalry.settings import Chosen, choose
from p2p_lab.judge import load_judge
from p2p_lab.models import load

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT, README = ROOT / "docs" / "rivals.md", ROOT / "README.md"
FULL, TUNING, QUICK = 170, 10, 4  # one source in eighty cannot be read, and 160 are wanted


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks/rivals.py", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} cases, nothing written")
    parser.add_argument("--cases", type=int, help=f"how many to report ({FULL})")
    parser.add_argument("--tuning", type=int, default=TUNING, help=f"how many choose ({TUNING})")
    parser.add_argument("--seed", type=int, default=40, help="other cases (0 to 299)")
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    parser.add_argument("--records", type=Path, help="folder to go on with (out/rivals-MODEL)")
    parser.add_argument("--report", action="store_true", help="measure nothing more")
    parser.add_argument("--compare", type=Path, help="rivals.json of another machine's run")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    options.cases = options.cases or (QUICK if options.quick else FULL)
    if options.report and options.quick:
        parser.error("a quick run leaves nothing to report: leave out --quick or --report")
    return options


def about_of(options: argparse.Namespace, model: Any, judge: Any) -> dict[str, Any]:
    """Return what a measurement depends on beside its case."""
    return {
        "seed": options.seed,
        "model": model.name,
        "judge": judge.card.get("name", ""),
        "steps": model.defaults.steps,
        "guidance": model.defaults.guidance_scale,
        "p2p_lab": p2p_lab.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing; return all that is known then."""
    torch.set_num_threads(1)
    model, judge = load(options.model, "cpu"), load_judge()
    about = about_of(options, model, judge)
    kind = "quick-" if options.quick else ""
    folder = options.records or ROOT / "out" / f"rivals-{kind}{Path(about['model']).name}"
    if options.quick and options.records is None and folder.is_dir():
        shutil.rmtree(folder)
    records = Records(folder)
    records.claim(about)
    bench = Bench(model, judge, records)
    if not (options.report or options.quick):
        bench.run(balanced(options.tuning, judge, seed=options.seed, half="tuning"))
    bench.chosen, tuned = choice(records, last=options.quick)
    if not options.report:
        bench.run(balanced(options.cases, judge, seed=options.seed, half="reporting"))
        print(file=sys.stderr)
    results = {
        "about": about,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "chosen": bench.chosen,
        "tuned": tuned,
        "rows": records.rows(),
    }
    if options.compare:
        results["compared"] = differences(results, read_results(options.compare))
    return results


def choice(records: Records, *, last: bool) -> tuple[Chosen, int]:
    """Return the settings to report and on how many cases they were chosen.

    They are chosen once for a records folder, so that all its rows are of the same settings; a
    quick run takes those of the `last` full run.
    """
    if last and RESULTS.is_file():
        found = read_results()
        return found["chosen"], found["tuned"]
    path = records.folder / "chosen.json"
    if not path.is_file():
        chosen, tuned = choose(records.rows())
        path.write_text(json.dumps({"chosen": chosen, "tuned": tuned}, indent=1), encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["chosen"], found["tuned"]


def with_lines(page: str, lines: str) -> str:
    """Return the README's text with these lines between their marks."""
    before, mark, rest = page.partition("<!-- rivals -->")
    after = rest.partition("<!-- /rivals -->")[2]
    return f"{before}{mark}{lines}<!-- /rivals -->{after}" if mark else page


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return the object of the last line."""
    options = parse(arguments)
    results = measure(options)
    text = markdown(results)
    print(text)
    if not options.quick:
        write_results(results)
        DOCUMENT.write_text(markdown(read_results()), encoding="utf-8")
        page = README.read_text(encoding="utf-8")
        README.write_text(with_lines(page, readme(read_results())), encoding="utf-8")
    head = summary(results)
    if options.json or options.quick:
        print(json.dumps(head))
    return head


if __name__ == "__main__":
    main()
