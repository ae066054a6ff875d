"""Build, train and save the bundled pipeline: `python -m p2p_lab.training --size small`.

Two stages on scenes drawn on the fly: the autoencoder, then the U-Net together with its
text encoder. Both stop at any time and go on from the last checkpoint. The room may know
scenes; nothing but the command line knows the room.
"""

from p2p_lab.training.build import Parts, build
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.export import save
from p2p_lab.training.loop import train

__all__ = ["Parts", "TrainConfig", "build", "save", "train"]
