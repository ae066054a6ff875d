"""Write a tiny pipeline as one checkpoint file, under Stable Diffusion 1.x's original names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(key: str, layers: int) -> str:
    """Translate a U-Net's parameter name; `layers` is layers_per_block."""
    stem, _, leaf = key.rpartition(".")
    if stem in ENDS:
        return f"{ENDS[stem]}.{leaf}"
    block, rest = key.split(".", 1)
    if block == "mid_block":
        kind, n, tail = rest.split(".", 2)
        return f"middle_block.{2 * int(n) if kind == 'resnets' else 1}.{inner(kind, tail)}"
    i, kind, n, tail = rest.split(".", 3)
    width, side = layers + 1, "input" if block == "down_blocks" else "output"
    if kind == "downsamplers":
        return f"input_blocks.{1 + int(i) * width + layers}.0.op.{leaf}"
    if kind == "upsamplers":
        return f"output_blocks.{int(i) * width + layers}.2.conv.{leaf}"
    place = int(i) * width + int(n) + (1 if side == "input" else 0)
    return f"{side}_blocks.{place}.{0 if kind == 'resnets' else 1}.{inner(kind, tail)}"


def inner(kind: str, tail: str) -> str:
    if kind != "resnets":
        return tail
    stem, _, leaf = tail.rpartition(".")
    return f"{RESNET[stem]}.{leaf}"


def vae_name(key: str, levels: int) -> str:
    """Translate an autoencoder's parameter name."""
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace(
        "mid_block.resnets.1", "mid.block_2"
    )
    for new, old in ATTENTION.items():
        key = key.replace(f"mid_block.attentions.0.{new}", f"mid.attn_1.{old}")
    for i in range(levels):
        key = key.replace(f"down_blocks.{i}.resnets", f"down.{i}.block")
        key = key.replace(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")
        key = key.replace(f"up_blocks.{i}.resnets", f"up.{levels - 1 - i}.block")
        key = key.replace(f"up_blocks.{i}.upsamplers.0", f"up.{levels - 1 - i}.upsample")
    return key


def save_single_file(model: Any, path: Path) -> Path:
    """Write a loaded tiny Stable Diffusion as one checkpoint file."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for key, value in model.module.state_dict().items():
        name = unet_name(key, model.module.config.layers_per_block)
        tensors[f"model.diffusion_model.{name}"] = value
    for key, value in model.vae.state_dict().items():
        name = vae_name(key, len(model.vae.config.block_out_channels))
        if "mid.attn_1" in name and "norm" not in name and value.ndim == 2:
            value = value[:, :, None, None]  # the original used 1×1 convolutions
        tensors[f"first_stage_model.{name}"] = value
    for key, value in model.text_encoder.state_dict().items():
        key = key.removeprefix("text_model.")
        tensors[f"cond_stage_model.transformer.text_model.{key}"] = value
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path
