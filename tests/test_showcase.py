"""Laws of the showcase: a strip says how it was made, lies where lessons look, harms no file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from p2p_lab.__main__ import main
from p2p_lab.commands.showcase import newest_showcase
from p2p_lab.models import load
from p2p_lab.models.loading import name_of

SHOWN = ["source", "re-prompt", "word swap", "refinement", "snowy × 3"]


def never(*_: object, **__: object) -> None:
    raise AssertionError("a model was opened")


@pytest.fixture
def made(sd_folder: Path, tmp_path: Path) -> list[str]:
    """A command that writes a strip of the tiny model."""
    folder = ["--folder", str(tmp_path / "showcase")]
    return ["showcase", str(sd_folder), "--device", "cpu", "--steps", "2", "--seed", "5", *folder]


def test_a_strip_says_its_model_seed_device_date_and_seconds(
    made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(made) == 0
    found = newest_showcase([tmp_path / "showcase"])
    assert found is not None
    facts = json.loads(found.picture.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts == found.facts
    assert (facts["seed"], facts["steps"], facts["device"]) == (5, 2, "cpu")
    assert facts["date"] in found.picture.name and facts["model"] in found.picture.name
    assert list(facts["seconds"]) == SHOWN and all(s > 0 for s in facts["seconds"].values())
    picture = Image.open(found.picture)
    assert picture.width > 4 * picture.height / 2 and "word swap" in picture.info["Description"]
    assert repr(found) in capsys.readouterr().out
    assert repr(found) in found._repr_mimebundle_()["text/html"]


def test_a_strip_of_today_is_not_replaced_unless_asked(
    made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(made) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "showcase").iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("p2p_lab.models.load", never)
        assert main(made) == 2
    said = capsys.readouterr().err
    assert "exists already" in said and "--folder" in said and "--force" in said
    assert {p.name: p.read_bytes() for p in (tmp_path / "showcase").iterdir()} == before
    assert main([*made, "--force"]) == 0


def test_the_newest_strip_is_shown_and_none_where_there_is_none(tmp_path: Path) -> None:
    assert newest_showcase([tmp_path, tmp_path / "nowhere"]) is None
    for day in ("2026-03-01", "2026-11-02", "2026-05-05"):
        facts = {"model": "m", "date": day, "seconds": {}}
        (tmp_path / f"m-{day}.json").write_text(json.dumps(facts))
        (tmp_path / f"m-{day}.png").write_bytes(b"png")
    (tmp_path / "m-2026-12-01.json").write_text(json.dumps({"model": "m", "date": "2026-12-01"}))
    found = newest_showcase([tmp_path])
    assert found is not None and found.picture.name == "m-2026-11-02.png"


def test_a_model_that_is_not_there_is_refused_and_no_folder_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "showcase"
    assert main(["showcase", "./nowhere", "--folder", str(folder)]) == 2
    assert "nowhere" in capsys.readouterr().err and not folder.exists()


def test_a_folder_that_is_a_file_or_locked_is_told_before_any_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("p2p_lab.models.load", never)
    (tmp_path / "afile").write_text("mine")
    for folder in (tmp_path / "afile", tmp_path / "afile" / "below"):
        assert main(["showcase", "scenes-128", "--folder", str(folder)]) == 2
        assert f"{tmp_path / 'afile'} is a file" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert main(["showcase", "scenes-128", "--folder", str(tmp_path / "new")]) == 2
    assert f"no right to write in the folder {tmp_path}" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["afile"]


def test_a_models_name_is_known_before_it_is_opened(sd_folder: Path) -> None:
    for given in ("scenes-128", "cascade-64/super", str(sd_folder)):
        assert name_of(given) == load(given, "cpu").name
    assert name_of("owner/name") == "owner/name"
