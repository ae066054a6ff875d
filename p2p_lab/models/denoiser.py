"""One small face for all denoisers.

A denoiser predicts from noisy latents z_t, a model time t and a text what the sampler needs to take
one step (the noise, or the velocity). Whatever differs between families - text encoders, pooled
embeddings, latent scaling - stays behind this face. It knows nothing of edits or of attention.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from p2p_lab.models.errors import ModelError

if TYPE_CHECKING:
    from p2p_lab.tokens import Prompt

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class Conditioning:
    """What the text gives to the denoiser, one row a prompt.

    Attributes:
        tokens: Text embeddings, (B, L, D): what cross-attention reads.
        pooled: One vector a prompt, (B, P), or None. SDXL has it.
        sizes: Picture sizes and crops, (B, 6), or None. SDXL has them; PixArt-α (B, 3).
        mask: Which tokens may be looked at, (B, L), or None for all. PixArt has it.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    mask: Tensor | None = None

    def expand(self, rows: int) -> Conditioning:
        """Repeat a single row `rows` times."""
        return self._each(lambda x: x.expand(rows, *x.shape[1:]))

    def with_tokens(self, tokens: Tensor) -> Conditioning:
        """Return the same conditioning with other text embeddings (B, L, D)."""
        return replace(self, tokens=tokens)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        others = (self.pooled, self.sizes, self.mask)
        return Conditioning(change(self.tokens), *(x if x is None else change(x) for x in others))

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """Put the rows of several conditionings below one another."""

        def below(name: str) -> Tensor | None:
            rows = [getattr(part, name) for part in parts]
            return None if any(row is None for row in rows) else torch.cat(rows)

        tokens = torch.cat([part.tokens for part in parts])
        return Conditioning(tokens, below("pooled"), below("sizes"), below("mask"))


@dataclass(frozen=True)
class Defaults:
    """The settings that a model works best with."""

    height: int
    width: int
    steps: int = 50
    guidance_scale: float = 7.5


@dataclass(frozen=True)
class ScheduleRules:
    """What a family's pipeline asks of a sampler's table beside its scheduler's settings.

    Attributes:
        pixels: Whether pictures are denoised, not latents: they lie in ±1 and may be clamped.
        patch: Latents that a token spans along each axis; a flow's shift counts tokens.
        even: Whether a flow's shares of noise fall evenly before they are shifted.
    """

    pixels: bool = False
    patch: int = 1
    even: bool = False


@dataclass(frozen=True)
class ModelCard:
    """What the package knows of a model beside its weights.

    Attributes:
        vocabulary: Words that the model was trained on; empty when unknown.
        map_sites: Names of the attention sites whose maps are best to look at; empty for all.
        raw: The card as stored, for `doctor` and for readers.
    """

    vocabulary: frozenset[str] = frozenset()
    map_sites: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)


class Denoiser(Protocol):
    """What sampling needs of a text-to-image model."""

    name: str
    module: nn.Module
    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    defaults: Defaults
    card: ModelCard
    lock: threading.RLock

    @property
    def prediction(self) -> Prediction:
        """What it predicts: noise, velocity, the clean latents, or a flow's velocity."""

    @property
    def schedule_rules(self) -> ScheduleRules:
        """What its family asks of a sampler's table."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""

    def prompt(self, text: str) -> Prompt:
        """Tokenize `text`; refuse it when it is too long."""

    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt for a picture of `size` (H, W): one row."""

    def encode_negative(self, text: str, size: tuple[int, int]) -> Conditioning:
        """Encode the negative prompt for a picture of `size` (H, W): one row."""

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of a picture of `size` (H, W)."""

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise (or velocity) in latents (B, C, h, w) at model time t."""

    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into pictures (B, 3, H, W) in [0, 1]."""

    def encode(self, images: Tensor) -> Tensor:
        """Turn pictures (B, 3, H, W) in [0, 1] into latents: the mean, without noise."""


def checked_model(value: Any, belongs: str = "") -> Denoiser:
    """Return a model as it is.

    Args:
        value: What stands in a model's place.
        belongs: Where else it may belong, as a sentence.

    Raises:
        ModelError: If it is something else, such as a model's name.
    """
    if hasattr(value, "predict"):
        return cast(Denoiser, value)
    text = f" ({value!r:.60})" if isinstance(value, str) else ""
    raise ModelError(
        f"model is a {type(value).__name__}{text}, not a model: `load` opens one, by its name, "
        f"from its folder or from a pipeline of diffusers. {belongs}".rstrip()
    )
