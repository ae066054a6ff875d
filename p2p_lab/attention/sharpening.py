"""Sharper maps of words: finer sites, self-attention, and the picture's own edges.

    m ← A^p m,   A^p[i, j] = A[i, j]^p / Σ_j A[i, j]^p            (rounds times)
    H(x) = Σ_y w(x, y) H(y) / Σ_y w(x, y),   w = exp(−|I(x) − I(y)|² / 2σ²)

The recorded self-attention A says which positions belong together, so a map multiplied by it
spreads over the whole object and leaves what is not of it (p makes A more decided). The second
line enlarges along the edges of the picture I (the joint bilateral filter): the map's grid is
coarse, the picture is not. Both are our additions to the method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.attention.store import AttentionStore

REACH, TURNS = 4, 4  # half the side of the filter's window in pixels; how often it is applied


def sharp_map(
    store: AttentionStore,
    word: str,
    *,
    occurrence: int | None = None,
    rounds: int = 2,
    power: float = 3.0,
    late: float = 0.5,
    image: Tensor | None = None,
    spread: float = 0.07,
) -> Tensor:
    """Return where the picture looked at a word, sharper than `store.map`.

    Args:
        store: The maps of a run; with its tape the steps and the self-attention are chosen here,
            without one the means that were recorded are taken.
        word: A word or phrase of the prompt.
        occurrence: Which occurrence, from 0; None takes all.
        rounds: How often the map is multiplied by the self-attention; 0 leaves that out.
        power: p, how decided the self-attention is made; 1 takes it as it is.
        late: Only the last steps of this share of the schedule count (needs a tape).
        image: The picture (3, H, W) in [0, 1] to enlarge along; None leaves the map on its grid.
        spread: σ, how different two colours may be and still belong together.

    Returns:
        (H, W) with a picture, else (h, w). Values are weighted means of the map's own.

    Raises:
        AlignmentError: If the word is not in the prompt.
        ValueError: If a setting makes no sense, or there is no self-attention to multiply by.
    """
    _check(rounds, power, late, spread)
    tokens = store.prompt.tokens_of(word, occurrence)
    sites = _finest(store)
    steps = _late(store, late)
    heat = torch.stack([_token_map(store, site, tokens, steps) for site in sites]).mean(0)
    if rounds:
        affinity = _self_attention(store, sites[0].size, steps)
        heat = propagate(heat, affinity, rounds=rounds, power=power)
    return heat if image is None else enlarge_along(heat, image, spread=spread)


def propagate(heat: Tensor, affinity: Tensor, *, rounds: int, power: float = 1.0) -> Tensor:
    """Multiply a map by the self-attention some times, as a geometric mean with itself.

    Args:
        heat: (h, w), not negative.
        affinity: (pixels, pixels), row = who looks, column = where; rows need not sum to 1.
        rounds: How often.
        power: Exponent of the self-attention before its rows are brought to sum 1 again.

    Returns:
        (h, w).
    """
    decided = affinity**power
    decided = decided / decided.sum(dim=1, keepdim=True)
    first = heat.flatten()
    values = first
    for _ in range(rounds):
        values = (first * (decided @ values)).clamp_min(0).sqrt()
    return values.reshape(heat.shape)


def enlarge_along(heat: Tensor, image: Tensor, *, spread: float) -> Tensor:
    """Enlarge a map (h, w) to the size of a picture (3, H, W), along the picture's edges."""
    size = (image.shape[-2], image.shape[-1])
    large = F.interpolate(heat[None, None], size=size, mode="bilinear")
    near = _windows(image[None].to(heat))  # (3, window, H · W)
    unlike = (near - image.to(heat).reshape(image.shape[0], 1, -1)).square().sum(dim=0)
    weights = torch.exp(-unlike / (2 * spread**2))  # (window, H · W)
    weights = weights / weights.sum(dim=0)
    for _ in range(TURNS):
        large = (_windows(large)[0] * weights).sum(dim=0).reshape(1, 1, *size)
    return large[0, 0]


def _windows(values: Tensor) -> Tensor:
    """Return what lies around each pixel of (1, C, H, W), (C, window, H · W)."""
    padded = F.pad(values, (REACH,) * 4, mode="replicate")
    side = 2 * REACH + 1
    return F.unfold(padded, side).reshape(values.shape[1], side * side, -1)


def _finest(store: AttentionStore) -> list[Site]:
    """Choose the recorded sites with the most positions, those of the decoder if there are any."""
    sites = [store.sites[name] for name in store.means]
    if not sites:
        raise ValueError("This run recorded no maps. Run it with record='store' or 'tape'.")
    most = max(site.pixels for site in sites)
    finest = [site for site in sites if site.pixels == most]
    return [site for site in finest if site.place == "up"] or finest


def _late(store: AttentionStore, share: float) -> list[int | None]:
    """Return the last steps that count; [None] is the recorded mean over all of them."""
    if store.tape is None:
        return [None]
    total = store.tape.steps
    return list(range(total - max(1, round(share * total)), total))


def _token_map(
    store: AttentionStore, site: Site, tokens: list[int], steps: list[int | None]
) -> Tensor:
    maps = [store.token_maps(site=site.name, step=step)[tokens].sum(dim=0) for step in steps]
    return torch.stack(maps).mean(dim=0)  # (h, w)


def _self_attention(
    store: AttentionStore, size: tuple[int, int], steps: list[int | None]
) -> Tensor:
    """Return the mean self-attention of the sites of a size, (pixels, pixels)."""
    alike = [name for name in store.self_sites if store.sites[name].size == size]
    names = [name for name in alike if store.sites[name].place == "up"] or alike
    if not names:
        raise ValueError(
            f"No self-attention of {size[0]}×{size[1]} was kept. Run with record='tape', or "
            "leave it out with rounds=0."
        )
    maps = [store.self_map(name, step=step) for name in names for step in steps]
    return torch.stack(maps).mean(dim=0)


def _check(rounds: int, power: float, late: float, spread: float) -> None:
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ValueError(f"rounds is a whole number from 0, got {rounds!r}.")
    if not (power > 0 and 0 < late <= 1 and spread > 0):
        raise ValueError(
            f"power and spread are above 0 and late is in (0, 1]; got power={power!r}, "
            f"late={late!r}, spread={spread!r}."
        )
