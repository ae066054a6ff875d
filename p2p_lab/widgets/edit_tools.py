"""What folds away in the edit panel: windows, local edit, moving, alignment, comparing.

A tool that is closed costs nothing; one that is open is brought up to the newest pictures.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import torch

from p2p_lab.edits import Move, compile_edits
from p2p_lab.recipes import Recipe
from p2p_lab.sampling import Run, mask_level
from p2p_lab.sampling.move_masks import resolve_move_masks
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import Compare, Stage
from p2p_lab.widgets.edit_controls import EditControls
from p2p_lab.widgets.edit_fields import NOTHING
from p2p_lab.widgets.step_panel import StepPanel

WINDOWS, LOCAL, MOVE = "Windows", "Local edit", "Move"
ALIGNMENT, COMPARE, STEPS = "Alignment", "Compare", "Step by step"


class EditTools:
    """The boxes of the tools; those that are open are filled.

    Args:
        controls: The panel's controls, which stand in the boxes.

    Attributes:
        boxes: The boxes by name.
        compare: Any two of the pictures with a line between them.
        steps: The edit step by step, None before it is opened.
    """

    def __init__(self, controls: EditControls) -> None:
        self._controls = controls
        self.steps: StepPanel | None = None
        self.compare = Compare(right=1)
        self.tool = widgets.ToggleButtons(
            options=[("see the mask", "mask"), ("paint one", "paint")],
            value="mask",
            style={"button_width": "auto"},
            layout=widgets.Layout(width="auto"),
        )
        self.tool.observe(lambda _: setattr(controls.mask_stage, "tool", self.tool.value), "value")
        if any(controls.mask_stage.painted):
            self.tool.value = "paint"
        self.found_button = style.button(
            "Reset alignment", "Take the links that were found", icon="undo"
        )
        self.found_button.on_click(lambda _: controls.take_found_links())
        fields = controls.fields
        self.boxes = {
            WINDOWS: style.column(
                style.note("How long the edit takes the source's attention: 0 never, 1 always."),
                fields["cross"],
                fields["self_attention"],
            ),
            LOCAL: style.column(
                fields["blend"],
                style.row(fields["blend_source"], fields["blend_target"]),
                fields["threshold"],
                self.tool,
                controls.mask_stage,
            ),
            MOVE: style.column(fields["move"], controls.mover),
            ALIGNMENT: style.column(
                style.note("Whose map each word takes. Break it: press a cell."),
                style.row(fields["method"], self.found_button),
                controls.grid,
            ),
            COMPARE: style.column(self.compare),
            STEPS: style.column(),
        }

    def update(
        self, opened: set[str], recipe: Recipe, source: Run, edited: Run, **more: Any
    ) -> None:
        """Bring the tools that are open up to the newest pictures.

        Args:
            opened: Their names.
            recipe: What made the edit.
            source: The source.
            edited: The edit.
            more: Further pictures to compare, by name.
        """
        if LOCAL in opened:
            self._show_mask(edited)
        if MOVE in opened:
            self._show_region(source)
        if ALIGNMENT in opened:
            self._controls.show_alignment(recipe, source.prompt, edited.prompt)
        if COMPARE in opened:
            self._show_pair({"source": source, "edit": edited, **more})
        if STEPS in opened:
            self._show_steps(edited)

    def _show_mask(self, edited: Run) -> None:
        """Show where the local edit acts; without one there is nothing to be seen yet."""
        stage = self._controls.mask_stage
        grid = edited.trajectory.latents.shape[-2:]
        level = torch.ones(tuple(grid))
        blend = None if edited.plan is None else edited.plan.blend
        if blend is not None and (blend.source_tokens or blend.target_tokens):
            level = mask_level(edited)
        with self._controls.quietly(), stage.hold_sync():
            if not any(stage.painted):
                stage.rows, stage.columns = (int(n) for n in grid)
            stage.level = _cells(level, stage)
            stage.threshold = self._controls.fields["threshold"].value
            stage.alt = f"Edit: {edited.prompt.text}."
            stage.picture = style.data_url(edited.image)

    def _show_region(self, source: Run) -> None:
        """Show the object that can be dragged: where the source's map of its word lies."""
        stage, word = self._controls.mover, self._controls.fields["move"].value
        region = None if word == NOTHING else region_of_word(source, word)
        with self._controls.quietly(), stage.hold_sync():
            stage.rows, stage.columns = (int(n) for n in source.trajectory.latents.shape[-2:])
            stage.region = b"" if region is None else _cells(region, stage)
            stage.alt = f"Source: {source.prompt.text}."
            stage.picture = style.data_url(source.image)

    def _show_steps(self, edited: Run) -> None:
        if self.steps is None:
            self.steps = StepPanel(edited)
            self.boxes[STEPS].children = (self.steps.box,)
        elif self.steps.run is not edited:
            self.steps.set_run(edited)

    def _show_pair(self, runs: dict[str, Run]) -> None:
        pair = self.compare
        with pair.hold_sync():
            pair.names = list(runs)
            pair.pictures = [style.data_url(run.image) for run in runs.values()]


def region_of_word(source: Run, word: str) -> torch.Tensor:
    """Return where `Move` finds a word in the source, (H, W), 0 or 1."""
    plan = compile_edits([Move(word, (0.0, 0.5))], source.prompt, source.prompt, source.steps)
    mask = resolve_move_masks(plan, [source]).moves[0].mask
    assert mask is not None
    return mask.reshape(mask.shape[-2:]).float()


def _cells(values: torch.Tensor, stage: Stage) -> bytes:
    """Return a map as the stage's cells, one byte each."""
    size = (stage.rows, stage.columns)
    cells = torch.nn.functional.interpolate(values.float()[None, None], size=size, mode="area")
    return bytes((255 * cells.clamp(0, 1)).round().byte().flatten().tolist())
