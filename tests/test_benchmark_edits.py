"""Laws of the editing benchmark: its truth is true, its records survive, its numbers are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import along
from benchmarks import edits as command
from benchmarks import eye as look
from benchmarks import model as model_benchmark
from benchmarks.calls import Rows
from benchmarks.editing import sources, summary
from benchmarks.editing.ablations import Axis, axes, lookup, variants
from benchmarks.editing.attention import THRESHOLDS, area_under_curve, attention_rows, score
from benchmarks.editing.cases import Case, half_of, make_case, make_cases
from benchmarks.editing.defaults import choose, trials
from benchmarks.editing.kinds import KINDS
from benchmarks.editing.methods import Settings, edits_of, prompt_to_prompt, re_prompt
from benchmarks.editing.running import NO_SOURCE, Bench, planned
from benchmarks.editing.scores import background, edit_scores, fader_correlation, interval, mean
from benchmarks.editing.sources import Source, make_source
from benchmarks.editing.surgery import SURGERIES, renormalised, replaced
from benchmarks.editing.table import read_csv, write_csv
from benchmarks.editing.truth import may_change, moved, seen_mask, wanted
from benchmarks.full_pipeline import FullPipeline
from benchmarks.records import Records, append_rows, read_rows
from p2p_lab.attention import controller
from p2p_lab.edits import LocalBlend, Refine, Replace, Reweight
from p2p_lab.judge import Judge, Verdict, load_judge
from p2p_lab.models import Denoiser, load
from p2p_lab.sampling import generate
from p2p_lab.scenes import WORLDS, Scene, parse, render

STEPS = 2


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return load("scenes-128", "cpu")


@pytest.fixture(scope="module")
def cases(judge: Judge) -> list[Case]:
    return make_cases(80, judge)


@pytest.fixture(scope="module")
def few(judge: Judge) -> list[Case]:
    """Three inverted and local cases: an object swapped, one deleted, a colour faded."""
    faded = (make_case(number, judge) for number in range(18, 500, 40))
    return [make_case(10, judge), make_case(12, judge), next(c for c in faded if c.local)]


@pytest.fixture(scope="module")
def source(model: Denoiser, judge: Judge, few: list[Case]) -> Source:
    found = make_source(few[0], model, judge, steps=STEPS)
    assert found is not None
    return found


# --- cases and what is true of them


def test_the_same_seed_gives_the_same_cases_and_another_one_others(judge: Judge) -> None:
    assert make_cases(12, judge) == make_cases(12, judge)
    assert all(
        a != b for a, b in zip(make_cases(12, judge), make_cases(12, judge, seed=1), strict=True)
    )


def test_a_case_does_not_depend_on_how_many_are_made(cases: list[Case], judge: Judge) -> None:
    reporting = make_cases(40, judge, half="reporting")
    assert reporting == [case for case in cases if case.half == "reporting"]


def test_kinds_origins_and_halves_are_balanced(cases: list[Case]) -> None:
    cells = [(case.kind, case.origin, case.half) for case in cases]
    assert len(set(cells)) == len(KINDS) * 2 * 2
    assert {cells.count(cell) for cell in cells} == {2}
    assert [half_of(n) for n in (0, 19, 20, 39, 40)] == [
        "reporting", "reporting", "tuning", "tuning", "reporting",
    ]  # fmt: skip


def test_the_judge_reads_both_true_pictures_of_every_case(cases: list[Case], judge: Judge) -> None:
    for case in cases:
        before, after = render([case.source, case.target]).images
        asked, kept = case.wanted
        assert judge.holds(before, case.source) and judge.holds(before, kept)
        assert judge.holds(after, asked) and judge.holds(after, kept)
        assert case.fader or not judge.holds(before, asked), f"{case.said}: nothing to do"


@pytest.mark.parametrize("kind", KINDS)
def test_outside_the_mask_of_a_kind_its_true_pictures_are_the_same(
    kind: str, cases: list[Case]
) -> None:
    for case in (case for case in cases if case.kind == kind):
        before, after = render([case.source, case.target]).images
        differs = ((before - after).abs().amax(0) > 0.06).numpy()
        mask = case.mask(len(before[0]))
        assert not (differs & ~mask).any(), case.said
        if case.local:
            assert mask.mean() < 0.6 and (differs & mask).sum() > 0.25 * mask.sum(), case.said


def test_every_kind_asks_for_its_change_and_for_nothing_else_to_change(cases: list[Case]) -> None:
    for case in cases:
        asked, kept = wanted(case.source, case.target)
        scene = {q for q in ("place", "time", "weather", "style") if getattr(asked, q)}
        expected = {
            "object": (1, 1, set()), "add": (1, 0, set()), "delete": (0, 1, set()),
            "colour": (1, 0, set()), "material": (1, 0, set()), "background": (0, 0, {"place"}),
            "style": (0, 0, {"style"}),
        }.get(case.kind)  # fmt: skip
        if expected is not None:
            assert (len(asked.objects), len(asked.absent), scene) == expected, case.said
        assert not set(kept.objects) & {*asked.objects, *asked.absent}
        assert not any(getattr(kept, question) for question in scene)


def test_a_swapped_thing_keeps_its_colour_and_the_others_stay() -> None:
    case = Scene_of("red cat", "lemon")
    asked, kept = wanted(case, case.with_thing("subject", name="dog"))
    assert (asked.objects, asked.absent, asked.attributes) == (("dog",), ("cat",), {"dog": "red"})
    assert kept.objects == ("lemon",)


def Scene_of(first: str, second: str) -> Scene:  # noqa: N802
    from p2p_lab.scenes import parse

    return parse(f"a {first} next to a {second} on a beach")


def test_the_mask_of_a_drawn_source_lies_where_the_judge_sees_the_thing() -> None:
    scene = Scene_of("cat", "lemon")
    mask = torch.zeros(64, 64)
    mask[40:56, 6:22] = 1
    seen = Verdict({}, 0.5, {}, {"cat": mask, "lemon": torch.zeros(64, 64)}, {}, 0.0)
    there = moved(scene, seen).subject
    assert (there.x, there.y, there.scale) == (14 / 64, 48 / 64, 16 / 64)
    found = seen_mask(scene, scene.with_thing("subject", name="dog"), seen, 64)
    assert found[40:56, 6:22].all() and found.sum() < 20 * 20


def test_a_crown_to_come_sits_on_the_head_that_the_judge_sees(cases: list[Case]) -> None:
    case = next(c for c in cases if c.kind == "add" and c.origin == "generated")
    mask = torch.zeros(64, 64)
    mask[30:60, 30:60] = 1
    masks = {thing.name: mask for thing in case.source.things}
    found = seen_mask(case.source, case.target, Verdict({}, 0.5, {}, masks, {}, 0.0), 64)
    rows, columns = np.nonzero(found)
    assert rows.mean() < 40 and 35 < columns.mean() < 55


def test_time_weather_and_style_may_change_everything() -> None:
    scene = Scene_of("cat", "lemon")
    assert may_change(scene, replace(scene, time="night"), 64).all()
    assert may_change(scene, replace(scene, style="sketch"), 64).all()
    assert not may_change(scene, scene, 64).any()


def test_a_half_has_half_of_the_cases_whether_it_runs_alone_or_not(judge: Judge) -> None:
    both, one, other = (
        command.halves(command.parse(["--cases", "4", *only]), judge)
        for only in ([], ["--only", "reporting"], ["--only", "tuning"])
    )
    said = [[case.said for case in part] for part in (*both, *one, *other)]
    assert said == [said[0], said[1], [], said[1], said[0], []] and len(said[0]) == 2 == len(
        said[1]
    )


# --- scores


def test_the_true_target_is_a_success_and_the_source_is_none(source: Source, judge: Judge) -> None:
    case = source.case
    before, after = render([case.source, case.target]).images
    best, none = edit_scores(judge, source, after), edit_scores(judge, source, before)
    assert (best["success"], best["kept"], best["both"]) == (1, 1, 1)
    assert (none["success"], none["kept"], none["both"]) == (0, 1, 0)
    assert none["background_psnr"] == 60 and none["structure"] == 0
    assert 30 < best["background_psnr"] <= 60


def test_a_spoiled_background_is_measured_and_a_spoiled_subject_is_not(source: Source) -> None:
    inside, outside = source.picture.clone(), source.picture.clone()
    inside[:, torch.from_numpy(source.mask)] = 0.5
    outside[:, torch.from_numpy(~source.mask)] += 0.1
    assert background(source.picture, inside, source.mask)["background_mse"] == 0
    spoiled = background(source.picture, outside, source.mask)
    assert spoiled["background_psnr"] == pytest.approx(20, abs=0.01)
    everything = np.ones_like(source.mask)
    assert set(background(source.picture, inside, everything).values()) == {None}


def test_an_amount_must_move_the_way_it_was_turned(
    few: list[Case], source: Source, judge: Judge
) -> None:
    case = few[2]
    before, after = render([case.source, case.target]).images
    faded = replace(source, case=case, picture=before, verdict=judge.read(before))
    assert edit_scores(judge, faded, after)["success"] == 1
    assert edit_scores(judge, faded, before)["success"] == 0


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_values() -> None:
    few, many = [0.0, 1.0] * 5, [0.0, 1.0] * 500
    (a, b), (c, d) = interval(few), interval(many)  # type: ignore[misc]
    assert a < 0.5 < b and c < 0.5 < d and d - c < (b - a) / 5
    assert d - c == pytest.approx(2 * 1.96 * 0.5 / 1000**0.5, rel=0.15)  # the normal interval
    assert interval([1.0, 1.0, None]) == (1.0, 1.0) and interval([None]) is None
    assert interval(few) == interval(few) and mean([1.0, None, 2.0]) == 1.5


def test_a_fader_that_moves_nothing_has_no_correlation() -> None:
    assert fader_correlation([-1, 0, 1], [0.1, 0.2, 0.9]) == pytest.approx(1)
    assert fader_correlation([-1, 0, 1], [0.9, 0.2, 0.1]) == pytest.approx(-1)
    assert fader_correlation([0, 1, 2, 3], [0, 0, 1, 1]) == pytest.approx(0.894, abs=1e-3)
    assert fader_correlation([-1, 0, 1], [0.3, 0.3, 0.3]) == 0


# --- attention


def test_a_map_equal_to_the_mask_has_full_scores_and_its_opposite_none() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:32, 16:48] = True
    heat = torch.nn.functional.adaptive_avg_pool2d(mask[None].float(), 16)[0]
    assert score(heat, mask) == [1] * (2 + len(THRESHOLDS))
    worst = score(1 - heat, mask)
    assert worst[:2] == [0, 0] and max(worst[2:]) == 0
    assert score(torch.ones(16, 16), mask)[1] == 0.5


def test_the_area_under_the_curve_counts_pairs() -> None:
    heat = torch.tensor([[0.1, 0.4], [0.35, 0.8]])
    cells = torch.tensor([[False, False], [True, True]])
    assert area_under_curve(heat, cells) == 0.75  # of four pairs, 0.35 < 0.4 is the wrong one


def test_every_word_of_a_source_is_scored_at_every_site_step_and_head(source: Source) -> None:
    rows = {row["word"]: row for row in attention_rows(source)}
    subject = source.case.source.subject.name
    assert rows[subject]["class"] == "object"
    assert "background" in {row["class"] for row in rows.values()}
    slices = rows[subject]["slices"]
    assert source.run.tape is not None
    heads = [site.heads for site in source.run.tape.sites.values() if site.kind == "cross"]
    assert len([name for name in slices if name.startswith("site ")]) == len(heads)
    assert len([name for name in slices if name.startswith("step ")]) == STEPS
    assert len([name for name in slices if name.startswith("head ")]) == sum(heads)
    assert {"ours", "daam", "resolution 8", "resolution 16"} <= set(slices)
    assert all(len(numbers) == 2 + len(THRESHOLDS) for numbers in slices.values())


def test_the_threshold_is_chosen_on_the_tuning_half() -> None:
    def row(half: str, at: int) -> dict[str, Any]:
        numbers = [1.0, 1.0, *(float(k == at) for k in range(len(THRESHOLDS)))]
        word = {"class": "object", "word": "cat", "slices": {"ours": numbers}}
        return {"method": "(attention)", "half": half, "words": [word]}

    (found,) = summary.maps([row("tuning", 3), row("reporting", 7)])
    assert (found["threshold"], found["iou"], found["pointing"]) == (THRESHOLDS[3], 0.0, 1.0)
    (alone,) = summary.maps([row("reporting", 7)])
    assert (alone["threshold"], alone["iou"]) == (THRESHOLDS[7], 1.0)


# --- methods


def test_settings_become_the_edits_that_they_name(source: Source, few: list[Case]) -> None:
    aligner, blend = edits_of(source, Settings(cross=0.6, threshold=0.5, blend=True))
    assert isinstance(aligner, Replace) and aligner.cross == (0, 0.6)
    assert aligner.self_attention == Replace().self_attention
    assert isinstance(blend, LocalBlend) and blend.threshold == 0.5
    assert (blend.source_words, blend.target_words) == _names(source.case)
    faded = replace(source, case=few[2], run=replace(source.run, prompt=_prompt(source, few[2])))
    first, fader = edits_of(faded, Settings())
    assert isinstance(first, Refine) and isinstance(fader, Reweight) and fader.scale < 0


def _names(case: Case) -> Any:
    return (case.source.subject.name,), (case.target.subject.name,)


def _prompt(source: Source, case: Case) -> Any:
    assert source.run.model is not None
    return source.run.model.prompt(case.text)


def test_a_name_says_all_that_differs_from_the_defaults() -> None:
    assert Settings().name == "p2p" and Settings(blend=True).name == "p2p + blend"
    assert Settings(cross=0.0, surgery="renormalised").name == "p2p cross=0 renormalised"


def test_a_re_prompt_of_a_drawn_source_is_the_new_prompt_from_its_seed(
    model: Denoiser, source: Source
) -> None:
    run = generate(model, "a cat in a field", seed=4, steps=STEPS)
    plain = generate(model, "a dog in a field", seed=4, steps=STEPS).pixels
    assert torch.equal(re_prompt(replace(source, run=run), "a dog in a field"), plain)


def test_surgery_is_given_back_and_renormalised_rows_sum_as_before() -> None:
    mix = controller.mix_site
    with pytest.raises(KeyError), replaced("mix_site", renormalised):
        assert controller.mix_site is not mix
        raise KeyError
    assert controller.mix_site is mix
    target = torch.rand(1, 2, 4, 6).softmax(-1)
    mixed = renormalised(lambda target, *rest: 3 * target)(target, None, None, None, 0)
    assert torch.allclose(mixed, target)


def test_every_surgery_changes_the_picture_and_doing_nothing_does_not(
    model: Denoiser, judge: Judge, few: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(few[2], model, judge, steps=STEPS)  # a fader: its rows do not sum to 1
    assert source is not None
    monkeypatch.setitem(SURGERIES, "nothing", lambda: replaced("mix_site", lambda mix: mix))
    for surgery in SURGERIES:
        blend = surgery.startswith("blended")
        usual = prompt_to_prompt(source, Settings(blend=blend))
        other = prompt_to_prompt(source, Settings(surgery=surgery, blend=blend))
        same = torch.allclose(other, usual, atol=1e-4)
        assert same == (surgery == "nothing"), surgery


def test_calls_are_counted_in_rows() -> None:
    layer = torch.nn.Linear(2, 2)
    calls = Rows(layer)
    layer(torch.zeros(3, 2))
    assert (calls.take(), calls.take()) == (3, 0)
    calls.remove()
    layer(torch.zeros(3, 2))
    assert calls.take() == 0


# --- ablations and the choice of defaults


def test_every_value_of_every_axis_is_tried_by_some_tuning_case(judge: Judge) -> None:
    tuning = make_cases(80, judge, half="tuning")
    for axis in axes(3.0, 20):
        for value in axis.values:
            names = [n for case in tuning for n in lookup(axis, value)(case)]
            assert names, (axis.name, value)
            tried = [s.name for case in tuning for s in variants(case, [axis])]
            assert set(names) <= set(tried)
    blended = [s for case in tuning if not case.local for s in variants(case, axes(3.0, 20))]
    assert not any(s.blend for s in blended)


def trial_rows(scores: dict[float, list[float]], psnr: dict[float, float]) -> list[dict[str, Any]]:
    return [
        {
            "case": number, "half": "tuning", "family": "Replace",
            "method": Settings(cross=None if value == 0.8 else value).name,
            **dict.fromkeys(("success", "kept", "both"), both),
            "background_psnr": psnr[value], "structure": 0.0,
        }
        for value, values in scores.items()
        for number, both in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "psnr", "best"),
    [
        ({0.4: [1] * 8, 0.8: [0] * 8}, {0.4: 10.0, 0.8: 30.0}, 0.4),  # clearly better
        ({0.4: [1] * 8, 0.8: [1] * 7 + [0]}, {0.4: 10.0, 0.8: 30.0}, 0.8),  # as good, keeps more
        ({0.4: [1] * 8, 0.8: [1] * 8}, {0.4: 30.0, 0.8: 30.0}, 0.8),  # a draw: the default
        ({0.4: [1] * 7 + [0], 0.8: [1] * 8}, {0.4: 30.0, 0.8: 10.0}, 0.8),  # never a worse one
    ],
)
def test_the_choice_is_the_best_value_or_one_as_good_that_keeps_more(
    scores: Any, psnr: Any, best: float, few: list[Case]
) -> None:
    axis = Axis("cross", (0.4, 0.8), 0.8, None, "never")
    tuning = [replace(few[0], number=n, local=False) for n in range(8)]
    found = trials(tuning, trial_rows(scores, psnr), [axis])
    assert [trial.value for trial in found if trial.best] == [best]
    chosen = choose(found)["Replace"]
    assert chosen.cross == (None if best == 0.8 else best)
    assert choose(found)["Refine"].cross is None


# --- records


def test_a_torn_line_is_not_a_record_and_harms_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    append_rows(path, [{"a": 3}])
    assert read_rows(path) == [{"a": 1}, {"a": 3}]


def test_records_of_another_run_are_refused_with_what_differs(tmp_path: Path) -> None:
    Records(tmp_path).claim({"model": "one", "steps": 20})
    Records(tmp_path, 1).claim({"model": "one", "steps": 20})
    with pytest.raises(ValueError, match="steps differ.*--fresh"):
        Records(tmp_path).claim({"model": "one", "steps": 50})


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, model: Denoiser, judge: Judge, few: list[Case]
) -> Iterator[Bench]:
    bench = Bench(model, judge, Records(tmp_path_factory.mktemp("whole")), STEPS)
    bench.run(few)
    yield bench
    bench.calls.remove()


def test_two_processes_make_the_same_records_as_one(
    tmp_path: Path, whole: Bench, few: list[Case]
) -> None:
    for process in (0, 1):
        part = replace(whole, records=Records(tmp_path, process))
        part.run(few, share=(process, 2))
        part.calls.remove()
    assert len(list(tmp_path.glob("rows-*.jsonl"))) == 2
    assert without_seconds(Records(tmp_path).rows()) == without_seconds(whole.records.rows())


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_records(
    tmp_path: Path, whole: Bench, few: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = replace(whole, records=Records(tmp_path))
    add, written = Records.add, []

    def killed(self: Records, rows: Any) -> None:
        if len(written) == 4:
            with (tmp_path / "rows-0.jsonl").open("a") as file:
                file.write(json.dumps(rows[0])[:40])  # torn in the middle
            raise KeyboardInterrupt
        written.extend(rows)
        add(self, rows)

    monkeypatch.setattr(Records, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        bench.run(few)
    again: list[Any] = []
    monkeypatch.setattr(Records, "add", lambda self, rows: again.extend(rows) or add(self, rows))
    bench.run(few)
    bench.calls.remove()
    expected = without_seconds(whole.records.rows())
    assert without_seconds(bench.records.rows()) == expected
    assert len(again) == len(expected) - 4  # what was measured before is not measured again


def test_a_reporting_case_is_done_by_every_contender(whole: Bench, few: list[Case]) -> None:
    rows = whole.records.rows()
    table = summary.shared(few, summary.index(rows), summary.contenders({}))
    assert set(table) == {"p2p + blend", "p2p", "re-prompt", "sdedit 0.5", "sdedit 0.75"}
    assert {len(found) for found in table.values()} == {len(few)}
    summed = summary.sum_up(table)
    assert summed["re-prompt"]["background_psnr_gain"] == 0
    kept = summed["p2p + blend"]["background_psnr"], summed["p2p"]["background_psnr"]
    assert kept[0] > kept[1]
    assert {row["calls"] for row in rows if row["method"] == "p2p"} == {2 * STEPS}


def test_chosen_settings_are_run_in_the_reporting_half_alone(whole: Bench, few: list[Case]) -> None:
    given = Settings(cross=0.4, blend=True, threshold=0.5)
    bench = replace(whole, chosen={"Replace": given, "Refine": given, "Reweight": given})
    bench.calls.remove()
    assert "p2p cross=0.4 threshold=0.5 + blend" in planned(few[0], bench, "Replace")
    other = replace(few[0], local=False)
    assert "p2p cross=0.4" in planned(other, bench, "Replace")
    assert "re-prompt" not in planned(replace(few[0], half="tuning"), bench, "Replace")


def test_the_csv_gives_the_rows_back(tmp_path: Path, whole: Bench) -> None:
    rows = whole.records.rows()
    scored = summary.maps(rows)
    write_csv(tmp_path / "edits.csv", rows, scored, {"seed": 3, "model": "m-v1", "torch": "2"})
    back = read_csv(tmp_path / "edits.csv")
    assert len(back) == len(rows) + len(scored)
    for row, again in zip(rows, back, strict=False):
        assert (again["seed"], again["versions"]) == (3, "model m-v1; torch 2")
        for name in ("case", "kind", "half", "local", "method", "success", "calls"):
            assert again[name] == row.get(name)
        if row.get("background_psnr") is not None:
            assert again["background_psnr"] == pytest.approx(row["background_psnr"], rel=1e-4)
    assert [r["slice"] for r in back if r["method"] == "maps"] == [m["slice"] for m in scored]


def test_a_source_that_the_model_cannot_draw_is_said_once_and_left_out(
    tmp_path: Path, whole: Bench, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DRAWS", 1)
    monkeypatch.setattr(type(whole.judge), "holds", lambda *_, **__: False)
    bench = replace(whole, records=Records(tmp_path))
    for _ in range(2):
        bench.run(cases[:1])
    bench.calls.remove()
    assert [row["method"] for row in bench.records.rows()] == [NO_SOURCE]
    assert len(read_rows(tmp_path / "rows-0.jsonl")) == 1


def test_a_small_run_ends_with_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "DRAWS", 1)
    given = ["--small", "--cases", "12", "--steps", str(STEPS), "--json"]
    command.main([*given, "--records", str(tmp_path), "--results", str(tmp_path / "results")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted_keys = {"success", "success_by_kind", "background_psnr_gain", "fader_correlation"}
    wanted_keys |= {"pointing", "iou"}
    assert wanted_keys <= set(found) and found["cases"] >= 1
    assert {"p2p", "re-prompt", "sdedit 0.5", "daam maps"} <= set(found["baselines"])
    assert all(wanted_keys <= set(numbers) for numbers in found["baselines"].values())
    assert set(found["success_by_kind"]) == set(KINDS)
    text = (tmp_path / "results" / "edits.md").read_text()
    assert "| re-prompt |" in text and "## Where words look" in text
    assert read_csv(tmp_path / "results" / "edits.csv")


def test_the_tuning_half_alone_prints_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few_axes = (Axis("cross", (0.8, 0.4), 0.8, None, "both", says="τ"),)
    monkeypatch.setattr(command, "axes", lambda guidance, steps: few_axes)
    monkeypatch.setattr(sources, "DRAWS", 1)
    given = ["--only", "tuning", "--cases", "24", "--steps", str(STEPS), "--json"]
    command.main([*given, "--records", str(tmp_path)])
    out = capsys.readouterr().out
    assert "## Defaults chosen on the tuning half" in out and "chosen" in out
    assert set(json.loads(out.splitlines()[-1])["defaults"]) == {"Replace", "Refine", "Reweight"}


def test_the_figures_of_a_run_say_its_numbers(
    tmp_path: Path, whole: Bench, few: list[Case]
) -> None:
    from benchmarks.editing import plots
    from benchmarks.editing.results import Results

    rows = whole.records.rows()
    about = {"seed": 0, "model": "scenes-128-v4", "steps": STEPS, "guidance": 3.0}
    write_csv(tmp_path / "edits.csv", rows, summary.maps(rows), about)
    run = Results.read(tmp_path / "edits.csv")
    assert [case.number for case in run.reporting] == [
        case.number for case in few
    ] and not run.tuning
    expected = summary.sum_up(
        summary.shared(run.reporting, summary.index(rows), summary.contenders({}))
    )
    for name, numbers in run.table.items():
        assert numbers["success"] == expected[name]["success"]
        gain = expected[name]["background_psnr_gain"]
        assert numbers["background_psnr_gain"] == pytest.approx(gain, abs=1e-2)
    assert f"all {run.table['p2p']['success']:.2f}" in plots.by_kind(run.table).alt
    assert "re-prompt" in plots.keeping(run.table).alt
    assert "site and step" in plots.places(run.maps).alt and "head 0" in plots.heads(run.maps).alt
    plots.trade_off(run.curves), plots.settings(run.curves)


# --- pictures to be looked at, and faders


def test_the_fixed_captions_are_forty_eight_that_the_grammar_reads() -> None:
    texts = look.captions()
    assert len(texts) == len(set(texts)) == 48
    assert all(parse(text) for text in texts)
    single = {parse(text).things[0].name for text in texts}
    assert single >= set(WORLDS["small"].objects)


def test_the_fixed_captions_are_drawn_with_the_judges_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.png"
    found = model_benchmark.main(["--eye", str(path), "--samples", "2"])
    with Image.open(path) as grid:
        assert grid.format == "PNG" and grid.width > 1000
    assert [row["caption"] for row in found["eye"]] == look.captions()[:2]
    assert all(row["objects"] for row in found["eye"])
    assert "Wrote" in capsys.readouterr().out


def test_a_fader_is_followed_by_the_amount_that_the_judge_sees(judge: Judge) -> None:
    pipeline = FullPipeline.open(None)
    (row,) = look.fader_table(pipeline, judge, look.FADERS[:1], seeds=1)
    assert row["word"] == "snowy" and row["correlation"] > 0.5 and row["along"] > 0.5
    assert row["range"] > 0.05 and row["changed"] > 0


@pytest.mark.parametrize("fader", look.FADERS, ids=lambda fader: fader.word)
def test_a_true_picture_with_the_word_lies_further_along_than_one_without(
    fader: look.Fader,
) -> None:
    line = along.line_of(fader.prompt, fader.question, 64)
    there = parse(fader.prompt, 500)  # none of those that the line is made of
    bare = along.without(there, fader.question)
    pictures = render([bare, there], 64)
    thing = (
        [thing.name for thing in there.things].index(fader.question)
        if (fader.question in [thing.name for thing in there.things])
        else None
    )
    places = []
    for b, picture in enumerate(pictures.images):
        region = torch.ones(64, 64) if thing is None else pictures.masks[b, thing]
        places.append(line.position(picture, region))
    assert places[0] < 0.4 and places[1] > 0.6


def test_places_on_a_line_are_proportions_and_go_beyond_its_ends() -> None:
    line = along.Line(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 0.0]))
    region = torch.zeros(2, 2)
    region[0, 0] = 1
    for shade, place in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (-0.5, 1.5)):
        picture = torch.full((3, 2, 2), 9.0)  # outside of the region nothing counts
        picture[:, 0, 0] = torch.tensor([shade, shade, 0.7])  # nor does what is across the line
        assert line.position(picture, region) == pytest.approx(place)
