"""Laws of the last stage: the decoder's last level against a discriminator, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training import latent, sharpening, tokens, train
from p2p_lab.training.build import Parts
from p2p_lab.training.config import SIZES
from p2p_lab.training.data import Batch, draw_batch
from p2p_lab.training.denoising import clean_of
from p2p_lab.training.optim import Optimiser
from p2p_lab.training.reconstruction import slopes
from p2p_lab.training.setting import Setting
from p2p_lab.training.sharpening import Discriminator, SharpeningLoss, before_last, hinge_loss
from tiny_run import TINY

CONFIG = dataclasses.replace(
    TINY, encoder="patches", vae_channels=(16, 48, 64), pictures=16, sharpening_share=0.1
)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(tokens, "TOKENIZER_CAPTIONS", 800)
    patch.setattr(latent, "sample_grid", lambda *_: None)
    patch.setattr(latent, "autoencoder_grid", lambda *_: None)
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture
def parts() -> Parts:
    return latent.prepare(CONFIG)


@pytest.fixture
def loss(parts: Parts, tmp_path: Path) -> SharpeningLoss:
    return SharpeningLoss(CONFIG, parts, Setting.open(tmp_path, "cpu", 0, "no"))


@pytest.fixture
def batch(parts: Parts) -> Batch:
    return draw_batch(CONFIG, parts.tokenizer, ENCODERS.start, 4, CONFIG.picture_size)


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_the_last_level_behind_the_others_is_the_decoder(
    parts: Parts, loss: SharpeningLoss
) -> None:
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(
            loss.last(before_last(parts.vae, latents)), parts.vae.decode(latents).sample
        )


def test_the_decoder_and_the_discriminator_learn_each_from_its_own_loss(
    loss: SharpeningLoss, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss.discriminator.eval()  # spectral norms stand still, so that gradients can be compared
    images = batch.images
    decoded = loss.last(before_last(loss.parts.vae, loss.soft(images, batch.ids, 5)))
    hinge_loss(loss.discriminator, images, decoded.detach()).backward()
    apart = [g.clone() for g in gradients(loss.discriminator)]
    assert apart and not gradients(loss.last)
    for parameter in loss.discriminator.parameters():
        parameter.grad = None
    whole, numbers = loss(batch, 5)
    whole.backward()
    for ours, alone in zip(gradients(loss.discriminator), apart, strict=True):
        assert torch.allclose(ours, alone, atol=1e-6)
    assert gradients(loss.last) and numbers["hinge"] > 0
    first = [g.clone() for g in gradients(loss.last)]
    monkeypatch.setattr(sharpening, "ADVERSARIAL", 1000.0)
    for parameter in loss.last.parameters():
        parameter.grad = None
    loss(batch, 5)[0].backward()
    assert not torch.allclose(gradients(loss.last)[0], first[0])  # the opinion does reach it


def test_at_the_first_step_the_discriminator_has_no_say(
    loss: SharpeningLoss, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient() -> Tensor:
        for parameter in loss.last.parameters():
            parameter.grad = None
        loss(batch, 0)[0].backward()
        return gradients(loss.last)[0].clone()

    before = gradient()
    monkeypatch.setattr(sharpening, "ADVERSARIAL", 1000.0)
    assert torch.equal(gradient(), before)


def test_the_stage_changes_the_last_level_alone(parts: Parts, tmp_path: Path) -> None:
    before = {
        f"{name}.{key}": tensor.clone()
        for name in ("vae", "unet", "text_encoder")
        for key, tensor in getattr(parts, name).state_dict().items()
    }
    found = train(CONFIG, tmp_path, device="cpu", stages=["sharpening"])
    changed = {
        key
        for key, tensor in before.items()
        if not torch.equal(
            getattr(found, key.split(".")[0]).state_dict()[key.split(".", 1)[1]], tensor
        )
    }
    last = ("vae.decoder.up_blocks.2.", "vae.decoder.conv_norm_out.", "vae.decoder.conv_out.")
    assert changed and all(key.startswith(last) for key in changed)


def test_several_processes_can_train_what_muon_takes_nothing_of(loss: SharpeningLoss) -> None:
    two = SimpleNamespace(num_processes=2, process_index=0, reduce=lambda tensor, how: tensor)
    named = list(loss.module.named_parameters())
    optimiser = Optimiser(named, two, 1e-3, 1.5, lambda name, parameter: False)  # type: ignore[arg-type]
    before = named[0][1].detach().clone()
    named[0][1].grad = torch.ones_like(before)
    optimiser.step(1.0)
    assert not optimiser.matrices and not torch.equal(named[0][1], before)


def test_a_discriminator_is_the_same_in_every_process(parts: Parts, tmp_path: Path) -> None:
    setting = Setting.open(tmp_path, "cpu", 0, "no")
    one = SharpeningLoss(CONFIG, parts, setting).discriminator
    torch.rand(1)
    other = SharpeningLoss(CONFIG, parts, setting).discriminator
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_discriminator_learns_to_tell_blurred_pictures_from_true_ones(batch: Batch) -> None:
    torch.manual_seed(0)
    judge = Discriminator()
    blurred = torch.nn.functional.avg_pool2d(batch.images, 5, 1, 2, count_include_pad=False)
    adam = torch.optim.Adam(judge.parameters(), 2e-3)
    begun = hinge_loss(judge, batch.images, blurred).item()
    for _ in range(60):
        adam.zero_grad()
        hinge_loss(judge, batch.images, blurred).backward()
        adam.step()
    assert hinge_loss(judge, batch.images, blurred).item() < 0.9 * begun
    assert slopes(blurred) < 0.8 * slopes(batch.images)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_a_right_prediction_gives_the_clean_latents_back(prediction: str) -> None:
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    alpha_bar = torch.tensor([0.9, 0.2]).view(-1, 1, 1, 1)
    noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    right = {"v_prediction": velocity, "epsilon": noise, "sample": clean}[prediction]
    assert torch.allclose(clean_of(right, noisy, alpha_bar, prediction), clean, atol=1e-5)


def test_the_stages_share_the_whole_time_and_no_configuration_hashes_anew() -> None:
    for config in (SIZES["scenes-128"], dataclasses.replace(CONFIG, encoder="learned")):
        shares = config.autoencoder_share, latent.denoiser_share(config), config.sharpening_share
        assert sum(shares) == pytest.approx(1)
    other = dataclasses.replace(CONFIG, sharpening_share=0.2)
    assert other.digest() == CONFIG.digest()  # time alone, as hours are
