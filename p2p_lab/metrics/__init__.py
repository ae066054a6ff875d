"""Numbers for edits and maps: arrays in, float out.

Pictures are PIL images or numpy arrays of (H, W, C) or (H, W), or torch tensors of (C, H, W) or
(H, W); integers count 0…255, floats 0…1. Masks are (H, W), True on the edited object (the
foreground); floats are cut at one half. Nothing here knows of models, prompts or runs.
"""

from p2p_lab.metrics.maps import mask_iou, pointing_accuracy, rank_correlation
from p2p_lab.metrics.pictures import (
    background_mse,
    background_psnr,
    background_ssim,
    foreground_mse,
    foreground_psnr,
    foreground_ssim,
    mse,
    psnr,
    ssim,
    ssim_map,
)
from p2p_lab.metrics.structure import EditSummary, edit_summary, structure_distance

__all__ = [
    "EditSummary",
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
    "ssim_map",
    "structure_distance",
]
