"""Laws of nested latents, scenes kept on disk, words that must be read, and one tokenizer."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from p2p_lab.scenes import caption, sample_scene
from p2p_lab.scenes.grammar import DETAIL_WORDS
from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training import cache, latent, nested, tokens, train
from p2p_lab.training.build import build, open_start
from p2p_lab.training.cache import GROUP, CachedBatches, SceneCache, make_group
from p2p_lab.training.checkpoint import ResumeError
from p2p_lab.training.config import SIZES, CascadeConfig
from p2p_lab.training.data import draw_images
from p2p_lab.training.denoising import channel_weight
from p2p_lab.training.export import save
from p2p_lab.training.nested import COARSE
from p2p_lab.training.patches import fit, rows_of
from p2p_lab.training.reading import TextReader
from p2p_lab.training.tokens import build_tokenizer, extend_tokenizer
from tiny_run import TINY

SMALL_128 = dataclasses.replace(
    SIZES["scenes-128"], pictures=8, decoder_pictures=8, cached=4 * GROUP, batch=16
)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Fewer captions and pictures to fit on, no grids."""
    patch = pytest.MonkeyPatch()
    patch.setattr(tokens, "TOKENIZER_CAPTIONS", 800)
    patch.setattr(nested, "PICTURES", 160)
    patch.setattr(latent, "sample_grid", lambda *_: None)
    patch.setattr(latent, "autoencoder_grid", lambda *_: None)
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model of 64² pixels and eight channels, as `--size small` saves it."""
    folder = tmp_path_factory.mktemp("start") / "first-v1"
    small = SIZES["small"]
    save(latent.prepare(small), small, folder, {"denoiser": {}})
    return str(folder)


@pytest.fixture(scope="module")
def start(first: str) -> Any:
    return open_start(first)


@pytest.fixture(scope="module")
def parts(first: str) -> Any:
    return latent.prepare(dataclasses.replace(SMALL_128, warm_start=first))


# -- one tokenizer in every process ---------------------------------------------------------

LEARN = """
import hashlib, dataclasses
from p2p_lab.training import tokens, cascade_build
from p2p_lab.scenes.splits import ENCODERS
from p2p_lab.training.config import CascadeConfig
tokens.TOKENIZER_CAPTIONS = cascade_build.CAPTIONS = 400
made = (tokens.build_tokenizer(700, 32), cascade_build.build_t5_tokenizer(CascadeConfig()))
print(*(hashlib.sha256(one.backend_tokenizer.to_str().encode()).hexdigest() for one in made))
"""


def test_two_processes_learn_the_same_tokenizers() -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", LEARN],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    said = {run.communicate()[0].strip() for run in runs}
    assert len(said) == 1 and len(said.pop().split()) == 2
    assert CascadeConfig().vocabulary < 700


def test_a_run_that_is_resumed_in_another_process_ends_with_the_same_weights(
    tmp_path: Path,
) -> None:
    def finish(folder: str, steps: int, seed: str) -> str:
        script = Path(__file__).with_name("resumed.py")
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / folder), str(steps)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert finish("parts", 6, "1") == ""  # stopped in its second stage
    resumed, whole = finish("parts", 0, "2"), finish("whole", 0, "3")
    assert resumed.startswith("weights ") and resumed == whole


def test_merges_take_the_most_frequent_pair_and_the_first_of_equals() -> None:
    words = {"abc": (list("abc"), 2), "bcd": (list("bcd"), 2), "ad": (list("ad"), 1)}
    assert tokens.learn_merges(words, 2) == [("b", "c"), ("a", "bc")]
    assert tokens.learn_merges({"aaa": (list("aaa"), 1)}, 5) == [("a", "a"), ("aa", "a")]


def test_no_text_is_lost_by_the_tokenizer_and_no_comma_ends_a_prompt(start: Any) -> None:
    made = build_tokenizer(700, 32)
    for one in (made, extend_tokenizer(start.tokenizer, DETAIL_WORDS)):
        for text in ("a cat, a dog! (very) 1.5", "a très golden ñandú", "猫 \U0001f408"):
            ids = one(text).input_ids
            assert one.eos_token_id not in ids[:-1]
            assert one.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(
                " ", ""
            )


def test_more_words_become_one_token_each_and_no_other_caption_changes(start: Any) -> None:
    more = extend_tokenizer(start.tokenizer, DETAIL_WORDS)
    for word in DETAIL_WORDS:
        assert len(more(word).input_ids) == 3 and more(word).input_ids[1] >= len(start.tokenizer)
    for seed in range(200):
        text = caption(sample_scene(seed)).text
        assert more(text).input_ids == start.tokenizer(text).input_ids


# -- nested latents -------------------------------------------------------------------------


@torch.no_grad()
def test_the_first_eight_channels_are_those_of_the_smaller_model(parts: Any, start: Any) -> None:
    images = draw_images(SMALL_128, ENCODERS.start + 9000, 8)
    found = parts.vae.encode(images).latent_dist.mean
    wanted = start.vae.encode(F.avg_pool2d(images, 2)).latent_dist.mean
    assert found.shape == (8, 32, 16, 16)
    error = (found[:, :8] - wanted).std((0, 2, 3)) / wanted.std((0, 2, 3))
    assert error.max() < 0.05


@torch.no_grad()
def test_the_other_channels_hold_what_a_patch_has_beyond_the_first_eight(parts: Any) -> None:
    seen, new = (draw_images(SMALL_128, ENCODERS.start + first, 24) for first in (9000, 9500))

    def latents(images: torch.Tensor) -> torch.Tensor:
        return parts.vae.encode(images).latent_dist.mean.permute(0, 2, 3, 1).flatten(0, 2)

    errors = {}
    for count in (8, 32):
        back = fit(latents(seen)[:, :count], rows_of(seen, 8))
        left = rows_of(new, 8) - latents(new)[:, :count] @ back[:-1] - back[-1]
        errors[count] = float(left.square().mean())
    assert errors[32] < 0.5 * errors[8]  # 3 dB; on many scenes it is 4.2
    beyond = latents(new)
    mixed = torch.corrcoef(torch.cat([beyond[:, :8], beyond[:, 8:]], 1).T)[:8, 8:]
    assert mixed.abs().mean() < 0.1
    assert (beyond[:, 8:].std(0) < beyond[:, :8].std(0).max()).all()


def test_an_encoder_of_too_few_channels_is_refused_with_the_least() -> None:
    narrow = dataclasses.replace(SMALL_128, vae_channels=(8, 16, 16, 32))
    with pytest.raises(ValueError, match=r"at least \(12, 32, 32, 64\) channels; got \(8, 16"):
        nested.install_nested_encoder(build(narrow, build_tokenizer(560, 32)).vae, narrow, None)


@torch.no_grad()
def test_a_wider_unet_starts_as_the_smaller_one_whatever_the_detail_is(
    parts: Any, start: Any
) -> None:
    noisy = torch.randn(2, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = start.tokenizer(
        ["a cat in a field", ""], padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    t = torch.tensor([300, 700])
    text, ours = start.text_encoder(ids)[0], parts.text_encoder(ids)[0]
    wanted = start.module(noisy[:, :8], t, text).sample
    found = parts.unet(noisy, t, ours).sample
    assert torch.allclose(found[:, :8], wanted, atol=1e-4)
    assert found[:, 8:].std() > 0


def test_the_loss_of_the_detail_weighs_what_the_configuration_says() -> None:
    weight = channel_weight(32, COARSE, SMALL_128.detail_weight)
    assert float(weight[COARSE]) / float(weight[0]) == pytest.approx(SMALL_128.detail_weight)
    assert float(weight.mean()) == pytest.approx(1)


def test_windows_are_whole_positions_and_move_from_step_to_step() -> None:
    across = torch.arange(128.0).expand(1, 1, 128, 128)
    corners = set()
    for step in range(20):
        window = latent.crop(across, SMALL_128, step)
        assert window.shape[-2:] == (64, 64)
        corners.add(int(window[0, 0, 0, 0]))
    assert len(corners) > 4 and all(corner % 8 == 0 for corner in corners)
    whole = dataclasses.replace(SMALL_128, crop=0)
    assert latent.crop(across, whole, 0) is across


# -- words that must be read ----------------------------------------------------------------


@torch.no_grad()
def test_neutral_padding_says_what_an_empty_prompt_says_and_words_stay(parts: Any) -> None:
    texts = ["a cat in a foggy field", "a very snowy castle", ""]
    ids = parts.tokenizer(texts, padding="max_length", max_length=32, return_tensors="pt").input_ids
    plain, empty = parts.text_encoder(ids)[0], parts.text_encoder(ids[2:])[0]
    always = dataclasses.replace(SMALL_128, neutral_padding=1.0)
    never = dataclasses.replace(SMALL_128, neutral_padding=0.0)
    device, numbers = torch.device("cpu"), torch.Generator().manual_seed(0)
    assert torch.equal(TextReader(never, parts, device)(ids, numbers), plain)
    read = TextReader(always, parts, device)(ids, numbers)
    words = [len(parts.tokenizer(text).input_ids) - 1 for text in texts]
    for b, count in enumerate(words):
        assert torch.allclose(read[b, :count], plain[b, :count], atol=1e-5)
        assert torch.allclose(read[b, count:], empty[0, count:], atol=1e-5)
    assert not torch.allclose(plain[0, 10:], empty[0, 10:], atol=1e-2)


# -- scenes kept on disk --------------------------------------------------------------------


@pytest.fixture
def kept(parts: Any, tmp_path: Path) -> SceneCache:
    return SceneCache(SMALL_128, parts.vae, tmp_path / "cache")


def test_a_group_that_is_read_is_the_group_that_was_made(kept: SceneCache, parts: Any) -> None:
    made, read = kept.group(2), kept.group(2)
    fresh = make_group(SMALL_128, parts.vae, 2 * GROUP)
    for one in (read, fresh):
        assert torch.equal(one.latents, made.latents) and torch.equal(one.masks, made.masks)
        assert torch.equal(one.cover, made.cover) and one.short == made.short
        assert one.long == made.long


def test_runs_of_other_seeds_cache_other_scenes(kept: SceneCache, parts: Any) -> None:
    config = dataclasses.replace(SMALL_128, seed=3)
    other = SceneCache(config, parts.vae, kept.folder)
    fresh = make_group(config, parts.vae, (3 * kept.groups + 1) * GROUP)
    assert other.group(1).short == fresh.short != kept.group(1).short
    assert len(list(kept.folder.glob("group-*"))) == 2  # neither reads what the other wrote
    outside = "lies outside .* scenes for training the generators"
    for seed, reason in ((-1, "seed=-1 is not possible"), (2**31, outside)):
        with pytest.raises(ValueError, match=reason):
            dataclasses.replace(SMALL_128, seed=seed)


def test_a_second_pass_takes_the_same_scenes_in_another_order_and_other_words(
    kept: SceneCache, parts: Any
) -> None:
    batches = CachedBatches(kept, parts.tokenizer)
    first = [batches(n * GROUP, GROUP) for n in range(4)]
    second = [batches((4 + n) * GROUP, GROUP) for n in range(4)]
    ours = sorted(float(batch.images.sum()) for batch in first)
    assert sorted(float(batch.images.sum()) for batch in second) == pytest.approx(ours)
    assert [float(b.images.sum()) for b in first] != [float(b.images.sum()) for b in second]
    ids = {tuple(row) for batch in first for row in batch.ids.tolist()}
    assert len({tuple(row) for b in second for row in b.ids.tolist()} - ids) > GROUP
    again = CachedBatches(kept, parts.tokenizer)(5 * GROUP, GROUP)
    assert torch.equal(again.ids, second[1].ids)  # a resumed run reads the same


def test_batches_of_several_groups_hold_them_all_and_their_words(
    kept: SceneCache, parts: Any
) -> None:
    batches = CachedBatches(kept, parts.tokenizer)
    both, second = batches(0, 2 * GROUP), batches(GROUP, GROUP)
    assert torch.equal(both.images[GROUP:], second.images)
    late = both.words.picture >= GROUP
    assert torch.equal(both.words.picture[late] - GROUP, second.words.picture)
    assert torch.equal(both.words.masks[late], second.words.masks)


@pytest.mark.parametrize("damage", ["cut", "empty", "nothing", "nan"])
def test_a_damaged_group_is_made_again(kept: SceneCache, damage: str) -> None:
    whole = kept.group(0)
    path = kept.folder / "group-000000.safetensors"
    if damage == "nan":
        spoiled = dataclasses.replace(whole, latents=whole.latents * float("nan"))
        kept._write(path, spoiled)
    else:
        content = path.read_bytes()
        path.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "nothing": b"{}"}[damage]
        )
    assert torch.equal(kept.group(0).latents, whole.latents)
    assert kept._read(path) is not None


def test_a_full_disk_stops_the_cache_and_not_the_run(
    kept: SceneCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    assert kept.group(1).latents.shape[0] == GROUP and kept.group(1) is not None
    assert "takes no more" in capsys.readouterr().out
    assert [path.name for path in kept.folder.iterdir()] == ["cache.json"]


def test_a_cache_of_another_encoder_or_world_is_refused(
    kept: SceneCache, parts: Any, start: Any
) -> None:
    full = dataclasses.replace(SMALL_128, world="full")
    other = SimpleNamespace(encoder=start.vae.encoder, quant_conv=start.vae.quant_conv)
    for config, vae in ((full, parts.vae), (SMALL_128, other)):
        with pytest.raises(ResumeError, match="another world, size or encoder; choose another"):
            SceneCache(config, vae, kept.folder)


def test_weather_is_drawn_in_every_degree_and_called_by_the_nearest_word() -> None:
    scenes = [sample_scene(seed, "small") for seed in range(400)]
    found = [cache._any_degree(scene) for scene in scenes if scene.weather != "clear"]
    degrees = torch.tensor([scene.degree for scene in found])
    assert len(degrees) > 60 and degrees.min() < 0.25 and degrees.max() > 0.95
    histogram = torch.histc(degrees, 5, 0.15, 1.0)
    assert histogram.min() > 0.1 * len(degrees)
    for scene in found:
        assert ("very" in caption(scene).text) == (scene.degree > 0.85)


# -- stages apart and together --------------------------------------------------------------------


def test_stages_trained_apart_and_joined_are_the_run_in_one_piece(tmp_path: Path) -> None:
    config = dataclasses.replace(
        TINY,
        encoder="patches",
        vae_channels=(16, 48, 64),
        pictures=16,
        batch=16,
        cached=GROUP,
        sharpening_share=0.1,
    )

    def weights(parts: Any) -> str:
        found = hashlib.sha256()
        for module in (parts.vae, parts.unet, parts.text_encoder):
            for tensor in module.state_dict().values():
                found.update(tensor.numpy().tobytes())
        return found.hexdigest()

    for stage in latent.STAGES:
        train(config, tmp_path / "apart", device="cpu", stages=[stage])
    joined = train(config, tmp_path / "apart", device="cpu")
    whole = train(config, tmp_path / "whole", device="cpu")
    assert weights(joined) == weights(whole)


def test_a_run_goes_on_from_its_own_saved_pipeline_with_all_its_weights(
    parts: Any, tmp_path: Path
) -> None:
    parts = copy.deepcopy(parts)
    for module in (parts.vae, parts.unet, parts.text_encoder):
        module.half().float()  # as they are saved
    save(parts, SMALL_128, tmp_path / "half-way-v1", {})
    again = latent.prepare(dataclasses.replace(SMALL_128, warm_start=str(tmp_path / "half-way-v1")))
    for name in ("vae", "unet", "text_encoder"):
        ours, theirs = getattr(again, name).state_dict(), getattr(parts, name).state_dict()
        assert [
            key for key in ours if not torch.equal(ours[key].float(), theirs[key].float())
        ] == []
    assert again.tokenizer.get_vocab() == parts.tokenizer.get_vocab()


def test_the_bundled_model_is_a_start_for_its_own_size() -> None:
    there = open_start(SIZES["scenes-128"].warm_start)
    assert there.vae.config.latent_channels == SIZES["scenes-128"].latent_channels
    assert tuple(there.module.config.block_out_channels) == SIZES["scenes-128"].unet_channels
    assert all(bool(weight.isfinite().all()) for weight in there.module.state_dict().values())


def test_a_model_of_another_kind_is_no_start() -> None:
    with pytest.raises(ValueError, match="start from a model of scenes"):
        open_start("cascade-64")
