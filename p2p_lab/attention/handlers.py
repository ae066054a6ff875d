"""Other handlers of the attention than the controller: read with gradients, take other rows' parts.

    reader = MapReader(slice(0, 1))
    with attached(model.module, reader, sites):
        model.predict(latents, t, text)
    reader.maps["…attn2"].sum() → its gradient with respect to the latents

What the methods after Prompt-to-Prompt inject, the source beside the target in one batch:

    queries and keys    the source's map on the target's values (Prompt-to-Prompt, Plug-and-Play)
    keys and values     what the target's queries find in the source (MasaCtrl)

On a softmax over words and image (IF, SD3, Flux) only the image positions are taken, which is our
extension. This file knows no sampler.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.attention.tap import AttentionCall, AttentionHandler


@dataclass(eq=False)
class MapReader:
    """Collect how much each position looks at each token, in one forward pass.

    Attributes:
        rows: Which rows of the batch.
        pixels: Read sites with at most this many positions.
        maps: What was read: the mean over heads by site, (rows, pixels, L).
    """

    rows: slice
    pixels: int = 32 * 32
    maps: dict[str, Tensor] = field(default_factory=dict)

    def wants(self, site: Site) -> bool:
        """Return whether a site is read."""
        return site.has_text and site.pixels <= self.pixels

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Read, and compute the attention's output natively, (B, heads, Q, d)."""
        probs = call.query_key(self.rows, site.image_queries(call.query.shape[2])).probs()
        self.maps[site.name] = probs[..., site.text_keys(probs.shape[-1])].mean(dim=1)
        return call.native()


Part = Literal["query", "key", "value"]


@dataclass(eq=False)
class Taking:
    """Give rows of the batch parts of other rows' attention among image positions.

    Attributes:
        inner: What acts on the attention besides, such as a `Controller` that records.
        parts: What is taken.
        rows: From which row each row takes; rows that are not named keep their own.
        sites: Names of the sites at which it is taken.
    """

    inner: AttentionHandler
    parts: tuple[Part, ...]
    rows: Mapping[int, int]
    sites: Collection[str]

    def takes(self, site: Site) -> bool:
        """Return whether anything is taken at a site."""
        return bool(self.parts) and site.has_image and site.name in self.sites

    def wants(self, site: Site) -> bool:
        """Return whether anything happens at a site."""
        return self.takes(site) or self.inner.wants(site)

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the attention's output, (B, heads, Q, d), after taking."""
        if self.takes(site):
            call = take(site, call, self.parts, self.rows)
        return self.inner.apply(site, call) if self.inner.wants(site) else call.native()


def take(
    site: Site, call: AttentionCall, parts: Collection[Part], rows: Mapping[int, int]
) -> AttentionCall:
    """Return an attention call in which some rows have parts of other rows; a new one.

    Args:
        site: Where, which tells which queries and keys are image positions.
        call: The arguments of the attention.
        parts: What is taken.
        rows: From which row each row takes.
    """
    changed: dict[str, Any] = {}
    for part in parts:
        whole: Tensor = getattr(call, part)
        place = site.image_queries if part == "query" else site.image_keys
        image, new = place(whole.shape[2]), whole.clone()
        for row, other in rows.items():
            new[row, :, image] = whole[other, :, image]
        changed[part] = new
    return replace(call, **changed)


def late_sites(sites: Mapping[str, Site], share: float) -> list[str]:
    """Name the sites with image keys, less so large a first share of them in the order of use.

    A U-Net is used down, mid, up; a transformer from its first block to its last.
    """
    order = {"down": 0, "mid": 1, "up": 2}
    flat = all(site.place == "mid" for site in sites.values())
    names = [name for name, site in sites.items() if site.has_image]
    if not flat:
        names.sort(key=lambda name: order[sites[name].place])
    return names[round(share * len(names)) :]
