"""The addresses of a denoiser's attention layers, and how their keys are laid out.

Each family writes its softmax over other keys (T text tokens, I image positions):

    U-Net (SD, SDXL, LDM), PixArt     cross [T], self [I]
    IF, added keys                    [T | I], one softmax over both
    SD3                               [I | T], queries too
    Flux                              [T | I], queries too

The image-to-text block is what the method calls cross-attention, image-to-image self-attention. On
joint attention (SD3, Flux) editing these blocks is our extension of the paper. Heights and widths
are told from the latents, never guessed from a square root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

Kind = Literal["cross", "self", "joint"]
Place = Literal["down", "mid", "up"]
Layout = Literal["T", "I", "T|I", "I|T"]


class UnsupportedAttention(ValueError):
    """A model's attention cannot be recorded or edited as it is; the message has the remedy."""


@dataclass(frozen=True)
class Site:
    """Address one attention layer.

    Attributes:
        name: The layer's name in its module.
        kind: "cross" (keys are text), "self" (keys are image) or "joint" (one softmax over both).
        size: Height and width (h, w) of its grid of image positions.
        heads: Number of heads.
        place: Where it lies in a U-Net; "mid" in transformers.
        keys: Order of text T and image I positions among the keys.
        queries: The same for the queries; "I" if only image positions ask.
        channels: Width of a query over all heads, for memory estimates.
    """

    name: str
    kind: Kind
    size: tuple[int, int]
    heads: int
    place: Place
    keys: Layout
    queries: Layout = "I"
    channels: int = 0

    @property
    def pixels(self) -> int:
        """Number of image positions, h · w."""
        return self.size[0] * self.size[1]

    @property
    def has_text(self) -> bool:
        """Whether words can be looked up here."""
        return "T" in self.keys

    @property
    def has_image(self) -> bool:
        """Whether image positions attend to each other here."""
        return "I" in self.keys

    def image_queries(self, count: int) -> slice:
        """Return where the image positions lie among `count` queries."""
        return _image(self.queries, self.pixels, count)

    def image_keys(self, count: int) -> slice:
        """Return where the image positions lie among `count` keys."""
        return _image(self.keys, self.pixels, count)

    def text_keys(self, count: int) -> slice:
        """Return where the text tokens lie among `count` keys."""
        return {
            "T": slice(0, count),
            "I": slice(0, 0),
            "T|I": slice(0, count - self.pixels),
            "I|T": slice(self.pixels, count),
        }[self.keys]


def _image(layout: Layout, pixels: int, count: int) -> slice:
    if layout == "T":
        return slice(0, 0)
    return slice(count - pixels, count) if layout == "T|I" else slice(0, pixels)


def find_sites(module: nn.Module, latent_size: tuple[int, int]) -> dict[str, Site]:
    """List the attention layers of a denoiser for latents of `latent_size`.

    Args:
        module: A U-Net or transformer of diffusers.
        latent_size: Height and width (h, w) of the latents.

    Returns:
        Sites by name, in the order of the module.

    Raises:
        UnsupportedAttention: If the kind of module is not in the family table.
    """
    family = _FAMILIES.get(type(module).__name__)
    if family is None:
        raise UnsupportedAttention(
            f"The attention layout of a {type(module).__name__} is not known. "
            f"Known: {', '.join(_FAMILIES)}."
        )
    # What module.attn_processors lists, without asking every layer for an attribute it lacks.
    names = [n for n, part in module.named_modules() if hasattr(type(part), "get_processor")]
    return {name: family(module, name, latent_size) for name in names}


def _unet_site(module: Any, name: str, latent_size: tuple[int, int]) -> Site:
    attention = module.get_submodule(name)
    place, level = _unet_level(name, len(module.config.down_block_types))
    added = getattr(attention, "added_kv_proj_dim", None) is not None
    if added and not attention.only_cross_attention:
        kind, keys = "joint", "T|I"
    elif added or attention.is_cross_attention:
        kind, keys = "cross", "T"
    else:
        kind, keys = "self", "I"
    size = (_halve(latent_size[0], level), _halve(latent_size[1], level))
    return Site(name, kind, size, attention.heads, place, keys, "I", _width(attention))  # type: ignore[arg-type]


def _unet_level(name: str, blocks: int) -> tuple[Place, int]:
    """Return where a layer lies and how often its input was halved, from its name."""
    match = re.match(r"(down|up)_blocks\.(\d+)\.", name)
    if match is None:
        return "mid", blocks - 1
    i = int(match[2])
    return ("down", i) if match[1] == "down" else ("up", blocks - 1 - i)


def _halve(n: int, times: int) -> int:
    """Halve `times` times, rounding up as a padded convolution of stride 2 does."""
    for _ in range(times):
        n = (n + 1) // 2
    return n


def _pixart_site(module: Any, name: str, latent_size: tuple[int, int]) -> Site:
    attention, size = module.get_submodule(name), _patches(module, latent_size)
    kind, keys = ("cross", "T") if attention.is_cross_attention else ("self", "I")
    return Site(name, kind, size, attention.heads, "mid", keys, "I", _width(attention))  # type: ignore[arg-type]


def _sd3_site(module: Any, name: str, latent_size: tuple[int, int]) -> Site:
    attention, size = module.get_submodule(name), _patches(module, latent_size)
    if name.endswith(".attn2"):
        return Site(name, "self", size, attention.heads, "mid", "I", "I", _width(attention))
    return Site(name, "joint", size, attention.heads, "mid", "I|T", "I|T", _width(attention))


def _flux_site(module: Any, name: str, latent_size: tuple[int, int]) -> Site:
    attention = module.get_submodule(name)
    size = (latent_size[0] // 2, latent_size[1] // 2)  # Flux packs 2×2 latents in one token
    return Site(name, "joint", size, attention.heads, "mid", "T|I", "T|I", _width(attention))


def _patches(module: Any, latent_size: tuple[int, int]) -> tuple[int, int]:
    patch = module.config.patch_size
    return latent_size[0] // patch, latent_size[1] // patch


def _width(attention: Any) -> int:
    width: int = attention.to_q.out_features
    return width


_FAMILIES = {
    "UNet2DConditionModel": _unet_site,
    "PixArtTransformer2DModel": _pixart_site,
    "SD3Transformer2DModel": _sd3_site,
    "FluxTransformer2DModel": _flux_site,
}
