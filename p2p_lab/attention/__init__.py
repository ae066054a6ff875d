"""Reach, steer and record the softmax of any diffusers denoiser.

    with attached(model.module, controller, sites):
        controller.begin_step(step)
        noise = model.predict(latents, t, conditioning)

A `Site` addresses an attention layer, a `Controller` records and edits there during one sampling
call, an `AttentionStore` answers for the maps, an `AttentionTape` keeps what an edit of the same
source may take. The room knows plans and probabilities; it knows no text encoder and no sampler.
"""

from p2p_lab.attention.blending import blend_level, blend_mask, blend_sites
from p2p_lab.attention.controller import BatchSlices, Controller
from p2p_lab.attention.handlers import MapReader, Taking
from p2p_lab.attention.mixing import mix_site
from p2p_lab.attention.sharpening import sharp_map
from p2p_lab.attention.sites import Site, UnsupportedAttention, find_sites
from p2p_lab.attention.store import (
    AttentionStore,
    ControllerState,
    RunningMaps,
    nearest_size,
    resize,
)
from p2p_lab.attention.tap import AttentionCall, attached
from p2p_lab.attention.tape import AttentionTape, EditedProbs, QueryKey, taped_sites

__all__ = [
    "AttentionStore",
    "AttentionTape",
    "AttentionCall",
    "Controller",
    "ControllerState",
    "EditedProbs",
    "BatchSlices",
    "MapReader",
    "RunningMaps",
    "QueryKey",
    "Site",
    "Taking",
    "UnsupportedAttention",
    "attached",
    "blend_level",
    "blend_mask",
    "blend_sites",
    "find_sites",
    "mix_site",
    "nearest_size",
    "resize",
    "sharp_map",
    "taped_sites",
]
