"""The controller: one sampling call's eyes and hands on the attention.

    M̂_t[:, j] = g_src[t, j] · (M_src,t P)[:, j] + g_tgt[t, j] · M_tgt,t[:, j]

At every site it records, and where the plan says so replaces the target's probabilities. The
native kernel makes the output of all rows that the plan does not touch; the probabilities are
computed beside it, for conditional rows only, so observing does not disturb. The sampler tells it
the step; nothing is inferred by counting calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_lab.attention.blending import blend_mask, blend_sites
from p2p_lab.attention.mixing import (
    check_length,
    injects,
    mix_site,
    mix_values,
    mixes,
    moved,
    share_image,
    shares,
)
from p2p_lab.attention.sites import Site
from p2p_lab.attention.store import AttentionStore, ControllerState, RunningMaps
from p2p_lab.attention.tap import AttentionCall
from p2p_lab.attention.tape import AttentionTape, EditedProbs, Entry, QueryKey, join, one
from p2p_lab.edits import EditPlan, mix_cross
from p2p_lab.tokens import Prompt

SELF_MAP_PIXELS = 16 * 16


@dataclass(frozen=True)
class BatchSlices:
    """Which rows of the batch are whose; unconditional rows are named by neither.

    Attributes:
        source: The source pictures' conditional rows, or None if they are not in the batch.
        target: The edited pictures' conditional rows, or None.
    """

    source: slice | None = None
    target: slice | None = None


class Controller:
    """Record and steer the attention during one sampling call.

    Args:
        sites: The denoiser's sites, from `find_sites`.
        rows: Which rows of the batch are source and target.
        plan: The compiled edit; None changes nothing.
        tapes: One tape a picture to read the source from, if it is not in the batch.
        keep: One empty tape a picture to write, of the target if there is one, else the source.
        record: Whether to add up mean cross-attention maps.
        record_self: Whether to add up mean self-attention of the source, at sites of at most
            16×16 positions.
        map_pixels: Record maps of sites with at most this many positions.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        rows: BatchSlices,
        *,
        plan: EditPlan | None = None,
        tapes: Sequence[AttentionTape] = (),
        keep: Sequence[AttentionTape] = (),
        record: bool = True,
        record_self: bool = False,
        map_pixels: int = 32 * 32,
    ) -> None:
        self.sites, self.rows, self.record, self.record_self = sites, rows, record, record_self
        self.plan = None if plan is None or plan.is_identity else plan
        self.tapes, self.keep, self.map_pixels = tapes, keep, map_pixels
        self.step = -1
        self.state = ControllerState(RunningMaps(), RunningMaps(), RunningMaps(), [])
        blends = self.plan is not None and self.plan.blend is not None
        self._blend_sites = blend_sites(sites) if blends else []
        self._blend_names = {site.name for site in self._blend_sites}

    def begin_step(self, step: int) -> None:
        """Set the current step, 0 … T−1."""
        self.step = step

    def wants(self, site: Site) -> bool:
        """Return whether anything happens at this site in this step; if not, it runs natively."""
        seen = self._records(site) or self._records_self(site)
        edited = self._mixes(site) or self._injects(site)
        return seen or edited or (bool(self.keep) and site.name in self.keep[0].sites)

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the attention's output, (B, heads, Q, d): native but for edited rows."""
        if site.kind == "self":
            return self._apply_self(site, call)
        queries = site.image_queries(call.query.shape[2])
        if self.rows.target is not None:
            thin = site.kind == "cross" and not self.keep and self._mixes(site)
            edited = self._apply_mix if thin else self._apply_edit
            return edited(site, call, queries, self.rows.target)
        if self.rows.source is not None:
            query_key = call.query_key(self.rows.source, queries)
            if self._records(site) or self._records_self(site):
                self.attend(site, None, query_key.probs())
            self._keep(site, query_key)
        return call.native()

    def attend(self, site: Site, target: Tensor | None, source: Tensor | None) -> Tensor:
        """Record, then mix.

        Args:
            site: Where.
            target: The target's own probabilities, (B, heads, pixels, K), or None.
            source: The source's, or None.

        Returns:
            The target's probabilities after the edit: a new tensor, or `target` itself where the
            plan changes nothing. Without a target the source's are returned unchanged.
        """
        if source is not None and (target is None or site.name in self._blend_names):
            self._add(self.state.source, site, source)
        if target is None:
            assert source is not None
            if self._records_self(site):
                self._add_self(site, source)
            return source
        edited = target
        if self.plan is not None:
            edited = mix_site(target, source, site, self.plan, self.step)
        mean = self._add(self.state.target, site, edited)
        if self.plan is not None and self.record:
            self._add(self.state.original, site, target, mean if edited is target else None)
        return edited

    def end_step(self, latents: Tensor, source_latents: Tensor | None) -> Tensor:
        """Close the step: count it, and keep the picture outside the blend's mask as it was.

        Args:
            latents: The target's new latents (B, C, h, w), or the source's in a run without edit.
            source_latents: The source's new latents (B, C, h, w).

        Returns:
            z + mask · (z* − z) where the plan blends in this step, else `latents` itself.
        """
        state = self.state
        for maps in (state.source, state.target, state.original, state.self_maps):
            maps.count += 1  # not the step number: an inversion may have skipped steps
        plan = self.plan
        if plan is None or plan.blend is None or source_latents is None:
            return latents
        if not plan.blends(self.step):
            self.state.masks.append(torch.ones_like(latents[:, 0]))
            return latents
        mask = self._mask(latents)
        self.state.masks.append(mask[:, 0])
        return source_latents + mask * (latents - source_latents)

    def stores(self, prompt: Prompt, preferred: tuple[str, ...] = ()) -> list[AttentionStore]:
        """Freeze what was recorded, one store a picture.

        Args:
            prompt: The prompt of the recorded rows: the target's, or the source's in a plain run.
            preferred: Names of the sites whose maps are shown when none are asked for.
        """
        rows = self.rows.target or self.rows.source
        assert rows is not None
        maps = self.state.source if self.rows.target is None else self.state.target
        return [
            AttentionStore(
                prompt=prompt,
                sites=self.sites,
                means=maps.of(b),
                originals=self.state.original.of(b),
                self_means=self.state.self_maps.of(b),
                tape=self.keep[b] if self.keep else None,
                preferred=preferred,
            )
            for b in range(rows.stop - rows.start)
        ]

    def _mask(self, latents: Tensor) -> Tensor:
        plan = self.plan
        assert plan is not None and plan.blend is not None
        names = [site.name for site in self._blend_sites]
        mask = blend_mask(
            [self.state.source.sums[name] for name in names],
            [self.state.target.sums[name] for name in names],
            plan.blend,
            self._blend_sites[0].size,
            (latents.shape[-2], latents.shape[-1]),
        )
        return mask.to(latents.dtype)

    def _records(self, site: Site) -> bool:
        shown = self.record and site.pixels <= self.map_pixels
        return site.has_text and (shown or site.name in self._blend_names)

    def _records_self(self, site: Site) -> bool:
        wanted = self.record_self and self.rows.target is None
        return wanted and site.has_image and site.pixels <= SELF_MAP_PIXELS

    def _mixes(self, site: Site) -> bool:
        return self.plan is not None and mixes(self.plan, site, self.step)

    def _injects(self, site: Site) -> bool:
        return self.plan is not None and injects(self.plan, site, self.step)

    def _apply_self(self, site: Site, call: AttentionCall) -> Tensor:
        """Inject a whole self-attention map, softmax(q_src k_srcᵀ/√d) v_tgt, natively."""
        rows = self.rows.source if self.rows.target is None else self.rows.target
        if rows is None:
            return call.native()
        everything = slice(None)
        if not self._injects(site):
            query_key = call.query_key(rows, everything)
            self._keep(site, query_key)
            if self._records_self(site):
                self._add_self(site, query_key.probs())
            return call.native()
        source = self._source_entry(site, call, everything)
        assert isinstance(source, QueryKey)
        self._keep(site, source)
        return call.replaced(rows, everything, call.injected(rows, source))

    def _source_entry(self, site: Site, call: AttentionCall, queries: slice) -> Entry | None:
        """Return the source's attention if it is needed, from the batch or from the tape."""
        if not self._needs_source(site):
            return None
        if self.rows.source is not None:
            return call.query_key(self.rows.source, queries)
        return join([tape.get(self.step, site, call.query.device) for tape in self.tapes])

    def _needs_source(self, site: Site) -> bool:
        plan = self.plan
        if plan is None:
            return False
        mixed = site.has_text and plan.needs_source_cross(self.step)
        return mixed or self._injects(site) or site.name in self._blend_names

    def _apply_edit(self, site: Site, call: AttentionCall, queries: slice, rows: slice) -> Tensor:
        """Edit the target's rows of a site that looks at text; the others are native."""
        query_key = call.query_key(rows, queries)
        if not (self._records(site) or self._mixes(site) or self._injects(site)):
            self._keep(site, query_key)
            return call.native()
        source = self._source_entry(site, call, queries)
        if shares(self.plan, site, self.step):
            call = share_image(call, rows, site, source)
            query_key = call.query_key(rows, queries)
        probs = query_key.probs()
        edited = self.attend(site, probs, None if source is None else source.probs())
        if edited is probs:
            self._keep(site, query_key)
            return call.native()
        self._keep(site, EditedProbs(edited.to(call.query.dtype)))
        value = call.value[rows]
        new = (edited @ value.to(edited.dtype)).to(value.dtype)  # (B, heads, pixels, d)
        return call.replaced(rows, queries, new)

    def _apply_mix(self, site: Site, call: AttentionCall, queries: slice, rows: slice) -> Tensor:
        """Edit pure cross-attention through its values, without forming the edited map.

        Only what is wanted is computed: the target's own map where it is recorded or mixed in, the
        source's where it is mixed in or makes a mask.
        """
        plan, records = self.plan, self._records(site)
        assert plan is not None
        check_length(site, call.key.shape[2], plan)
        target = None
        entry = self._source_entry(site, call, queries)
        source = None if entry is None else entry.probs()
        if records or plan.needs_target_cross(self.step):
            target = call.query_key(rows, queries).probs()
        if records:
            self._add_mixed(site, source, target)
        source = moved(source, site, plan, self.step)
        new = mix_values(source, target, call.value[rows], plan, self.step)
        return call.replaced(rows, queries, new)

    def _add_mixed(self, site: Site, source: Tensor | None, target: Tensor | None) -> None:
        """Add up the target's maps before and after the edit, and the source's for the mask."""
        assert self.plan is not None and target is not None
        target_maps = target.mean(dim=1)  # (B, pixels, L)
        theirs = None if source is None else source.mean(dim=1)
        carried = moved(theirs, site, self.plan, self.step)
        self.state.target.add(site.name, mix_cross(carried, target_maps, self.plan, self.step))
        if self.record:
            self.state.original.add(site.name, target_maps)
        if theirs is not None and site.name in self._blend_names:
            self.state.source.add(site.name, theirs)

    def _add(
        self, maps: RunningMaps, site: Site, probs: Tensor, mean: Tensor | None = None
    ) -> Tensor | None:
        """Add a site's maps of words, whose mean over heads may be known already; return it."""
        if not self._records(site):
            return None
        if mean is None:
            mean = probs[..., site.text_keys(probs.shape[-1])].mean(dim=1)  # (B, pixels, L)
        maps.add(site.name, mean)
        return mean

    def _add_self(self, site: Site, probs: Tensor) -> None:
        mean = probs[..., site.image_keys(probs.shape[-1])].mean(dim=1)  # (B, pixels, pixels)
        self.state.self_maps.add(site.name, mean)

    def _keep(self, site: Site, entry: Entry | None) -> None:
        if not self.keep or entry is None or site.name not in self.keep[0].sites:
            return
        for picture, tape in enumerate(self.keep):
            tape.put(self.step, site, one(entry, picture))
