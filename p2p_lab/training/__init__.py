"""Build, train and save pipelines: `python -m p2p_lab.training --size small|full|cascade`.

Stages on scenes drawn on the fly: for the latent model the autoencoder, the U-Net with its text
encoder, and at the end the decoder's last level against a discriminator; for the cascade the base
stage with its text encoder, then super-resolution. All stop at any time and go on from the last
checkpoint. The room may know scenes; nothing but the command line knows the room.
"""

from p2p_lab.training.build import Parts, build
from p2p_lab.training.cascade_build import CascadeParts, build_cascade
from p2p_lab.training.cascade_export import save_cascade
from p2p_lab.training.config import CascadeConfig, TrainConfig
from p2p_lab.training.export import save
from p2p_lab.training.loop import train

__all__ = [
    "CascadeConfig",
    "CascadeParts",
    "Parts",
    "TrainConfig",
    "build",
    "build_cascade",
    "save",
    "save_cascade",
    "train",
]
