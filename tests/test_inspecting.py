"""Laws of looking into single steps: nothing is made up, all of it led to the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2p_lab.attention import UnsupportedAttention
from p2p_lab.edits import LocalBlend, Refine, Replace, Reweight
from p2p_lab.inversion import invert
from p2p_lab.models import load
from p2p_lab.sampling import (
    Run,
    edit,
    generate,
    latents_at,
    make_schedule,
    maps_at,
    mask_level,
    noise_of,
    observe,
    pictures_at,
    relations_at,
    word_step,
)
from tests.family_pipelines import save_flux, save_sd3

SOURCE, TARGET, STEPS = "a cat on grass", "a dog on grass", 5


@pytest.fixture(scope="module")
def run(sd32: Any) -> Run:
    return generate(sd32, SOURCE, seed=3, steps=STEPS)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++", "dpm++2m"])
def test_the_clean_picture_of_a_step_is_the_one_the_sampler_previewed(
    sd32: Any, sampler: Any
) -> None:
    seen: dict[int, Any] = {}
    run = generate(
        sd32,
        SOURCE,
        seed=1,
        steps=STEPS,
        sampler=sampler,
        on_step=lambda step, _, preview: seen.update({step: np.asarray(preview())}),
    )
    for step in range(STEPS):
        noisy, clean = pictures_at(run, step)
        shown = (clean.permute(1, 2, 0).numpy() * 255).round()
        assert np.abs(shown - seen[step]).max() <= 2, step
        assert noisy.shape == clean.shape == run.pixels.shape
        assert torch.equal(latents_at(run, step)[0], run.trajectory.latents[step].float())
    with pytest.raises(ValueError, match="There is no step 5"):
        latents_at(run, STEPS)


def test_the_clean_picture_of_a_flow_is_the_one_that_was_previewed(tmp_path: Path) -> None:
    save_sd3(tmp_path)
    model = load(str(tmp_path), "cpu")
    seen: dict[int, Any] = {}
    run = generate(
        model,
        "a cat",
        seed=1,
        steps=3,
        on_step=lambda step, _, preview: seen.update({step: np.asarray(preview())}),
    )
    for step in range(3):
        shown = (pictures_at(run, step)[1].permute(1, 2, 0).numpy() * 255).round()
        assert np.abs(shown - seen[step]).max() <= 2, step


HOW = [Replace(cross=(0, 0.6)), Reweight("grass", 2.0)]


def test_the_maps_of_single_steps_have_the_recorded_mean(run: Run) -> None:
    edited = edit(run, TARGET, HOW)
    for one in (run, edited):
        for which in ("edited", "original"):
            steps = [maps_at(one, step).token_maps(which=which) for step in range(STEPS)]
            assert one.attention is not None
            mean = one.attention.token_maps(which=which)
            assert torch.allclose(torch.stack(steps).mean(dim=0), mean, atol=1e-5)
            assert not torch.allclose(steps[0], steps[-1], atol=1e-4)


def test_what_a_step_copies_is_the_edit_equation(run: Run) -> None:
    edited = edit(run, TARGET, HOW)
    for word in ("dog", "grass"):
        for step in range(STEPS):
            found = word_step(edited, word, step)
            mixed = found.source_gain * found.source + found.target_gain * found.target
            assert torch.allclose(found.used, mixed, atol=1e-5), (word, step)
    assert word_step(edited, "dog", 0).source_gain == 1
    assert word_step(edited, "dog", STEPS - 1).source_gain == 0
    assert word_step(edited, "grass", 0).source_gain == 2


def test_steps_are_found_again_when_other_edits_came_between(run: Run) -> None:
    run.cache.clear()
    first = edit(run, TARGET, HOW)
    before = maps_at(first, 2).token_maps()
    for scale in (1.5, 2.5, 3.5):
        edit(run, TARGET, [Refine(), Reweight("dog", scale)])
    assert torch.equal(maps_at(first, 2).token_maps(), before)


def test_runs_without_steps_say_what_to_do(sd32: Any, run: Run) -> None:
    bare = generate(sd32, SOURCE, steps=2, record="store")
    with pytest.raises(ValueError, match="record='tape'"):
        maps_at(bare, 0)
    with pytest.raises(ValueError, match="has no tape"):
        maps_at(edit(bare, TARGET, HOW), 0)
    with pytest.raises(ValueError, match="no edit"):
        word_step(run, "cat", 0)
    with pytest.raises(ValueError, match="no LocalBlend"):
        mask_level(edit(run, TARGET, HOW))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("source", ["generated", "measured"])
def test_the_mask_of_a_local_edit_is_where_its_level_is_above_the_threshold(
    sd32: Any, run: Run, threshold: float, source: str
) -> None:
    one = run if source == "generated" else invert(sd32, run.image, SOURCE, steps=STEPS)
    edited = edit(one, TARGET, [*HOW, LocalBlend("cat", "dog", threshold=threshold)])
    level = mask_level(edited)
    assert edited.masks is not None and level.max() == 1
    assert torch.equal((level > threshold).float(), edited.masks[-1].float())


@pytest.mark.parametrize("save", [save_sd3, save_flux])
def test_a_flow_is_observed_on_its_straight_path_to_noise(
    save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)
    model = load(str(tmp_path), "cpu")
    h, w = model.defaults.height, model.defaults.width
    picture = torch.rand(3, h, w, generator=torch.Generator().manual_seed(0))
    seen: list[Any] = []
    usual = type(model).predict

    def predict(self: Any, latents: Any, t: Any, text: Any) -> Any:
        seen.append((latents.clone(), float(t)))
        return usual(self, latents, t, text)

    monkeypatch.setattr(type(model), "predict", predict)
    store = observe(model, picture, "a cat", step=2, steps=STEPS, seed=7)
    clean = model.encode(picture[None])
    ((latents, time),) = seen
    share = time / 1000  # a flow's model time is its share of noise
    wanted = (1 - share) * clean + share * noise_of(7, tuple(clean.shape))
    assert 0 < share < 1 and torch.allclose(latents, wanted, atol=1e-5)
    assert store.map("cat").shape[-1] > 1


def test_a_picture_is_observed_once_with_the_noise_of_the_step_and_nothing_is_left_behind(
    sd32: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[Any] = []
    usual = type(sd32).predict

    def predict(self: Any, latents: Any, t: Any, text: Any) -> Any:
        seen.append((latents.clone(), t))
        return usual(self, latents, t, text)

    monkeypatch.setattr(type(sd32), "predict", predict)
    before = dict(sd32.module.attn_processors)
    store = observe(sd32, picture, SOURCE, step=3, steps=STEPS, seed=7)
    assert dict(sd32.module.attn_processors) == before
    schedule: Any = make_schedule(sd32.scheduler_config, "ddim", STEPS)
    level, clean = schedule.alpha_bar[3], sd32.encode(picture[None])
    wanted = level**0.5 * clean + (1 - level) ** 0.5 * noise_of(7, tuple(clean.shape))
    assert len(seen) == 1 and torch.allclose(seen[0][0], wanted, atol=1e-6)
    assert seen[0][1] == schedule.timesteps[3]
    assert store.prompt.text == SOURCE
    sums = store.token_maps().sum(dim=0)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    again = observe(sd32, picture, SOURCE, step=3, steps=STEPS, seed=7)
    assert torch.equal(again.map("cat"), store.map("cat"))


def test_a_step_that_is_not_there_cannot_be_observed(sd32: Any) -> None:
    with pytest.raises(ValueError, match="steps go from 0 to 4"):
        observe(sd32, torch.zeros(3, 32, 32), SOURCE, step=5, steps=5)


@pytest.mark.parametrize("save", [save_sd3, save_flux])
def test_relations_are_the_whole_softmax_of_which_the_maps_are_a_part(
    tmp_path: Path, save: Any
) -> None:
    save(tmp_path)
    run = generate(load(str(tmp_path), "cpu"), SOURCE, seed=1, steps=3, record="tape")
    assert run.attention is not None
    for site in (None, next(iter(run.attention.sites))):
        found = relations_at(run, 1, site=site)
        count, (height, width) = len(run.prompt), found.size
        assert found.matrix.shape == (count + height * width,) * 2
        assert torch.allclose(found.matrix.sum(dim=1), torch.ones(len(found.matrix)), atol=1e-5)
        maps = run.attention.token_maps(step=1, site=site, resolution=None if site else found.size)
        assert torch.allclose(found.image_to_text, maps, atol=1e-5)
        assert found.text_to_text.shape == (count, count)
        assert found.text_to_image.shape == (count, height, width)
        assert found.image_to_image.shape == (height * width,) * 2
        names, table = found.table()
        assert names[-1] == "image" and set(run.prompt.words) <= set(names)
        assert torch.allclose(table.sum(dim=1), torch.ones(len(names)), atol=1e-5)
        cat = run.prompt.tokens_of("cat")
        given = found.text_to_image[cat].sum() / len(cat)
        assert table[names.index("cat"), -1] == pytest.approx(float(given), abs=1e-5)


def test_relations_are_refused_where_text_does_not_ask(run: Run) -> None:
    with pytest.raises(UnsupportedAttention, match="the text does not ask"):
        relations_at(run, 0)
    with pytest.raises(ValueError, match="There is no step 5"):
        relations_at(run, STEPS)


def test_a_joint_site_that_is_not_there_is_refused_by_the_names_of_those_that_are(
    tmp_path: Path,
) -> None:
    save_sd3(tmp_path)
    run = generate(load(str(tmp_path), "cpu"), SOURCE, seed=1, steps=2)
    with pytest.raises(ValueError, match=r"no joint site 'x'.*transformer_blocks\.0\.attn\b"):
        relations_at(run, 0, site="x")
