"""Read the attention to words together with its graph, so that a loss on maps has a gradient.

    reader = MapReader(slice(0, 1))
    with attached(model.module, reader, sites):
        model.predict(latents, t, text)
    reader.maps["…attn2"].sum() → its gradient with respect to the latents

The output of the attention is the native kernel's: reading disturbs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.attention.tap import AttentionCall


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
