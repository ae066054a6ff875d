"""How words and places look at each other where one softmax runs over both.

In Stable Diffusion 3 and Flux the text's tokens ask too: next to the maps of words (image looks at
text) there are text → text, text → image and image → image. One call of the denoiser at a run's own
latents shows all four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2p_lab.attention import Site, UnsupportedAttention, attached, find_sites
from p2p_lab.attention.tap import AttentionCall
from p2p_lab.sampling.editing import model_of, schedule_of
from p2p_lab.sampling.runs import Run, checked_run
from p2p_lab.tokens import Prompt


@dataclass(frozen=True, eq=False)
class Relations:
    """Who looks at whom in one step: mean over heads and sites, L tokens and P = h · w places.

    Attributes:
        prompt: The prompt whose tokens these are.
        size: Height and width (h, w) of the grid of places.
        matrix: (L + P, L + P), the text first; row = who looks, column = at what. A row sums to 1.
    """

    prompt: Prompt
    size: tuple[int, int]
    matrix: Tensor

    @property
    def text_to_text(self) -> Tensor:
        """Attention of tokens to tokens, (L, L)."""
        return self.matrix[: len(self.prompt), : len(self.prompt)]

    @property
    def text_to_image(self) -> Tensor:
        """Where each token looks in the picture, (L, h, w)."""
        return self.matrix[: len(self.prompt), len(self.prompt) :].reshape(-1, *self.size)

    @property
    def image_to_text(self) -> Tensor:
        """Maps of the tokens, (L, h, w): the share of each place's attention, as everywhere."""
        return self.matrix[len(self.prompt) :, : len(self.prompt)].T.reshape(-1, *self.size)

    @property
    def image_to_image(self) -> Tensor:
        """Attention of places to places, (P, P)."""
        return self.matrix[len(self.prompt) :, len(self.prompt) :]

    def table(self) -> tuple[list[str], Tensor]:
        """Gather the words, the start and end tokens, the padding and the picture.

        Returns:
            Names of the n groups, and (n, n): row = the mean of a group's members, column = what
            they give to all of another group together. A row sums to 1.
        """
        prompt = self.prompt
        groups = prompt.named_tokens(special=True)
        groups.append(("image", list(range(len(prompt), len(self.matrix)))))
        member = self.matrix.new_zeros(len(groups), len(self.matrix))
        for row, (_, places) in zip(member, groups, strict=True):
            row[places] = 1
        shares = member / member.sum(dim=1, keepdim=True) @ self.matrix @ member.T
        return [name for name, _ in groups], shares


@dataclass(eq=False)
class _AllQueries:
    """Add up the whole softmax at some sites, text queries too."""

    sites: Mapping[str, Site]
    found: list[Tensor] = field(default_factory=list)

    def wants(self, site: Site) -> bool:
        """Return whether the site is one of those."""
        return site.name in self.sites

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Record, and compute what the kernel would."""
        probs = call.query_key(slice(0, 1), slice(None)).probs()[0].mean(dim=0)  # (L + P, L + P)
        count = len(probs)
        places = torch.arange(count, device=probs.device)
        order = torch.cat([places[site.text_keys(count)], places[site.image_keys(count)]])
        self.found.append(probs[order][:, order].float().cpu())
        return call.native()


def relations_at(run: Run, step: int, *, site: str | None = None) -> Relations:
    """Compute how text and image look at each other at a step of a run, in a joint softmax.

    The denoiser is asked once more, with the run's prompt and its latents z_t, without guidance. An
    edit is not applied: these are the prompt's own relations on the latents that the edit made.

    Args:
        run: A run of a model whose text asks too, such as Stable Diffusion 3 or Flux.
        step: 0 … T − 1.
        site: One joint site alone; None is the mean of all.

    Raises:
        UnsupportedAttention: If in this model only places ask.
        ValueError: If there is no such step or site, or the run was loaded without its model.
    """
    checked_run(run)
    if not 0 <= step < run.steps:
        raise ValueError(f"There is no step {step}: steps go from 0 to {run.steps - 1}.")
    model, latents = model_of(run), run.trajectory.latents[step]
    sites = find_sites(model.module, (latents.shape[-2], latents.shape[-1]))
    recorder = _AllQueries(_chosen(sites, site))
    schedule = schedule_of(run)
    batch = schedule.model_input(latents[None].to(model.device, model.dtype), step)
    with model.lock, torch.no_grad(), attached(model.module, recorder, sites):
        text = model.encode_prompt(run.prompt, run.size)
        model.predict(batch, schedule.timesteps[step], text)
    size = next(iter(recorder.sites.values())).size
    return Relations(run.prompt, size, torch.stack(recorder.found).mean(dim=0))


def _chosen(sites: Mapping[str, Site], name: str | None) -> dict[str, Site]:
    """Return the sites where text and image ask and are asked in one softmax."""
    both = {n: s for n, s in sites.items() if len(s.queries) > 1 and s.queries == s.keys}
    if not both:
        raise UnsupportedAttention(
            "In this model only places look, at words and at each other: the text does not ask. "
            "Draw the words' maps with show_maps, and one place's row with show_row."
        )
    if name is None:
        return both
    if name not in both:
        raise ValueError(f"There is no joint site {name!r}. There are: {', '.join(both)}.")
    return {name: both[name]}
