"""The law of lone surrogates: half of a character, wherever text is taken, does no harm.

Texts read in a wrong encoding and arguments of a command line hold them. They have no bytes, so
what writes, draws or tokenizes would end in a raw error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from p2p_lab import checks, figures
from p2p_lab.__main__ import main
from p2p_lab.edits import EditPlan, LocalBlend, Move, Replace, Reweight
from p2p_lab.inversion import invert, load_image, suggest_prompt
from p2p_lab.judge import load_judge
from p2p_lab.models import load
from p2p_lab.recipes import Recipe, to_code
from p2p_lab.sampling import Run, animate, edit, generate
from p2p_lab.scenes import nearest, parse
from p2p_lab.tokens import Prompt, ids_that_fit
from p2p_lab.widgets import EditPanel, InversionPanel
from tests.family_words import unigram_tokenizer, wordpiece_tokenizer
from tests.worlds import tiny_tokenizer

HALF = "a \ud800 cat"
CAT, DOG = "a cat on grass", "a dog on grass"
TOKENIZERS = {
    "CLIP": tiny_tokenizer,
    "BERT": lambda: wordpiece_tokenizer(16),
    "T5": lambda: unigram_tokenizer(16),
}
# What must refuse it: a ValueError.
REFUSED: dict[str, Callable[[Any], Any]] = {
    **{
        f"{name}: {how}": lambda at, make=make, read=read: read(make())  # type: ignore[misc]
        for name, make in TOKENIZERS.items()
        for how, read in {
            "a prompt": lambda tokenizer: Prompt.of(HALF, tokenizer),
            "its ids": lambda tokenizer: ids_that_fit(HALF, tokenizer, 16),
        }.items()
    },
    "a prompt of a model": lambda at: at.model.prompt(HALF),
    "generate": lambda at: generate(at.model, HALF, steps=1),
    "a negative": lambda at: generate(at.model, CAT, negative=HALF, steps=1),
    "edit": lambda at: edit(at.run, HALF),
    "invert": lambda at: invert(at.model, at.run.image, HALF, steps=1),
    "an inversion's negative": lambda at: invert(
        at.model, at.run.image, CAT, negative=HALF, method="ddim", steps=1
    ),
    "animate": lambda at: animate(at.run, [CAT, HALF], frames=2),
    "Reweight": lambda at: edit(at.run, CAT, [Reweight(HALF, 2.0)]),
    "LocalBlend": lambda at: edit(at.run, DOG, [Replace(), LocalBlend(HALF)]),
    "words=": lambda at: edit(at.run, DOG, [Replace(words={HALF: (0, 0.3)})]),
    "Move": lambda at: edit(at.run, CAT, [Move(HALF, by=(0, 0.25))]),
    "a map": lambda at: at.run.map(HALF),
    "show_maps": lambda at: figures.show_maps(at.run, [HALF]),
    "a captioner": lambda at: suggest_prompt(at.model, at.run.image, captioner=lambda _: HALF),
    "a plan": lambda at: EditPlan.from_json(HALF),
    "a recipe": lambda at: Recipe.from_json(HALF),
    "a recipe's picture": lambda at: Recipe(HALF, CAT, steps=1).generate(at.model),
    "load": lambda at: load(HALF),
    "a file to load": lambda at: load(f"/tmp/{HALF}.safetensors"),
    "a run's file": lambda at: Run.load(HALF),
    "a file to write": lambda at: at.run.save(at.folder / HALF),
    "a cache": lambda at: invert(at.model, at.run.image, CAT, steps=1, cache=at.folder / HALF),
    "a picture": lambda at: load_image(HALF, 8),
    "a judge": lambda at: load_judge(HALF),
    "a panel": lambda at: EditPanel(at.model, HALF, CAT, steps=1, threaded=False),
    "a panel's edit": lambda at: EditPanel(at.model, CAT, HALF, steps=1, threaded=False),
    "an inversion panel": lambda at: InversionPanel(
        at.model, at.run.image, HALF, steps=1, threaded=False
    ),
}
# What takes it: what comes out can be written.
TAKEN: dict[str, Callable[[Any], Any]] = {
    "show_pictures": lambda at: figures.show_pictures([at.run], [HALF]),
    "show_map": lambda at: figures.show_map(torch.rand(4, 4), title=HALF),
    "show_maps of arrays": lambda at: figures.show_maps({HALF: torch.rand(4, 4)}),
    "show_sweep": lambda at: figures.show_sweep([at.run], [0], name=HALF),
    "show_drift": lambda at: figures.show_drift({HALF: at.run}, at.run.trajectory.latents),
    "show_cost": lambda at: figures.show_cost({HALF: (1.0, 2.0)}, cost=HALF, quality=HALF),
    "a recipe's file": lambda at: Recipe(HALF, HALF).save(at.folder).read_text("utf-8"),
    "a recipe's code": lambda at: to_code(Recipe(CAT, HALF, model=HALF), [Replace()]),
    "a student": lambda at: checks.seed_of(HALF, "ps1"),
    "a scene": lambda at: parse(HALF),
    "a near word": lambda at: nearest(HALF, ("cat", "dog")),
    "a note": lambda at: replace(at.run, note=HALF).save(at.folder / "run").read_bytes(),
}


@pytest.fixture
def at(sd32: Any, tmp_path: Path) -> Any:
    run = generate(sd32, CAT, seed=1, steps=1)
    return SimpleNamespace(model=sd32, run=run, folder=tmp_path)


def test_half_of_a_character_is_refused_in_a_sentence_that_can_be_printed(at: Any) -> None:
    failed = []
    for name, act in REFUSED.items():
        try:
            failed.append(f"{name}: took it and gave {act(at)!r:.60}")
        except ValueError as error:
            said = str(error)
            written = said.encode("utf-8", "replace").decode() == said
            if isinstance(error, UnicodeError) or not written or len(said) < 30:
                failed.append(f"{name}: {said!a}")
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error!s:.90}")
    assert not failed, "\n".join(failed)


def test_where_half_of_a_character_is_taken_what_comes_out_can_be_drawn_and_written(
    at: Any,
) -> None:
    for name, act in TAKEN.items():
        found = act(at)
        if isinstance(found, figures.LabFigure):
            assert figures.to_png(found), name
            found = figures.alt_text(found)
        assert str(found).encode("utf-8"), name


def test_half_of_a_character_on_the_command_line_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", "a \udc80 cat", DOG, "--steps", "1", "-o", str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr().err
    assert "half of a character" in said and said.encode()
    assert not list(tmp_path.iterdir())
