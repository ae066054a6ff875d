"""The inversion panel: a picture of one's own, the methods, and what each costs and keeps."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from PIL import Image

from p2p_lab.figures import LabFigure, show_pictures
from p2p_lab.inversion import METHODS, Method, invert, load_image, suggest_prompt
from p2p_lab.metrics import psnr
from p2p_lab.models import Denoiser, load
from p2p_lab.models.denoiser import checked_model
from p2p_lab.models.vocabulary import about_unknown_words
from p2p_lab.sampling import Run
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import DropBox
from p2p_lab.widgets.edit_panel import EditPanel
from p2p_lab.widgets.panel import Panel
from p2p_lab.widgets.saver import uploaded
from p2p_lab.widgets.worker import RequestToken

_IS_IMAGE = "A picture or its path is the image: InversionPanel(image=...)."


class InversionPanel(Panel):
    """Bring a real picture in, compare the ways to do it, and edit it in a panel below.

    `run` is the newest inversion: look at it with `AttentionExplorer(panel.run)`.

    Args:
        model: A denoiser; None takes the best bundled one.
        image: A path, bytes, a PIL image or an array; None waits for one to be chosen or dropped.
        text: What the picture shows: the source prompt.
        method: The method that is chosen at first.
        steps: Number of steps; None takes the model's.
        guidance_scale: Strength of guidance; None takes the model's.
        threaded: Whether to work beside the kernel; None: where there is a kernel. A picture that
            is given is inverted at once.

    Attributes:
        run: The newest inversion, None before the first.
        photo: The picture at the model's size, None before the first.
        table: Method, reconstruction in dB and seconds of each inversion of this picture.
        fields: The controls by name: upload, text, method.
        editor: The edit panel of the newest inversion that was opened, None before that.

    Raises:
        ValueError: If the picture that is given cannot be inverted; later ones say why.
    """

    def __init__(
        self,
        model: Denoiser | None = None,
        image: Any = None,
        text: str = "",
        *,
        method: Method = "direct",
        steps: int | None = None,
        guidance_scale: float | None = None,
        threaded: bool | None = None,
    ) -> None:
        super().__init__(threaded=threaded)
        self.model: Denoiser = load() if model is None else checked_model(model, _IS_IMAGE)
        self.run: Run | None = None
        self.photo: Image.Image | None = None
        self.table: list[tuple[str, float, float]] = []
        self.editor: EditPanel | None = None
        self._image = image
        self._settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale}
        self._controls(text, method)
        self._lay_out()
        if image is not None:
            self._invert(text, method)
        self._paint()

    def _controls(self, text: str, method: Method) -> None:
        self.fields: dict[str, Any] = {
            "upload": widgets.FileUpload(
                accept="image/*",
                multiple=False,
                description="Choose a picture",
                layout=widgets.Layout(width="auto"),
            ),
            "text": style.text("It shows", text, flex="1 1 14em", at_once=True),
            "method": widgets.Dropdown(
                options=list(METHODS),
                value=method,
                description="Method",
                style={"description_width": "4.5em"},
                layout=widgets.Layout(width="15em"),
            ),
        }
        self.fields["upload"].observe(self._uploaded, "value")
        self.invert_button = style.button("Invert", "Find the run that draws this picture",
                                          icon="play", kind="primary")  # fmt: skip
        self.invert_button.on_click(lambda _: self.refresh())
        self.edit_button = style.button("Edit it", "Open the edit panel on the newest inversion",
                                        icon="pencil")  # fmt: skip
        self.edit_button.on_click(lambda _: self.open_editor())
        self.fields["text"].on_msg(self._entered)
        self.suggest_button = style.button("Suggest", "Write a prompt that says what it shows",
                                           icon="magic")  # fmt: skip
        self.suggest_button.on_click(lambda _: self.suggest())
        self._drop = DropBox(layout=widgets.Layout(width="auto", margin="0"))
        self._drop.observe(lambda _: self._take(self._drop.content, self._drop.name), "count")
        self._below = style.column()
        self._pictures = [widgets.HTML(layout=style.picture_layout()) for _ in range(2)]
        self._table = widgets.HTML()

    def _lay_out(self) -> None:
        fields = self.fields
        self.show(
            style.row(fields["upload"], self._drop, fields["method"]),
            style.row(fields["text"], self.suggest_button),
            style.row(
                *self._pictures,
                style.column(
                    style.head("Tried so far"), self._table, flex="1 1 16em", width="auto"
                ),
                align_items="flex-start",
            ),
            self.footer(self.invert_button, self.edit_button),
            self._below,
        )

    def refresh(self) -> None:
        """Invert the picture as the controls say; only the newest request is shown."""
        text, method = self.fields["text"].value, self.fields["method"].value

        def job(token: RequestToken) -> None:
            self._paint(old=True)
            on_step = self.report(token, f"Inverting by {method}", draw=self._paint_preview)
            self._invert(text, method, token, on_step=on_step, cancel=token)

        self.request(job)

    def suggest(self) -> None:
        """Write a prompt that says what the picture shows."""

        def job(token: RequestToken) -> None:
            if self._image is None:
                raise ValueError("There is no picture yet. Choose one with the button above.")
            self.say("Looking at the picture …")
            text = suggest_prompt(self.model, self._image)
            if token.newest:
                self.fields["text"].value = text
                self.say(f"It may be {text!r}. Change what is wrong, then press Invert.")

        self.request(job)

    def _entered(self, _: Any, content: Any, buffers: Any) -> None:
        """Invert when Enter is pressed in the prompt."""
        if content.get("event") == "submit":
            self.refresh()

    def open_editor(self) -> None:
        """Open an edit panel on the newest inversion, with the target of the one before it."""

        def job(token: RequestToken) -> None:
            if self.run is None:
                raise ValueError("There is nothing to edit yet. Press Invert first.")
            self.say("Opening the edit panel …")
            before = self.editor
            same = before is not None and before.run.prompt.text == self.run.prompt.text
            target = before.edited.prompt.text if before is not None and same else None
            editor = EditPanel(source=self.run, target=target, threaded=self.worker.threaded)
            if token.newest:
                self.editor, self._below.children = editor, (editor.box,)
                self.say(f"Below is the edit panel on the inversion by {self.table[-1][0]}.")

        self.request(job)

    def _invert(
        self, text: str, method: Method, token: RequestToken | None = None, **watch: Any
    ) -> None:
        if self._image is None:
            raise ValueError("There is no picture yet. Choose one with the button above.")
        if not text.strip():
            raise ValueError(
                "Say in a few words what the picture shows: edits start from that prompt."
            )
        started = time.perf_counter()
        run = invert(self.model, self._image, text, method=method, **self._settings, **watch)
        seconds = time.perf_counter() - started
        photo = load_image(self._image, run.size)
        if token is None or token.newest:
            self.run, self.photo = run, photo
            self.table.append((method, psnr(photo, run.image), seconds))
            self._paint()
            message = about_unknown_words(run.prompt, self.model.card.vocabulary, self.model.name)
            self.say(" ".join(filter(None, [run.note, message])))

    def _uploaded(self, change: Any) -> None:
        found = uploaded(self.fields["upload"].value)
        if found is not None:
            self._take(found[1], found[0])

    def _take(self, content: bytes, name: str) -> None:
        """Show a picture that was chosen or dropped; what belonged to the one before goes."""
        with self.handling():
            defaults = self.model.defaults
            try:
                photo = load_image(content, (defaults.height, defaults.width))
            except ValueError as error:  # it knows the bytes, the reader knows the name
                message = str(error).removeprefix(f"{len(content)} bytes").strip()
                raise ValueError(f"{name or 'The file'} {message}") from None
            self.request(lambda _: None)  # what runs for the picture before is not shown any more
            self._image, self.photo, self.run, self.table = content, photo, None, []
            self.editor, self._below.children = None, ()
            self._paint()
            self.say("Say what the picture shows, then press Invert.")

    def after_failure(self) -> None:
        """Show the last finished pictures at full strength again."""
        self._paint()

    def _paint(self, *, old: bool = False) -> None:
        self._pictures[0].value = style.figure_html(
            self.photo,
            "The picture" if self.photo else "no picture yet",
            "your picture",
            "" if self.photo is None else f"{self.photo.width}×{self.photo.height}",
        )
        run = self.run
        self.edit_button.disabled = old or run is None
        self._pictures[1].value = style.figure_html(
            None if run is None else run.image,
            "Reconstruction" if run is not None else "not inverted yet",
            "as the model draws it again",
            f"{self.table[-1][1]:.1f} dB" if self.table else "",
            old=old,
        )
        self._table.value = table_html(self.table)

    def _paint_preview(self, picture: Image.Image) -> None:
        self._pictures[1].value = style.figure_html(
            picture, "What is there so far", "so far", "what the denoiser takes it to be now"
        )

    def figure(self) -> LabFigure:
        """Return picture and reconstruction side by side.

        Raises:
            ValueError: If nothing was inverted yet.
        """
        if self.run is None or self.photo is None:
            raise ValueError("Nothing was inverted yet.")
        titles = ["your picture", f"{self.table[-1][0]}: {self.run.prompt.text}"]
        figure = show_pictures([self.photo, self.run], titles)
        figure.alt = f"{figure.alt} Reconstruction {self.table[-1][1]:.1f} dB."
        return figure

    def __repr__(self) -> str:
        """Return the methods tried and how well they reconstruct, the same on every run."""
        if self.run is None:
            return "InversionPanel: nothing was inverted yet"
        head = f"InversionPanel: {self.run.prompt.text!r}, {self.run.steps} steps"
        return "\n".join([head, *(f"  {name}: {dB:.1f} dB" for name, dB, _ in self.table)])


def table_html(table: Sequence[tuple[str, float, float]]) -> str:
    """Return the methods tried as a table."""
    if not table:
        return style.note_html(["Nothing yet."])
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{dB:.1f} dB</td><td>{seconds:.1f} s</td></tr>"
        for name, dB, seconds in table
    )
    return (
        '<table class="p2p-table"><tr><th scope="col">method</th>'
        f'<th scope="col">reconstruction</th><th scope="col">time</th></tr>{rows}</table>'
    )
