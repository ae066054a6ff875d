"""Laws of what people have around a model: torch's modes, numbers of NumPy, files that are none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from p2p_lab.edits import Replace
from p2p_lab.figures import show_blend, show_trajectory
from p2p_lab.inversion import invert, suggest_prompt
from p2p_lab.models import ModelError, load
from p2p_lab.recipes import Recipe
from p2p_lab.rivals import concept_maps, masked, sdedit
from p2p_lab.sampling import (
    Run,
    animate,
    edit,
    edit_many,
    generate,
    generate_many,
    latents_at,
    maps_at,
    mask_level,
    observe,
    pictures_at,
    relations_at,
    word_step,
)

CAT, DOG = "a cat on grass", "a dog on grass"


@pytest.fixture
def meta_by_default() -> Iterator[None]:
    """A default device on which nothing can be computed: what names no device fails there."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def walk_through(folder: Path, method: Any) -> list[Run]:
    """Load, draw, edit and invert."""
    model = load(folder, "cpu")
    drawn = generate(model, CAT, seed=1, steps=2)
    inverted = invert(model, drawn.image, CAT, method=method, steps=2)
    return [drawn, edit(drawn, DOG, [Replace()]), inverted, edit(inverted, DOG, [Replace()])]


@pytest.mark.parametrize("method", ["null-text", "direct", "edit-friendly"])
def test_torchs_inference_mode_and_default_device_change_no_picture(
    method: str, sd_folder: Path, request: pytest.FixtureRequest
) -> None:
    usual = walk_through(sd_folder, method)
    with torch.inference_mode():
        inside = walk_through(sd_folder, method)
    request.getfixturevalue("meta_by_default")
    elsewhere = walk_through(sd_folder, method)
    for wanted, *others in zip(usual, inside, elsewhere, strict=True):
        assert all(np.array_equal(wanted.pixels, other.pixels) for other in others)


def test_null_text_refuses_a_pipeline_that_was_made_in_inference_mode(sd_folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    with torch.inference_mode():
        pipe = StableDiffusionPipeline.from_pretrained(sd_folder, local_files_only=True)
    model = load(pipe)
    image = generate(model, CAT, seed=1, steps=1).image
    with pytest.raises(ValueError, match="made inside torch.inference_mode.*method='direct'"):
        invert(model, image, CAT, method="null-text", steps=1)


def test_torchs_defaults_change_no_map_of_an_observed_picture(
    sd32: Any, request: pytest.FixtureRequest
) -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = observe(sd32, picture, CAT, step=1, steps=3).map("cat")
    request.getfixturevalue("meta_by_default")
    torch.set_default_dtype(torch.float64)
    try:
        found = observe(sd32, picture, CAT, step=1, steps=3).map("cat")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
def test_numbers_of_numpy_and_torch_are_taken_as_pythons_own(kind: Any, sd32: Any) -> None:
    wanted = generate(sd32, CAT, seed=1, steps=2, guidance_scale=3)
    run = generate(sd32, CAT, seed=1, steps=kind(2), guidance_scale=kind(3))
    assert torch.equal(run.pixels, wanted.pixels)
    assert type(run.steps) is int and run.steps == 2


@pytest.mark.parametrize("steps", [np.float64(2), np.bool_(True), True, np.array([2]), "2"])
def test_steps_that_are_no_whole_number_are_refused(steps: Any, sd32: Any) -> None:
    with pytest.raises(ValueError, match="steps=.*give a whole number from 1"):
        generate(sd32, CAT, seed=1, steps=steps)


@pytest.mark.parametrize(
    "weight", ["lora_unet_x.lora_down.weight", "unet.x.lora_A.weight", "unet.x.lora.up.weight"]
)
def test_a_lora_in_a_models_place_is_called_one(
    weight: str, sd_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({weight: torch.zeros(1)}, file)
    for place, config in ((file, None), (file, sd_folder), (tmp_path, None)):
        with pytest.raises(ModelError, match=r"is a LoRA.*load_lora_weights.*load\(pipe\)"):
            load(place, "cpu", config=config)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, _: generate(model, CAT),
        lambda model, _: generate_many(model, CAT, [1]),
        lambda model, run: invert(model, run.image, CAT),
        lambda model, run: suggest_prompt(model, run.image),
        lambda model, run: observe(model, run.pixels, CAT),
        lambda model, _: Recipe(CAT, DOG).generate(model),
    ],
)
def test_a_name_a_run_or_a_pipeline_in_a_models_place_is_refused_with_a_sentence(
    call: Any, sd32: Any
) -> None:
    run = generate(sd32, CAT, steps=1)
    for given, named in (("scenes-128", r"str \('scenes-128'\)"), (run, "Run"), (Parts(), "Parts")):
        with pytest.raises(ModelError, match=rf"model is a {named}, not a model.*`load`"):
            call(given, run)


class Parts:
    """What a pipeline of diffusers looks like: a model only after `load(pipe)`."""

    components: dict[str, Any] = {}


@pytest.mark.parametrize(
    "call",
    [
        lambda run: edit(run, DOG),
        lambda run: sdedit(run, DOG),
        lambda run: masked(run, "cat", "dog"),
        lambda run: concept_maps(run, ["cat"]),
        lambda run: Recipe(CAT, DOG).apply(run),
        lambda run: edit_many(run, DOG),
        lambda run: animate(run, [CAT, DOG]),
        lambda run: maps_at(run, 0),
        lambda run: latents_at(run, 0),
        lambda run: pictures_at(run, 0),
        lambda run: word_step(run, "cat", 0),
        lambda run: relations_at(run, 0),
        mask_level,
        show_trajectory,
        show_blend,
    ],
)
def test_a_prompt_or_a_model_in_a_runs_place_is_refused_with_a_sentence(
    call: Any, sd32: Any
) -> None:
    for given in (CAT, sd32):
        with pytest.raises(ValueError, match="not a Run|list of Runs"):
            call(given)


def test_a_sample_size_of_null_is_diffusers_own_or_named(sd_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd_folder, tmp_path / "copy"))
    for part in ("unet", "vae"):
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": None}))
        if part == "unet":
            assert load(folder, "cpu").defaults.height == 128  # 64 latents of two pixels
    with pytest.raises(ModelError, match="AutoencoderKL cannot be made.*vae.config.json"):
        load(folder, "cpu")


@pytest.mark.parametrize("half", ["encode", "decode"])
@pytest.mark.parametrize("record", ["tape", "none"])
def test_an_autoencoder_of_numbers_that_are_not_finite_makes_no_inversion(
    half: str, record: Any, sd32: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    usual = getattr(type(sd32), half)
    monkeypatch.setattr(type(sd32), half, lambda self, x: usual(self, x) / 0)
    with pytest.raises(ValueError, match=f"not finite.*{half}d.*float32"):
        invert(sd32, image, CAT, steps=1, record=record)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_that_is_forked_while_another_thread_draws_can_draw_too(sd32: Any) -> None:
    wanted = generate(sd32, CAT, seed=1, steps=2).pixels
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        inside.set()
        go_on.wait(30)

    drawing = threading.Thread(target=lambda: generate(sd32, CAT, seed=2, steps=2, on_step=wait))
    drawing.start()
    inside.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        os._exit(int(not torch.equal(generate(sd32, CAT, seed=1, steps=2).pixels, wanted)))
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        go_on.set()
        drawing.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_in_the_middle_of_ones_own_run_goes_on_with_it_in_both(sd32: Any) -> None:
    forked: list[int] = []

    def fork(step: int, *_: Any) -> None:
        forked.append(os.fork() if step == 0 else 0)

    wanted = generate(sd32, CAT, seed=1, steps=2)
    code = 1
    try:
        run = generate(sd32, CAT, seed=1, steps=2, on_step=fork)
        code = int(not torch.equal(run.map("cat"), wanted.map("cat")))
    finally:
        if forked and forked[0] == 0:
            os._exit(code)
    assert code == 0 and os.waitpid(forked[0], 0)[1] == 0
