"""Laws of lesson 07: what waits for a GPU runs here on a tiny model, through the same path."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from transformers import CLIPTextConfig, CLIPTextModel

import p2p_lab
from tests.conftest import scheduler, seeded, tiny_unet, tiny_vae
from tests.worlds import tiny_tokenizer

LESSON = Path(__file__).resolve().parents[1] / "notebooks" / "07_your_own_model.ipynb"
LENGTH, STEPS = 77, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline of a few thousand weights that reads 77 tokens."""
    import torch
    from diffusers import StableDiffusionPipeline

    words = tiny_tokenizer(LENGTH)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=seeded(lambda: CLIPTextModel(config)),
        tokenizer=words,
        unet=tiny_unet(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    path = tmp_path_factory.mktemp("models") / "tiny-sd-77"
    pipeline.to(torch.float32).save_pretrained(path)
    card = {"name": "tiny-sd-77", "defaults": {"steps": STEPS}}
    (path / "card.json").write_text(json.dumps(card))
    return path


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    return [c for c in nbformat.read(LESSON, as_version=4).cells if c.cell_type == "code"]


def waiting(cells: list[Any]) -> list[str]:
    """Return the sources of the cells that are skipped offline."""
    return [c.source for c in cells if "nbval-skip" in c.metadata.get("tags", ())]


def constants(cells: list[Any]) -> str:
    """Return the cell with the lesson's imports and constants."""
    found = [c.source for c in cells if re.search(r"^HUB = ", c.source, re.M)]
    assert len(found) == 1
    return found[0]


def run(cells: list[Any], hub: str, *, on_gpu: bool) -> tuple[dict[str, Any], list[Any]]:
    """Execute the constants and the waiting cells as they stand, with another hub name."""
    shown: list[Any] = []
    names: dict[str, Any] = {"p2p_lab": p2p_lab, "display": lambda *what: shown.extend(what)}
    exec(constants(cells), names)
    names["HUB"] = hub
    for source in waiting(cells):
        switched = source.replace("RUN_ON_GPU = False", f"RUN_ON_GPU = {on_gpu}")
        exec(compile(switched, LESSON.name, "exec"), names)
    return names, shown


def test_the_waiting_cells_generate_edit_budget_and_draw_on_a_saved_pipeline(
    cells: list[Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, shown = run(cells, str(folder), on_gpu=True)
    assert names["sd"].name == "tiny-sd-77"
    assert names["photo"].steps == STEPS and names["photo"].prompt.text == names["SD_SOURCE"]
    swapped = names["swapped"]
    assert swapped.source is names["photo"] and swapped.plan.needs_source_cross(0)
    assert (swapped.pixels - names["other"].pixels).abs().max() > 0, "the edit is no re-prompt"
    assert [len(word) > 0 for word in names["photo"].attention.maps()]
    assert len(names["faded"]) == len(names["scales"])
    assert len(shown) == 3 and all("png" in str(figure._repr_mimebundle_()) for figure in shown)
    said = re.search(r"a tape takes ([\d.]+) GB", capsys.readouterr().out)
    assert said and float(said[1]) == round(names["photo"].tape.nbytes / 1e9, 2)


def test_offline_the_waiting_cells_load_nothing(cells: list[Any]) -> None:
    names, shown = run(cells, "nobody/nothing", on_gpu=False)
    assert "sd" not in names and not shown


def test_the_waiting_cells_say_why_they_wait_and_name_the_model_once(cells: list[Any]) -> None:
    sources = waiting(cells)
    assert len(sources) == 2
    assert all(source.startswith("# skipped: needs a GPU") for source in sources)
    assert "load(HUB)" in sources[0] and "load(" not in sources[1]
