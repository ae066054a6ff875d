"""What is written beside the weights: the card with its checksums, and the vocabulary."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from p2p_lab.models.denoiser import ModelCard
from p2p_lab.models.errors import REINSTALL, ModelError


def read_card(folder: Path) -> ModelCard:
    """Read `card.json` and `vocabulary.json` of a model folder; both are optional."""
    raw = read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
    words: list[str] = []
    if (folder / "vocabulary.json").is_file():
        words = read_json(folder / "vocabulary.json").get("words", [])
    sites = tuple(raw.get("recommended_sites", raw.get("map_sites", ())))
    return ModelCard(frozenset(word.lower() for word in words), sites, raw)


def verify(folder: Path) -> None:
    """Compare a model folder's files with the SHA-256 values of its card.

    Raises:
        ModelError: If a listed file is missing or differs.
    """
    for relative, expected in read_card(folder).raw.get("files", {}).items():
        path = folder / relative
        if not path.is_file():
            raise ModelError(f"{folder.name}: the file {relative} is missing. {REINSTALL}")
        if _sha256(path) != expected:
            raise ModelError(
                f"{folder.name}: the file {relative} is not the one its card describes "
                f"(SHA-256 differs: it is incomplete or was changed). {REINSTALL}"
            )


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    """Read a JSON file of a model.

    Raises:
        ModelError: If it is not there (said as `missing`, if given) or no JSON.
    """
    if not path.is_file():
        raise ModelError(missing or f"The file {path} is missing. {REINSTALL}")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"The file {path} is not JSON ({error}). {REINSTALL}") from error
    return content


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
