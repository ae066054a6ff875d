"""Leave alone what an edit did outside its words: Prompt-to-Prompt's local editing, for any method.

    z ← z_src + mask · (z_tgt − z_src)

The mask is made of attention as `LocalBlend` makes it (Hertz et al. 2022, section 4), once, from
the mean maps of source and target after all steps. It shows what attention maps still buy a method
that uses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from p2p_lab.attention import AttentionStore, blend_mask, blend_sites
from p2p_lab.edits import BlendPlan
from p2p_lab.sampling import Run
from p2p_lab.sampling.editing import model_of
from p2p_lab.sampling.runs import EditCache
from p2p_lab.tokens import Prompt

Words = str | Sequence[str]


def masked(run: Run, source_words: Words, target_words: Words, *, threshold: float = 0.3) -> Run:
    """Return an edit with the source's latents outside the region of some words.

    Args:
        run: An edit that recorded maps; its source recorded them too.
        source_words: Words of the source prompt that mark the region, may be none.
        target_words: Words of the target prompt, may be none.
        threshold: Part of a map's maximum above which a position belongs to the region.

    Raises:
        AlignmentError: If a word is not in its prompt.
        ValueError: If the run is no edit, or maps are missing, or no word is named.
    """
    model, source = model_of(run), run.source
    if source is None or source.attention is None or run.attention is None:
        raise ValueError(
            "A mask needs an edit and the maps of both pictures: make the source and the edit with "
            "record='store'."
        )
    ours, theirs = _tokens(source.prompt, source_words), _tokens(run.prompt, target_words)
    if not ours and not theirs:
        raise ValueError("A mask needs a word: name one of the source's or the target's prompt.")
    before, after = (r.trajectory.latents[-1:].to(model.device) for r in (source, run))
    sites = blend_sites(dict(run.attention.sites))
    names, size = [site.name for site in sites], (after.shape[-2], after.shape[-1])
    blend = BlendPlan(source_tokens=ours, target_tokens=theirs, threshold=threshold)
    maps = _maps(source.attention, names), _maps(run.attention, names)
    mask = blend_mask(*maps, blend, sites[0].size, size).to(after)  # (1, 1, h, w)
    latents = before + mask * (after - before)
    with model.lock, torch.no_grad():
        pixels = model.decode(latents)
    path = run.trajectory
    return replace(
        run,
        pixels=pixels[0].cpu(),
        trajectory=replace(path, latents=torch.cat([path.latents[:-1], latents])),
        masks=mask[:, 0].expand(path.steps, *size).clone(),
        note=f"{run.note} Outside {_named(source_words, target_words)} the source's.".strip(),
        cache=EditCache(),
    )


def _tokens(prompt: Prompt, words: Words) -> tuple[int, ...]:
    names = [words] if isinstance(words, str) else list(words)
    return tuple(token for name in names if name for token in prompt.tokens_of(name))


def _maps(store: AttentionStore, names: Sequence[str]) -> list[Tensor]:
    """Return the mean maps of some sites, (1, pixels, L) each."""
    return [store.means[name][None] for name in names]


def _named(*groups: Words) -> str:
    words = [w for group in groups for w in ([group] if isinstance(group, str) else group) if w]
    return ", ".join(repr(word) for word in dict.fromkeys(words))
