"""The smallest training run: what the tests of training train."""

from __future__ import annotations

import dataclasses

from p2p_lab.training.config import TrainConfig

TINY = dataclasses.replace(
    TrainConfig(),
    picture_size=32,
    encoder="learned",
    vae_channels=(8, 16, 16),
    latent_channels=4,
    unet_channels=(16, 32),
    text_width=32,
    text_layers=1,
    vocabulary=560,
    batch=4,
    pictures=24,
)
