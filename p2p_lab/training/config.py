"""What a training run is: one frozen record, and the two sizes that ship."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns.

    Attributes:
        world: vocabulary of `p2p_lab.scenes` to draw from.
        picture_size: side of the pictures in pixels.
        encoder: fixed principal components of patches, or learned with the decoder.
        vae_factor: of the learning rates while the autoencoder learns.
        vae_channels, unet_channels: channels of each resolution level.
        latent_channels: channels of the latents.
        unet_layers: residual blocks a level.
        text_width, text_layers: the text encoder.
        length: tokens of a prompt, padding included.
        batch: pictures a step over all processes.
        hours: wall time of the whole run; the schedule follows the clock.
        pictures: number of pictures of each stage; if set it replaces the clock.
        autoencoder_share: part of the time that the autoencoder gets.
        supervision: weight of the loss that asks a word's map to cover its mask.
        object_weight: extra weight of the loss inside objects.
        seed: of parameters, scenes and noise.
        warm_start: name or folder of a trained model of the same shape to go on from, its autoencoder
            kept as it is; empty: from nothing.
    """

    size: str = "small"
    world: str = "small"
    picture_size: int = 64
    encoder: Literal["patches", "learned"] = "patches"
    vae_channels: tuple[int, ...] = (16, 48, 64)
    vae_factor: float = 3.0
    latent_channels: int = 8
    unet_channels: tuple[int, ...] = (64, 160)
    unet_layers: int = 1
    heads: int = 4
    text_width: int = 128
    text_layers: int = 3
    length: int = 32
    vocabulary: int = 600
    batch: int = 16
    hours: float = 2.0
    pictures: int = 0
    autoencoder_share: float = 0.15
    learning_rate: float = 1e-3
    muon_factor: float = 1.5
    constant_until: float = 0.45
    ema: float = 0.999
    supervision: float = 0.05
    object_weight: float = 3.0
    prompt_dropout: float = 0.1
    seed: int = 0
    warm_start: str = ""

    @property
    def scale(self) -> int:
        """Pixels of the picture to one latent position, along one side."""
        return int(2 ** (len(self.vae_channels) - 1))

    def digest(self) -> str:
        """Return a short hash of all that must agree between a run and its resumption.

        The time to spend may change; a run can be made longer.
        """
        fields = dataclasses.asdict(self)
        for free in ("hours", "pictures"):
            fields.pop(free)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


SIZES: dict[str, TrainConfig] = {
    "small": TrainConfig(),
    "full": TrainConfig(
        size="full",
        world="full",
        picture_size=128,
        encoder="learned",
        vae_channels=(32, 64, 96, 128),
        unet_channels=(96, 224),
        unet_layers=2,
        text_width=192,
        text_layers=4,
        batch=256,
        hours=0.4,
    ),
}
