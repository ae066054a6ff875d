"""Prompt-to-Prompt image editing with cross-attention control, to look at, change and measure.

The public names of every room can be imported from here. They are loaded when first used, so
that `import p2p_lab` takes no time and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "tokens": ("Alignment", "AlignmentError", "Prompt", "align_tokens", "align_words"),
    "edits": (
        "BlendPlan",
        "EditPlan",
        "LocalBlend",
        "Move",
        "Refine",
        "Replace",
        "Reweight",
        "compile_edits",
        "default_edits",
        "mix_cross",
    ),
    "attention": (
        "AttentionStore",
        "AttentionTape",
        "Controller",
        "Site",
        "UnsupportedAttention",
        "attached",
    ),
    "models": ("Denoiser", "list_models", "load"),
    "sampling": ("Run", "Trajectory", "animate", "ddim_step", "edit", "generate"),
    "inversion": ("invert",),
    "metrics": (
        "background_mse",
        "background_psnr",
        "background_ssim",
        "edit_summary",
        "foreground_mse",
        "foreground_psnr",
        "foreground_ssim",
        "mask_iou",
        "mse",
        "pointing_accuracy",
        "psnr",
        "rank_correlation",
        "ssim",
        "structure_distance",
    ),
    "figures": (
        "overlay",
        "show_alignment",
        "show_blend",
        "show_edit",
        "show_frames",
        "show_map",
        "show_maps",
        "show_pictures",
        "show_plan",
        "show_sweep",
        "show_trajectory",
        "to_gif",
    ),
    "widgets": ("AttentionExplorer", "EditPanel", "InversionPanel"),
    "scenes": ("Scene", "caption", "render", "sample_scene"),
    "judge": ("Judge", "load_judge"),
    "training": (),  # build, train and save say too little without their room's name
    "checks": ("check",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(("__version__", *_HOME))  # noqa: PLE0605 (the table above is the list)


def __getattr__(name: str) -> Any:
    """Import the room that holds a public name, or the room itself, on first use."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names and the rooms."""
    return sorted([*__all__, *_ROOMS])
