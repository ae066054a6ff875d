"""Laws of `docs/p2p_in_one_file.py`: short, alone, and equal to the package."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_lab import (
    LocalBlend,
    Prompt,
    Refine,
    Replace,
    Reweight,
    align_tokens,
    align_words,
    edit,
    generate,
    load,
)

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "p2p_in_one_file.py"
WEIGHTS = ROOT / "p2p_lab" / "weights" / "scenes-128-v4"
SOURCE = "a cat on a beach"
STEPS = 5  # few, and enough that every window begins or ends between two of them

# Target, settings of the page, the same edits of the package.
EDITS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "a word swap": ("a dog on a beach", {}, [Replace()]),
    "a swap for more words and tokens": ("a polar bear on a beach", {}, [Replace()]),
    "a swap for one word of more tokens": ("a hedgehog on a beach", {}, [Replace()]),
    "an added phrase": ("a red cat on a snowy beach", {"swap": False}, [Refine()]),
    "a word turned around": (SOURCE, {"weights": {"beach": -2.0}}, [Reweight("beach", -2.0)]),
    "a swap with windows of its own and a louder word": (
        "a dog on a beach",
        {"cross": (0.2, 0.5), "self_window": (0.2, 0.3), "weights": {"dog": 2.0}},
        [Replace(cross=(0.2, 0.5), self_attention=(0.2, 0.3)), Reweight("dog", 2.0)],
    ),
    "no window at all": (
        "a dog on a beach",
        {"cross": (0, 0), "self_window": (0, 0)},
        [Replace(cross=(0, 0), self_attention=(0, 0))],
    ),
    "a swap kept to its object": (
        "a dog on a beach",
        {"blend": ("cat", "dog")},
        [Replace(), LocalBlend("cat", "dog")],
    ),
}


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("p2p_in_one_file", PAGE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def source() -> Any:
    return generate(load("scenes-128"), SOURCE, seed=1, steps=STEPS, guidance_scale=3.0)


def test_the_page_has_at_most_120_lines_and_none_is_long() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100


def test_the_page_imports_nothing_of_the_package() -> None:
    roots = set()
    for node in ast.walk(ast.parse(PAGE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            roots.add(node.module.split(".")[0])
    assert roots - sys.stdlib_module_names == {"torch", "diffusers"}


@pytest.mark.filterwarnings("ignore:.*was not trained on")
@pytest.mark.parametrize("name", EDITS)
def test_the_page_makes_the_pictures_of_the_package(
    page: Any, pipe: Any, source: Any, name: str
) -> None:
    target, settings, edits = EDITS[name]
    ours = page.edit(pipe, SOURCE, target, seed=1, steps=STEPS, guidance=3.0, **settings)
    packages = torch.stack([source.pixels, edit(source, target, edits).pixels])
    torch.testing.assert_close(ours, packages, atol=1e-4, rtol=0)
    # Equal pictures would say little if the edit did nothing: compare with a plain re-prompt.
    plain = edit(source, target, [Replace(cross=(0, 0), self_attention=(0, 0))])
    change = float((ours[1] - plain.pixels).abs().max())
    assert change < 1e-4 if name == "no window at all" else change > 0.05


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a cat on a beach", "a dog on a beach"),
        ("a cat on a beach", "a polar bear on a beach"),
        ("a hedgehog on a beach", "a polar bear on a beach"),
        ("a cat and a dog", "a dog and a cat"),
        ("a polar bear", "a cat"),
        ("a cat", "a cat on a snowy beach"),
    ],
)
def test_the_page_aligns_words_as_the_package_does(
    page: Any, pipe: Any, before: str, after: str
) -> None:
    mapper, taken = page.align(pipe.tokenizer, before, after, swap=True)
    ours = align_words(Prompt.of(before, pipe.tokenizer), Prompt.of(after, pipe.tokenizer))
    torch.testing.assert_close(mapper.double(), ours.mapper)
    torch.testing.assert_close(taken.double(), ours.gain)


def test_the_page_aligns_an_added_phrase_as_the_package_does(page: Any, pipe: Any) -> None:
    before, after = "a cat on a beach", "a big red cat on a snowy field"
    mapper, taken = page.align(pipe.tokenizer, before, after, swap=False)
    ours = align_tokens(Prompt.of(before, pipe.tokenizer), Prompt.of(after, pipe.tokenizer))
    torch.testing.assert_close(mapper.double(), ours.mapper)
    torch.testing.assert_close(taken.double(), ours.gain)


def test_the_page_leaves_the_pipeline_as_it_found_it(page: Any, pipe: Any) -> None:
    before = dict(pipe.unet.attn_processors)
    page.edit(pipe, SOURCE, "a dog on a beach", steps=1)
    assert pipe.unet.attn_processors == before


def test_the_page_takes_ddim_whatever_scheduler_the_pipeline_has(page: Any, pipe: Any) -> None:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    scheduler = PNDMScheduler.from_config(pipe.scheduler.config)  # as Stable Diffusion 1.x has it
    parts = {**pipe.components, "scheduler": scheduler}
    other = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pictures = [page.edit(one, SOURCE, "a dog on a beach", steps=2) for one in (pipe, other)]
    torch.testing.assert_close(*pictures, atol=1e-5, rtol=0)


def test_the_page_runs_from_the_command_line(tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "edit.png"
    subprocess.run([sys.executable, PAGE, WEIGHTS, picture], check=True, cwd=tmp_path)
    assert Image.open(picture).size == (256, 128)
