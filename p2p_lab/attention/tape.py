"""Keep what a later edit may need of the source, step by step, so it need not be run again.

Instead of the source's probabilities M_t the tape keeps the queries and keys they come from,
M_t = softmax(q kᵀ/√d): several times smaller, exact, and for whole-map injection all that the
native kernel needs. Here we depart from the reference, which runs the source beside every edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2p_lab.attention.sites import Site


@dataclass(frozen=True)
class QueryKey:
    """Queries and keys: a softmax that has not been computed yet.

    Queries and keys take less memory than the probabilities they make, so this is also what the
    tape keeps.

    Attributes:
        query: (B, heads, Q, d).
        key: (B, heads, K, d).
        mask: Additive or boolean mask that broadcasts to (B, heads, Q, K), or None.
        scale: Usually 1/√d.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float

    def probs(self) -> Tensor:
        """Compute softmax(scale · q kᵀ + mask), (B, heads, Q, K), in float32 or wider."""
        wide = torch.promote_types(self.query.dtype, torch.float32)
        scores = (self.query.to(wide) * self.scale) @ self.key.to(wide).transpose(-1, -2)
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores = scores.masked_fill(~self.mask, float("-inf"))
        elif self.mask is not None:
            scores = scores + self.mask.to(wide)
        return scores.softmax(dim=-1)

    def to(self, device: torch.device) -> QueryKey:
        """Return the same on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return QueryKey(self.query.to(device), self.key.to(device), mask, self.scale)


@dataclass(frozen=True)
class EditedProbs:
    """Probabilities that were edited, which no queries and keys make any more.

    Attributes:
        values: (B, heads, Q, K).
    """

    values: Tensor

    def probs(self) -> Tensor:
        """Return the probabilities, (B, heads, Q, K), in float32 or wider."""
        return self.values.to(torch.promote_types(self.values.dtype, torch.float32))

    def to(self, device: torch.device) -> EditedProbs:
        """Return the same on a device."""
        return EditedProbs(self.values.to(device))


Entry = QueryKey | EditedProbs


@dataclass(eq=False)
class AttentionTape:
    """Keep one picture's attention, every step and site that an edit may take from.

    Attributes:
        model: Name of the model that made it.
        sites: The sites kept, by name.
        steps: Number of steps T of the run.
        home: Where entries are kept; None keeps them where they were computed.
        entries: By (step, site name), one picture each: queries and keys, or edited probabilities.
    """

    model: str
    sites: Mapping[str, Site]
    steps: int
    home: torch.device | None = None
    entries: dict[tuple[int, str], Entry] = field(default_factory=dict, repr=False)
    _text_keys: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)

    def put(self, step: int, site: Site, entry: Entry) -> None:
        """Copy one picture's entry (B = 1) for a step and site.

        Keys that come from the text alone are the same at every step and kept once.
        """
        if isinstance(entry, EditedProbs):
            self.entries[step, site.name] = EditedProbs(self._copy(entry.values))
            return
        if site.kind != "cross":
            key, mask = self._copy_keys(entry)
        elif site.name in self._text_keys:
            key, mask = self._text_keys[site.name]
        else:
            key, mask = self._text_keys[site.name] = self._copy_keys(entry)
        self.entries[step, site.name] = QueryKey(self._copy(entry.query), key, mask, entry.scale)

    def get(self, step: int, site: Site, device: torch.device | None = None) -> Entry:
        """Return what was kept for a step and site.

        Args:
            step: Which step, 0 … T−1.
            site: Which site.
            device: Where it is needed; None leaves it where it is kept.

        Raises:
            KeyError: If this site was not kept at this step.
        """
        entry = self.entries[step, site.name]
        return entry if device is None else entry.to(device)

    def probs(self, step: int, site: Site) -> Tensor:
        """Compute the source probabilities of a step and site, (heads, Q, K), float32 or wider."""
        return self.get(step, site).probs()[0]

    @property
    def nbytes(self) -> int:
        """Bytes that the tape holds, shared keys counted once."""
        tensors = {}
        for entry in self.entries.values():
            parts = (entry.values,) if isinstance(entry, EditedProbs) else (entry.query, entry.key)
            tensors.update({part.data_ptr(): part.nbytes for part in parts})
        return sum(tensors.values())

    @staticmethod
    def estimate(sites: Mapping[str, Site], steps: int, dtype: torch.dtype, length: int) -> int:
        """Return how many bytes a tape of these sites will take, before it is taken.

        Args:
            sites: The sites to keep.
            steps: Number of steps T.
            dtype: Precision of the model.
            length: Number of text tokens L.
        """
        numbers = 0
        for site in sites.values():
            text = length * site.channels if site.has_text else 0
            grid = site.pixels * site.channels
            once, each = (text, grid) if site.kind == "cross" else (0, 2 * grid + text)
            numbers += once + steps * each
        return numbers * torch.empty(0, dtype=dtype).element_size()

    def _copy(self, tensor: Tensor) -> Tensor:
        """Copy home, as it lies, to memory of its own: a view would keep the whole batch alive."""
        return tensor.detach().to(self.home or tensor.device, copy=True)

    def _copy_keys(self, entry: QueryKey) -> tuple[Tensor, Tensor | None]:
        return self._copy(entry.key), None if entry.mask is None else self._copy(entry.mask)


def taped_sites(sites: Mapping[str, Site], self_pixels: int) -> dict[str, Site]:
    """Choose the sites that a tape keeps: all with text, self-attention up to `self_pixels`."""
    return {n: s for n, s in sites.items() if s.has_text or s.pixels <= self_pixels}


def join(entries: Sequence[Entry]) -> Entry:
    """Put several pictures' entries of the same step and site in one batch."""
    first = entries[0]
    if len(entries) == 1:
        return first
    if all(isinstance(entry, QueryKey) for entry in entries) and isinstance(first, QueryKey):
        scores = [entry for entry in entries if isinstance(entry, QueryKey)]
        mask = (
            None
            if first.mask is None
            else torch.cat([s.mask for s in scores if s.mask is not None])
        )
        query, key = torch.cat([s.query for s in scores]), torch.cat([s.key for s in scores])
        return QueryKey(query, key, mask, first.scale)
    return EditedProbs(torch.cat([entry.probs() for entry in entries]))


def one(entry: Entry, picture: int) -> Entry:
    """Take one picture's part (B = 1) of a batch's entry: `join` undone."""
    row = slice(picture, picture + 1)
    if isinstance(entry, EditedProbs):
        return EditedProbs(entry.values[row])
    mask = None if entry.mask is None else entry.mask[row]
    return QueryKey(entry.query[row], entry.key[row], mask, entry.scale)
