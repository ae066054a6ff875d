"""What a U-Net's settings may ask for that this package does not give it: refused by name.

diffusers' class also makes networks for other tasks (inpainting, upscaling, class labels, poses),
which are told more than a time and a text. They are found here, when the model is opened, and not
by an error from inside the first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from p2p_lab.models.errors import ModelError

_TASKS = {
    1: "a depth map (depth-to-image)",
    3: "a small picture (upscaling)",
    4: "another picture's latents (InstructPix2Pix)",
    5: "a masked picture and its mask (inpainting)",
}


def check_unet(
    config: Any, where: str, *, channels: int, width: int, added: str | None = None
) -> None:
    """Refuse a U-Net that must be told more than latents, a time and a text.

    Args:
        config: The U-Net's settings.
        where: What to call the model in the error.
        channels: Number of latent channels of its autoencoder.
        width: Width of its text embeddings.
        added: What its family adds to the time: "text_time" for SDXL.

    Raises:
        ModelError: If it is one.
    """
    wrong = next(_unsupported(config, channels, width, added), None)
    if wrong is not None:
        raise ModelError(f"{where}: {wrong}")


def _unsupported(config: Any, channels: int, width: int, added: str | None) -> Iterator[str]:
    extra = config.in_channels - channels
    if extra:
        task = _TASKS.get(extra, "something that this package does not give it")
        yield (
            f"the U-Net takes {config.in_channels} channels and the autoencoder makes {channels}, "
            f"so it is also given {task}. Take the text-to-image model of the same family."
        )
    if config.out_channels != config.in_channels:
        yield (
            f"the U-Net returns {config.out_channels} channels for {config.in_channels}: a learned "
            "variance, which the samplers here do not use in latent space."
        )
    if config.time_cond_proj_dim is not None:
        yield (
            "the U-Net was distilled to be told the guidance scale as a number "
            f"(time_cond_proj_dim={config.time_cond_proj_dim}, as LCM models are), which is not "
            "supported. Take the model that it was distilled from, or one distilled as a LoRA."
        )
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        yield (
            "the U-Net is told a class label beside the text (class_embed_type="
            f"{config.class_embed_type!r}, num_class_embeds={config.num_class_embeds}), which is "
            "not supported."
        )
    if config.addition_embed_type != added or config.encoder_hid_dim_type is not None:
        yield (
            f"the U-Net is told more than the text (addition_embed_type="
            f"{config.addition_embed_type!r}, encoder_hid_dim_type="
            f"{config.encoder_hid_dim_type!r}), as with an image adapter, which is not supported."
        )
    if config.dual_cross_attention or config.attention_type != "default":
        yield (
            "the U-Net has a second cross-attention (dual_cross_attention="
            f"{config.dual_cross_attention}, attention_type={config.attention_type!r}), so it is "
            "not clear which one an edit means."
        )
    wanted = config.cross_attention_dim
    if not isinstance(wanted, int) and len(set(wanted)) == 1:
        wanted = wanted[0]
    if wanted != width:
        yield (
            f"the U-Net reads text embeddings of width {wanted} and the text encoder makes "
            f"{width}, so the two are parts of different models."
        )
