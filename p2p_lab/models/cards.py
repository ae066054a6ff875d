"""What is written beside the weights: the card with its checksums, and the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from p2p_lab.codec import DamagedError, decode_known, parse_object
from p2p_lab.files import sha256_of
from p2p_lab.models.denoiser import ModelCard
from p2p_lab.models.errors import REINSTALL, ModelError

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class _Usual:
    """The settings that a card may name as best."""

    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class _Card:
    """The fields of a card that anything depends on."""

    name: str = ""
    files: dict[str, str] = field(default_factory=dict)
    recommended_sites: tuple[str, ...] = ()
    map_sites: tuple[str, ...] = ()
    defaults: _Usual = field(default_factory=_Usual)
    noise_level: int = 0


@dataclass(frozen=True)
class _Words:
    words: tuple[str, ...] = ()


def read_card(folder: Path) -> ModelCard:
    """Read `card.json` and `vocabulary.json` of a model folder; both are optional.

    Raises:
        ModelError: If one cannot be read, or a field is not what it should be.
    """
    card, raw = _read_known(_Card, folder / "card.json")
    words, _ = _read_known(_Words, folder / "vocabulary.json")
    sites = card.recommended_sites or card.map_sites
    return ModelCard(frozenset(word.lower() for word in words.words), sites, raw)


def _read_known(kind: type[Kind], path: Path) -> tuple[Kind, dict[str, Any]]:
    raw = read_json(path) if path.is_file() else {}
    try:
        return decode_known(kind, raw), raw
    except DamagedError as error:
        raise ModelError(f"The file {path} cannot be used: {error}. {REINSTALL}") from error


def verify(folder: Path) -> None:
    """Compare a model folder's files with the SHA-256 values of its card.

    Raises:
        ModelError: If a listed file is missing or differs.
    """
    for relative, expected in read_card(folder).raw.get("files", {}).items():
        path = folder / relative
        if not path.is_file():
            raise ModelError(f"{folder.name}: the file {relative} is missing. {REINSTALL}")
        if sha256_of(path) != expected:
            raise ModelError(
                f"{folder.name}: the file {relative} is not the one its card describes "
                f"(SHA-256 differs: it is incomplete or was changed). {REINSTALL}"
            )


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    """Read a JSON file of a model.

    Raises:
        ModelError: If it is not there (said as `missing`, if given) or no JSON object.
    """
    if not path.is_file():
        raise ModelError(missing or f"The file {path} is missing. {REINSTALL}")
    try:
        return parse_object(path.read_bytes(), finite=False)  # some schedulers end at infinity
    except DamagedError as error:
        raise ModelError(f"The file {path} cannot be read: {error}. {REINSTALL}") from error
