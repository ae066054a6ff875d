"""Plots of maps, edits and plans: axes-level, returned, never shown by themselves.

A function that draws one panel takes `ax=None`: given axes it draws there and returns them, without
it makes a figure and returns that. Every figure has alternative text (`alt_text`), one perceptually
uniform colour map with its range written on it, and its numbers beside the pictures. The room knows
no algorithm: what it draws was computed elsewhere.
"""

from p2p_lab.figures._style import CMAP, Drawn, LabFigure, alt_text, picture_html, to_png
from p2p_lab.figures.animation import frame_changes, show_frames, to_gif
from p2p_lab.figures.edits import show_edit, show_pictures, show_sweep
from p2p_lab.figures.guidance import show_guidance
from p2p_lab.figures.inversions import show_cost, show_drift, show_losses
from p2p_lab.figures.maps import overlay, show_map, show_maps, show_row, upsample
from p2p_lab.figures.plans import show_alignment, show_plan
from p2p_lab.figures.relations import show_relations
from p2p_lab.figures.runs import show_blend, show_trajectory

__all__ = [
    "CMAP",
    "Drawn",
    "LabFigure",
    "alt_text",
    "frame_changes",
    "overlay",
    "picture_html",
    "show_alignment",
    "show_blend",
    "show_cost",
    "show_drift",
    "show_edit",
    "show_frames",
    "show_guidance",
    "show_losses",
    "show_map",
    "show_maps",
    "show_pictures",
    "show_plan",
    "show_relations",
    "show_row",
    "show_sweep",
    "show_trajectory",
    "to_gif",
    "to_png",
    "upsample",
]
