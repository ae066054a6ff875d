"""Self-guidance: a loss on the attention maps, whose gradient steers every step.

    ε̂ = ε(z, ∅) + s (ε(z, target) − ε(z, ∅)) + v · s_t ∇_z g,    g = Σ_k mean |A_k(z) − A_k^src|

(Epstein et al. 2023, arXiv 2306.00986: its term that keeps a shape.) A_k is a word's map over its
maximum, k the words that both prompts share; |x| is smooth near 0, so that rounding does not steer.
pix2pix-zero (arXiv 2302.03027) squares the same loss. It changes the noise by what the maps say;
equal prompts give a generated source back, for the loss is 0 there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention import MapReader, attached
from p2p_lab.devices import cpu_by_default
from p2p_lab.inversion.null_text import check_gradients
from p2p_lab.models import Conditioning
from p2p_lab.rivals.job import Branch, RivalJob, check_along, check_end, check_number
from p2p_lab.rivals.levels import Estimate
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record
from p2p_lab.tokens import AlignmentError, Prompt, align_tokens

Maps = Mapping[str, Tensor]
SMOOTH = 1e-3  # of a map's maximum: below, the loss is quadratic


@torch.inference_mode(False)  # a gradient is needed, also inside that mode
@cpu_by_default()
def self_guidance(
    source: Run,
    text: str,
    *,
    weight: float = 300.0,
    end: float = 0.8,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by self-guidance that keeps the shapes of the words that stay.

    Args:
        source: The run to edit; its own latents are followed.
        text: The target prompt; it shares a word with the source's.
        weight: v, the weight of the loss's gradient.
        end: Share of the schedule after which the loss no longer steers.
        guidance_scale: Guidance of the target; None takes the source's.
        seed: Not used: nothing is drawn.
        record: "store" keeps mean maps of the target, "none" nothing.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        A `Run` with its `source`.

    Raises:
        AlignmentError: If the prompts share no word.
        ValueError: If a setting does not fit, or no gradient passes the weights; before sampling.
        Cancelled: If it was cancelled.
    """
    job = RivalJob.of(
        "Self-guidance", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    check_gradients(job.model.module, job.model.name)
    first, last = check_along(job), check_end("end", end) * job.total
    check_number("weight", weight)
    pairs = shared_tokens(source.prompt, job.target)
    job.history[: first + 1] = [job.measured(k) for k in range(first + 1)]
    for step in job.steps(first):
        branch = Branch(job.history[step], job.target_text, job.guidance)
        (found,) = job.estimate(step, branch)
        if step < last and weight:
            found = _steered(job, step, found, weight, pairs)
        job.history[step + 1] = job.levels.noisy(found.clean, found.noise, step + 1)
    return job.finish(first, f"Self-guidance: shapes of {len(pairs)} words held.")


def shared_tokens(source: Prompt, target: Prompt) -> list[tuple[int, int]]:
    """Return the source and the target position of each token of a word that stays.

    Raises:
        AlignmentError: If there is none.
    """
    found = align_tokens(source, target)
    words = {j for word in range(len(target.spans)) for j in target.tokens_at(word)}
    pairs = [(i, j) for j in sorted(words) for i in found.partners(j)]
    if not pairs:
        raise AlignmentError(
            f"Self-guidance holds the maps of words that stay, and {source.text!r} and "
            f"{target.text!r} share none. Use a target prompt that shares a word."
        )
    return pairs


def shape_loss(ours: Maps, theirs: Maps, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return Σ_k mean |A_k − A_k^src| over positions and sites, a scalar with its graph.

    Args:
        ours: The target's maps by site, (1, pixels, L).
        theirs: The source's.
        pairs: Source and target position of each word k that stays.
    """
    left, right = [i for i, _ in pairs], [j for _, j in pairs]
    parts = [
        F.smooth_l1_loss(_relative(ours[name][..., right]), _relative(maps[..., left]), beta=SMOOTH)
        for name, maps in theirs.items()
    ]
    return len(pairs) * torch.stack(parts).mean()


def _relative(maps: Tensor) -> Tensor:
    """Return maps (1, pixels, K) over their maximum, which is held fixed for the gradient."""
    return maps / maps.detach().amax(dim=1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def _steered(
    job: RivalJob, step: int, found: Estimate, weight: float, pairs: Sequence[tuple[int, int]]
) -> Estimate:
    """Return the estimate after v · s_t ∇_z g was added to its noise."""
    signal, noise = job.levels.signal[step], job.levels.noise[step]
    if signal == 0:  # pure noise of a flow: there is no picture yet whose shape could be held
        return found
    theirs = _maps(job, step, job.measured(step), job.source_text)
    latents = job.history[step].detach().clone().requires_grad_()
    with torch.enable_grad():
        ours = _maps(job, step, latents, job.target_text)
        loss = shape_loss(ours, theirs, pairs)
        (gradient,) = torch.autograd.grad(loss, latents)
    steered = found.noise + weight * noise * gradient
    return Estimate((job.history[step] - noise * steered) / signal, steered)


def _maps(job: RivalJob, step: int, latents: Tensor, text: Conditioning) -> Maps:
    """Return the maps of one row, with their graph where gradients are on."""
    reader, time = MapReader(slice(0, 1)), job.settings.schedule.timesteps[step]
    grad = torch.set_grad_enabled(latents.requires_grad)
    with grad, job.model.lock, attached(job.model.module, reader, job.sites):
        job.model.predict(latents, time, text)
    return reader.maps
