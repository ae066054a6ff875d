"""What a training run is: one frozen record a kind of model, and the sizes that ship."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from p2p_lab.scenes.splits import TRAINING
from p2p_lab.training.ranges import check_ranges


@dataclass(frozen=True)
class RunConfig:
    """What every run is made of, whatever it trains.

    Attributes:
        size: Name of the kind of run.
        world: Vocabulary of `p2p_lab.scenes` to draw from.
        picture_size: Side of the pictures in pixels.
        text_width, text_layers: The text encoder.
        length: Tokens of a prompt, padding included.
        vocabulary: Entries of the tokenizer.
        batch: Pictures a step over all processes.
        hours: Wall time of the whole run; the schedule follows the clock.
        pictures: Number of pictures of each stage; if set it replaces the clock.
        supervision: Weight of the loss that asks a word's map to cover its mask.
        object_weight: Extra weight of the loss inside objects.
        prompt_dropout: Share of captions left empty, for guidance.
        seed: Of parameters, noise and captions, and which scenes a cache holds.
    """

    size: str = "small"
    world: str = "small"
    picture_size: int = 64
    text_width: int = 128
    text_layers: int = 3
    length: int = 32
    vocabulary: int = 860
    batch: int = 16
    hours: float = 2.0
    pictures: int = 0
    learning_rate: float = 1e-3
    muon_factor: float = 1.5
    constant_until: float = 0.45
    ema: float = 0.999
    supervision: float = 0.05
    object_weight: float = 3.0
    prompt_dropout: float = 0.1
    seed: int = 0
    later: ClassVar[dict[str, Any]] = {}  # by name, the value with which a run hashes as before

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def scale(self) -> int:
        """Pixels of the picture to one position of what the first network denoises."""
        return 1

    def digest(self) -> str:
        """Return a short hash of all that must agree between a run and its resumption.

        The time to spend may change; a run can be made longer.
        """
        fields = dataclasses.asdict(self)
        for free in ("hours", "pictures", "decoder_pictures", "crop", "sharpening_share"):
            fields.pop(free, None)
        fields = {name: value for name, value in fields.items() if self.later.get(name) != value}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Everything that decides what a latent model learns.

    Attributes:
        encoder: Fixed principal components of patches ("patches"; "nested": those of the halved
            picture first), or learned with the decoder.
        decoder_world: Vocabulary of the scenes that the decoder learns on; empty: `world`.
        decoder_pictures: Number of pictures of the decoder's stage; 0: as `pictures`.
        crop: Side in pixels of the windows that the decoder learns on; 0: whole pictures.
        latent_noise: Deviation of the noise under the decoder while it learns; 0: the encoder's.
        detail_weight: Of the loss of the channels beyond a nested encoder's first eight.
        long_captions: Share of captions that say size, side and facing of each thing too.
        neutral_padding: Share of captions whose padding says nothing, as an empty prompt's does,
            so that the words themselves must be read.
        cached: Number of scenes whose latents are kept on disk and used again; 0: none. Runs of
            other seeds hold other scenes, so one that goes on from a trained model sees new ones.
        vae_factor: Of the learning rates while the autoencoder learns.
        vae_channels, unet_channels: Channels of each resolution level.
        latent_channels: Channels of the latents.
        unet_layers: Residual blocks a level.
        heads: Attention heads.
        autoencoder_share: Part of the time that the autoencoder gets.
        sharpening_share: Part of the time that the decoder's last level gets at the end; 0: no such
            stage.
        warm_start: Name or folder of a trained model of the same shape to go on from, its
            autoencoder kept as it is; empty: from nothing.
        prediction: What the U-Net predicts: the velocity, or the clean latents ("sample"). The
            loss weighs an error of the picture alike in both.
    """

    encoder: Literal["patches", "nested", "learned"] = "patches"
    decoder_world: str = ""
    decoder_pictures: int = 0
    crop: int = 0
    latent_noise: float = 0.0
    detail_weight: float = 0.0
    long_captions: float = 0.0
    neutral_padding: float = 0.0
    cached: int = 0
    vae_channels: tuple[int, ...] = (16, 48, 64)
    vae_factor: float = 3.0
    latent_channels: int = 8
    unet_channels: tuple[int, ...] = (64, 160)
    unet_layers: int = 1
    heads: int = 4
    autoencoder_share: float = 0.15
    sharpening_share: float = 0.0
    warm_start: str = ""
    prediction: Literal["v_prediction", "sample"] = "v_prediction"
    later = {
        "decoder_world": "",
        "latent_noise": 0.0,
        "detail_weight": 0.0,
        "long_captions": 0.0,
        "neutral_padding": 0.0,
        "cached": 0,
        "prediction": "v_prediction",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cached:  # the last scene that this seed's cache would hold
            TRAINING.seed((self.seed + 1) * self.cached - 1)

    @property
    def scale(self) -> int:
        """Pixels of the picture to one latent position, along one side."""
        return int(2 ** (len(self.vae_channels) - 1))


@dataclass(frozen=True)
class CascadeConfig(RunConfig):
    """Everything that decides what a cascade in pixel space learns.

    Attributes:
        base_size: Side in pixels of the pictures that the base stage draws.
        base_channels, super_channels: Channels of each resolution level of the two U-Nets.
        unet_layers: Residual blocks a level.
        head_width: Channels of one attention head.
        prediction: What the U-Nets predict: the velocity, or the noise (as in the paper), from
            which a picture that is nearly noise cannot be read well: its error is divided by √ᾱ.
        base_share: Part of the time that the base stage gets, the super stage the rest.
        noise_levels: The small picture under the super stage is noised to a level drawn from
            0 to here, of 1000.
    """

    size: str = "cascade"
    length: int = 77  # what diffusers pads every prompt of such a cascade to
    vocabulary: int = 400
    batch: int = 32
    hours: float = 1.4
    base_size: int = 32
    base_channels: tuple[int, ...] = (64, 96, 128)
    super_channels: tuple[int, ...] = (32, 48, 64, 96)
    unet_layers: int = 1
    head_width: int = 32
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    base_share: float = 0.65
    noise_levels: int = 400

    @property
    def scale(self) -> int:
        """Pixels of the picture to one pixel of the base stage, along one side."""
        return self.picture_size // self.base_size


SIZES: dict[str, TrainConfig] = {
    "small": TrainConfig(),
    "scenes-128": TrainConfig(
        size="scenes-128",
        picture_size=128,
        encoder="nested",
        vae_channels=(16, 32, 64, 128),
        latent_channels=32,
        decoder_world="full",
        crop=64,
        latent_noise=0.08,
        detail_weight=0.25,
        long_captions=0.5,
        neutral_padding=0.5,
        cached=32_000,
        sharpening_share=0.05,
        batch=32,
        hours=8.0,
        warm_start="scenes-128",
    ),
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
CASCADES: dict[str, CascadeConfig] = {"cascade": CascadeConfig()}
