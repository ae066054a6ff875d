"""What the explorer shows, as data, and how it is sent to the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2p_lab.attention import AttentionStore
from p2p_lab.figures import upsample
from p2p_lab.metrics import mask_iou, pointing_accuracy
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import WordMap

Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MapView:
    """All maps of one choice of step, site and head.

    Attributes:
        labels: The words; empty for self-attention, whose maps belong to positions.
        maps: (N, h, w).
        notes: A line of numbers for each map.
        truths: The true mask (H, W) of each word, or None.
        row_labels: Words, special tokens and padding.
        rows: The maps of all of these, (L', h, w): their values at a place sum to 1.
    """

    labels: tuple[str, ...]
    maps: Maps
    notes: tuple[str, ...]
    truths: tuple[Any, ...]
    row_labels: tuple[str, ...] = ()
    rows: Maps | None = None

    @property
    def peaks(self) -> list[float]:
        """Return the maximum of each map."""
        return [float(one.max()) for one in self.maps]

    def to_bytes(self) -> bytes:
        """Return all maps as 8 bits a cell, each scaled to its own maximum."""
        tops = self.maps.max(axis=(1, 2), keepdims=True)
        scaled = 255 * self.maps.clip(0) / np.where(tops > 0, tops, 1)
        return bytes(scaled.round().astype("uint8").tobytes())


def word_view(store: AttentionStore, truth: Mapping[str, Any], **choice: Any) -> MapView:
    """Return the maps of all words, with scores where a true mask is known.

    Args:
        store: The recorded maps.
        truth: Word -> mask (H, W).
        choice: Step, head, site and which, as `AttentionStore.maps` takes them.
    """
    found = store.maps(**choice)
    maps = np.stack([one.detach().cpu().float().numpy() for one in found.values()])
    truths = tuple(truth.get(word, truth.get(word.split(" (")[0])) for word in found)
    notes = tuple(numbers(one, mask) for one, mask in zip(maps, truths, strict=True))
    everything = store.maps(special=True, **choice)
    rows = np.stack([one.detach().cpu().float().numpy() for one in everything.values()])
    return MapView(tuple(found), maps, notes, truths, tuple(map(_plain, everything)), rows)


def _plain(label: str) -> str:
    """Name the special tokens by what they are."""
    return {"<|startoftext|>": "‹start›", "<|endoftext|>": "‹end›", "padding": "‹padding›"}.get(
        label, label
    )


def self_view(store: AttentionStore, site: str, **choice: Any) -> MapView:
    """Return where each position of a self-attention site looks."""
    probs = store.self_map(site, **choice).detach().cpu().float().numpy()  # (pixels, pixels)
    height, width = store.sites[site].size
    maps = probs.reshape(-1, height, width)
    notes = tuple(
        f"Row {i // width + 1}, column {i % width + 1} of {height}×{width}: "
        f"keeps {one[i // width, i % width]:.1%} for itself, strongest {one.max():.1%}."
        for i, one in enumerate(maps)
    )
    return MapView((), maps, notes, (None,) * len(maps))


def numbers(heat: Maps, mask: Any = None) -> str:
    """Return how strong a map is, and how well it covers its true mask."""
    note = f"max {heat.max():.2f}, mean {heat.mean():.3f}"
    if mask is None:
        return note
    truth = np.asarray(mask) > 0.5
    iou = mask_iou(upsample(heat, *truth.shape), truth, threshold=0.5)
    hit = "inside" if pointing_accuracy(heat, truth) else "outside"
    return f"{note} · IoU {iou:.2f} with the true mask, peak {hit} it"


class WordView:
    """Show maps in the browser, by hovering and by keyboard."""

    def __init__(self, picture: Image.Image, alt: str) -> None:
        self.widget = WordMap(picture=style.data_url(picture), alt=alt)
        self._size = picture.size

    def show(self, view: MapView) -> None:
        """Send the maps, once."""
        with self.widget.hold_sync():
            if bool(view.labels) != bool(self.widget.labels):  # a word is kept, not its number
                self.widget.pinned = -1
            self.widget.labels = list(view.labels)
            self.widget.rows, self.widget.columns = view.maps.shape[1:]
            self.widget.maps, self.widget.peaks = view.to_bytes(), view.peaks
            self.widget.notes = list(view.notes)
            rows = np.zeros(0) if view.rows is None else view.rows
            self.widget.row_labels = list(view.row_labels)
            self.widget.row_maps = (65535 * rows.clip(0, 1)).round().astype("<u2").tobytes()
            self.widget.outlines = [outline_url(mask, self._size) for mask in view.truths]
            if self.widget.pinned >= len(view.maps):
                self.widget.pinned = -1

    def show_picture(self, picture: Image.Image) -> None:
        """Light another picture by the maps."""
        self.widget.picture = style.data_url(picture)

    def ask(self, place: int) -> None:
        """Show which words a place looks at; −1 for none."""
        self.widget.asked = place

    def look(self, look: str, *, shared: bool) -> None:
        """Choose how maps are painted, and whether they share one scale."""
        self.widget.look, self.widget.shared = look, shared

    def pin(self, index: int) -> None:
        """Keep one map shown; −1 for none."""
        self.widget.pinned = index

    @property
    def pinned(self) -> int:
        """Return which map is kept, −1 for none."""
        return int(self.widget.pinned)


def outline_url(mask: Any, size: tuple[int, int]) -> str:
    """Return the white outline of a mask as a transparent picture, "" for no mask."""
    if mask is None:
        return ""
    factor = 512 / max(size)
    full = (round(size[0] * factor), round(size[1] * factor))
    truth = Image.fromarray(255 * (np.asarray(mask) > 0.5).astype("uint8"))
    inside = np.pad(np.asarray(truth.resize(full, Image.Resampling.BILINEAR)) > 127, 2, "edge")
    edge = np.zeros(full[::-1], bool)
    for down, across in ((0, 2), (4, 2), (2, 0), (2, 4)):
        shifted = inside[down : down + full[1], across : across + full[0]]
        edge |= shifted != inside[2:-2, 2:-2]
    pixels = np.zeros((*edge.shape, 4), "uint8")
    pixels[edge] = 255
    return style.data_url(Image.fromarray(pixels, "RGBA"))


def tables(view: MapView, rows: Sequence[str] = ()) -> str:
    """Return a view's words and numbers as aligned text."""
    width = max((len(label) for label in view.labels), default=0)
    lines = [
        f"  {label.ljust(width)}  {note}"
        for label, note in zip(view.labels, view.notes, strict=True)
    ]
    return "\n".join([*rows, *lines])
