"""Laws of finding and opening models."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from p2p_lab.models import ModelError, list_models, load, loading, verify
from p2p_lab.models.vocabulary import unknown_words
from p2p_lab.sampling import generate
from tests.single_file import save_single_file

CAT = "a cat on grass"


@pytest.fixture
def folder(sd_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(sd_folder, tmp_path / "copy-v1"))


@pytest.fixture
def bundled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with two sizes, one in two versions, with cards."""
    weights = tmp_path / "weights"
    for name in ("another-v1", "another-v2", "scenes-128-v4"):
        write_card(Path(shutil.copytree(folder, weights / name)), {"name": name})
    (weights / "judge-v1").mkdir()
    monkeypatch.setattr(loading, "WEIGHTS", weights)
    return weights


def write_card(folder: Path, fields: dict[str, Any]) -> None:
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / "card.json").write_text(json.dumps({"files": files, **fields}))


def test_bundled_models_are_listed_best_first_and_the_best_is_the_default(bundled: Path) -> None:
    assert list_models() == ["scenes-128", "another"]
    assert load(device="cpu").name == "scenes-128-v4"
    assert load("another", "cpu").name == "another-v2"
    assert load("another-v1", "cpu").name == "another-v1"
    assert (load(device="cpu").defaults.steps, load(device="cpu").defaults.guidance_scale) == (
        20,
        3,
    )


def test_a_card_may_name_defaults_and_the_best_sites(bundled: Path) -> None:
    site = "mid_block.attentions.0.transformer_blocks.0.attn2"
    fields = {"name": "x", "defaults": {"steps": 3}, "recommended_sites": [site]}
    (bundled / "scenes-128-v4" / "card.json").write_text(json.dumps(fields))
    model = load(device="cpu")
    run = generate(model, CAT)
    assert run.steps == 3 and run.attention is not None
    assert torch.equal(run.attention.map("cat"), run.attention.map("cat", site=site))


def test_a_bundled_cascade_is_opened_by_its_name_and_stage(bundled: Path) -> None:
    cascade = bundled / "cascade-64-v1"
    shutil.copytree(bundled / "another-v1", cascade)
    shutil.copytree(bundled / "another-v1", cascade / "super")
    assert list_models() == ["scenes-128", "another", "cascade-64"]
    assert load(device="cpu").name == "scenes-128-v4"
    assert load("cascade-64", "cpu").name == "cascade-64-v1"
    for name in ("cascade-64/super", "cascade-64-v1/super"):
        assert load(name, "cpu").name == "cascade-64-v1/super"
    with pytest.raises(ModelError, match="sub has no model_index.json"):
        load("cascade-64/sub", "cpu")


@pytest.mark.parametrize("value", [5, object(), ["scenes-128"]])
def test_what_is_no_models_name_folder_or_pipeline_is_refused_by_its_kind(value: Any) -> None:
    with pytest.raises(ModelError, match=f"load takes .*got a {type(value).__name__}"):
        load(value)


def test_without_any_bundled_model_the_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "WEIGHTS", tmp_path)
    assert list_models() == []
    with pytest.raises(ModelError, match="No bundled model.*p2p_lab.training"):
        load()


def test_a_changed_or_missing_file_is_named(bundled: Path) -> None:
    weights = bundled / "scenes-128-v4" / "unet" / "diffusion_pytorch_model.safetensors"
    verify(weights.parent.parent)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="unet/diffusion_pytorch_model.safetensors is not the one"):
        load("scenes-128", "cpu")
    weights.unlink()
    with pytest.raises(ModelError, match="unet/diffusion_pytorch_model.safetensors is missing"):
        load("scenes-128", "cpu")


def test_a_truncated_file_without_card_gives_a_sentence(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="could not be opened: .*again"):
        load(folder, "cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"{part}.* is missing"):
        load(folder, "cpu")


def test_weights_that_would_be_unpickled_are_not_read(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="no .safetensors file.*can run code"):
        load(folder, "cpu")
    (folder / "old.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="can run code"):
        load(folder / "old.ckpt", "cpu")


def test_folders_that_are_no_pipelines_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model_index.json"):
        load(tmp_path, "cpu")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="it is no JSON"):
        load(tmp_path, "cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelError, match="holds a KandinskyPipeline. Supported are"):
        load(tmp_path, "cpu")


def test_names_that_are_nothing_and_hub_ids_without_network_say_what_to_do() -> None:
    with pytest.raises(ModelError, match="There is no model 'scenes-9'.*owner/name"):
        load("scenes-9", "cpu")
    with pytest.raises(ModelError, match="could not be fetched.*load\\(\\)"):
        load("nobody/nothing", "cpu")


def test_devices_and_precisions_that_cannot_be_are_refused(sd_folder: Path) -> None:
    with pytest.raises(ModelError, match="device 'cuda:99' cannot be used"):
        load(sd_folder, "cuda:99")
    with pytest.raises(ModelError, match="device 'toaster'"):
        load(sd_folder, "toaster")
    with pytest.raises(ModelError, match="torch.int8 is not a precision"):
        load(sd_folder, "cpu", torch.int8)
    assert load(sd_folder, "cpu").dtype == torch.float32
    assert load(sd_folder, "cpu", torch.float64).dtype == torch.float64


def test_half_precision_files_of_a_variant_are_found(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert load(folder, "cpu").dtype == torch.float32


@pytest.mark.filterwarnings("ignore")
def test_a_single_file_checkpoint_makes_the_same_picture_as_its_folder(
    sd32: Any, sd_folder: Path, tmp_path: Path
) -> None:
    path = save_single_file(sd32, tmp_path / "tiny.safetensors")
    model = load(path, "cpu", config=sd_folder)
    assert model.name == "tiny"
    one, two = (generate(m, CAT, seed=1, steps=2, record="none") for m in (model, sd32))
    assert torch.allclose(one.pixels, two.pixels, atol=1e-5)


def test_a_single_file_that_cannot_be_opened_says_why(sd_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match="damaged or not safetensors"):
        load(path, "cpu")
    with pytest.raises(ModelError, match="damaged or not safetensors"):
        load(path, "cpu", config=sd_folder)
    with pytest.raises(ModelError, match="no diffusers folder"):
        load(path, "cpu", config=tmp_path)
    save_file({"another.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="could not be opened.*config="):
        load(path, "cpu", config=sd_folder)


def test_unknown_words_warn_once_each_and_name_the_nearest(folder: Path) -> None:
    words = ["a", "cat", "dog", "on", "grass", "snowy"]
    (folder / "vocabulary.json").write_text(json.dumps({"words": words}))
    model = load(folder, "cpu")
    with pytest.warns(UserWarning, match="'snovy', 'zqx'.*near 'snovy': snowy.*nothing.*'zqx'"):
        model.prompt("a snovy Cat, on zqx!")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.prompt("A cat, on grass!")


def test_a_model_without_vocabulary_warns_of_nothing(sd: Any) -> None:
    assert unknown_words(sd.prompt("zebra"), sd.card.vocabulary) == []


def test_pictures_survive_the_autoencoders_scale(sd: Any) -> None:
    """Encoding gives the latents that decoding starts from: scale and shift are inverse."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    latents = sd.encode(images)
    assert latents.shape == (2, 4, 16, 16)
    mean = sd.vae.encode(images * 2 - 1).latent_dist.mean
    assert torch.allclose(latents, mean * sd.vae.config.scaling_factor)
    decoded = (sd.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(sd.decode(latents), decoded)


def test_an_autoencoder_that_overflows_in_half_precision_is_run_in_float32(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load(sd_folder, "cpu", torch.float16)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).half()
    wide = load(sd_folder, "cpu").decode(latents.float())
    decode = model.vae.decode

    def overflow(z: Any, **options: Any) -> Any:
        output = decode(z, **options)
        return (output[0] * torch.inf,) if z.dtype == torch.float16 else output

    monkeypatch.setattr(model.vae, "decode", overflow)
    assert torch.allclose(model.decode(latents), wide, atol=1e-2)
    assert model.vae.dtype == torch.float16


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, p2p_lab; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_bundled_cascade_is_small_and_draws_what_diffusers_own_pipelines_draw() -> None:
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    base, larger = load("cascade-64", "cpu"), load("cascade-64/super", "cpu")
    folder = loading.WEIGHTS / base.name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    same: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt", "clean_caption": False}
    text = "a cat in a field"
    small = IFPipeline.from_pretrained(folder)(  # no precision named, as docs/model.md says
        text, guidance_scale=3.0, generator=torch.Generator().manual_seed(3), **same
    ).images
    large = IFSuperResolutionPipeline.from_pretrained(folder / "super")(
        text,
        image=small,
        guidance_scale=2.0,
        noise_level=larger.card.raw["noise_level"],
        generator=torch.Generator().manual_seed(3),
        **same,
    ).images
    ours = generate(base, text, seed=3, steps=4, guidance_scale=3.0)
    set_on: Any = larger
    whole = generate(set_on.on(ours, seed=3), text, seed=3, steps=4, guidance_scale=2.0)
    for run, theirs in ((ours, small), (whole, large)):
        assert torch.allclose(run.pixels, theirs[0].clamp(-1, 1) / 2 + 0.5, atol=1e-3)
        assert run.pixels.std() > 0.05


def test_plain_diffusers_draws_with_the_bundled_model_what_we_draw_when_no_precision_is_named() -> (
    None
):
    from diffusers import StableDiffusionPipeline

    model = load("scenes-128", "cpu")
    pipeline = StableDiffusionPipeline.from_pretrained(loading.WEIGHTS / model.name)
    pipeline.set_progress_bar_config(disable=True)
    text, seed = "a cat on a beach", torch.Generator().manual_seed(3)
    theirs = pipeline(text, num_inference_steps=4, guidance_scale=3.0, generator=seed,
                      output_type="pt").images[0]  # fmt: skip
    ours = generate(model, text, seed=3, steps=4, guidance_scale=3.0)
    assert torch.allclose(ours.pixels, theirs, atol=1e-4) and ours.pixels.std() > 0.05
