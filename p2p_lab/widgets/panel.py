"""What all panels share: a box, a status line, progress, one worker, and a static form.

A panel is no widget but holds one, `box`. Shown in a notebook it offers the widget, a picture and a
text in one bundle, so that it is still there on GitHub and without a kernel.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets

from p2p_lab.figures import LabFigure, picture_html, to_png
from p2p_lab.sampling import Cancelled
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import key_guard
from p2p_lab.widgets.worker import RequestToken, Worker, in_kernel

VIEW = "application/vnd.jupyter.widget-view+json"
PREVIEW_SECONDS = 0.25  # between two pictures of what is there so far


class Panel:
    """The parts that every panel has.

    Args:
        threaded: Whether requests run beside the kernel; None: where there is a kernel.

    Attributes:
        box: The widget.
        status: The line that says what happens, and what went wrong.
    """

    def __init__(self, *, threaded: bool | None = None) -> None:
        _leave_words_to_the_status_line()
        self.worker = Worker(threaded=in_kernel() if threaded is None else threaded)
        self.status = widgets.HTML(style.status_html(""), layout=widgets.Layout(flex="1 1 auto"))
        self.progress = widgets.IntProgress(
            value=0, min=0, max=1, layout=widgets.Layout(width="9em", display="none")
        )
        self.cancel_button = style.button("Cancel", "Stop after the present step", icon="stop")
        self.cancel_button.disabled = True
        self.cancel_button.on_click(lambda _: self.cancel())
        self.box: Any = widgets.VBox()
        self._guard = key_guard()
        self._guard.observe(lambda _: self.on_shown(), "shown")

    def show(self, *children: Any) -> None:
        """Put the children in the panel's box."""
        self.box.children = (style.style_sheet(), self._guard, *children)
        self.box.add_class("p2p")

    def footer(self, *buttons: Any) -> Any:
        """Return the row of buttons, and the status line with the progress below it."""
        return style.column(
            style.row(*buttons, self.cancel_button),
            style.row(self.status, self.progress, flex_flow="row nowrap"),
        )

    def say(self, message: str, *, error: bool = False) -> None:
        """Write the status line."""
        self.status.value = style.status_html(message, error=error)

    def request(
        self,
        job: Callable[[RequestToken], None],
        ahead: Callable[[RequestToken], None] | None = None,
    ) -> None:
        """Have the worker do something; what it does before stops.

        Errors end in the status line, and the panel stays usable.

        Args:
            job: What to do.
            ahead: What to make ready afterwards, as long as nothing else is asked for.
        """
        self.worker.submit(
            lambda token: self._do(job, token),
            None if ahead is None else lambda token: _gift(ahead, token),
        )

    def on_shown(self) -> None:
        """Make ready what a reader may ask for: a front end has drawn the panel."""

    def cancel(self) -> None:
        """Stop the running request after its present step."""
        if self.worker.cancel():
            self.say("Stopping after this step …")

    def wait(self, timeout: float | None = None, *, ahead: bool = False) -> bool:
        """Wait until the panel has nothing to do; return whether that was so in time (seconds).

        Args:
            timeout: How long; None waits for ever.
            ahead: Wait also for what is made ready ahead.
        """
        return self.worker.wait(timeout, ahead=ahead)

    def report(
        self, token: RequestToken, what: str, *, draw: Callable[[Any], None] | None = None
    ) -> Callable[..., None]:
        """Return an `on_step` that moves the progress bar, and draws what is there so far.

        Args:
            token: The request that is reported.
            what: What it does.
            draw: Takes the picture so far, a few times a second; None draws nothing.
        """
        drawn = float("-inf")

        def on_step(step: int, total: int, preview: Callable[[], Any]) -> None:
            nonlocal drawn
            if not token.newest:
                return
            self.progress.max, self.progress.value = total, step + 1
            self.say(f"{what}: step {step + 1} of {total}")
            if draw is not None and time.monotonic() - drawn > PREVIEW_SECONDS:
                draw(preview())
                drawn = time.monotonic()

        return on_step

    def _do(self, job: Callable[[RequestToken], None], token: RequestToken) -> None:
        self._busy(True)
        try:
            job(token)
        except Cancelled as stopped:
            if token.newest:
                self.after_cancel()
                self.say(f"{str(stopped).rstrip('.')}. The last finished picture is kept.")
        except Exception as error:  # whatever it is, it is shown and the panel stays usable
            if token.newest:
                self.say(explain(error), error=True)
                self.after_failure()
        finally:
            if token.newest:
                self._busy(False)

    def _busy(self, busy: bool) -> None:
        self.cancel_button.disabled = not busy
        self.progress.layout.display = None if busy else "none"
        self.progress.value = 0

    def after_failure(self) -> None:
        """Bring the pictures back to the last finished ones."""

    def after_cancel(self) -> None:
        """Bring pictures and controls back to the last finished ones."""
        self.after_failure()

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Show an error of a handler that needs no worker in the status line."""
        try:
            yield
        except Exception as error:
            self.say(explain(error), error=True)

    def figure(self) -> LabFigure:
        """Return the panel's static form."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return widget, picture and text together; the notebook takes the best it can show."""
        data: dict[str, Any] = {"text/plain": repr(self)}
        with contextlib.suppress(Exception):  # a panel without pictures yet is still shown
            figure = self.figure()
            data["text/html"] = picture_html(to_png(figure), figure.alt)
        model_id = getattr(self.box, "model_id", None)
        if model_id:
            data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": model_id}
        return data


def _gift(ahead: Callable[[RequestToken], None], token: RequestToken) -> None:
    """Work ahead; what fails there is said when it is asked for."""
    with contextlib.suppress(Exception):
        ahead(token)


def _leave_words_to_the_status_line() -> None:
    """Keep the warning of unknown words, which a panel says itself, from the cell's output."""
    warnings.filterwarnings("ignore", ".* was not trained on ", module=r"p2p_lab\.widgets\.")


def explain(error: BaseException) -> str:
    """Return an error as a sentence; the package's own say it all, others get their name."""
    message = str(error).strip() or "no message"
    expected = isinstance(error, (ValueError, TypeError, OSError, KeyError))
    return message if expected else f"{type(error).__name__}: {message}"
