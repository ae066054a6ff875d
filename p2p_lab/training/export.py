"""Write a trained pipeline in Stable Diffusion's folder format, in half precision, with a card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from p2p_lab.files import sha256_of, whole_folder
from p2p_lab.models.damage import first_not_finite
from p2p_lab.scenes import WORLDS
from p2p_lab.scenes.grammar import DETAIL_WORDS
from p2p_lab.scenes.vocabulary import DEGREES, OBJECTS
from p2p_lab.training.build import Parts
from p2p_lab.training.config import RunConfig, TrainConfig
from p2p_lab.training.preview import assemble


def save(parts: Parts, config: TrainConfig, folder: Path, facts: dict[str, Any]) -> None:
    """Write the pipeline, its vocabulary and its card; the folder appears whole or not at all.

    Args:
        parts: Trained models, on the CPU.
        config: Of the run.
        folder: To make; must not exist (versions are immutable).
        facts: For the card: command, log digest, metrics.

    Raises:
        FileExistsError: If the folder is there already.
    """
    with new_version(folder) as draft:
        save_pipeline(assemble(parts), draft)
        write_words(draft, known_words(config))
        write_card(draft, {"name": folder.name, "config": dataclasses.asdict(config), **facts})


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Write a pipeline in half precision that diffusers opens in one precision, float32.

    A text encoder's `config.json` says in which precision it was saved, and transformers obeys it
    where no precision is named; diffusers opens all other parts in float32. The file is made to
    say float32 too, or a text of float16 would meet a U-Net of float32. The weights stay halved.

    Raises:
        FloatingPointError: If a weight is not finite in half precision.
    """
    halved = pipeline.to(dtype=torch.float16)
    _check_weights(halved)
    halved.save_pretrained(folder, safe_serialization=True)
    config = folder / "text_encoder" / "config.json"
    facts = {**json.loads(config.read_text(encoding="utf-8")), "dtype": "float32"}
    config.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _check_weights(pipeline: Any) -> None:
    for part, network in pipeline.components.items():
        weight = first_not_finite(network.state_dict()) if isinstance(network, nn.Module) else ""
        if weight:
            raise FloatingPointError(
                f"The model is not saved: its weight {part}.{weight} is not finite in half "
                "precision, so it could draw nothing. Train it again with a lower learning rate "
                "or loss weight, or with another --seed."
            )


@contextmanager
def new_version(folder: Path) -> Iterator[Path]:
    """Give a draft folder to write a version to; it gets its name when all of it is written.

    Raises:
        FileExistsError: If the folder is there already.
    """
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists and a published version never changes; choose the next number."
        )
    with whole_folder(folder) as draft:
        yield draft


def write_words(folder: Path, words: list[str]) -> None:
    """Write `vocabulary.json`: the words that the model knows."""
    (folder / "vocabulary.json").write_text(json.dumps({"words": words}, indent=0) + "\n")


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write `card.json`: the facts and the checksum of every other file in the folder."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "card.json")
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    (folder / "card.json").write_text(json.dumps({**facts, "files": files}, indent=1) + "\n")


def known_words(config: RunConfig) -> list[str]:
    """Return every word that a prompt for this model may hold."""
    from p2p_lab.scenes.vocabulary import BESIDE, PLACES, STYLE_PHRASES, TIME_PHRASES

    world = WORLDS[config.world]
    phrases = [*world.objects, *world.attributes, *world.weathers, "small", "big", *DEGREES]
    for name in world.objects:
        phrases += [*OBJECTS[name].synonyms, OBJECTS[name].plural]
    for table, keys in ((PLACES, world.places), (STYLE_PHRASES, world.styles)):
        phrases += [phrase for key in keys for phrase in table[key]]
    phrases += [phrase for options in TIME_PHRASES.values() for phrase in options]
    phrases += [*BESIDE, *world.relations, "wearing", "of", "a", "an", "under"]
    if getattr(config, "long_captions", 0):
        phrases += DETAIL_WORDS
    return sorted({word for phrase in phrases for word in phrase.split()} - {"one", "clear"})
