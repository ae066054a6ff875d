"""Word heatmaps: where the model looks for each word, on one colour scale, with their numbers.

A map is (h, w), the mean attention probability that each position pays to a word. The maps of one
figure share the range 0 … their common maximum, so that a strong word looks strong; the numbers say
the rest. What recorded the maps is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from PIL import Image

from p2p_lab.figures._style import (
    CMAP,
    SMALL,
    Drawn,
    Floats,
    LabFigure,
    axes_or_new,
    describe,
    draw_pixels,
    new_figure,
    panels,
    say,
    show_picture,
    to_array,
)
from p2p_lab.metrics import mask_iou, pointing_accuracy

SCALE = 0.5  # inches that a colour scale takes beside the panels


def _heat(values: Any) -> Floats:
    """Return a map as (h, w) floats."""
    array = values.detach().cpu().double().numpy() if hasattr(values, "detach") else values
    heat = np.asarray(array, dtype=np.float64)
    if heat.ndim != 2 or not np.isfinite(heat).all():
        raise ValueError(
            f"A heatmap must be (h, w) finite numbers, got shape {heat.shape}. Average heads, "
            "steps and layers first."
        )
    return heat


def _collect(maps: Any, words: Sequence[str] | None) -> dict[str, Floats]:
    """Return the maps to draw by word, from a Run or from a mapping."""
    if not isinstance(maps, Mapping):
        if getattr(maps, "attention", None) is None:
            raise ValueError(
                "This run recorded no attention, so there are no maps to draw. Generate it with "
                'record="store" or record="tape".'
            )
        store = maps.attention
        maps = store.maps() if words is None else {word: store.map(word) for word in words}
    chosen = list(maps) if words is None else list(words)
    missing = [w for w in chosen if w not in maps]
    if missing or not chosen:
        raise ValueError(f"There is no map of {missing or 'any word'}; there are: {list(maps)}.")
    return {word: _heat(maps[word]) for word in chosen}


def upsample(heat: Any, height: int, width: int) -> Floats:
    """Return a map at picture size, bilinear, (h, w) → (H, W); its values are kept."""
    image = Image.fromarray(_heat(heat).astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)


def overlay(image: Any, heat: Any, *, top: float | None = None) -> Floats:
    """Return the picture lit by a map, (H, W, 3): bright where the map is high, dark where not.

    Args:
        image: The picture, as a Run, PIL, numpy or torch.
        heat: The map (h, w).
        top: The map's value that shows the picture at full brightness; its maximum by default.
    """
    picture = to_array(image)
    light = upsample(heat, *picture.shape[:2])
    light = np.clip(light / (top or max(light.max(), 0) or 1.0), 0, 1)
    return np.asarray(picture * (0.12 + 0.88 * light[..., None]))  # (H, W, 3)


def show_map(
    heat: Any,
    ax: Axes | None = None,
    *,
    title: str = "",
    top: float | None = None,
    mask: Any = None,
    low: float | None = None,
) -> Drawn:
    """Draw one heatmap with its range; with a true mask also its outline and scores.

    Args:
        heat: (h, w).
        ax: Where to draw; a new figure by default.
        title: Usually the word.
        top: Upper end of the colour scale; the map's maximum by default.
        mask: (H, W), where the word really is.
        low: Lower end; 0 by default, or the minimum of a map that goes below (a fader below 0).
    """
    values = _heat(heat)
    ax, drawn = axes_or_new(ax, 2.6, 3.0)
    bottom, highest = _range([values])
    bottom, highest = bottom if low is None else low, top or highest
    ax.imshow(values, cmap=CMAP, vmin=bottom, vmax=highest, interpolation="nearest")
    ax.set_axis_off()
    note = f"max {values.max():.2f}, mean {values.mean():.3f}"
    if mask is not None:
        truth = to_array(mask)[..., 0] > 0.5
        rows, columns = (np.linspace(-0.5, n - 0.5, m) for n, m in zip(values.shape, truth.shape))  # noqa: B905
        ax.contour(columns, rows, truth, levels=[0.5], colors="white", linewidths=1)
        note += f"\n{_scores(values, truth)}"
    say(ax, title, below=note)
    ax.set_anchor("N")
    for text in ax.texts:  # they stand in the room left below; else they would narrow the panels
        text.set_in_layout(False)
    describe(drawn, f'Heatmap of "{title}": {note}.'.replace("\n", ", "))
    return drawn


def _scores(heat: Floats, truth: Any) -> str:
    """Return how well a map covers its true mask, in words."""
    height, width = truth.shape
    iou = mask_iou(upsample(heat, height, width), truth, threshold=0.5)
    hit = "hit" if pointing_accuracy(heat, truth) else "miss"
    return f"IoU {iou:.2f}, peak: {hit}"


def show_maps(
    maps: Any,
    words: Sequence[str] | None = None,
    *,
    image: Any = None,
    masks: Mapping[str, Any] | None = None,
    columns: int = 7,
) -> LabFigure:
    """Draw the heatmaps of words on one shared scale, above the picture lit by each of them.

    The heatmaps share their scale, so that words can be compared; the lit pictures use each
    map's own maximum, so that a quiet word's place can be seen.

    Args:
        maps: A `Run`, or a mapping from word to map (h, w).
        words: The words to show; by default all there are.
        image: The picture; by default the Run's own. Without one the second row is left out.
        masks: True masks (H, W) by word, as `scenes` makes them: outlines and scores are added.
        columns: Panels a row.

    Raises:
        ValueError: If nothing was recorded, or a word has no map.
    """
    heats = _collect(maps, words)
    picture = image if image is not None else getattr(maps, "image", None)
    low, top = _range(list(heats.values()))
    first = 1 if picture is not None else 0
    count = len(heats) + first
    lines = 2 if masks else 1
    figure, grid = panels(
        count, columns=columns, size=1.55, rows_each=1 + first, beside=SCALE, lines=lines
    )
    rows, wide = grid[:: 1 + first].reshape(-1), grid[1 :: 1 + first].reshape(-1)
    if picture is not None:
        show_picture(rows[0], picture, "picture")
        rows[0].set_anchor("N")
    for i, (word, heat) in enumerate(heats.items(), start=first):
        show_map(heat, rows[i], title=word, top=top, mask=(masks or {}).get(word), low=low)
        if picture is not None:
            draw_pixels(wide[i], overlay(picture, heat))
            wide[i].set_anchor("N")
    scale = ScalarMappable(Normalize(low, top), CMAP)
    bar = figure.colorbar(scale, ax=grid, shrink=0.8, pad=0.01)
    bar.set_label(f"mean probability, {_edge(low)} … {_edge(top)}", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    figure.alt = _maps_alt(heats, low, top)
    return figure


def _range(heats: Sequence[Floats]) -> tuple[float, float]:
    """Return the range of a colour scale: 0 and all that is in the maps, never empty."""
    low = min(0.0, *(float(heat.min()) for heat in heats))
    top = max(0.0, *(float(heat.max()) for heat in heats))
    return low, top if top > low else low + 1.0


def _edge(value: float) -> str:
    return f"{value:.2f}" if value else "0"


def _maps_alt(heats: Mapping[str, Floats], low: float, top: float) -> str:
    """Return which word is strongest and where each looks, in words."""
    places = [f'"{word}" peaks {_where(heat)} at {heat.max():.2f}' for word, heat in heats.items()]
    return f"{len(heats)} heatmaps on the shared scale {_edge(low)} to {_edge(top)}: " + (
        "; ".join(places) + "."
    )


def _where(heat: Floats) -> str:
    """Name the ninth of the picture in which a map has its maximum."""
    row, column = np.unravel_index(int(np.argmax(heat)), heat.shape)
    down = ("top", "middle", "bottom")[int(3 * row // heat.shape[0])]
    across = ("left", "centre", "right")[int(3 * column // heat.shape[1])]
    return f"{down} {across}"


def show_row(run: Any, place: tuple[int, int], **choice: Any) -> LabFigure:
    """Draw a row of M: how one place of the picture shares its attention among all words.

    A heatmap is a column of M, one word and all places; this is one place and all words, special
    tokens and padding too. The bars sum to 1.

    Args:
        run: A `Run` that recorded its maps.
        place: Row and column of the maps.
        choice: Site, step, head and which, as `AttentionStore.maps` takes them.

    Raises:
        ValueError: If nothing was recorded, or there is no such place.
    """
    maps = _collect_all(run, choice)
    height, width = next(iter(maps.values())).shape
    row, column = place
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"There is no place {place!r}: the maps are {height}×{width}.")
    shares = {word: float(heat[row, column]) for word, heat in maps.items()}
    figure = new_figure(7.0, max(2.6, 0.6 + 0.22 * len(shares)))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_picture(left, run, f"row {row + 1}, column {column + 1} of {height}×{width}")
    pixels = run.size[0] / height, run.size[1] / width
    corner = (column * pixels[1] - 0.5, row * pixels[0] - 0.5)
    left.add_patch(Rectangle(corner, pixels[1], pixels[0], fill=False, ec="white", lw=1.5))
    bars = right.barh(range(len(shares)), list(shares.values()), color="#3e4989")
    right.bar_label(bars, [f"{share:.1%}" for share in shares.values()], fontsize=SMALL, padding=2)
    right.set_yticks(range(len(shares)), labels=list(shares), fontsize=SMALL)
    right.invert_yaxis()
    right.margins(x=0.15)
    right.tick_params(labelsize=SMALL)
    right.set_xlabel("share of this place's attention", fontsize=SMALL)
    most = sorted(shares, key=lambda word: -shares[word])[:3]
    listed = ", ".join(f'"{word}" {shares[word]:.1%}' for word in most)
    describe(figure, f"Attention of one place, row {row + 1}, column {column + 1}: {listed} most.")
    return figure


def _collect_all(run: Any, choice: Mapping[str, Any]) -> dict[str, Floats]:
    """Return the maps of all words, special tokens and padding by name."""
    if getattr(run, "attention", None) is None:
        raise ValueError(
            "This run recorded no attention, so there is no row to draw. Generate it with "
            'record="store" or record="tape".'
        )
    names = {"<|startoftext|>": "‹start›", "<|endoftext|>": "‹end›", "padding": "‹padding›"}
    maps = run.attention.maps(special=True, **choice)
    return {names.get(word, word): _heat(heat) for word, heat in maps.items()}
