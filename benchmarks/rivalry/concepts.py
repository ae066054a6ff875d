"""Maps of what a word means, three ways, on true masks: ours, DAAM's, and output-space concepts.

"concept"   asked of the picture's own prompt, all described words together
"unnamed"   asked of the same picture brought in with a prompt that does not name the thing
Only real pictures are scored: their masks are exact.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.editing.attention import (
    DAAM,
    GRID,
    OURS,
    class_of,
    daam,
    every_map,
    score,
    spoken,
    true_mask,
)
from benchmarks.editing.sources import Source
from p2p_lab.inversion import invert
from p2p_lab.rivals.concept_attention import concept_maps
from p2p_lab.scenes import Phrase, render

CONCEPTS = "(concepts)"
CONCEPT, UNNAMED = "concept", "concept, not in the prompt"


def concept_rows(source: Source) -> list[dict[str, Any]]:
    """Return the scores of the things and the place of a source: class, word, scores by way."""
    scene, size, run = source.case.source, source.run.size, source.run
    drawn = render(scene, size[0])
    words = {w: (phrase, k) for phrase, w, k in spoken(scene) if phrase.kind in ("object", "place")}
    found = concept_maps(run, list(words), size=(GRID, GRID)) if len(words) > 1 else {}
    rows = []
    for word, (phrase, occurrence) in words.items():
        mask = true_mask(scene, drawn, phrase, size[0])
        if not bool(mask.any()) or bool(mask.all()) or word not in found:
            continue
        maps: dict[str, Tensor] = {
            OURS: run.map(word, occurrence=occurrence, size=(GRID, GRID)),
            DAAM: daam(every_map(run, word, occurrence)[1], run),
            CONCEPT: found[word],
        }
        if phrase.kind == "object":
            maps[UNNAMED] = unnamed(source, word, phrase, list(words))
        try:
            scores = {name: score(heat, mask) for name, heat in maps.items()}
        except (ValueError, ZeroDivisionError):  # too small for one cell of the grid
            continue
        rows.append({"class": class_of(phrase, word), "word": word, "slices": scores})
    return rows


def unnamed(source: Source, word: str, phrase: Phrase, concepts: list[str]) -> Tensor:
    """Return a concept's map in the picture brought in without the phrase that names it."""
    text = source.case.text[: phrase.start] + source.case.text[phrase.end :]
    model = source.run.model
    assert model is not None
    run = invert(
        model, source.picture, " ".join(text.split()), steps=source.run.steps, record="none"
    )
    return concept_maps(run, concepts, size=(GRID, GRID))[word]
