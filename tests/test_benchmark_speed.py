"""Laws of the speed benchmark: it compares with another's pipeline and gives the model back."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from p2p_lab.models import Denoiser
from tests.conftest import tiny_text_encoder
from tests.worlds import LENGTH, tiny_tokenizer

PORT = """
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

ASKED = []


class Prompt2PromptPipeline(StableDiffusionPipeline):
    def __call__(self, prompt, cross_attention_kwargs=None, **options):
        ASKED.append(cross_attention_kwargs)
        self.unet.set_attn_processor(AttnProcessor())  # theirs, and left behind
        return super().__call__(prompt, **options)
"""


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_benchmark", "benchmarks/speed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["speed_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reads_77(sd32: Any) -> Any:
    """The tiny model with as long a text as diffusers' own pipeline gives it."""
    encoder = tiny_text_encoder(length=77).float()
    return replace(sd32, text_encoder=encoder, tokenizer=tiny_tokenizer(77))


def test_a_port_is_measured_beside_the_package_and_the_model_is_given_back(
    speed: ModuleType, reads_77: Any, tmp_path: Path
) -> None:
    port = tmp_path / "pipeline_prompt2prompt.py"
    port.write_text(PORT, encoding="utf-8")
    options = argparse.Namespace(device="cpu", quick=True, port=port)
    before = dict(reads_77.module.attn_processors)
    subject = speed.Subject("tiny", reads_77, steps=2, rounds=1)
    times, peaks = speed.measure(subject, options)
    after = dict(reads_77.module.attn_processors)
    assert all(after[name] is before[name] for name in before)
    table, numbers = speed.report(subject, times, peaks)
    assert set(speed.TARGETS) <= set(numbers)
    assert numbers["port_ratio"] == pytest.approx(
        times.best("joint edit") / times.best("port, its edit"), abs=1e-4
    )
    assert {"port_peak_mb", "joint_peak_mb"} <= set(numbers)
    assert "where the port takes" in table
    assert speed.port_note(subject, options) == ""


@pytest.mark.parametrize("installed", [True, False])
def test_every_model_that_is_timed_can_be_edited(
    speed: ModuleType, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr(speed, "list_models", list)
    shaped = speed.sd_shaped
    monkeypatch.setattr(speed, "sd_shaped", lambda device, width: shaped(device, width // 3))
    options = argparse.Namespace(device="cpu", quick=True, port=None)
    for subject in speed.subjects(options):
        tried = replace(subject, steps=1, rounds=1)
        found = speed.cases(tried, options)
        assert all(found[case]() is not None for case in ("joint edit", "edit from the tape"))


def test_a_port_is_left_out_with_a_line_where_a_model_reads_other_texts(
    speed: ModuleType, sd32: Denoiser, tmp_path: Path
) -> None:
    options = argparse.Namespace(device="cpu", quick=True, port=tmp_path / "port.py")
    subject = speed.Subject("tiny", sd32, steps=1, rounds=1)
    assert "port, its edit" not in speed.cases(subject, options)  # the file is not even opened
    note = speed.port_note(subject, options)
    assert "left out here" in note and note.endswith(f"this model reads {LENGTH}.")


def test_a_port_that_is_no_python_file_is_refused_in_a_sentence(
    speed: ModuleType, sd32: Denoiser, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="not a Python file"):
        speed.port_edit(tmp_path / "port.txt", sd32, {})


def test_the_store_is_flat_in_the_steps_and_the_tape_grows_as_predicted(
    speed: ModuleType, sd32: Denoiser
) -> None:
    lines = speed.growth(speed.Subject("tiny", sd32, steps=2, rounds=1)).splitlines()[2:]
    rows = [[int(cell) for cell in line.strip("| ").split("|")] for line in lines]
    assert [row[0] for row in rows] == [1, 2, 3]
    assert len({row[1] for row in rows}) == 1
    assert all(row[2] == row[3] for row in rows)
    assert abs((rows[2][2] - rows[1][2]) - (rows[1][2] - rows[0][2])) <= 1  # KiB, rounded


def test_samplers_are_held_against_pictures_of_many_steps_from_the_same_noise(
    reads_77: Any,
) -> None:
    from benchmarks import samplers

    draws = [samplers.ours(reads_77, name) for name in samplers.SAMPLERS]
    draws.append(samplers.unipc(reads_77))
    truth = [draws[0](prompt, seed, 40) for seed, prompt in enumerate(samplers.PROMPTS)]
    assert samplers.nearness(draws[0], truth, 40) == float("inf")
    for draw in draws[1:]:
        assert samplers.nearness(draw, truth, 40) > samplers.nearness(draw, truth, 2)


def test_the_page_of_models_shows_the_samplers_as_they_were_measured() -> None:
    results = Path("benchmarks/results/samplers.md").read_text(encoding="utf-8")
    page = Path("docs/backbones.md").read_text(encoding="utf-8")
    rows = [line for line in results.splitlines() if line.startswith("|")]
    assert len(rows) == 5 and "\n".join(rows) in page


def test_the_page_of_models_says_what_recording_costs_as_it_was_measured() -> None:
    results = Path("benchmarks/results/speed-cpu-quick.md").read_text(encoding="utf-8")
    bundled, shaped = results.split("\n## ")[1:]
    assert bundled.startswith("bundled: ") and shaped.startswith("SD 1.x shape")
    measured = [
        re.search(rf"\| {case} \| [\d.]+ \| ([\d.]+)× \|", part)[1]  # type: ignore[index]
        for part in (shaped, bundled)
        for case in ("generate, word maps", "generate, word maps and tape")
    ]
    page = " ".join(Path("docs/backbones.md").read_text(encoding="utf-8").split())
    stated = re.search(
        r"word maps take ([\d.]+) and word maps with the tape ([\d.]+) times as long; on the "
        r"bundled model ([\d.]+) and ([\d.]+)\.",
        page,
    )
    assert stated is not None and list(stated.groups()) == measured
