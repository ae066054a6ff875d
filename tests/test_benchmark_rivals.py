"""Laws of the benchmark of rivals: one budget for all, cases that chose nothing, a made report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rivals as command
from benchmarks.editing.cases import half_of, make_cases
from benchmarks.editing.kinds import KINDS
from benchmarks.records import Records, Row
from benchmarks.rivalry.faders import POSITIONS
from benchmarks.rivalry.report import METHODS, markdown, reading, readme, summary, table_of
from benchmarks.rivalry.results import differences, read_results, write_results
from benchmarks.rivalry.running import Bench, balanced, planned
from benchmarks.rivalry.settings import P2P, TRIES, best_of, choose, tried_name
from p2p_lab.judge import Judge, load_judge
from p2p_lab.models import Denoiser, load
from p2p_lab.rivals import RIVALS


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return load("scenes-128", "cpu")


def row(case: int, method: str, half: str = "reporting", **values: Any) -> Row:
    usual = {"success": 1.0, "kept": 1.0, "both": 1.0, "background_psnr": 30.0, "structure": 0.02}
    about = {"case": case, "kind": list(KINDS)[case % 10], "local": True, "half": half}
    about |= {"origin": "generated" if case % 2 else "inverted", "method": method}
    return {**about, **usual, "seconds": 1.0, "calls": 40, **values}


def reported(cases: int = 4) -> list[Row]:
    return [row(case, method) for case in range(cases) for method in METHODS]


# --- cases and settings


def test_every_method_is_tried_in_as_many_settings_as_every_other() -> None:
    assert set(TRIES) == {P2P, *RIVALS}
    assert {len(tries) for tries in TRIES.values()} == {3}
    assert all(len({str(one) for one in tries}) == 3 for tries in TRIES.values())


def test_kinds_and_origins_take_turns_and_the_halves_share_no_scene(judge: Judge) -> None:
    tuning = balanced(10, judge, seed=40, half="tuning")
    reporting = balanced(20, judge, seed=40, half="reporting")
    assert sorted(case.kind for case in tuning) == sorted(KINDS)
    assert {kind: sum(c.kind == kind for c in reporting) for kind in KINDS} == dict.fromkeys(
        KINDS, 2
    )
    assert [c.origin for c in reporting[:4]] == ["generated", "inverted"] * 2
    for kind in KINDS:
        assert {c.origin for c in reporting if c.kind == kind} == {"generated", "inverted"}
    assert all(half_of(case.number) == case.half == "tuning" for case in tuning)
    assert all(case.half == "reporting" for case in reporting)
    scenes = {case.seed for case in (*tuning, *reporting)}
    assert len(scenes) == 30 and not scenes & {case.seed for case in make_cases(20, judge)}


def test_there_are_as_many_cases_as_a_full_run_reports(judge: Judge) -> None:
    assert command.FULL >= 160
    cases = balanced(command.FULL, judge, seed=40, half="reporting")
    assert len({case.number for case in cases}) == command.FULL


def test_of_settings_that_do_as_well_the_one_that_keeps_most_is_chosen() -> None:
    best = [row(c, "x", both=1.0, background_psnr=20.0) for c in range(10)]
    near = [row(c, "x", both=float(c > 0), background_psnr=30.0) for c in range(10)]
    worse = [row(c, "x", both=float(c > 4), background_psnr=50.0) for c in range(10)]
    assert best_of([best, near, worse]) == 1
    assert best_of([best, worse]) == 0


def test_a_choice_rests_on_the_cases_that_have_all_tries() -> None:
    rows = [
        row(case, tried_name(method, k), "tuning", background_psnr=30.0 + k)
        for case in range(3)
        for method, tries in TRIES.items()
        for k in range(len(tries))
    ]
    chosen, cases = choose(rows)
    assert cases == 3 and all(chosen[m] == tries[-1] for m, tries in TRIES.items())
    assert choose(rows[:-1])[1] == 2
    assert choose(reported()) == ({m: tries[0] for m, tries in TRIES.items()}, 0)


def test_a_case_plans_every_method_and_an_amount_its_faders(judge: Judge) -> None:
    chosen, _ = choose([])
    cases = balanced(20, judge, seed=40, half="reporting")
    for case in cases:
        names = set(planned(case, chosen))
        assert set(METHODS) <= names
        assert (set(POSITIONS) <= names) is bool(case.fader)
        assert ("(concepts)" in names) is (case.origin == "inverted")
    (tuned,) = balanced(1, judge, seed=40, half="tuning")
    assert len(planned(tuned, chosen)) == 3 * len(TRIES)


# --- measuring


def test_a_run_goes_on_where_it_was_and_measures_the_same_again(
    model: Denoiser, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, _ = choose([])
    monkeypatch.setattr(
        "benchmarks.rivalry.running.planned",
        lambda case, chosen: {m: planned(case, chosen)[m] for m in ("sdedit", "flow_edit")},
    )
    (case,) = balanced(1, judge, seed=40, half="reporting")
    found = []
    for name in ("one", "two"):
        bench = Bench(model, judge, Records(tmp_path / name), chosen)
        bench.run([case])
        found.append(bench.records.rows())
        bench.calls.remove()
    timeless = [[{k: v for k, v in r.items() if k != "seconds"} for r in rows] for rows in found]
    assert timeless[0] == timeless[1] and len(found[0]) == 2
    by = {r["method"]: r for r in found[0]}
    steps = model.defaults.steps
    assert by["sdedit"]["calls"] == steps // 2 * 2
    assert by["flow_edit"]["calls"] == round(0.7 * steps) * 4
    (path,) = (tmp_path / "one").glob("rows-*.jsonl")
    path.write_text(path.read_text().splitlines()[0] + "\n")
    bench = Bench(model, judge, Records(tmp_path / "one"), chosen)
    bench.run([case])
    bench.calls.remove()
    again = [{k: v for k, v in r.items() if k != "seconds"} for r in bench.records.rows()]
    assert again == timeless[0] and len(path.read_text().splitlines()) == 2


def test_settings_are_chosen_once_for_a_records_folder(tmp_path: Path) -> None:
    records = Records(tmp_path)
    tried = [
        row(0, tried_name(method, k), "tuning", background_psnr=30.0 + k)
        for method, tries in TRIES.items()
        for k in range(len(tries))
    ]
    records.add(tried)
    first = command.choice(records, last=False)
    assert first == (choose(tried)[0], 1) and first[0]["sdedit"] == TRIES["sdedit"][-1]
    records.add(
        [{**one, "case": 1, "background_psnr": 50.0 - one["background_psnr"]} for one in tried]
    )
    assert command.choice(records, last=False) == first


# --- the report


def test_only_cases_that_every_method_did_are_reported() -> None:
    rows = reported()
    rows = [r for r in rows if (r["case"], r["method"]) != (2, "dds")]
    assert {len(table) for table in table_of(rows).values()} == {3}
    assert summary({"rows": rows})["dds"]["cases"] == 3


def test_the_summary_is_keyed_by_method() -> None:
    rows = [{**r, "success": float(r["case"] > 0)} for r in reported()]
    found = summary({"rows": rows})
    assert set(found) == set(METHODS)
    for numbers in found.values():
        assert numbers["success"] == 0.75 and numbers["background_psnr"] == 30.0
        assert numbers["seconds"] == 1.0 and numbers["cases"] == 4


def test_the_sentence_below_the_table_names_those_that_keep_as_much() -> None:
    better = {"flow_edit": 31.0, "inf_edit": 30.0}
    rows = [
        {**r, "background_psnr": better.get(r["method"], 20.0 + 10 * (r["method"][:3] == "p2p"))}
        for r in reported()
    ]
    rows = [{**r, "masked_background_psnr": 35.0 * (r["method"] == "dds")} for r in rows]
    rows = [{**r, "both": float(r["method"] != "sdedit")} for r in rows]
    text = reading(table_of(rows))
    assert "without a blend: FlowEdit, InfEdit." in text and "with a blend: DDS." in text
    often = text.split("nothing else: ")[1]
    assert "SDEdit" not in often and all(
        r.name in often for m, r in RIVALS.items() if m != "sdedit"
    )


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    results = {"about": {"seed": 1}, "chosen": choose([])[0], "tuned": 2, "rows": reported()}
    write_results(results, tmp_path / "rivals.json")
    assert read_results(tmp_path / "rivals.json") == results


def test_two_runs_are_compared_where_their_settings_agree() -> None:
    def row(case: int, method: str, psnr: float | None, both: float) -> dict[str, Any]:
        return {"case": case, "method": method, "half": "reporting", "success": 1.0, "both": both,
                "background_psnr": psnr}  # fmt: skip

    mine = {"chosen": {"dds": {}, "sdedit": {"skip": 0.5}}, "rows": [
        row(1, "dds", 30.0, 1.0), row(2, "dds", None, 1.0), row(1, "sdedit", 20., 1.)]}  # fmt: skip
    theirs = {"chosen": {"dds": {}, "sdedit": {"skip": 0.3}}, "processor": "AVX512", "rows": [
        row(1, "dds", 30.002, 0.0), row(2, "dds", None, 1.0), row(1, "sdedit", 9.0, 0.0),
        row(3, "dds", 5.0, 0.0)]}  # fmt: skip
    found = differences(mine, theirs)
    assert found == {
        "verdicts": 4, "same": 3, "background_psnr": {"dds": 0.002}, "processor": "AVX512"
    }  # fmt: skip


def test_the_document_is_made_by_the_script_from_the_committed_measurements() -> None:
    text = command.DOCUMENT.read_text(encoding="utf-8")
    results = read_results()
    assert text == markdown(results)
    count = len(table_of(results["rows"])[P2P])
    assert text.startswith(f"# What came after Prompt-to-Prompt: {count} cases that chose nothing")
    for rival in RIVALS.values():
        assert f"| {rival.name} | {rival.paper} |" in text


def test_the_readmes_lines_are_made_by_the_script_too() -> None:
    page = command.README.read_text(encoding="utf-8")
    lines = readme(read_results())
    assert f"<!-- rivals -->{lines}<!-- /rivals -->" in page and len(lines.splitlines()) == 3
    assert all(rival.name in lines for rival in RIVALS.values())
    assert command.with_lines(page, "new") == page.replace(lines, "new")
    assert command.with_lines("no marks", "new") == "no marks"


def test_a_quick_run_ends_with_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "run", lambda self, cases: self.records.add(reported(len(cases))))
    command.main(["--quick", "--records", str(tmp_path / "records"), "--cases", "2"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(last) == set(METHODS)
    assert {"success", "background_psnr", "seconds"} <= set(last["flow_edit"])
