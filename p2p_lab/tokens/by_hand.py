"""An alignment set by hand, link by link: to correct one that was found, or to break it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from p2p_lab.tokens.alignment import Alignment, check_alignment
from p2p_lab.tokens.prompt import AlignmentError


def align_by_hand(base: Alignment, links: Iterable[tuple[int, int]]) -> Alignment:
    """Return an alignment whose tokens are fed as the links say.

    Column j of P is the mean of the linked source columns; a target token without a link keeps its
    own attention. Padding stays as it was found.

    Args:
        base: What was found, as by `align_words` or `align_tokens`.
        links: Pairs (i, j): source token i feeds target token j, both before the padding.

    Raises:
        AlignmentError: If a link names a token that is not there.
    """
    check_alignment(base)
    rows, columns = base.source.end, base.target.end
    mapper, matched, gain = base.mapper.clone(), base.matched.clone(), base.gain.clone()
    mapper[:, :columns], matched[:columns], gain[:columns] = 0, False, 0
    for i, j in dict.fromkeys(links):
        if not (0 <= i < rows and 0 <= j < columns):
            raise AlignmentError(
                f"There is no link from token {i} to token {j}: the source has tokens 0 to "
                f"{rows - 1} before its padding, the target 0 to {columns - 1}."
            )
        mapper[i, j], matched[j], gain[j] = 1, True, 1
    sums = mapper[:, :columns].sum(dim=0)  # (columns,)
    mapper[:, :columns] /= torch.where(sums > 0, sums, 1)
    return replace(base, mapper=mapper, matched=matched, gain=gain)


def links_of(alignment: Alignment) -> list[tuple[int, int]]:
    """Return an alignment's links before the padding, as `align_by_hand` takes them."""
    check_alignment(alignment)
    source, target = alignment.source, alignment.target
    return [(i, j) for j in range(target.end) for i in alignment.partners(j) if i < source.end]
