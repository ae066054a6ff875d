"""Weights that are no numbers: what a damaged file, or a training that failed, makes of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from p2p_lab.models.denoiser import Denoiser


def first_not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a NaN or an infinite value; "" if there is none."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), "")


def refuse_damaged(model: Denoiser, made: str) -> None:
    """Refuse a model whose own weights are the reason that nothing came out.

    Args:
        model: The denoiser; every network that it holds is looked through.
        made: What there is none of, for the message.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    networks = {name: part for name, part in vars(model).items() if isinstance(part, nn.Module)}
    for part, network in networks.items():
        weight = first_not_finite(network.state_dict())
        if weight:
            raise ValueError(
                f"There is no {made}, for the model {model.name!r} cannot be used: its weights are "
                f"damaged ({part}.{weight} is not finite in {model.dtype}). Take another copy of "
                "it, or load it with dtype=torch.float32 if its file is whole."
            )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.device.type == "meta":
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has few operations
    return bool(torch.isfinite(wide).all())
