"""Laws of the model cards: what they say is what `card.json`, logs and benchmarks hold."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import cascade_card
import model_card
import run_facts

WEIGHTS, PAGE = Path("p2p_lab/weights"), Path("docs/model.md")
(LATENT,) = WEIGHTS.glob("scenes-128-v*")
(CASCADE,) = WEIGHTS.glob("cascade-64-v*")


def facts_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


@pytest.fixture
def facts() -> dict[str, Any]:
    return facts_of(LATENT)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a log whose loss falls by 0.01 in every line."""
    folder = tmp_path / "run" / "denoiser"
    folder.mkdir(parents=True)
    write_log(folder, [line(n) for n in range(1, 101)])
    return folder.parent


def line(n: int, loss: float | None = None) -> dict[str, float]:
    fallen = 2 - 0.01 * n if loss is None else loss
    return {"pictures": 100 * n, "seconds": 2 * n, "loss": fallen, "maps": 0.5}


def write_log(folder: Path, lines: list[dict[str, float]]) -> None:
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")


# -- what is committed ----------------------------------------------------------------------


def test_the_bundled_card_and_its_page_say_what_the_tool_writes_from_its_facts(
    facts: dict[str, Any],
) -> None:
    shared = model_card.figures(facts, facts["metrics"])
    captions = model_card.sample_captions(facts["config"]["world"])
    written = (LATENT / "README.md").read_text(encoding="utf-8")
    assert written == model_card.card_text(facts, shared, captions)
    assert shared in PAGE.read_text(encoding="utf-8")


def test_the_cascade_s_card_and_its_page_say_what_the_tool_writes_from_its_facts(
    facts: dict[str, Any],
) -> None:
    cascade = facts_of(CASCADE)
    shared = cascade_card.figures(cascade, facts["metrics"])
    written = (CASCADE / "README.md").read_text(encoding="utf-8")
    assert written == cascade_card.card_text(cascade, shared)
    assert shared in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", [LATENT, CASCADE], ids=lambda folder: folder.name)
def test_a_card_counts_the_parameters_that_the_folder_holds(folder: Path) -> None:
    facts = facts_of(folder)
    parts = [n for key, n in facts.items() if key.endswith("parameters")]
    shared = run_facts.count_parameters(folder / "super" / "text_encoder") if len(parts) > 1 else 0
    assert sum(parts) == run_facts.count_parameters(folder) - shared > 1_000_000


# -- what a bar says ------------------------------------------------------------------------


def test_a_number_at_its_bar_reaches_it_and_one_beyond_does_not(facts: dict[str, Any]) -> None:
    bars = model_card.BARS["scenes-128"]
    rows = model_card.table({**bars, "ceiling": {}}, {}, "scenes-128").splitlines()[2:]
    assert len(rows) == len(bars) and all("| yes |" in row for row in rows)
    worse = {
        key: bar + (0.1 if key in model_card.LOWER_IS_BETTER else -0.1) for key, bar in bars.items()
    }
    rows = model_card.table(worse, {}, "scenes-128").splitlines()[2:]
    assert all("| no |" in row for row in rows)


def test_a_fader_is_below_in_what_it_misses_alone() -> None:
    rows = [
        {"word": "snowy", "correlation": 0.95, "along": 0.9, "changed": 0.5},
        {"word": "night", "correlation": 0.5, "along": 0.9, "changed": 0.5},
        {"word": "red", "correlation": 0.5, "along": 0.9, "changed": 0.01},
    ]
    snowy, night, red = model_card.say_faders(rows).splitlines()[-3:]
    assert "below" not in snowy
    assert "below: correlation |" in night and "below: correlation, change |" in red


def test_misdrawn_pictures_are_counted_off_the_captions_and_named_in_order() -> None:
    said = model_card.say_misdrawn({"13": "no frame", "3": "no eyes"})
    captions = model_card.EYE.read_text(encoding="utf-8").splitlines()
    assert f"**{len(captions) - 2} of {len(captions)}**" in said
    assert said.splitlines()[-2:] == [
        f"- 3, “{captions[3]}”: no eyes",
        f"- 13, “{captions[13]}”: no frame",
    ]


def test_what_a_run_brought_is_said_only_of_models_of_one_kind(facts: dict[str, Any]) -> None:
    ends = {"pictures": 1000, "loss": 0.1, "slope": -0.002}
    before = {"name": "scenes-128-v1", "denoiser": {"loss": 0.15}}
    one = {"name": "scenes-128-v2", "denoiser": ends, "before": before}
    assert "the 1,000 pictures brought 0.0500" in model_card.progress(one)
    other = {**one, "before": {**before, "name": "scenes-64-v2"}}
    assert "brought" not in model_card.progress(other) and "-0.0020" in model_card.progress(other)


def test_distances_of_unequally_many_pictures_are_not_compared() -> None:
    ours = {"distance": 7.0, "floor": 10.0, "pictures": 200, "model": "a"}
    assert model_card.compare(ours, {**ours, "distance": 14.0, "model": "b"}) == {
        "distance": 7.0, "floor": 10.0, "pictures": 200, "other": 14.0, "other_name": "b",
    }  # fmt: skip
    with pytest.raises(ValueError, match="equally many pictures; measure one again"):
        model_card.compare(ours, {**ours, "pictures": 100})


# -- what a run left ------------------------------------------------------------------------


def test_of_a_resumed_log_the_later_line_counts_and_a_torn_one_does_not(run: Path) -> None:
    path = run / "denoiser" / "log.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line(90, loss=7.0)) + '\n{"pictures": 10')
    log = run_facts.read_log(path)
    assert [one["pictures"] for one in log] == [100 * n for n in range(1, 101)]
    assert log[89]["loss"] == 7.0 and log[90]["loss"] == pytest.approx(1.09)


def test_the_slope_is_the_change_over_the_last_tenth(run: Path) -> None:
    log = run_facts.read_log(run / "denoiser" / "log.jsonl")
    assert run_facts.slope(log, "loss") == pytest.approx(-0.1)
    assert run_facts.slope(log[:1], "loss") == 0.0


def test_facts_take_the_run_s_ends_and_keep_the_stage_that_it_did_not_train(
    run: Path, facts: dict[str, Any]
) -> None:
    found = model_card.collect(run, LATENT, {"sites": []})
    assert found["denoiser"] | {"before": ""} == {
        "pictures": 10_000, "seconds": 200, "loss": 1.0, "slope": -0.1, "before": "",
    }  # fmt: skip
    assert found["denoiser"]["before"] == facts["denoiser"]["before"]
    assert found["autoencoder"] == facts["autoencoder"]
    assert found["log"] != facts["log"] and found["metrics"] == {"sites": []}


def test_a_card_says_what_the_sharpening_took_where_a_run_had_one(
    run: Path, facts: dict[str, Any]
) -> None:
    plain = {name: fact for name, fact in facts.items() if name != "sharpening"}
    assert "last level" not in model_card.made(plain)
    folder = run / "sharpening"
    folder.mkdir()
    write_log(folder, [{**line(n), "slopes": 1.0} for n in range(1, 11)])
    said = model_card.made(model_card.collect(run, LATENT, {"sites": []}))
    level = (
        "The decoder's last level, against a discriminator, learned on 1,000 pictures in 0 "
        "minutes; slopes ended at 1.00 of the true ones."
    )
    assert level in said


def test_a_card_takes_its_numbers_from_the_files_that_are_named(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    def saved(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_text("something printed before\n" + json.dumps(content), encoding="utf-8")
        return path

    fader = {"word": "w", "correlation": 1, "along": 0.5, "changed": 1}
    frechet = {"distance": 5.0, "floor": 10.0, "pictures": 200, "model": "other"}
    eye = tmp_path / "eye.json"
    eye.write_text(json.dumps({"3": "no eyes"}), encoding="utf-8")
    options = argparse.Namespace(
        run=None,
        weights=LATENT,
        sites=True,
        matched=None,
        beside=saved("beside.json", {"model": "other", **facts["metrics"]}),
        frechet=[saved("ours.json", frechet), saved("theirs.json", {**frechet, "distance": 20.0})],
        faders=saved("faders.json", {"faders": [fader]}),
        eye=eye,
    )
    found = model_card.gather(options, {**facts["metrics"], "sites": [["a", 1]]})
    assert found["map_sites"] == [["a", 1]] and found["misdrawn"] == {"3": "no eyes"}
    text = model_card.figures(found, found["metrics"])
    assert "**5.0**; `other`, enlarged: 20.0, so 0.25 of it" in text
    assert "| w | 1.00 | 0.50 | 100.0% |  |" in text and "**47 of 48**" in text


def test_figures_replace_what_stood_between_their_marks_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"before\n<!-- figures: one -->\nold\n{run_facts.END}\nbetween\n"
        f"<!-- figures: two -->\nkept\n{run_facts.END}\nafter\n",
        encoding="utf-8",
    )
    run_facts.fill(page, "one", "new")
    assert page.read_text(encoding="utf-8") == (
        f"before\n<!-- figures: one -->\nnew\n{run_facts.END}\nbetween\n"
        f"<!-- figures: two -->\nkept\n{run_facts.END}\nafter\n"
    )
