"""ConceptAttention: where a concept is, read from what attention puts out instead of from its maps.

    S[x, c] = softmax over the concepts c of  Σ_heads o_x · v_c      o_x = Σ_j M[x, j] v_j

(Helbling et al. 2025, arXiv 2502.04320, written there for joint attention, whose concepts walk
through the layers beside the prompt. Where cross-attention is a layer of its own, a concept's
output is its value v_c, so nothing has to walk.) A concept need not stand in the prompt, and maps
of several are compared with one another: name what else is in the picture too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2p_lab.attention import AttentionCall, Site, attached, find_sites, resize
from p2p_lab.devices import cpu_by_default
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.sampling import Run
from p2p_lab.sampling.editing import model_of, schedule_of


@dataclass(eq=False)
class OutputReader:
    """Collect the values and the outputs of cross-attention, in one forward pass.

    Attributes:
        values: By site, (B, heads, L, d).
        outputs: By site, (B, heads, pixels, d).
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def wants(self, site: Site) -> bool:
        """Return whether a site is read: those whose keys are words alone."""
        return site.kind == "cross"

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the output natively, and keep it."""
        self.values[site.name], self.outputs[site.name] = call.value, call.native()
        return self.outputs[site.name]


@torch.no_grad()
@cpu_by_default()
def concept_maps(
    run: Run, concepts: Sequence[str], *, size: tuple[int, int] = (16, 16)
) -> dict[str, Tensor]:
    """Return where each concept is in a picture; at each position they sum to 1.

    Args:
        run: A generated or inverted picture, whose latents are gone through again.
        concepts: Words or phrases, two or more; they need not stand in the prompt.
        size: Height and width of the maps.

    Returns:
        A map (h, w) by concept, the mean over steps and cross-attention layers.

    Raises:
        ValueError: If the model has no cross-attention of its own, or fewer than two concepts are
            named.
    """
    model = model_of(run)
    if isinstance(concepts, str) or len(set(concepts)) < 2:
        raise ValueError(f"Concepts are compared: name two or more, got {concepts!r:.60}.")
    sites = find_sites(model.module, model.latent_shape(run.size)[1:])
    cross = {name: site for name, site in sites.items() if site.kind == "cross"}
    if not cross:
        raise ValueError(
            f"{model.name} has one softmax over words and image, where concepts would have to walk "
            "through the layers. Concept maps are for models whose cross-attention stands alone."
        )
    schedule = schedule_of(run)
    values = {n: _values(model, run, concept, sites) for n, concept in enumerate(concepts)}
    text, total = model.encode_prompt(run.prompt, run.size), torch.zeros(len(concepts), *size)
    for step in range(run.trajectory.start, run.steps):
        latents = run.trajectory.latents[step : step + 1].to(model.device, model.dtype)
        read = _read(
            model, schedule.model_input(latents, step), schedule.timesteps[step], text, sites
        )
        for name, site in cross.items():
            scores = torch.stack(
                [(read.outputs[name] * values[n][name]).sum((1, 3))[0] for n in values]
            )  # (concepts, pixels)
            shares = scores.float().softmax(dim=0).reshape(-1, *site.size)
            total += torch.stack([resize(share, size) for share in shares]).cpu()
    return dict(zip(concepts, total / total.sum(dim=0), strict=True))


def _values(model: Denoiser, run: Run, concept: str, sites: dict[str, Site]) -> dict[str, Tensor]:
    """Return the mean value of a concept's tokens by site, (1, heads, 1, d)."""
    prompt = model.prompt(concept)
    tokens = [j for word in range(len(prompt.spans)) for j in prompt.tokens_at(word)]
    text = model.encode_prompt(prompt, run.size)
    latents = run.trajectory.latents[-1:].to(model.device, model.dtype)
    time = schedule_of(run).timesteps[-1]
    read = _read(model, latents, time, text, sites)
    return {name: v[:, :, tokens].mean(dim=2, keepdim=True) for name, v in read.values.items()}


def _read(
    model: Denoiser, latents: Tensor, time: Tensor, text: Conditioning, sites: dict[str, Site]
) -> OutputReader:
    reader = OutputReader()
    with model.lock, attached(model.module, reader, sites):
        model.predict(latents, time, text)
    return reader
