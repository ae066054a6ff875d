"""Laws of the Fréchet distance: what it is for known sets, and that it sees what pictures lose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks import frechet
from p2p_lab.judge import Labels
from p2p_lab.scenes import WORLDS, render, sample_scene
from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training import stage

LABELS = Labels.of_world(WORLDS["small"])
COUNT = 384
TINY = frechet.FeatureConfig(pictures=240, batch=8)


def normal(count: int, mean: float, deviation: float, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, 3, generator=random, dtype=torch.float64)
    return mean + deviation * drawn


def test_a_set_is_at_no_distance_from_itself_and_the_distance_is_symmetric() -> None:
    one, other = normal(200, 0, 1, 0), normal(300, 1, 2, 1)
    assert frechet.distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet.distance(one, other) == pytest.approx(frechet.distance(other, one))


def test_the_distance_of_normal_sets_is_that_of_their_means_and_deviations() -> None:
    found = frechet.distance(normal(40_000, 0, 1, 0), normal(40_000, 2, 3, 1))
    assert found == pytest.approx(3 * (2**2 + (3 - 1) ** 2), rel=0.03)


def test_the_network_learns_and_is_the_same_after_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "WARMUP_PICTURES", 20)
    losses: list[float] = []
    run_stage = stage.run_stage

    def watched(one: stage.Stage, *rest: Any) -> None:
        loss = one.loss

        def noted(batch: Any, step: int) -> Any:
            found = loss(batch, step)
            losses.append(found[1]["loss"])
            return found

        one.loss = noted
        run_stage(one, *rest)

    monkeypatch.setattr(frechet, "run_stage", watched)
    net, labels = frechet.train(TINY, tmp_path / "run")
    assert len(losses) == 30 and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    frechet.save(net, labels, TINY, tmp_path / "features")
    pictures = list(torch.rand(2, 3, 128, 128))
    again = frechet.open_network(tmp_path / "features")
    known = frechet.features_of(net, pictures)
    assert torch.allclose(known, frechet.features_of(again, pictures), atol=0.02)
    with pytest.raises(ValueError, match="no network in .* --train"):
        frechet.open_network(tmp_path / "nowhere")
    card = tmp_path / "features" / "card.json"
    card.write_text(card.read_text().replace('safetensors": "', 'safetensors": "0'))
    with pytest.raises(ValueError, match="is not the file that its card describes"):
        frechet.open_network(tmp_path / "features")


def test_blurred_halved_and_noisy_renders_are_farther_than_other_renders() -> None:
    net = frechet.open_network()
    scenes = [sample_scene(ENCODERS.seed(i), "small") for i in range(2 * COUNT)]
    drawn = torch.cat([render(scenes[i : i + 32], 128).images for i in range(0, 2 * COUNT, 32)])
    true, others = drawn[:COUNT], drawn[COUNT:]
    known = frechet.features_of(net, true)
    floor = frechet.distance(frechet.features_of(net, others), known)
    small = F.interpolate(others, scale_factor=0.25, mode="area")
    noise = 0.15 * torch.randn(others.shape, generator=torch.Generator().manual_seed(0))
    for spoiled in (small, others.flip(2), (others + noise).clamp(0, 1)):
        found = frechet.distance(frechet.features_of(net, list(spoiled)), known)
        assert found > 2 * floor


def test_a_model_is_measured_with_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    frechet.main(["--model", "scenes-128", "--pictures", "3", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["pictures"] == 3 and found["distance"] > 0 and found["floor"] > 0
