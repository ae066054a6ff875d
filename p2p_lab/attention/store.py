"""What is recorded of a run: sums over its steps, and the maps in which words are looked up.

mean map of word w at a site:  (1/T) Σ_t (1/heads) Σ_heads Σ_{j ∈ tokens(w)} M_t[:, j]

Only conditional rows are recorded. Memory does not grow with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.attention.tape import AttentionTape
from p2p_lab.tokens import Prompt


@dataclass(eq=False)
class RunningMaps:
    """Add up a batch's maps over the steps, mean over heads, one tensor a site.

    Attributes:
        sums: By site name, (B, pixels, keys), float32 or wider.
        count: Number of steps added.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, name: str, mean: Tensor) -> None:
        """Add one step's probabilities at one site, averaged over heads, (B, pixels, keys)."""
        mean = mean.detach()
        self.sums[name] = self.sums[name].add_(mean) if name in self.sums else mean.clone()

    def copy(self) -> RunningMaps:
        """Return an independent copy of the sums so far."""
        return RunningMaps({name: total.clone() for name, total in self.sums.items()}, self.count)

    def of(self, picture: int) -> dict[str, Tensor]:
        """Return one picture's means, (pixels, keys) a site."""
        return {name: total[picture] / max(self.count, 1) for name, total in self.sums.items()}


@dataclass(eq=False)
class ControllerState:
    """What has been recorded up to a step, so that a later run can go on from there."""

    source: RunningMaps
    target: RunningMaps
    original: RunningMaps
    masks: list[Tensor]
    self_maps: RunningMaps = field(default_factory=RunningMaps)

    @property
    def nbytes(self) -> int:
        """Bytes that the sums and masks take."""
        running = (self.source, self.target, self.original)
        sums = sum(total.nbytes for maps in running for total in maps.sums.values())
        return sums + sum(mask.nbytes for mask in self.masks)

    def copy(self) -> ControllerState:
        """Return an independent copy."""
        return ControllerState(
            self.source.copy(),
            self.target.copy(),
            self.original.copy(),
            list(self.masks),
            self.self_maps.copy(),
        )


def nearest_size(sites: Sequence[Site], pixels: int = 256) -> list[Site]:
    """Choose the sites whose number of positions is nearest (as a ratio) to `pixels`."""
    best = min(sites, key=lambda s: (abs(math.log(s.pixels / pixels)), -s.pixels)).size
    return [s for s in sites if s.size == best]


def resize(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Upsample a map (h, w) bilinearly to `size` (H, W); None leaves it as it is."""
    if size is None or tuple(values.shape) == tuple(size):
        return values
    return F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


Which = Literal["edited", "original"]
Resolution = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class AttentionStore:
    """The mean maps of one run, in which words can be looked up.

    Attributes:
        prompt: The prompt whose tokens are the maps' columns.
        sites: All sites of the run, by name.
        means: Mean cross-attention a site, (pixels, L), as it made the picture: after the edit.
        originals: In an edited run, the target's own maps before they were edited; else empty.
        self_means: Mean self-attention a site, (pixels, pixels); may be empty.
        tape: The run's tape if it was kept: single steps and heads are computed from it.
        preferred: Names of the sites to average when none are asked for; empty for all of the
            resolution nearest to 16×16.
    """

    prompt: Prompt
    sites: Mapping[str, Site]
    means: Mapping[str, Tensor]
    originals: Mapping[str, Tensor] = field(default_factory=dict)
    self_means: Mapping[str, Tensor] = field(default_factory=dict)
    tape: AttentionTape | None = None
    preferred: tuple[str, ...] = ()

    def map(
        self,
        word: str,
        *,
        occurrence: int | None = None,
        resolution: Resolution | None = None,
        site: str | None = None,
        step: int | None = None,
        head: int | None = None,
        which: Which = "edited",
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return where the picture looked at a word or phrase.

        The value at a position is the share of its attention that the word's tokens got together.

        Args:
            word: A word or phrase of the prompt.
            occurrence: Which occurrence, from 0; None takes all.
            resolution: Average the sites of this size, an int for squares or (h, w).
            site: Take this site alone.
            step: Take this step alone (needs a tape); None is the mean over steps.
            head: Take this head alone (needs a tape); None is the mean over heads.
            which: In an edited run: the maps after the edit or the target's own before it.
            size: Upsample bilinearly to (H, W), such as the picture's size.

        Returns:
            A map (h, w), or (H, W) if `size` is given.

        Raises:
            AlignmentError: If the word is not in the prompt.
            ValueError: If what is asked for was not recorded.
        """
        tokens = self.prompt.tokens_of(word, occurrence)
        maps = self.token_maps(resolution=resolution, site=site, step=step, head=head, which=which)
        return resize(maps[tokens].sum(dim=0), size)

    def maps(
        self,
        *,
        special: bool = False,
        resolution: Resolution | None = None,
        site: str | None = None,
        step: int | None = None,
        head: int | None = None,
        which: Which = "edited",
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return the maps of all words, in the order of the prompt.

        Args:
            special: Add the start token, the end token and the padding after it.
            resolution: As in `map`.
            site: As in `map`.
            step: As in `map`.
            head: As in `map`.
            which: As in `map`.
            size: As in `map`.

        Returns:
            Maps by word; a word's second occurrence is named "word (2)", and so on.
        """
        maps = self.token_maps(resolution=resolution, site=site, step=step, head=head, which=which)
        found: dict[str, Tensor] = {}
        for name, tokens in self.prompt.named_tokens(special=special):
            label, n = name, 1
            while label in found:
                n += 1
                label = f"{name} ({n})"
            found[label] = resize(maps[tokens].sum(dim=0), size)
        return found

    def token_maps(
        self,
        *,
        resolution: Resolution | None = None,
        site: str | None = None,
        step: int | None = None,
        head: int | None = None,
        which: Which = "edited",
    ) -> Tensor:
        """Return the maps of all tokens, special ones and padding included, (L, h, w)."""
        chosen = self._choose(resolution, site, which)
        if step is None and head is None:
            source = self.originals if which == "original" and self.originals else self.means
            maps = [source[s.name] for s in chosen]
        else:
            maps = [self._from_tape(s, step, head)[:, _text(s, self.prompt)] for s in chosen]
        mean = torch.stack([m.float() for m in maps]).mean(dim=0)  # (pixels, L)
        return mean.T.reshape(-1, *chosen[0].size)  # (L, h, w)

    def self_map(self, site: str, *, step: int | None = None, head: int | None = None) -> Tensor:
        """Return the self-attention of a site, (pixels, pixels): row = who looks, column = where.

        Raises:
            ValueError: If it was not recorded.
        """
        if site not in self.sites or not self.sites[site].has_image:
            raise ValueError(
                f"{site!r} is no self-attention site. There are: {', '.join(self.self_sites)}."
            )
        if step is None and head is None and site in self.self_means:
            return self.self_means[site].float()
        where = self.sites[site]
        probs = self._from_tape(where, step, head)
        return probs[:, where.image_keys(probs.shape[-1])]

    @property
    def self_sites(self) -> list[str]:
        """List the names of the sites whose self-attention was recorded."""
        taped = {} if self.tape is None else self.tape.sites
        return [
            n for n, s in self.sites.items() if s.has_image and (n in self.self_means or n in taped)
        ]

    def principal_components(
        self, site: str | None = None, *, components: int = 3, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Show which positions attend alike: leading components of the self-attention's rows.

        With M the site's mean self-attention, centred over rows, M = U S Vᵀ; the picture is
        U S, each component scaled to [0, 1]. Three of them can be looked at as a colour picture.

        Args:
            site: A self-attention site; None takes the one nearest to 16×16, the last of them.
            components: How many.
            size: Upsample to (H, W).

        Returns:
            (h, w, components), each component in [0, 1].
        """
        if site is None:
            sites = [self.sites[name] for name in self.self_sites]
            if not sites:
                raise ValueError(_NO_TAPE.format(what="self-attention"))
            site = nearest_size(sites)[-1].name
        rows = self.self_map(site)
        u, s, _ = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
        parts = (u * s)[:, :components].T  # (components, pixels)
        # The sign of a component is free: its longer tail is the bright one (each sums to 0).
        parts = parts * torch.where(parts.pow(3).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        low, high = parts.amin(dim=1, keepdim=True), parts.amax(dim=1, keepdim=True)
        scaled = (parts - low) / (high - low).clamp_min(torch.finfo(parts.dtype).tiny)
        grid = scaled.reshape(-1, *self.sites[site].size)
        return torch.stack([resize(part, size) for part in grid], dim=-1)

    @property
    def resolutions(self) -> list[tuple[int, int]]:
        """List the sizes (h, w) at which words were recorded, largest first."""
        sizes = {self.sites[name].size for name in self.means}
        return sorted(sizes, key=lambda size: -size[0] * size[1])

    @property
    def nbytes(self) -> int:
        """Bytes that the mean maps take; the tape is counted apart."""
        groups = (self.means, self.originals, self.self_means)
        return sum(tensor.nbytes for group in groups for tensor in group.values())

    def _choose(self, resolution: Resolution | None, site: str | None, which: Which) -> list[Site]:
        if which not in ("edited", "original"):
            raise ValueError(f"which={which!r} is not known; use 'edited' or 'original'.")
        recorded = [self.sites[name] for name in self.means]
        if not recorded:
            raise ValueError("This run recorded no maps. Run it with record='store' or 'tape'.")
        if site is not None:
            if site not in self.means:
                names = ", ".join(self.means)
                raise ValueError(f"No words were recorded at {site!r}. Recorded sites: {names}.")
            return [self.sites[site]]
        if resolution is not None:
            return self._at(resolution, recorded)
        preferred = [s for s in recorded if s.name in self.preferred]
        return nearest_size(preferred or recorded)

    def _at(self, resolution: Resolution, recorded: Sequence[Site]) -> list[Site]:
        size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        found = [s for s in recorded if s.size == size]
        if not found:
            sizes = ", ".join(f"{h}×{w}" for h, w in self.resolutions)
            raise ValueError(f"No maps of {size[0]}×{size[1]} were recorded. Recorded: {sizes}.")
        return found

    def _from_tape(self, site: Site, step: int | None, head: int | None) -> Tensor:
        """Compute (pixels, keys) from the tape, mean over the steps and heads not named."""
        if self.tape is None or site.name not in self.tape.sites:
            raise ValueError(_NO_TAPE.format(what="single steps, heads and self-attention"))
        if step is not None and not 0 <= step < self.tape.steps:
            raise ValueError(f"There is no step {step}: steps go from 0 to {self.tape.steps - 1}.")
        if head is not None and not 0 <= head < site.heads:
            raise ValueError(
                f"{site.name} has no head {head}: heads go from 0 to {site.heads - 1}."
            )
        total: Tensor | None = None
        steps = range(self.tape.steps) if step is None else (step,)
        for one in steps:
            probs = self.tape.probs(one, site)
            probs = probs.mean(dim=0) if head is None else probs[head]
            total = probs if total is None else total + probs
        assert total is not None
        return (total / len(steps)).float()


_NO_TAPE = (
    "This run kept no {what}: they are computed from the tape. Run it again with record='tape'."
)


def _text(site: Site, prompt: Prompt) -> slice:
    return site.text_keys(len(prompt) + (site.pixels if site.has_image else 0))
