"""Laws of the loss on unseen scenes: the same for the same weights, higher for spoiled ones."""

from __future__ import annotations

import pytest
import torch

from benchmarks import loss


def test_the_loss_is_the_same_twice_and_rises_when_weights_are_spoiled() -> None:
    config, parts = loss.open_parts("scenes-128")
    first = loss.measure(config, parts, 8)
    assert loss.measure(config, parts, 8) == first
    assert set(first) == {"loss", "coarse", "detail", "maps"}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in parts.unet.parameters():
            weight += 0.2 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    spoiled = loss.measure(config, parts, 8)
    assert spoiled["loss"] > 1.02 * first["loss"]


def test_a_model_whose_loss_is_not_measured_is_named_before_any_work() -> None:
    with pytest.raises(ValueError, match="cascade-64-v1 was trained as 'cascade'"):
        loss.main(["--model", "cascade-64"])


def test_no_pictures_are_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loss.main(["--pictures", "0"])
    assert "--pictures must be at least 1, got 0." in capsys.readouterr().err
