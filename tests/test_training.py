"""Laws of training: it goes on where it stopped, spoils nothing, and ends in a plain pipeline."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import p2p_lab
from benchmarks import model as model_benchmark
from p2p_lab.judge import Labels
from p2p_lab.judge.network import JudgeNet
from p2p_lab.judge.reading import save_judge
from p2p_lab.models import verify
from p2p_lab.scenes import WORLDS
from p2p_lab.scenes.splits import ENCODERS, TRAINING
from p2p_lab.training import (
    CascadeConfig,
    TrainConfig,
    build,
    feeding,
    latent,
    loop,
    patches,
    save,
    stage,
    tokens,
    train,
)
from p2p_lab.training import __main__ as command
from p2p_lab.training.checkpoint import (
    ResumeError,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from p2p_lab.training.config import SIZES
from p2p_lab.training.data import Words, draw_batch, draw_images
from p2p_lab.training.latent import EARLY, fold_normalisation
from p2p_lab.training.optim import is_matrix, orthogonalise
from p2p_lab.training.patches import components, install_patch_encoder
from p2p_lab.training.ranges import RANGES
from p2p_lab.training.stage import rate_factor, run_stage
from p2p_lab.training.supervision import TrainingMaps, supervision_loss
from p2p_lab.training.tokens import build_tokenizer
from tiny_run import TINY

build_module = importlib.import_module("p2p_lab.training.build")  # `build` is a function too

PATCHES = dataclasses.replace(TINY, encoder="patches", vae_channels=(16, 48, 64))
SMOKE = dataclasses.replace(TINY, pictures=160)
LOSSES: dict[str, list[float]] = {}  # of the short run, step by step


def _tokenizer() -> Any:
    return build_tokenizer(TINY.vocabulary, TINY.length)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A tokenizer from fewer captions, fewer pictures to measure the latents, no grids."""
    patch = pytest.MonkeyPatch()
    patch.setattr(tokens, "TOKENIZER_CAPTIONS", 1500)
    patch.setattr(latent, "fold_normalisation", functools.partial(fold_normalisation, pictures=64))
    patch.setattr(patches, "PICTURES", 96)
    patch.setattr(stage, "WARMUP_PICTURES", 20)
    patch.setattr(latent, "sample_grid", lambda *_: None)
    patch.setattr(latent, "autoencoder_grid", lambda *_: None)
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A short run to its end: the parts and the folder of its logs."""
    out = tmp_path_factory.mktemp("smoke")

    def watched(name: str, module: Any, loss: Any, *rest: Any) -> Any:
        def noted(batch: Any, step: int) -> Any:
            found = loss(batch, step)
            LOSSES.setdefault(name, []).append(found[1]["loss"])
            return found

        return stage.Stage(name, module, noted, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent, "Stage", watched)
        return train(SMOKE, out, device="cpu"), out


@pytest.fixture(scope="module")
def exported(smoke: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run's pipeline on disk."""
    folder = tmp_path_factory.mktemp("weights") / "tiny-v1"
    save(smoke[0], SMOKE, folder, {"command": "--test"})
    return folder


def state_of(parts: Any) -> dict[str, torch.Tensor]:
    modules = {"vae": parts.vae, "unet": parts.unet, "text": parts.text_encoder}
    return {f"{m}.{n}": t for m, module in modules.items() for n, t in module.state_dict().items()}


# -- going on after a stop ------------------------------------------------------------------


@pytest.mark.parametrize(("config", "stop"), [(TINY, 3), (PATCHES, 9)], ids=["first", "second"])
def test_a_run_interrupted_in_a_stage_and_an_uninterrupted_one_agree_bit_for_bit(
    config: TrainConfig, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = state_of(train(config, tmp_path / "whole", device="cpu"))
    monkeypatch.setitem(run_stage.__kwdefaults__, "checkpoint_seconds", 0.0)
    draws = {"left": stop}
    draw = feeding.Draws.__getitem__

    def interrupted(self: Any, index: int) -> Any:
        draws["left"] -= 1
        if draws["left"] < 0:
            raise KeyboardInterrupt
        return draw(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(feeding.Draws, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "parts", device="cpu")
    resumed = state_of(train(config, tmp_path / "parts", device="cpu"))
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_processes_whose_clocks_run_apart_save_and_stop_at_the_same_steps(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_clocks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    taken = re.findall(r"steps (\d+) of process", done.stdout)
    assert len(taken) == 2 and len(set(taken)) == 1 and int(taken[0]) > 20


def test_a_run_does_not_go_on_with_another_configuration(tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "autoencoder", {"x": torch.zeros(1)}, {"step": 5, "digest": TINY.digest()}
    )
    other = dataclasses.replace(TINY, learning_rate=5e-4)
    with pytest.raises(ResumeError, match=r"resume with the same options or choose another --out"):
        train(other, tmp_path, device="cpu")
    assert not (tmp_path / "config.json").exists()  # a refused run leaves the folder as it was
    longer = dataclasses.replace(TINY, hours=9.0, pictures=7)
    assert longer.digest() == TINY.digest() != other.digest()


def test_a_warm_start_takes_over_weights_and_tokenizer_of_a_model_of_the_same_shape(
    exported: Path,
) -> None:
    parts = build(dataclasses.replace(TINY, seed=99))
    own = {name: tensor.clone() for name, tensor in state_of(parts).items()}
    trained = build_module.open_start(str(exported))
    build_module.take_weights(parts, trained)
    theirs = trained.module.state_dict()
    assert any(not torch.equal(own[f"unet.{n}"], w) for n, w in theirs.items())
    assert all(torch.equal(parts.unet.state_dict()[n], w) for n, w in theirs.items())
    text = parts.text_encoder.state_dict()
    assert all(torch.equal(text[n], w) for n, w in trained.text_encoder.state_dict().items())
    vae = parts.vae.state_dict()
    assert all(torch.equal(vae[n], w) for n, w in trained.vae.state_dict().items())
    warm = latent.prepare(dataclasses.replace(TINY, warm_start=str(exported)))
    vocabulary = warm.tokenizer.get_vocab()
    assert vocabulary | trained.tokenizer.get_vocab() == vocabulary


def test_a_warm_start_from_a_model_of_another_shape_is_refused_with_the_part(
    exported: Path,
) -> None:
    wider = build(dataclasses.replace(TINY, unet_channels=(32, 48)))
    with pytest.raises(ValueError, match=r"does not fit this run: size mismatch.*--warm-start"):
        build_module.take_weights(wider, build_module.open_start(str(exported)))


def test_a_warm_start_from_a_model_that_predicts_something_else_is_refused(exported: Path) -> None:
    other = build(dataclasses.replace(TINY, prediction="sample"))
    assert other.scheduler.config.prediction_type == "sample"
    with pytest.raises(
        ValueError, match=r"predicts 'v_prediction', and 'sample' is asked for.*Take"
    ):
        build_module.take_weights(other, build_module.open_start(str(exported)))


def test_a_run_that_is_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    for delay in (0.0, 0.003, 0.01):
        folder = tmp_path / str(delay)
        save_checkpoint(folder, {"x": torch.full((200_000,), 0.0)}, {"step": 0, "digest": "d"})
        child = os.fork()
        if child == 0:  # write checkpoints without end, until killed
            step = 0
            while True:
                step += 1
                tensors = {"x": torch.full((200_000,), float(step))}
                save_checkpoint(folder, tensors, {"step": step, "digest": "d"})
        while len(checkpoints(folder)) < 2:
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load_checkpoint(folder, "d")
        assert found is not None
        tensors, state = found
        assert state["step"] > 0 and bool((tensors["x"] == float(state["step"])).all())
        save_checkpoint(folder, tensors, {**state, "step": state["step"] + 1})  # and it goes on


def test_a_full_disk_is_said_in_a_sentence_and_leaves_the_last_checkpoint_whole(
    tmp_path: Path,
) -> None:
    kept = save_checkpoint(tmp_path, {"x": torch.ones(10)}, {"step": 1, "digest": "d"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # no file may grow beyond that
    try:
        with pytest.raises(OSError, match=r"Could not write the checkpoint .*step-2 .*step-1\. Fr"):
            save_checkpoint(tmp_path, {"x": torch.ones(500_000)}, {"step": 2, "digest": "d"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [kept]
    found = load_checkpoint(tmp_path, "d")
    assert found is not None and torch.equal(found[0]["x"], torch.ones(10))


# -- what is refused, and what stops a run ---------------------------------------------------


REFUSED = {  # by option, what is none of its numbers
    "hours": ("-1", "0", "nan", "inf", "1e400", "long"),
    "pictures": ("-3", "2.5", "nan"),
    "decoder-pictures": ("-5", "x"),
    "batch": ("0", "-4", "1.5"),
    "workers": ("-1", "many"),
    "supervision": ("-1", "nan", "inf"),
    "seed": ("-1", "0.5", str(2**32)),
    "crop": ("-8", "60"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_a_number_that_no_run_can_have_is_refused_before_any_work(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for value in REFUSED[option]:
        line = ["--size", "scenes-128", f"--{option}", value, "--out", str(tmp_path / "run")]
        refused(
            line, rf"--{option}.*(is not possible: give a|takes 0|invalid)", monkeypatch, capsys
        )
    assert not list(tmp_path.iterdir())


def refused(line: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Run the command, which is to end with status 2 and a sentence, and to train nothing."""
    monkeypatch.setattr(sys, "argv", ["p2p_lab.training", *line])
    monkeypatch.setattr(loop, "begin_run", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        command.main()
    message = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and re.search(rf"^p2p_lab.training: error: .*{reason}", message)


def test_what_a_run_cannot_start_from_or_write_to_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file, run = tmp_path / "file", str(tmp_path / "run")
    file.write_text("of another")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = {
        "--warm-start nosuch": "There is no model 'nosuch'",
        "--size scenes-128 --warm-start cascade-64": "cascade-64 is a DeepFloyd",
        "--warm-start scenes-128": "does not fit this run: size mismatch",
        "--size scenes-128 --seed 40000": "take a smaller --seed",
        f"--save {file}/model": "is a file. Name a folder",
    }
    if not torch.backends.cuda.is_built():
        lines["--device cuda"] = "The device 'cuda' cannot be used here: .* Use 'cpu', or leave"
    for line, reason in lines.items():
        refused([*line.split(), "--out", run], reason, monkeypatch, capsys)
    for out in (file, file / "below"):
        refused(["--out", str(out)], "is a file. Name a folder", monkeypatch, capsys)
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "of another"


@pytest.mark.parametrize("kind", [TrainConfig, CascadeConfig])
def test_a_configuration_refuses_every_number_that_is_not_finite_or_below_nothing(
    kind: Any,
) -> None:
    assert kind().digest() == kind(hours=9.0).digest()
    numbers = {f.name for f in dataclasses.fields(kind) if f.type in ("int", "float")}
    for name in numbers & set(RANGES):
        for wrong in (float("nan"), float("inf"), -1, -0.5, "1", True):
            with pytest.raises(ValueError, match=f"{name}=.* is not possible: give a"):
                kind(**{name: wrong})
    floats = {f.name for f in dataclasses.fields(kind) if f.type == "float"}
    assert floats <= set(RANGES)


@pytest.mark.parametrize(("seconds", "pictures"), [(-1.0, 0), (0.0, 0), (float("nan"), -3)])
def test_a_stage_that_would_never_end_is_refused(seconds: float, pictures: int) -> None:
    with pytest.raises(ValueError, match="would never end: it has .* seconds and .* pictures"):
        a_stage(lambda step: 1.0, seconds, pictures)


def a_stage(factor: Any, seconds: float = 0.0, pictures: int = 10) -> Any:
    """Return a stage of one layer whose loss is multiplied by a factor of the step."""
    layer = torch.nn.Linear(2, 2)

    def loss(batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return factor(step) * layer(batch).square().mean(), {}

    fed = functools.partial(itertools.repeat, torch.ones(1, 2))
    return stage.Stage("tiny", layer, loss, lambda _: fed(), seconds, pictures, lambda _: None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_run_whose_loss_is_not_finite_stops_and_its_last_good_checkpoint_stands(
    bad: float, tmp_path: Path
) -> None:
    config = dataclasses.replace(TINY, batch=1)
    run = a_stage(lambda step: bad if step == 3 else 1.0)
    with pytest.raises(FloatingPointError, match=r"'tiny' stops at step 3: its loss .*step-3 was"):
        run_stage(run, config, Accelerator(cpu=True), tmp_path, checkpoint_seconds=-1.0)
    found = load_checkpoint(tmp_path / "tiny", config.digest())
    assert found is not None and found[1]["step"] == 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found[0].values())


def test_a_command_whose_run_stops_says_why_and_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise FloatingPointError("The stage 'denoiser' stops at step 3.")

    monkeypatch.setattr(sys, "argv", ["p2p_lab.training", "--out", str(tmp_path)])
    monkeypatch.setattr(command, "train", stop)
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and "Saved" not in said.out
    assert said.err == "p2p_lab.training: error: The stage 'denoiser' stops at step 3.\n"


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_are_not_finite_in_half_precision_are_never_saved(
    value: float, tmp_path: Path
) -> None:
    parts = build(TINY)
    with torch.no_grad():
        parts.unet.conv_in.bias[0] = value
    with pytest.raises(FloatingPointError, match=r"not saved: its weight unet\.conv_in\.bias is"):
        save(parts, TINY, tmp_path / "model-v1", {})
    assert not list(tmp_path.iterdir())


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        save_checkpoint(tmp_path, {"x": torch.zeros(1)}, {"step": step, "digest": "d"})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-11", "step-100"]


# -- what it learns -------------------------------------------------------------------------


def test_both_losses_of_a_short_run_fall(smoke: tuple[Any, Path]) -> None:
    for name, factor in (("autoencoder", 0.6), ("denoiser", 0.9)):
        losses = LOSSES[name]
        first, last = sum(losses[:8]) / 8, sum(losses[-8:]) / 8
        assert len(losses) == 40 and last < factor * first, (name, losses)


def test_the_learning_rate_warms_up_stays_and_falls_to_nothing() -> None:
    assert 0 < rate_factor(0.0, 0, 0.45) < rate_factor(0.0, 9, 0.45) < 0.6
    assert rate_factor(0.3, 10**5, 0.45) == 1
    tail = [rate_factor(f, 10**5, 0.45) for f in (0.5, 0.7, 0.9, 1.0)]
    assert tail == sorted(tail, reverse=True) and tail[-1] == pytest.approx(0)


@pytest.mark.parametrize("shape", [(16, 16), (8, 96), (96, 8)])
def test_muon_turns_a_matrix_to_one_with_singular_values_near_one_and_the_same_axes(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalise(matrix) @ vt.T  # (k, k), diagonal if the axes are kept
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-8)
    assert ((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3)).all()
    assert torch.allclose(orthogonalise(5 * matrix), orthogonalise(matrix), atol=1e-5)


def test_muon_takes_inner_matrices_and_leaves_ends_embeddings_and_vectors() -> None:
    parts = build(TINY)
    taken = {n for n, p in parts.unet.named_parameters() if is_matrix(n, p)}
    assert "mid_block.resnets.0.conv1.weight" in taken
    assert not {n for n in taken if n.startswith(("conv_in", "conv_out"))}
    embedding = "text_model.embeddings.token_embedding.weight"
    assert not is_matrix(embedding, torch.zeros(3, 3)) and not is_matrix("x", torch.zeros(3))


def test_folding_gives_latents_mean_zero_and_deviation_one_and_changes_no_picture() -> None:
    vae = build(TINY).vae
    images = draw_images(TINY, ENCODERS.start, 64)
    with torch.no_grad():
        vae.quant_conv.bias[:4] += torch.tensor([3.0, -1.0, 0.5, 2.0])
        vae.quant_conv.weight[:4] *= 7
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        spread = vae.encode(images).latent_dist.std / vae.encode(images).latent_dist.mean.std(
            (0, 2, 3), keepdim=True
        )
        fold_normalisation(vae, TINY, 64)
        posterior = vae.encode(images).latent_dist
        after = vae.decode(posterior.mean).sample
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert (posterior.mean.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(posterior.std, spread, rtol=1e-3)


def test_the_fixed_encoder_gives_the_scaled_principal_components_of_patches() -> None:
    vae = build(PATCHES).vae
    install_patch_encoder(vae, PATCHES)
    seen = draw_images(PATCHES, ENCODERS.start, patches.PICTURES)
    mean, basis = components(seen, PATCHES.scale, PATCHES.latent_channels)
    pixels = draw_images(PATCHES, ENCODERS.start + 5000, 16)
    rows = torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2)  # (B, N, P)
    wanted = ((rows - mean) @ basis).transpose(1, 2)
    with torch.no_grad():
        found = vae.encode(pixels).latent_dist.mean.flatten(2)
    assert (found - wanted).std() < 0.05 * wanted.std()
    correlations = torch.corrcoef(found.transpose(0, 1).flatten(1))
    assert correlations.fill_diagonal_(0).abs().max() < 0.2
    with pytest.raises(ValueError, match="needs three levels of at least 12, 48 and 64"):
        install_patch_encoder(build(TINY).vae, TINY)


def test_supervised_tokens_are_the_words_and_their_masks_are_at_the_latents_size() -> None:
    tokenizer = _tokenizer()
    batch = draw_batch(TINY, tokenizer, 0, 12)
    words = batch.words
    assert batch.images.shape == (12, 3, 32, 32) and batch.images.abs().max() <= 1
    assert torch.allclose(words.tokens.sum(1), torch.ones(len(words.tokens)))
    assert words.masks.shape[1:] == (8, 8) and 0 <= words.masks.min() <= words.masks.max() <= 1
    empty = (batch.ids == tokenizer.pad_token_id).sum(1) >= TINY.length - 2
    assert not (set(words.picture.tolist()) & set(empty.nonzero().flatten().tolist()))
    for b, row in zip(words.picture, words.tokens, strict=True):
        word = tokenizer.decode(batch.ids[b][row > 0]).strip()
        assert f" {word}" in f" {tokenizer.decode(batch.ids[b], skip_special_tokens=True)}"


def test_training_never_draws_a_test_scene() -> None:
    fastest = 5_000  # pictures a second, far above any machine's
    assert all(size.hours * 3600 * fastest < TRAINING.stop for size in SIZES.values())


def test_the_attention_loss_is_zero_for_a_map_flat_on_its_mask_whatever_its_strength() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 3:7] = 1
    words = Words(torch.tensor([0]), torch.eye(4)[1:2], mask)
    probs = torch.zeros(1, 64, 4)
    for strength in (0.9, 0.01):
        probs[0, :, 1] = strength * mask.flatten()
        assert supervision_loss([probs], words, torch.ones(1)) == pytest.approx(0, abs=1e-5)
    probs[0, :, 1] = 1 - mask.flatten()
    assert supervision_loss([probs], words, torch.ones(1)) == pytest.approx(1)
    nothing = Words(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0, 8, 8))
    assert supervision_loss([probs], nothing, torch.ones(1)) == 0


# -- what it builds and saves ---------------------------------------------------------------


def test_the_same_seed_builds_the_same_parts_and_leaves_the_global_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    one, two = state_of(build(TINY)), state_of(build(TINY))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = state_of(build(dataclasses.replace(TINY, seed=1)))
    assert not torch.equal(one["unet.conv_in.weight"], other["unet.conv_in.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"512 bytes and 2 marks; got 300 .* at least 560"):
        build_tokenizer(300, TINY.length)


def test_the_tokenizer_survives_saving_and_marks_both_ends(exported: Path) -> None:
    from transformers import CLIPTokenizer

    saved, made = CLIPTokenizer.from_pretrained(exported / "tokenizer"), _tokenizer()
    for text in ("a cat riding a bicycle", "zebra", "a très golden ñandú", ""):
        ids = made(text).input_ids
        assert saved(text).input_ids == ids
        assert ids[0] == made.bos_token_id and ids[-1] == made.eos_token_id


def test_a_published_folder_is_never_overwritten(smoke: tuple[Any, Path], exported: Path) -> None:
    before = (exported / "card.json").read_bytes()
    with pytest.raises(FileExistsError, match="never changes; choose the next number"):
        save(smoke[0], SMOKE, exported, {})
    assert (exported / "card.json").read_bytes() == before


def test_the_card_of_a_pipeline_lists_every_file_and_its_vocabulary_the_world(
    exported: Path,
) -> None:
    verify(exported)
    listed = set(json.loads((exported / "card.json").read_text())["files"])
    there = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert listed == there - {"card.json"}
    words = json.loads((exported / "vocabulary.json").read_text())["words"]
    assert {"cat", "kitten", "riding", "golden", "snowy"} <= set(words) and "lion" not in words


def test_plain_diffusers_loads_the_folder_and_draws_the_same_picture_as_generate(
    exported: Path,
) -> None:
    from diffusers import StableDiffusionPipeline

    import p2p_lab

    model = p2p_lab.load(exported, "cpu")
    run = p2p_lab.generate(model, "a cat in a field", seed=3, steps=4, guidance_scale=3.0)
    pipeline = StableDiffusionPipeline.from_pretrained(exported)  # no precision named
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a cat in a field",
        num_inference_steps=4,
        guidance_scale=3.0,
        height=SMOKE.picture_size,
        width=SMOKE.picture_size,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images[0]
    assert torch.allclose(run.pixels, image, atol=1e-4)
    assert run.pixels.std() > 0.01


def test_both_published_sizes_can_be_built_and_have_the_resolutions_that_edits_need() -> None:
    for size in SIZES.values():
        side = size.picture_size // size.scale
        assert side == 16 and len(size.unet_channels) == 2


def test_the_benchmark_measures_a_pipeline_and_ends_with_one_line_of_json(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = Labels.of_world(WORLDS["small"])
    save_judge(JudgeNet(labels), labels, tmp_path / "judge", {"threshold": 0.5})
    arguments = ["--model", str(exported), "--judge", str(tmp_path / "judge"), "--json"]
    model_benchmark.main([*arguments, "--samples", "1"])
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    asked = ["object", "attribute", "scene", "held_out"]
    assert {f"{name}_success" for name in asked} <= set(numbers)
    assert all(0 <= numbers[name] <= 1 for name in ("pointing", "iou", "object_success"))
    assert numbers["seconds_per_image"] > 0 and 0 < numbers["size_mb"] < 25
    assert -10 < numbers["autoencoder_psnr"] < 60


def test_a_bundled_model_has_one_size_under_its_name_with_and_without_version() -> None:
    model = p2p_lab.load("scenes-128", "cpu")
    sizes = {model_benchmark.size_mb(name, model) for name in ("scenes-128", model.name, None)}
    assert len(sizes) == 1 and 1 < sizes.pop() < 25


def test_the_attention_of_training_is_the_libraries_with_equal_gradients() -> None:
    parts = build(TINY)
    latents = torch.randn(2, TINY.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = parts.tokenizer(["a cat", "a dog"], padding="max_length", return_tensors="pt").input_ids
    text = parts.text_encoder(ids)[0].detach()
    found = []
    for recorded in (False, True):
        maps = TrainingMaps(parts.unet, (8, 8), EARLY)
        parts.unet.zero_grad()
        with maps.attached() if recorded else nullcontext():
            out = parts.unet(latents, 500, text).sample
        out.square().mean().backward()
        grads = [p.grad.clone() for p in parts.unet.parameters() if p.grad is not None]
        found.append((out.detach(), grads))
        assert bool(maps.recorded) == recorded
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    for plain, ours in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(plain, ours, atol=1e-6, rtol=1e-4)


def test_only_runs_that_differ_in_their_supervision_alone_are_called_matched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend("tools")
    matched = importlib.import_module("matched")
    metrics = dict.fromkeys(matched.MEANING, 0.5)
    told = {"command": "--x", "pictures": 10, "seconds": 60.0, "loss": 0.2, "metrics": metrics}
    told["config"] = {"supervision": 0.05, "seed": 0}
    untold = {**told, "config": {"supervision": 0, "seed": 0}, "metrics": {**metrics, "iou": 0.1}}
    assert "(`iou`) | 0.5 | 0.1 |" in matched.pair_table(told, untold)
    for other in (told, {**untold, "config": {"supervision": 0, "seed": 1}}):
        with pytest.raises(ValueError, match="must be alike but for the supervision"):
            matched.pair_table(told, other)
