"""Plug-and-Play: self-attention maps and features of the source's decoder.

    f^l_tgt ← f^l_src  for steps before τ_f,    q_tgt, k_tgt ← q_src, k_src  for steps before τ_A

(Tumanyan et al. 2022, arXiv 2211.12572, algorithm 1.) It changes features: f is the residual of one
block, a third of the way up (the paper's layer 4 of 12), and the queries and keys are those of the
way up. Equal prompts with equal guidance do not give the source back exactly, for the source runs
without guidance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from p2p_lab.attention.handlers import Taking
from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.job import Branch, RivalJob, check_along, check_end
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def plug_and_play(
    source: Run,
    text: str,
    *,
    features: float = 0.8,
    self_attention: float = 0.5,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by Plug-and-Play diffusion features.

    Args:
        source: The run to edit; its own latents are followed.
        text: The target prompt.
        features: End of the window from noise in which features are taken: τ_f, in [0, 1].
        self_attention: End of the window in which queries and keys are taken: τ_A.
        guidance_scale: Guidance of the target; None takes the source's.
        seed: Not used: nothing is drawn.
        record: "store" keeps mean maps of the target, "none" nothing.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        A `Run` with its `source`.

    Raises:
        ValueError: If a setting does not fit, or the denoiser has no such block; before any
            sampling.
        Cancelled: If it was cancelled.
    """
    job = RivalJob.of(
        "Plug-and-Play", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first, block = check_along(job), feature_block(job)
    last = math.ceil(check_end("features", features) * job.total)
    last_map = math.ceil(check_end("self_attention", self_attention) * job.total)
    sites = [name for name, site in job.sites.items() if site.place == "up"]
    guided = job.guidance > 1
    pairs = {0: 1, 2: 1} if guided else {1: 0}  # rows: [target's negative,] source, target
    recorder = job.recorder(3 if guided else 2)
    job.history[: first + 1] = [job.measured(k) for k in range(first + 1)]
    for step in job.steps(first):
        taking = Taking(recorder, ("query", "key"), pairs, sites if step < last_map else ())
        with _features_taken(block, pairs if step < last else {}):
            _, found = job.estimate(
                step,
                Branch(job.measured(step), job.source_text, 1.0),
                Branch(job.history[step], job.target_text, job.guidance),
                steered_by=taking,
            )
        job.history[step + 1] = job.levels.noisy(found.clean, found.noise, step + 1)
    return job.finish(first, f"Plug-and-Play: features to step {last}, maps to step {last_map}.")


def feature_block(job: RivalJob) -> nn.Module:
    """Return the convolution whose output is the residual f of the chosen block.

    Raises:
        ValueError: If the denoiser is no U-Net.
    """
    blocks: Any = getattr(job.model.module, "up_blocks", None)
    if blocks is None:
        raise ValueError(
            f"Plug-and-Play takes the features of a U-Net's residual blocks on the way up, and "
            f"{job.model.name} is a {type(job.model.module).__name__}, which has none. Use "
            "masa_ctrl or free_prompt_editing, which need attention alone."
        )
    resnets = [resnet for block in blocks for resnet in block.resnets]
    found: nn.Module = resnets[len(resnets) // 3].conv2
    return found


@contextmanager
def _features_taken(block: nn.Module, rows: dict[int, int]) -> Iterator[None]:
    """Give rows of a layer's output those of other rows inside a `with` block."""

    def give(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        new = output.clone()
        for row, other in rows.items():
            new[row] = output[other]
        return new

    hook = block.register_forward_hook(give) if rows else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
