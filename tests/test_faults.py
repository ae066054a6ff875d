"""Laws for when things go wrong: nothing is lost, nothing is silent, nothing is run.

They are tables: results × records that are kept, models × what is kept of them, kill points ×
writers, damages × readers, canaries × openers. `docs/promises.md` names the promise of each.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from p2p_lab.__main__ import main
from p2p_lab.commands._files import write_picture
from p2p_lab.edits import EditPlan, LocalBlend, Move, Refine, Replace, Reweight
from p2p_lab.files import append_line, whole_lines, write_new, write_whole
from p2p_lab.inversion import (
    METHODS,
    EditFriendly,
    InversionCache,
    NullText,
    PictureError,
    invert,
    load_captioner,
    load_image,
)
from p2p_lab.judge import load_judge
from p2p_lab.judge.labels import Labels
from p2p_lab.judge.network import JudgeNet
from p2p_lab.judge.reading import save_judge
from p2p_lab.models import ModelError, load, verify
from p2p_lab.models.cards import read_card
from p2p_lab.models.identity import digest_of
from p2p_lab.recipes import Recipe, to_code
from p2p_lab.sampling import Run, animate, edit, generate, saving
from p2p_lab.scenes import SMALL
from p2p_lab.training.build import take_weights
from p2p_lab.training.checkpoint import ResumeError, begin_run, load_checkpoint, save_checkpoint
from p2p_lab.training.export import new_version, write_card, write_words
from p2p_lab.training.preview import save_grid
from p2p_lab.widgets.export import Frame, save_gif
from tests.killing import kill_points
from tests.single_file import save_single_file

CAT, DOG, RED = "a cat on grass", "a dog on grass", "a red cat on grass"
ALL = (Replace(), Reweight("grass", 2.0), LocalBlend("cat", "dog"))
QUICK: dict[str, Any] = {"null-text": NullText(inner_steps=1), "edit-friendly": EditFriendly()}


def picture(seed: int = 0) -> Tensor:
    """A smooth random picture, (3, 32, 32)."""
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[0]


def inverted(model: Any, method: str, record: Any = "tape") -> Run:
    return invert(model, picture(), CAT, method=QUICK.get(method, method), steps=2, record=record)


@pytest.fixture(scope="module")
def cat(sd32: Any) -> Run:
    return generate(sd32, CAT, seed=3, steps=2)


@pytest.fixture
def weights_changed(sd32: Any) -> Any:
    """The same model, by name and shape, after its smallest possible change."""
    other = replace(sd32, module=copy.deepcopy(sd32.module))
    with torch.no_grad():
        last = list(other.module.parameters())[-1]
        last.view(-1)[-1] = torch.nextafter(last.view(-1)[-1], torch.tensor(9.0))
    return other


# what is kept can be had again --------------------------------------------------------------

MADE: dict[str, Callable[[Any, Run], Run]] = {
    "generated, taped": lambda model, cat: cat,
    "generated, stored": lambda model, cat: generate(model, CAT, seed=1, steps=2, record="store"),
    "generated, alone": lambda model, cat: generate(model, CAT, seed=1, steps=2, record="none"),
    "edited": lambda model, cat: edit(cat, DOG, ALL),
    "edited, taped": lambda model, cat: edit(cat, DOG, ALL, record="tape"),
    "edited, alone": lambda model, cat: edit(cat, DOG, ALL, record="none"),
    "moved": lambda model, cat: edit(cat, CAT, [Move("cat", by=(0, 0.25))]),
    "edited twice": lambda model, cat: edit(edit(cat, DOG, ALL), RED, [Replace()]),
    "a frame": lambda model, cat: animate(cat, [CAT, (DOG, ALL)], frames=3)[1],
    **{
        f"{method}, {record}": lambda model, cat, m=method, r=record: inverted(model, m, r)  # type: ignore[misc]
        for method in METHODS
        for record in ("tape", "store", "none")
    },
    **{
        f"{method}, edited": lambda model, cat, m=method: edit(inverted(model, m), DOG, ALL)  # type: ignore[misc]
        for method in METHODS
    },
}


@pytest.mark.parametrize("made", MADE)
def test_whatever_is_made_is_saved_and_read_and_edited_on_to_the_same_bits(
    made: str, sd32: Any, cat: Run, tmp_path: Path
) -> None:
    run = MADE[made](sd32, cat)
    back = Run.load(run.save(tmp_path / "run.safetensors"), sd32)
    assert torch.equal(back.pixels, run.pixels) and (back.seed, back.note) == (run.seed, run.note)
    one, two = (edit(r, "a red dog on grass", [Refine()], reuse=False) for r in (run, back))
    assert torch.equal(one.pixels, two.pixels)
    again = Run.load(back.save(tmp_path / "again.safetensors"), sd32)
    assert torch.equal(again.trajectory.latents, run.trajectory.latents)


def test_a_long_chain_of_edits_is_saved_whole(cat: Run, tmp_path: Path) -> None:
    run = replace(cat, tape=None, attention=None)
    for _ in range(1200):  # more than Python's own stack would hold
        run = replace(run, source=run)
    back = Run.load(run.save(tmp_path / "chain"))
    depth = 0
    while back.source is not None:
        back, depth = back.source, depth + 1
    assert depth == 1200
    assert (tmp_path / "chain").stat().st_size < 3e6, "what many share is written once"


def test_pickling_or_copying_a_run_says_what_to_use_instead(cat: Run) -> None:
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"run\.save\(path\).*Run\.load.*replace\(run\)"):
            act(cat)


# what is kept is of one model ---------------------------------------------------------------


def test_a_saved_run_is_not_read_for_another_model_of_the_same_name(
    cat: Run, sd32: Any, weights_changed: Any, tmp_path: Path
) -> None:
    path = cat.save(tmp_path / "cat")
    with pytest.raises(ValueError, match="another model that is called 'tiny-sd' too"):
        Run.load(path, weights_changed)
    passed_on = Run.load(path).save(tmp_path / "again")  # read without a model and saved
    with pytest.raises(ValueError, match="another model that is called 'tiny-sd' too"):
        Run.load(passed_on, weights_changed)
    assert torch.equal(Run.load(passed_on, sd32).pixels, cat.pixels)


def test_a_recipe_and_its_code_say_so_when_they_meet_another_model_of_the_same_name(
    cat: Run,
    sd32: Any,
    sd: Any,
    weights_changed: Any,
    sd_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe(CAT, DOG, steps=2).made_with(sd32)
    kept = Recipe.from_json(recipe.save(tmp_path).read_text("utf-8"))
    assert kept == recipe
    code = to_code(kept, [Replace()], source=cat)
    assert recipe.made_by in code and recipe.made_by in to_code(kept, [Replace()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.generate(sd32)
        exec(code, {})
    other = "This recipe was made with another model: weights or settings of 'tiny-sd' differ"
    for act in (kept.generate, lambda model: kept.apply(replace(cat, model=model))):
        with pytest.warns(UserWarning, match=other):
            act(weights_changed)
    with pytest.warns(UserWarning, match="another model: it ran in float32"):
        kept.generate(sd)
    monkeypatch.setattr("p2p_lab.models.loading.open_folder", lambda *_: weights_changed)
    with pytest.warns(UserWarning, match="This code was made with another model"):
        exec(code, {})


def test_a_run_saved_in_another_precision_is_read_with_a_warning(
    cat: Run, sd: Any, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="made in float32 and the model given runs in float64"):
        Run.load(cat.save(tmp_path / "cat"), sd)


def test_every_weight_and_setting_counts_in_what_a_model_is(sdxl_folder: Path) -> None:
    model = load(sdxl_folder, "cpu", torch.float32)
    seen = {digest_of(model)}
    assert digest_of(load(sdxl_folder, "cpu", torch.float32)) in seen
    for part in (model.module, model.vae, model.text_encoder, model.text_encoder_2):
        for tensor in list(part.parameters())[::7]:
            tensor.data.view(-1)[-1] += 1  # a change that leaves no other trace
            seen.add(digest_of(model))
            tensor.data.view(-1)[-1] -= 2
    settings = {**model.scheduler_config, "prediction_type": "v_prediction"}
    others = replace(model, scheduler_config=settings), replace(model, blank_is_zero=False)
    count = len(seen)
    assert len(seen | {digest_of(other) for other in others}) == count + 2
    assert count == 1 + sum(
        len(list(part.parameters())[::7])
        for part in (model.module, model.vae, model.text_encoder, model.text_encoder_2)
    )


@pytest.mark.filterwarnings("ignore:The tape of this run")
def test_the_cache_makes_another_entry_for_every_weight_and_for_a_tapes_budget(
    sd32: Any, weights_changed: Any, tmp_path: Path
) -> None:
    cache = InversionCache(tmp_path)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (sd32, {}),
        (weights_changed, {}),
        (sd32, {"tape_budget": 10}),
    ]
    for count, (model, options) in enumerate(calls, start=1):
        invert(model, picture(), CAT, steps=1, cache=cache, **options)
        assert len(cache.files()) == count


def test_a_cache_can_be_named_by_its_folder_and_nothing_else_is_taken_in_silence(
    sd32: Any, tmp_path: Path
) -> None:
    invert(sd32, picture(), CAT, steps=1, cache=str(tmp_path / "mine"))
    assert len(InversionCache(tmp_path / "mine").files()) == 1
    (tmp_path / "file").write_text("of another")
    for wrong in (1, b"here", "", ["mine"], tmp_path / "file", str(tmp_path / "file")):
        with pytest.raises(
            ValueError, match="(?i)cache=.* is not possible: .*give (True|a folder)"
        ):
            invert(sd32, picture(), CAT, steps=1, cache=wrong)  # type: ignore[arg-type]


# nothing that comes with a model is run ------------------------------------------------------

CODE = "canary.Canary"
MAP: dict[str, Any] = {"AutoConfig": CODE, "AutoModel": CODE, "AutoTokenizer": [CODE, CODE]}
MAP |= {"AutoProcessor": CODE, "AutoModelForImageTextToText": CODE, "CLIPTextModel": CODE}
PARTS = ("unet", "tokenizer", "scheduler", "safety_checker")
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{p} in the index": ("model_index.json", {p: ["canary", "Canary"]}) for p in PARTS},
    "a further part": ("model_index.json", {"extra": ["canary", "Canary"]}),
    "the pipeline": ("model_index.json", {"_class_name": ["canary", "StableDiffusionPipeline"]}),
    "a network": ("unet/config.json", {"_class_name": CODE, "auto_map": MAP}),
    "a text encoder": (
        "text_encoder/config.json",
        {"auto_map": MAP, "model_type": "canary", "architectures": [CODE]},
    ),
    "a quantizer": (
        "text_encoder/config.json",
        {"quantization_config": {"quant_method": "canary", "_class_name": CODE}},
    ),
    "a tokenizer": (
        "tokenizer/tokenizer_config.json",
        {"tokenizer_class": CODE, "auto_map": MAP, "processor_class": CODE},
    ),
    "a scheduler": ("scheduler/scheduler_config.json", {"_class_name": CODE, "auto_map": MAP}),
    "a card": ("card.json", {"_class_name": CODE, "auto_map": MAP, "name": CODE}),
}


class Bomb:
    """What a pickle would run."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return Path.touch, (self.flag,)


@pytest.fixture
def canary(sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model with code and pickles in every folder of it, that leave the file `sung` if run."""
    folder = Path(shutil.copytree(sd_folder, tmp_path / "canary-v1"))
    flag = tmp_path / "sung"
    song = f"open({str(flag)!r}, 'w').close()\nclass Canary: pass\n"
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("canary", "None", "pipeline", "__init__", "StableDiffusionPipeline"):
            (place / f"{name}.py").write_text(song)
        for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.ckpt"):
            (place / name).write_bytes(pickle.dumps(Bomb(flag)))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    yield folder
    sys.modules.pop("canary", None)


def open_from_hub(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    return load("owner/name", "cpu")


OPENERS: dict[str, Callable[[Path, Path, pytest.MonkeyPatch], Any]] = {
    "folder": lambda folder, file, patch: load(folder, "cpu"),
    "single file": lambda folder, file, patch: load(file, "cpu", config=folder),
    "hub": open_from_hub,
    "training": lambda folder, file, patch: take_weights(SimpleNamespace(), str(folder)),  # type: ignore[arg-type]
    "captioner": lambda folder, file, patch: load_captioner(folder),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", NAMED)
def test_no_file_of_a_model_can_name_code_that_is_run(
    place: str, canary: Path, sd32: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_single_file(sd32, tmp_path / "tiny.safetensors")
    name, change = NAMED[place]
    path = canary / name
    said = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**said, **change}))
    everywhere = place in ("the pipeline", "a text encoder")
    for opener in list(OPENERS)[: None if everywhere else 2]:  # the rest go on as these do
        with suppress(ModelError, AttributeError, ValueError, OSError):
            OPENERS[opener](canary, file, monkeypatch)
        assert "canary" not in sys.modules and not (tmp_path / "sung").exists(), opener


def test_a_captioning_network_is_never_asked_for_its_own_code(
    canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # a user who agrees to everything
    settings = {"model_type": "canary", "auto_map": MAP, "processor_class": CODE}
    for name in ("config", "preprocessor_config", "processor_config", "tokenizer_config"):
        (canary / f"{name}.json").write_text(json.dumps(settings))
    with pytest.raises((ValueError, OSError)):
        load_captioner(canary)
    assert "canary" not in sys.modules and not (tmp_path / "sung").exists()


def test_the_canary_sings_when_it_is_run(canary: Path, tmp_path: Path) -> None:
    import_module("canary")
    assert (tmp_path / "sung").exists()
    del sys.modules["canary"]
    (tmp_path / "sung").unlink()
    pickle.loads((canary / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "sung").exists()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def test_only_the_formats_that_are_meant_are_opened_as_pictures_whatever_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: Any, **_: Any) -> Any:
        raise AssertionError(f"a program was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    (tmp_path / "cat.png").write_bytes(EPS)
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.ppm")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "cat.eps", "png")
    for refused in (tmp_path / "cat.png", tmp_path / "cat.ppm", EPS, io.BytesIO(EPS)):
        with pytest.raises(PictureError, match="not a PNG, JPEG, WebP, GIF, BMP or TIFF"):
            load_image(refused, 8)
    with pytest.raises(PictureError, match="comes from an EPS file"):
        load_image(Image.open(io.BytesIO(EPS)), 8)
    assert load_image(tmp_path / "cat.eps", 8).getpixel((0, 0)) == (255, 0, 0)


# a kill at any moment -------------------------------------------------------------------------


def run_of(cat: Run, value: float) -> Run:
    return replace(cat, pixels=torch.full_like(cat.pixels, value))


def save_parts(folder: Path, step: int) -> None:
    tensors = {"x": torch.full((50_000,), float(step))}
    save_checkpoint(folder, tensors, {"step": step, "digest": "d"})


def whole_checkpoint(folder: Path) -> bool:
    found = load_checkpoint(folder, "d")
    return found is not None and bool((found[0]["x"] == found[1]["step"]).all())


def strip_frames() -> list[Frame]:
    return [Frame(Image.new("RGB", (64, 64)), "a cat", "")] * 2


def opens(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
    return True


LABELS = Labels.of_world(SMALL)


# Each: what is written first, what is written when it is killed, and whether a thing is whole.
Writer = tuple[Callable[..., Any], Callable[..., Any], Callable[[Path], bool]]
WRITERS: dict[str, Writer] = {
    "a run": (
        lambda at, cat: run_of(cat, 0.0).save(at / "run"),
        lambda at, cat: run_of(cat, 1.0).save(at / "run"),
        lambda at: Run.load(at / "run").pixels.mean() in (0.0, 1.0),
    ),
    "a cache entry": (
        lambda at, cat: None,
        lambda at, cat: InversionCache(at).get_or_make("key", cat.model, lambda: cat),
        lambda at: all(Run.load(path) is not None for path in InversionCache(at).files()),
    ),
    "a picture": (
        lambda at, cat: write_picture(at / "a.png", cat, force=False),
        lambda at, cat: write_picture(at / "a.png", cat, force=True),
        lambda at: opens(at / "a.png"),
    ),
    "a new picture": (
        lambda at, cat: None,
        lambda at, cat: (at / "a.png").exists() or write_picture(at / "a.png", cat, force=False),
        lambda at: not (at / "a.png").exists() or opens(at / "a.png"),
    ),
    "a recipe": (
        lambda at, cat: Recipe("a cat", "a dog").save(at),
        lambda at, cat: Recipe("a cat", "a dog").save(at),
        lambda at: all(Recipe.from_json(path.read_text()) for path in at.glob("*.json")),
    ),
    "a strip": (
        lambda at, cat: None,
        lambda at, cat: save_gif(strip_frames(), at),
        lambda at: all(opens(path) for path in at.glob("*.gif")),
    ),
    "a checkpoint": (
        lambda at, cat: [save_parts(at, step) for step in (1, 2)],
        lambda at, cat: save_parts(at, 3),
        whole_checkpoint,
    ),
    "a finished step once more": (
        lambda at, cat: save_parts(at, 1),
        lambda at, cat: save_parts(at, 1),
        whole_checkpoint,
    ),
    "a training's settings": (
        lambda at, cat: begin_run(at, "d", {"steps": 1}),
        lambda at, cat: begin_run(at, "d", {"steps": 1}),
        lambda at: json.loads((at / "config.json").read_text()) == {"steps": 1},
    ),
    "a preview": (
        lambda at, cat: save_grid(torch.zeros(2, 3, 8, 8), at / "step-1.png"),
        lambda at, cat: save_grid(torch.ones(2, 3, 8, 8), at / "step-1.png"),
        lambda at: opens(at / "step-1.png"),
    ),
    "a log": (
        lambda at, cat: append_line(at / "log", json.dumps({"step": 1})),
        lambda at, cat: append_line(at / "log", json.dumps({"step": 2, "more": "x" * 2000})),
        lambda at: [json.loads(x)["step"] for x in whole_lines(at / "log")][:2] in ([1], [1, 2]),
    ),
    "a judge": (
        lambda at, cat: None,
        lambda at, cat: save_judge(judge_net(), LABELS, at / "judge-v1", {"threshold": 0.5}),
        lambda at: not (at / "judge-v1").exists() or load_judge(at / "judge-v1") is not None,
    ),
    "an export": (
        lambda at, cat: None,
        lambda at, cat: export_model(cat.model, at / "tiny-v1"),
        lambda at: not (at / "tiny-v1").exists() or verify(at / "tiny-v1") is None,
    ),
}


@cache
def judge_net() -> JudgeNet:
    return JudgeNet(LABELS)


def export_model(model: Any, folder: Path) -> None:
    """Write a folder as `training.save` does, without the time that a pipeline takes."""
    with new_version(folder) as draft:
        (draft / "unet").mkdir()
        model.module.save_config(draft / "unet")
        write_words(draft, ["a", "cat"])
        write_card(draft, {"name": "tiny"})


@pytest.mark.parametrize("writer", WRITERS)
def test_a_kill_at_any_moment_of_a_write_leaves_something_whole(
    writer: str, cat: Run, tmp_path: Path
) -> None:
    first, again, whole = WRITERS[writer]
    first(tmp_path, cat)
    places = []
    for place in kill_points(lambda: again(tmp_path, cat), tmp_path, (1, 1000)):
        places.append(place)
        assert whole(tmp_path), f"{writer} is not whole after a kill {place}"
    assert len(places) > 4 and places[-1] == "done"
    with suppress(FileExistsError):  # a version or a new picture is never written twice
        again(tmp_path, cat)
    assert whole(tmp_path)


def test_what_killed_writes_left_is_counted_and_cleared(cat: Run, tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)

    def put(key: str) -> Run:
        return cache.get_or_make(key, cat.model, lambda: cat)

    next(kill_points(lambda: write_whole(tmp_path / "entry", bytes(10_000)), tmp_path, (9000,)))
    (left,) = cache.leftovers()
    assert cache.nbytes == 9000 and list(tmp_path.iterdir()) == [left]
    put("key")
    assert cache.leftovers() == [left], "another process may be writing it"
    os.utime(left, (1, 1))
    put("other")
    assert not cache.leftovers() and len(cache.files()) == 2
    next(kill_points(lambda: put("third"), tmp_path, (9000,)))  # in safetensors' own writing
    assert cache.clear() == 2 and not list(tmp_path.iterdir())
    next(kill_points(lambda: save_parts(tmp_path / "stage", 1), tmp_path, (9000,)))
    save_parts(tmp_path / "stage", 1)
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["step-1"]


# a disk that is full, or cannot do all that others can -----------------------------------------


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("free", [0, 1, 5000])
def test_a_full_disk_is_an_oserror_that_leaves_what_was_there_and_no_litter(
    free: int, cat: Run, tmp_path: Path
) -> None:
    path = cat.save(tmp_path / "cat")
    before = path.read_bytes()
    with full_disk(free):
        for write in (
            lambda: cat.save(path),
            lambda: write_picture(tmp_path / "a.png", cat, force=True),
            lambda: write_new(tmp_path / "a.json", bytes(9000)),
            lambda: save_parts(tmp_path, 1),
        ):
            with suppress(OSError):
                write()
                assert free == 5000
    left = {path.name for path in tmp_path.iterdir()}
    assert path.read_bytes() == before and left <= {"cat", "a.png"}


def test_a_full_disk_does_not_lose_an_inversion(sd32: Any, tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)
    with full_disk(5000), pytest.warns(UserWarning, match="The inversion is not kept"):
        run = invert(sd32, picture(), CAT, steps=1, cache=cache)
    assert run.steps == 1 and not list(tmp_path.iterdir())


def test_output_is_written_where_hard_links_are_not_known(
    cat: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")  # what exFAT and some mounted drives say

    monkeypatch.setattr(os, "link", refused)
    write_picture(tmp_path / "a.png", cat, force=False)
    with pytest.raises(FileExistsError, match="--force"):
        write_picture(tmp_path / "a.png", cat, force=False)
    assert Recipe("a cat", "a dog").save(tmp_path).name == "a-dog.json"
    assert Recipe("a cat", "a dog").save(tmp_path).name == "a-dog-2.json"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_is_saved_over_a_run_and_over_nothing_else_unless_it_is_asked_for(
    cat: Run, tmp_path: Path
) -> None:
    path = cat.save(tmp_path / "cat.safetensors")
    cat.save(path, tape=False)
    assert Run.load(path).tape is None
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:-9])
    others = {"a.png": b"a picture", "empty": b"", "cut": cut.read_bytes()}
    save_parts(tmp_path, 1)
    stage = next(tmp_path.rglob("tensors.safetensors"))
    others |= {stage.relative_to(tmp_path).as_posix(): stage.read_bytes()}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileExistsError, match=r"no saved run, .* save with replace=True"):
            cat.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    assert Run.load(cat.save(tmp_path / "a.png", replace=True)).prompt == cat.prompt


def test_a_run_is_not_saved_as_a_folder_and_the_sentence_names_that_folder(
    cat: Run, tmp_path: Path
) -> None:
    for asked in (False, True):
        with pytest.raises(IsADirectoryError) as refused:
            cat.save(tmp_path, replace=asked)
        assert str(refused.value).startswith(f"{tmp_path} is a folder. Name a file in it")
    assert not list(tmp_path.iterdir())


def test_files_get_the_rights_that_the_umask_leaves(cat: Run, tmp_path: Path) -> None:
    for mask, rights in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            path = cat.save(tmp_path / f"{mask}")
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == rights


@pytest.mark.filterwarnings("ignore:The inversion is not kept")
def test_an_entry_of_a_shared_cache_that_cannot_be_read_or_removed_does_no_harm(
    sd32: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = InversionCache(tmp_path)
    first = invert(sd32, picture(), CAT, steps=1, cache=cache)
    (entry,) = cache.files()

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("Permission denied")

    for patched, content in ((None, b"damaged"), ("load", entry.read_bytes())):
        entry.write_bytes(content)
        with monkeypatch.context() as patch:
            for name in ("unlink", "replace", "utime"):
                patch.setattr(os, name, refused)
            patch.setattr(Path, "unlink", refused)
            if patched:
                patch.setattr(Run, "load", refused)
            again = invert(sd32, picture(), CAT, steps=1, cache=cache)
        assert torch.equal(again.pixels, first.pixels) and entry.read_bytes() == content


def test_the_command_line_writes_no_picture_of_numbers_that_are_not_finite(
    cat: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = run_of(cat, float("nan"))
    monkeypatch.setattr("p2p_lab.commands.edit.sample", lambda _: (cat, cat, broken, {}))
    assert main(["edit", CAT, DOG, "-o", str(tmp_path / "a.png")]) == 2
    assert "not finite" in capsys.readouterr().err and not list(tmp_path.iterdir())


# damage, in every file that is read ------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
LEFT_OUT = object()


def changed_run(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Change a saved run's fields or tensors, and give it the checksum of what it then holds."""
    with safe_open(str(path), framework="pt") as file:
        fields = json.loads(file.metadata()["p2p_lab"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(fields, tensors)
    text = json.dumps(fields).replace('"DEEP"', DEEP)
    about = {"p2p_lab": text, "sha256": saving._checksum(text, tensors)}
    save_file(tensors, path, metadata=about)


def places_in(fields: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Return the way to every field of a saved run, of lists the first entry alone."""
    found = fields.items() if isinstance(fields, dict) else enumerate(fields[:1])
    for name, value in found:
        yield (*above, name)
        if isinstance(value, (dict, list)):
            yield from places_in(value, *above, name)


def put_at(fields: Any, place: tuple[Any, ...], value: Any) -> None:
    *above, last = place
    for name in above:
        fields = fields[name]
    if value is LEFT_OUT:
        del fields[last]
    else:
        fields[last] = value


FIELDS = (None, [1, "a"], {}, -7, "text", "DEEP", 10**400)


def test_a_saved_run_with_any_field_damaged_is_a_sentence_or_a_run(
    cat: Run, tmp_path: Path
) -> None:
    run = edit(replace(cat, attention=None), DOG, ALL)
    whole = run.save(tmp_path / "whole").read_bytes()
    with safe_open(str(tmp_path / "whole"), framework="pt") as file:
        places = list(places_in(json.loads(file.metadata()["p2p_lab"])))
    refused = 0
    for i, place in enumerate(places):
        for value in (LEFT_OUT, FIELDS[i % 7], FIELDS[(i + 3) % 7]):  # in turns: all take long
            (tmp_path / "run").write_bytes(whole)
            changed_run(tmp_path / "run", lambda said, _, at=place, v=value: put_at(said, at, v))  # type: ignore[misc]
            try:
                assert isinstance(Run.load(tmp_path / "run"), Run)
            except ValueError as error:
                refused += 1
                assert str(tmp_path / "run") in str(error) and str(error).endswith(".")
    assert refused > len(places)


TENSORS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "gone": lambda tensor: None,
    "not finite": lambda tensor: torch.full_like(tensor, float("nan")),
    "of another shape": lambda tensor: tensor.reshape(-1)[:1].clone(),
    "of whole numbers": lambda tensor: tensor.to(torch.int64),
}


@pytest.mark.parametrize("damage", TENSORS)
@pytest.mark.parametrize("name", ["pixels", "trajectory/latents", "tape/0/"])
def test_a_saved_run_with_a_tensor_damaged_is_a_sentence_and_as_a_cache_entry_is_made_again(
    name: str, damage: str, cat: Run, tmp_path: Path
) -> None:
    cache = InversionCache(tmp_path)
    cache.get_or_make("key", cat.model, lambda: cat)  # type: ignore[arg-type]
    (entry,) = cache.files()

    def change(_: Any, tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.startswith(f"0/{name}"))
        damaged = TENSORS[damage](tensors.pop(key))
        if damaged is not None:
            tensors[key] = damaged

    changed_run(entry, change)
    with pytest.raises(ValueError, match="it is damaged: .* Make the run again and save it"):
        Run.load(entry)
    made: list[Run] = []
    again = cache.get_or_make("key", cat.model, lambda: made.append(cat) or cat)  # type: ignore
    assert made and torch.equal(again.pixels, cat.pixels)
    assert torch.equal(Run.load(entry, cat.model).pixels, cat.pixels)


def test_a_single_flipped_bit_anywhere_in_a_saved_run_is_found(cat: Run, tmp_path: Path) -> None:
    path = replace(cat, tape=None).save(tmp_path / "run")
    whole = path.read_bytes()
    want = Run.load(path)
    bits = torch.randint(8 * len(whole), (150,), generator=torch.Generator().manual_seed(0))
    for bit in [*range(0, 512, 7), *bits.tolist()]:
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoiled)
        with suppress(ValueError):
            found = Run.load(path)  # only where the bit says nothing, as in the header's padding
            assert torch.equal(found.pixels, want.pixels) and found.prompt == want.prompt


BYTES: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "deep": DEEP.encode(),
    "a deep field": b'{"a": ' + DEEP.encode() + b"}",
    "null": b"null",
    "another object": b'{"a": 1}',
    "no text": b"\xff\xfe\x00",
    "a number of 400 digits": b'{"format": 1' + b"0" * 400 + b"}",
    "half a file": b'{"format": 1, "so',
}
READERS: dict[str, Callable[[Path, bytes], Any]] = {
    "a plan": lambda at, data: EditPlan.from_json(data.decode("latin-1")),
    "a run": lambda at, data: Run.load(at),
    "a model's card": lambda at, data: read_card(at.parent),
    "a model's index": lambda at, data: load(at.parent, "cpu"),
    "a picture": lambda at, data: load_image(at, 8),
    "a judge": lambda at, data: load_judge(at.parent),
    "a recipe": lambda at, data: Recipe.from_json(data.decode("latin-1")),
}
NAMES = {
    "a model's index": "model_index.json",
}


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_our_files_says_in_a_sentence_that_one_is_damaged(
    reader: str, damage: str, tmp_path: Path
) -> None:
    path = tmp_path / NAMES.get(reader, "card.json")
    path.write_bytes(BYTES[damage])
    try:
        READERS[reader](path, BYTES[damage])
        assert reader == "a model's card"  # which may say much besides
        assert damage in ("another object", "a number of 400 digits")
    except ValueError as error:
        assert len(str(error)) > 40 and str(error)[-1] in ".)"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", ["a list", "deep"])
def test_a_damaged_file_of_settings_in_a_model_is_a_sentence(
    damage: str, sd_folder: Path, tmp_path: Path
) -> None:
    for i, source in enumerate(sorted(sd_folder.rglob("*.json"))):
        folder = Path(shutil.copytree(sd_folder, tmp_path / str(i)))
        (folder / source.relative_to(sd_folder)).write_bytes(BYTES[damage])
        with suppress(ModelError):  # some of a tokenizer's files are not needed
            load(folder, "cpu")


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "a list", "deep"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    file: str, damage: str, tmp_path: Path
) -> None:
    for step in (1, 2):
        save_parts(tmp_path, step)
    path = tmp_path / "step-2" / file
    data = path.read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    path.write_bytes({"cut": data[:-20], "flipped": flipped, **BYTES}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = load_checkpoint(tmp_path, "d")
    if (file, damage) == ("state.json", "flipped"):
        return  # one digit of a checksum: the same step is refused, or nothing was changed
    assert found is not None and found[1]["step"] == 1 and bool((found[0]["x"] == 1).all())
    assert damage == "gone" and file == "state.json" or "step-2 is damaged" in str(said[0].message)
    begin_run(tmp_path, "d", {})
    for left in tmp_path.glob("step-1/*"):
        left.write_bytes(b"")
    with pytest.raises(ResumeError, match=r"damaged.*delete .* to begin this stage again"):
        load_checkpoint(tmp_path, "d")


def test_every_promise_names_a_test_that_is_there() -> None:
    page = Path(__file__).parent.parent / "docs" / "promises.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if "`test_" in line]
    for row in rows:
        *_, cell = row.strip("| ").split("|")
        file = re.search(r"`tests/(\w+\.py)`", cell)
        text = Path(__file__).with_name(file[1] if file else Path(__file__).name).read_text("utf-8")
        for name in re.findall(r"`(test_\w+)`", cell):
            assert f"def {name}(" in text, row
    assert len(rows) > 25
