"""Laws of the cascade's training: two stages that go on, and end in diffusers' own pipelines."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks import model as model_benchmark
from p2p_lab.judge import Labels
from p2p_lab.judge.network import JudgeNet
from p2p_lab.judge.reading import save_judge
from p2p_lab.models import verify
from p2p_lab.scenes import WORLDS
from p2p_lab.training import CascadeConfig, cascade, cascade_build, feeding, loop, stage, train
from p2p_lab.training import __main__ as command
from p2p_lab.training.cascade import EARLY, enlarge, noised, shrink
from p2p_lab.training.cascade_build import CascadeParts, build_cascade, build_t5_tokenizer
from p2p_lab.training.cascade_export import save_cascade
from p2p_lab.training.config import SIZES
from p2p_lab.training.data import draw_batch
from p2p_lab.training.denoising import denoising_errors, error_weight, inside_weight
from p2p_lab.training.optim import is_matrix
from p2p_lab.training.setting import Setting
from p2p_lab.training.stage import run_stage
from p2p_lab.training.supervision import TrainingMaps

TINY = dataclasses.replace(
    CascadeConfig(),
    picture_size=32,
    base_size=16,
    base_channels=(16, 32, 32),
    super_channels=(16, 32),
    text_width=32,
    text_layers=1,
    head_width=16,
    vocabulary=400,
    batch=4,
    pictures=16,
)
SMOKE = dataclasses.replace(TINY, pictures=160)
PROMPT = "a red cat in a field"
LOSSES: dict[str, list[float]] = {}  # of the short run, step by step


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Fewer captions for the tokenizer, a short warm-up, no grids."""
    patch = pytest.MonkeyPatch()
    patch.setattr(cascade_build, "CAPTIONS", 1500)
    patch.setattr(stage, "WARMUP_PICTURES", 20)
    patch.setattr(cascade, "base_grid", lambda *_: None)
    patch.setattr(cascade, "super_grid", lambda *_: None)
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> CascadeParts:
    """The parts of a short run to its end."""

    def watched(name: str, module: Any, loss: Any, *rest: Any) -> Any:
        def noted(batch: Any, step: int) -> Any:
            found = loss(batch, step)
            LOSSES.setdefault(name, []).append(found[1]["loss"])
            return found

        return stage.Stage(name, module, noted, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "Stage", watched)
        return train(SMOKE, tmp_path_factory.mktemp("smoke"), device="cpu")


@pytest.fixture(scope="module")
def exported(smoke: CascadeParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run's cascade on disk."""
    folder = tmp_path_factory.mktemp("weights") / "tiny-cascade-v1"
    save_cascade(smoke, SMOKE, folder, {"command": "--test"})
    return folder


@pytest.fixture(scope="module")
def pipelines(exported: Path) -> tuple[Any, Any]:
    """Both stages as diffusers opens them, no precision named."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    base = IFPipeline.from_pretrained(exported)
    larger = IFSuperResolutionPipeline.from_pretrained(exported / "super")
    for pipeline in (base, larger):
        pipeline.set_progress_bar_config(disable=True)
    return base, larger


def draw(pipeline: Any, prompt: str = PROMPT, **options: Any) -> torch.Tensor:
    settings: dict[str, Any] = {
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "clean_caption": False,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(3),
    }
    images: torch.Tensor = pipeline(prompt, **{**settings, **options}).images
    return images


def state_of(parts: CascadeParts) -> dict[str, torch.Tensor]:
    modules = {"base": parts.base, "super": parts.super, "text": parts.text_encoder}
    return {f"{m}.{n}": t for m, module in modules.items() for n, t in module.state_dict().items()}


# -- training -------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 6], ids=["base", "super"])
def test_a_cascade_interrupted_in_a_stage_and_an_uninterrupted_one_agree_bit_for_bit(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = state_of(train(TINY, tmp_path / "whole", device="cpu"))
    defaults: Any = run_stage.__kwdefaults__
    monkeypatch.setitem(defaults, "checkpoint_seconds", 0.0)
    left = [stop]
    take = feeding.Draws.__getitem__

    def interrupted(self: Any, index: int) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(feeding.Draws, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "parts", device="cpu")
    resumed = state_of(train(TINY, tmp_path / "parts", device="cpu"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_the_losses_of_both_stages_fall(smoke: CascadeParts) -> None:
    for name in ("base", "super"):
        losses = LOSSES[name]
        first, last = sum(losses[:8]) / 8, sum(losses[-8:]) / 8
        assert len(losses) == 40 and last < 0.8 * first, (name, losses)


def test_the_super_stage_leaves_the_text_encoder_as_the_base_stage_left_it(tmp_path: Path) -> None:
    seen: dict[str, torch.Tensor] = {}

    def noted(run: Any, *rest: Any) -> None:
        run_stage(run, *rest)
        if run.name == "base":
            seen.update({n: t.clone() for n, t in run.module["text_encoder"].state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_stage", noted)
        parts = train(dataclasses.replace(TINY, pictures=8), tmp_path, device="cpu")
    fresh = build_cascade(TINY).text_encoder.state_dict()
    after = parts.text_encoder.state_dict()
    assert all(torch.equal(seen[name], after[name]) for name in after)
    assert not torch.equal(fresh["shared.weight"], after["shared.weight"])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_an_error_of_the_picture_costs_the_same_whatever_the_network_predicts(kind: Any) -> None:
    random = torch.Generator().manual_seed(0)
    images, noise, error = (torch.randn(2, 3, 4, 4, generator=random) for _ in range(3))
    alpha_bar = torch.tensor([0.9, 0.3]).view(2, 1, 1, 1)
    noisy = alpha_bar.sqrt() * images + (1 - alpha_bar).sqrt() * noise
    wrong = images + error
    eps = (noisy - alpha_bar.sqrt() * wrong) / (1 - alpha_bar).sqrt()
    velocity = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * wrong
    told = {"epsilon": eps, "v_prediction": velocity, "sample": wrong}[kind]
    errors = denoising_errors(told, images, noise, alpha_bar, kind)
    found = (error_weight(alpha_bar, kind) * errors).mean()
    ratio = (alpha_bar / (1 - alpha_bar)).clamp_max(5.0)
    wanted = float((ratio * error.square()).mean())
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_an_error_inside_objects_counts_more() -> None:
    cover = torch.zeros(1, 1, 4, 4)
    cover[..., :2, :] = 1
    weight = inside_weight(cover, TINY)
    inside, outside = weight[..., :2, :], weight[..., 2:, :]
    assert torch.allclose(inside, (1 + TINY.object_weight) * outside)
    assert float(weight.mean()) == pytest.approx(1)


def test_the_small_picture_is_noised_to_the_level_that_the_network_is_told() -> None:
    parts = build_cascade(TINY)
    large = torch.zeros(256, 3, 8, 8)
    found, level = noised(large, parts, TINY, torch.Generator().manual_seed(0))
    wanted = (1 - parts.noising.alphas_cumprod[level]).sqrt()
    assert torch.allclose(found.std((1, 2, 3)), wanted, rtol=0.3, atol=0.01)
    assert level.min() < 20 and TINY.noise_levels - 20 < level.max() < TINY.noise_levels


def test_muon_leaves_the_text_encoders_tables_alone() -> None:
    parameters = dict(build_cascade(TINY).text_encoder.named_parameters())
    left = {name for name, p in parameters.items() if p.ndim > 1 and not is_matrix(name, p)}
    assert {name.split(".")[-2] for name in left} == {"shared", "relative_attention_bias"}


# -- attention ------------------------------------------------------------------------------


def test_the_recorded_attention_is_diffusers_own_and_keeps_the_texts_share_of_it() -> None:
    parts = build_cascade(TINY)
    random = torch.Generator().manual_seed(1)
    text = torch.randn(2, 9, TINY.text_width, generator=random)
    for unet, side, channels in ((parts.base, 16, 3), (parts.super, 32, 6)):
        x = torch.randn(2, channels, side, side, generator=random)
        labels = torch.tensor([5, 90]) if channels == 6 else None
        with torch.no_grad():
            native = unet(x, 500, text, class_labels=labels).sample
            maps = TrainingMaps(unet, (side, side), EARLY)
            with maps.attached():
                written = unet(x, 500, text, class_labels=labels).sample
        assert torch.allclose(native, written, atol=1e-5)
        for probs in maps.recorded:
            share = probs.sum(-1)
            if unet is parts.super:
                assert torch.allclose(share, torch.ones_like(share), atol=1e-5)
            else:
                assert share.min() > 0 and share.max() < 1
        assert len(maps.recorded) == (1 if unet is parts.super else 5)


def test_the_base_looks_at_text_at_two_sizes_and_the_super_stage_at_its_bottleneck_only() -> None:
    base, larger = (build_cascade(TINY).base, build_cascade(TINY).super)
    blocks = {name.split(".")[0] for name in base.attn_processors}
    assert blocks == {"down_blocks", "mid_block", "up_blocks"}
    assert set(larger.attn_processors) == {"mid_block.attentions.0.processor"}
    assert larger.mid_block.attentions[0].only_cross_attention
    assert not base.mid_block.attentions[0].only_cross_attention


# -- tokens ---------------------------------------------------------------------------------


def test_common_words_are_one_token_any_ascii_text_can_be_said_and_saving_keeps_both(
    exported: Path,
) -> None:
    from transformers import T5Tokenizer

    learned = build_t5_tokenizer(TINY)
    saved = T5Tokenizer.from_pretrained(exported / "tokenizer")
    for text in ("a cat in a field", "a zebra, perhaps!", "x-ray 42", ""):
        ids = learned(text).input_ids
        assert saved(text).input_ids == ids and ids[-1] == learned.eos_token_id
        assert learned.unk_token_id not in ids
        assert learned.decode(ids, skip_special_tokens=True) == text
    assert len(learned("a field").input_ids) == 3 < len(learned("zebra").input_ids)


def test_a_vocabulary_that_cannot_hold_the_letters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold 98 letters and marks; got 90 .* at least 98"):
        build_t5_tokenizer(dataclasses.replace(TINY, vocabulary=90))


def test_supervised_words_are_found_among_t5s_tokens() -> None:
    tokenizer = build_t5_tokenizer(TINY)
    batch = draw_batch(TINY, tokenizer, 0, 12)
    assert batch.words.masks.shape[1:] == (16, 16) and len(batch.words.picture) > 8
    assert draw_batch(TINY, tokenizer, 0, 2, 32).cover.shape == (2, 1, 32, 32)
    for b, row in zip(batch.words.picture, batch.words.tokens, strict=True):
        word = tokenizer.decode(batch.ids[b][row > 0]).strip()
        assert f" {word}" in f" {tokenizer.decode(batch.ids[b], skip_special_tokens=True)}"


# -- what is saved --------------------------------------------------------------------------


def test_diffusers_opens_both_stages_and_draws_what_the_prompt_and_the_small_picture_say(
    pipelines: tuple[Any, Any],
) -> None:
    base, larger = pipelines
    small = draw(base)
    assert small.shape == (1, 3, 16, 16) and small.abs().max() <= 1 and small.std() > 0.01
    assert not torch.equal(small, draw(base, "a dog on a beach"))
    large = draw(larger, image=small, noise_level=100)
    assert large.shape == (1, 3, 32, 32) and large.abs().max() <= 1
    near, far = (F.avg_pool2d(large, 2) - other for other in (small, draw(base, "a dog at night")))
    other = draw(larger, image=-small, noise_level=100)
    assert not torch.equal(large, other) and near.isfinite().all() and far.isfinite().all()
    assert draw(base, guidance_scale=1.0).isfinite().all()


def test_the_text_is_encoded_in_training_as_the_pipeline_encodes_it(
    smoke: CascadeParts, pipelines: tuple[Any, Any], tmp_path: Path
) -> None:
    setting = Setting.open(tmp_path, "cpu", 0, "no")
    smoke.text_encoder.float()
    batch = draw_batch(SMOKE, smoke.tokenizer, 0, 3)
    texts = smoke.tokenizer.batch_decode(batch.ids, skip_special_tokens=True)
    with torch.no_grad():
        trained = cascade._text(batch, smoke, setting)
    drawn, _ = pipelines[0].encode_prompt(texts)
    assert torch.allclose(trained, drawn, atol=0.02) and trained.std() > 0.1  # fp16 on disk


def test_the_super_stage_is_shown_the_small_picture_as_in_training(
    pipelines: tuple[Any, Any],
) -> None:
    larger, seen = pipelines[1], []
    small = shrink(draw_batch(SMOKE, larger.tokenizer, 5, 1).images, SMOKE)
    hook = larger.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0], kwargs["class_labels"])), with_kwargs=True
    )
    draw(larger, image=small, noise_level=0)
    hook.remove()
    beside = seen[0][0][:1, 3:]
    assert torch.allclose(beside, enlarge(small, SMOKE), atol=0.05)
    assert seen[0][1].tolist() == [0, 0]


def test_the_cards_list_every_file_of_both_stages_and_say_how_to_use_them(exported: Path) -> None:
    for folder in (exported, exported / "super"):
        verify(folder)
        card = json.loads((folder / "card.json").read_text())
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert set(card["files"]) == there - {"card.json"}
        assert card["config"]["base_channels"] == [16, 32, 32] and card["defaults"]["steps"] > 0
        words = json.loads((folder / "vocabulary.json").read_text())["words"]
        assert {"cat", "riding", "golden"} <= set(words)
    assert json.loads((exported / "card.json").read_text())["later_stage"] == "super"
    assert 0 < card["noise_level"] < SMOKE.noise_levels
    with pytest.raises(FileExistsError, match="never changes; choose the next number"):
        save_cascade(build_cascade(TINY), TINY, exported, {})


def test_the_published_cascade_stays_below_25_mb_in_half_precision() -> None:
    parts = build_cascade(CascadeConfig())
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in vars(parts).items() if is_net(m)}
    assert 4e6 < count["base"] < 6e6 and 2e6 < count["super"] < 3e6
    assert 2 * (sum(count.values()) + count["text_encoder"]) < 24e6  # both folders hold the encoder


def is_net(part: Any) -> bool:
    return isinstance(part, torch.nn.Module)


def test_the_same_seed_builds_the_same_cascade_and_leaves_the_global_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    one, two = state_of(build_cascade(TINY)), state_of(build_cascade(TINY))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = state_of(build_cascade(dataclasses.replace(TINY, seed=1)))
    assert not torch.equal(one["super.conv_in.weight"], other["super.conv_in.weight"])
    assert torch.equal(state, torch.get_rng_state())


# -- editing --------------------------------------------------------------------------------


def test_a_trained_cascade_is_edited_at_its_base_and_enlarged_afterwards(exported: Path) -> None:
    import p2p_lab

    base = p2p_lab.load(exported, "cpu")
    larger: Any = p2p_lab.load(exported / "super", "cpu")
    assert (base.defaults.height, base.defaults.steps) == (16, 20)
    source = p2p_lab.generate(base, "a cat in a field", seed=3, steps=4)
    changed = p2p_lab.edit(source, "a dog in a field", [p2p_lab.Replace(cross=(0, 1))])
    free = p2p_lab.generate(base, "a dog in a field", seed=3, steps=4)
    assert not torch.equal(changed.pixels, source.pixels)
    assert not torch.equal(changed.pixels, free.pixels)
    assert 0 < source.map("cat").min() <= source.map("cat").max() < 1
    stage_two = larger.on(changed, seed=3)
    assert stage_two.noise_level == larger.card.raw["noise_level"] == 20
    large = p2p_lab.generate(stage_two, "a dog in a field", seed=3, steps=4)
    assert large.pixels.shape == (3, 32, 32)
    other = p2p_lab.generate(larger.on(source, seed=3, noise_level=100), "a dog in a field", seed=3)
    assert not torch.equal(large.pixels, other.pixels)


def test_the_packages_picture_is_the_pipelines_own(
    exported: Path, pipelines: tuple[Any, Any]
) -> None:
    import p2p_lab

    base, larger = (p2p_lab.load(exported / part, "cpu") for part in ("", "super"))
    run = p2p_lab.generate(base, PROMPT, seed=3, steps=4, guidance_scale=3.0)
    small = draw(pipelines[0])
    assert torch.allclose(run.pixels, small[0] / 2 + 0.5, atol=1e-4)
    on: Any = larger
    enlarged = p2p_lab.generate(
        on.on(run, seed=3, noise_level=100), PROMPT, seed=3, steps=4, guidance_scale=3.0
    )
    large = draw(pipelines[1], image=small, noise_level=100)
    assert torch.allclose(enlarged.pixels, large[0].clamp(-1, 1) / 2 + 0.5, atol=1e-3)


# -- the command line -----------------------------------------------------------------------


def test_one_command_trains_a_cascade_and_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "CASCADES", {"cascade": TINY})
    line = f"--size cascade --pictures 8 --prediction epsilon --device cpu --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["p2p_lab.training", *line.split()])
    command.main()
    card = json.loads((tmp_path / "pipeline" / "card.json").read_text())
    assert card["command"] == line and card["config"]["pictures"] == 8
    schedule = tmp_path / "pipeline" / "super" / "scheduler" / "scheduler_config.json"
    assert json.loads(schedule.read_text())["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--size cascade --warm-start scenes-128", "a cascade starts from nothing"),
        ("--size cascade --crop 64", "a cascade has no decoder"),
        ("--size cascade --decoder-pictures 8", "a cascade has no decoder"),
        ("--size scenes-128 --crop 60", "a multiple of 8 up to 128.*got 60"),
        ("--size scenes-128 --crop 136", "a multiple of 8 up to 128.*got 136"),
        ("--size small --stages sharpening", "--size small has no stage 'sharpening': leave it"),
        ("--size small --prediction epsilon", "a latent model can predict v_prediction or sample"),
        ("--size cascade --prediction sample", "a cascade v_prediction or epsilon"),
    ],
)
def test_an_option_of_the_other_kind_of_model_is_refused(
    line: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["p2p_lab.training", *line.split()])
    with pytest.raises(SystemExit):
        command.main()
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(reason, said), said


def test_a_latent_runs_configuration_hashes_as_it_did_before_there_were_cascades() -> None:
    found = {name: dataclasses.replace(SIZES[name], vocabulary=600).digest() for name in SIZES}
    assert (found["small"], found["full"]) == ("7de63cd6d2455e1a", "2d74c92156a5e32f")


def test_the_benchmark_measures_a_cascade_through_its_later_stage(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = Labels.of_world(WORLDS["small"])
    save_judge(JudgeNet(labels), labels, tmp_path / "judge", {"threshold": 0.5})
    pipeline = model_benchmark.FullPipeline.open(str(exported))
    assert (pipeline.own_size, pipeline.size) == ((16, 16), (32, 32))
    arguments = ["--model", str(exported), "--judge", str(tmp_path / "judge"), "--json"]
    model_benchmark.main([*arguments, "--samples", "1"])
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(0 <= numbers[name] <= 1 for name in ("pointing", "iou", "object_success"))
    assert "autoencoder_psnr" not in numbers and numbers["steps"] == 20
    assert numbers["sites"] and all("down" not in site for site in numbers["sites"])
