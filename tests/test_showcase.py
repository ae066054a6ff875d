"""Laws of the showcase: a strip says how it was made, lies where lessons look, harms no file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from p2p_lab.__main__ import main
from p2p_lab.commands.showcase import newest_showcase

SHOWN = ["source", "re-prompt", "word swap", "refinement", "snowy × 3"]


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
    assert main(made) == 2 and "exists already" in capsys.readouterr().err
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
