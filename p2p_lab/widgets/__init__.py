"""Panels to look at attention and to edit pictures, in a notebook.

    >>> AttentionExplorer(run)
    >>> EditPanel(model, "a cat on a beach", "a dog on a beach", seed=3)
    >>> guess("02.radical", ["the old animal again", "the new animal", "mush"])

Controls only: each handler calls one public function of another room, and what a panel shows can
be had without it (`run`, `edited`, `code()`). Panels work in JupyterLab, Notebook, VS Code and
Colab (ipywidgets 7.7.1 and 8), by keyboard, and without a kernel as a picture with its numbers.
"""

from p2p_lab.widgets.edit_panel import EditPanel
from p2p_lab.widgets.explorer import AttentionExplorer
from p2p_lab.widgets.guessing import Guess, guess, guesses
from p2p_lab.widgets.inversion_panel import InversionPanel
from p2p_lab.widgets.step_panel import StepPanel

__all__ = [
    "AttentionExplorer",
    "EditPanel",
    "Guess",
    "InversionPanel",
    "StepPanel",
    "guess",
    "guesses",
]
