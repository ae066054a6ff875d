"""The explorer: point at a word, and see where the picture looks for it.

The maps of one step, site and head are sent to the browser once; hovering blends them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
from PIL.Image import Image

from p2p_lab.attention import AttentionStore
from p2p_lab.figures import LabFigure, show_maps
from p2p_lab.sampling import Run, maps_at, pictures_at
from p2p_lab.sampling.runs import checked_run
from p2p_lab.widgets import style
from p2p_lab.widgets.panel import Panel
from p2p_lab.widgets.views import MapView, WordView, self_view, tables, word_view

MOST_POSITIONS = 32 * 32  # of a self-attention site: a megabyte of maps


class AttentionExplorer(Panel):
    """Look into the attention of a run.

    Hover or focus a word to light the picture by its map, click to keep it. Choose the step, site
    and head, the mean of all, or self-attention, where every place of the picture has a map.

    Args:
        run: A run that recorded its maps; with a tape also single steps, heads, self-attention.
        truth: Word -> true mask (H, W): its outline and scores are shown.

    Attributes:
        view: What is shown now, as data.
        fields: The controls by name: kind, site, step, head, which, look, shared.

    Raises:
        ValueError: If the run recorded no maps, or a true mask names a word that is not there.
    """

    def __init__(self, run: Run, truth: Mapping[str, Any] | None = None) -> None:
        super().__init__(threaded=False)
        checked_run(run)
        if run.attention is None:
            raise ValueError(
                "This run recorded no maps to explore. Make it with record='store' or 'tape'."
            )
        self.run, self.store, self.truth = run, run.attention, dict(truth or {})
        for word in self.truth:
            self.store.prompt.tokens_of(word)  # raises the error that lists the words
        alt = f"Picture of: {run.prompt.text}."
        self._shown = WordView(run.image, alt)
        self._controls()
        self._lay_out()
        self.view = self._look_up()
        self._shown.show(self.view)

    def _controls(self) -> None:
        store = self.store
        taped = store.tape is not None
        source = self.run.source
        stepped = taped or (source is not None and source.tape is not None)
        kinds = [("words", "cross")] + ([("places", "self")] if self._self_sites() else [])
        self.fields: dict[str, Any] = {
            "kind": _choice("Look at", kinds),
            "site": _dropdown("Site", self._sites("cross")),
            "step": widgets.IntSlider(
                value=0, min=0, max=self.run.steps, description="Step", readout=False,
                continuous_update=False, disabled=not stepped, style={"description_width": "3.5em"},
                layout=widgets.Layout(flex="1 1 9em", width="auto"),
            ),
            "head": _dropdown("Head", [("mean of all", -1)], disabled=not taped),
            "which": _choice("Maps", [("after the edit", "edited"), ("before it", "original")]),
            "look": _choice("Show as", [("light", "light"), ("heat", "heat")]),
            "shared": widgets.Checkbox(
                value=False, description="one scale for all", indent=False,
                layout=widgets.Layout(width="auto"),
            ),
        }  # fmt: skip
        self._step_read = widgets.Label("mean of all steps", layout=widgets.Layout(width="9em"))
        self._fill_heads()
        self.fields["kind"].observe(self._changed_kind, "value")
        self.fields["site"].observe(self._changed_site, "value")
        for name in ("step", "head", "which"):
            self.fields[name].observe(lambda _: self.refresh(), "value")
        for name in ("look", "shared"):
            self.fields[name].observe(lambda _: self._changed_look(), "value")

    def _lay_out(self) -> None:
        fields = self.fields
        fields["which"].layout.display = None if self.store.originals else "none"
        fields["kind"].layout.display = None if len(fields["kind"].options) > 1 else "none"
        children = [
            style.row(fields["kind"], fields["which"], fields["look"], fields["shared"]),
            self._shown.widget,
            style.row(fields["site"], fields["head"], fields["step"], self._step_read),
            self.status,
        ]
        if self.store.tape is None:
            note = "Single steps, heads and places need a tape: generate(…, record='tape')."
            children.insert(3, widgets.HTML(style.note_html([note])))
        self.show(*children)

    def pin(self, word: str) -> None:
        """Keep the map of a word shown, as a click on it does; "" for none.

        Raises:
            ValueError: If there is no such word.
        """
        if word and word not in self.view.labels:
            raise ValueError(f"There is no map of {word!r}; there are: {list(self.view.labels)}.")
        self._shown.pin(self.view.labels.index(word) if word else -1)

    @property
    def pinned(self) -> str:
        """Return the word whose map is kept, "" for none."""
        index = self._shown.pinned
        return self.view.labels[index] if 0 <= index < len(self.view.labels) else ""

    def ask(self, row: int, column: int) -> dict[str, float]:
        """Show which words a place of the maps looks at, and return their shares: a row of M.

        Raises:
            ValueError: If the maps are those of places, or have no such place.
        """
        rows = self.view.rows
        if rows is None or not (0 <= row < rows.shape[1] and 0 <= column < rows.shape[2]):
            shape = self.view.maps.shape[1:]
            raise ValueError(
                f"There is no row of words at ({row}, {column}); the maps are {shape}."
            )
        self._shown.ask(row * rows.shape[2] + column)
        shares = rows[:, row, column]
        return dict(zip(self.view.row_labels, map(float, shares), strict=True))

    def refresh(self) -> None:
        """Look up the maps that the controls ask for, and send them."""
        step = self.fields["step"].value
        self._step_read.value = f"{step} of {self.run.steps}" if step else "mean of all steps"
        with self.handling():
            self.view = self._look_up()
            self._shown.show_picture(self._picture(step))
            self._shown.show(self.view)
            self.say("")

    def _picture(self, step: int) -> Image:
        """Return the picture that the maps belong to: at a step, what the step takes z_t for."""
        if not step or self.run.model is None:
            return self.run.image
        pixels = pictures_at(self.run, step - 1)[1]
        return replace(self.run, pixels=pixels.float().clamp(0, 1)).image

    def _look_up(self) -> MapView:
        value = {name: field.value for name, field in self.fields.items()}
        step = value["step"] - 1 if value["step"] else None
        head = value["head"] if value["head"] >= 0 else None
        if value["kind"] == "self":
            return self_view(self.store, value["site"], step=step, head=head)
        which = value["which"] if self.store.originals else "edited"
        site = value["site"] or None
        if step is not None and head is None:  # an edit has no tape, and yet its steps
            return word_view(maps_at(self.run, step), self.truth, site=site, which=which)
        return word_view(self.store, self.truth, site=site, step=step, head=head, which=which)

    def _changed_kind(self, change: Any) -> None:
        kind = self.fields["kind"].value
        self.fields["site"].options = self._sites(kind)
        self._fill_heads()
        self.refresh()

    def _changed_site(self, change: Any) -> None:
        self._fill_heads()
        self.refresh()

    def _changed_look(self) -> None:
        self._shown.look(self.fields["look"].value, shared=self.fields["shared"].value)

    def _fill_heads(self) -> None:
        """Offer the heads of the chosen site; the mean where several sites are averaged."""
        site = self.fields["site"].value
        count = self.store.sites[site].heads if site else _fewest_heads(self.store)
        heads = [("mean of all", -1), *((f"head {h + 1} of {count}", h) for h in range(count))]
        if list(self.fields["head"].options) != heads:
            self.fields["head"].options = heads

    def _sites(self, kind: str) -> list[tuple[str, str]]:
        store = self.store
        if kind == "self":
            return [(_site_label(store, name), name) for name in self._self_sites()]
        named = [(_site_label(store, name), name) for name in store.means]
        return [("mean of the best", ""), *named]

    def _self_sites(self) -> list[str]:
        sites = self.store.sites
        return [n for n in self.store.self_sites if sites[n].pixels <= MOST_POSITIONS]

    def figure(self) -> LabFigure:
        """Return the maps of all words as a figure, with scores where masks are known."""
        view = self.view if self.view.labels else word_view(self.store, self.truth)
        maps = dict(zip(view.labels, view.maps, strict=True))
        masks = {w: m for w, m in zip(view.labels, view.truths, strict=True) if m is not None}
        return show_maps(maps, image=self.run.image, masks=masks)

    def __repr__(self) -> str:
        """Return the words and their numbers as text, the same on every run."""
        value = {name: self.fields[name].value for name in ("site", "step", "head")}
        where = [
            value["site"] or "mean of the best sites",
            f"step {value['step']}" if value["step"] else "mean of all steps",
            "mean of all heads" if value["head"] < 0 else f"head {value['head'] + 1}",
        ]
        head = f"AttentionExplorer: {self.run.prompt.text!r}, {self.run.steps} steps"
        view = self.view if self.view.labels else word_view(self.store, self.truth)
        return tables(view, [head, f"  {', '.join(where)}"])


def _choice(label: str, options: list[tuple[str, str]]) -> Any:
    """Return buttons of which one is pressed."""
    return widgets.ToggleButtons(
        options=options, value=options[0][1], description=label,
        style={"button_width": "auto", "description_width": "auto"},
        layout=widgets.Layout(width="auto", margin="0 14px 0 0"),
    )  # fmt: skip


def _dropdown(label: str, options: list[tuple[str, Any]], *, disabled: bool = False) -> Any:
    return widgets.Dropdown(
        options=options, value=options[0][1], description=label, disabled=disabled,
        style={"description_width": "3.5em"}, layout=widgets.Layout(width="15em"),
    )  # fmt: skip


def _site_label(store: AttentionStore, name: str) -> str:
    """Name a site for a reader: its size, where it lies, and which of those it is."""
    site = store.sites[name]
    alike = [n for n, s in store.sites.items() if (s.size, s.place, s.kind) == (
        site.size, site.place, site.kind)]  # fmt: skip
    number = f" {alike.index(name) + 1}" if len(alike) > 1 else ""
    return f"{site.size[0]}×{site.size[1]} {site.place}{number}"


def _fewest_heads(store: AttentionStore) -> int:
    return min(store.sites[name].heads for name in store.means)
