"""What the explorer shows, as data, and the two ways to show it: in the browser, or by buttons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2p_lab.attention import AttentionStore
from p2p_lab.figures import overlay, upsample
from p2p_lab.metrics import mask_iou, pointing_accuracy
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import WordMap, has_browser_parts

Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MapView:
    """Hold all maps of one choice of step, site and head.

    Attributes:
        labels: the words; empty for self-attention, whose maps belong to positions.
        maps: (N, h, w).
        notes: a line of numbers for each map.
        truths: the true mask (H, W) of each word, or None.
    """

    labels: tuple[str, ...]
    maps: Maps
    notes: tuple[str, ...]
    truths: tuple[Any, ...]

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
        store: the recorded maps.
        truth: word -> mask (H, W).
        choice: step, head, site and which, as `AttentionStore.maps` takes them.
    """
    found = store.maps(**choice)
    maps = np.stack([one.detach().cpu().float().numpy() for one in found.values()])
    truths = tuple(truth.get(word, truth.get(word.split(" (")[0])) for word in found)
    notes = tuple(numbers(one, mask) for one, mask in zip(maps, truths, strict=True))
    return MapView(tuple(found), maps, notes, truths)


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
    """Say how loud a map is, and how well it covers its true mask."""
    note = f"max {heat.max():.2f}, mean {heat.mean():.3f}"
    if mask is None:
        return note
    truth = np.asarray(mask) > 0.5
    iou = mask_iou(upsample(heat, *truth.shape), truth, threshold=0.5)
    hit = "inside" if pointing_accuracy(heat, truth) else "outside"
    return f"{note} · IoU {iou:.2f} with the true mask, peak {hit} it"


class HoverView:
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
            self.widget.outlines = [outline_url(mask, self._size) for mask in view.truths]
            if self.widget.pinned >= len(view.maps):
                self.widget.pinned = -1

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


class ButtonView:
    """Show maps by buttons, blended in Python: core widgets alone."""

    def __init__(self, picture: Image.Image, alt: str) -> None:
        self._picture, self._alt = picture, alt
        self._view: MapView | None = None
        self._shared, self._look = False, "light"
        self.choice = widgets.ToggleButtons(
            options=[("none", -1)],
            value=-1,
            style={"button_width": "auto"},
            layout=widgets.Layout(width="auto"),
        )
        self.position = widgets.IntSlider(
            value=0, min=0, max=0, description="position", continuous_update=False
        )
        self._image = widgets.HTML(layout=widgets.Layout(width="320px"))
        self.widget = style.row(
            self._image, style.column(self.choice, self.position, width="auto", flex="1 1 16em"),
            align_items="flex-start",
        )  # fmt: skip
        for control in (self.choice, self.position):
            control.observe(lambda _: self._paint(), "value")

    def show(self, view: MapView) -> None:
        """Offer a button for each word, or a slider over the positions."""
        before, self._view = self.choice.value, view
        options = [("none", -1), *((label, i) for i, label in enumerate(view.labels))]
        if list(self.choice.options) != options:
            self.choice.options = options
        self.choice.value = before if before < len(view.labels) else -1
        self.position.max = max(len(view.maps) - 1, 0)
        self.choice.layout.display = None if view.labels else "none"
        self.position.layout.display = "none" if view.labels else None
        self._paint()

    def look(self, look: str, *, shared: bool) -> None:
        """Choose how maps are painted, and whether they share one scale."""
        self._look, self._shared = look, shared
        self._paint()

    def pin(self, index: int) -> None:
        """Keep one map shown; −1 for none."""
        if self._view is not None and not self._view.labels:
            self.position.value = max(index, 0)
        else:
            self.choice.value = index

    @property
    def pinned(self) -> int:
        """Return which map is kept, −1 for none."""
        words = self._view is None or bool(self._view.labels)
        return int(self.choice.value if words else self.position.value)

    def _paint(self) -> None:
        view, index = self._view, self.pinned
        if view is None or not 0 <= index < len(view.maps):
            self._image.value = style.figure_html(self._picture, self._alt, "", "")
            return
        top = max(view.peaks) if self._shared else None
        lit = lit_picture(self._picture, view.maps[index], self._look, top)
        name = view.labels[index] if view.labels else ""
        self._image.value = style.figure_html(
            lit, f"{self._alt} {name}: {view.notes[index]}", name, view.notes[index]
        )


def make_view(picture: Image.Image, alt: str, *, hover: bool | None) -> HoverView | ButtonView:
    """Return the view in the browser, or by buttons where that is not to be had."""
    wanted = has_browser_parts() if hover is None else hover
    return HoverView(picture, alt) if wanted else ButtonView(picture, alt)


def lit_picture(picture: Image.Image, heat: Maps, look: str, top: float | None) -> Image.Image:
    """Return the picture lit by a map, or with the map painted over it."""
    if look == "heat":
        from matplotlib import colormaps

        values = upsample(heat, picture.height, picture.width) / (top or max(heat.max(), 0) or 1)
        paint = colormaps["viridis"](np.clip(values, 0, 1))[..., :3]
        lit = 0.3 * np.asarray(picture.convert("RGB")) / 255 + 0.7 * paint
    else:
        lit = overlay(picture, heat, top=top)
    return Image.fromarray((255 * lit).round().astype("uint8"))


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
