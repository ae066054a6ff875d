"""The sampler of flow-matching models (SD3, Flux): straight paths from noise to picture.

    z = (1 − σ) z_0 + σ ε,    v = ε − z_0,    z' = z + (σ' − σ) v̂

On these paths DDIM's step and Euler's are the same one, so both names lead here. The table of noise
shares is that of diffusers' `FlowMatchEulerDiscreteScheduler`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from p2p_lab.sampling.steps import flow_step


@dataclass(frozen=True, eq=False)
class Flow:
    """Hold the table of a flow: model time and share of noise of each step.

    Attributes:
        timesteps: Model time of each step, (T,).
        sigmas: Share of noise before each step and after the last one, (T + 1,).
    """

    timesteps: Tensor
    sigmas: Tensor

    @property
    def steps(self) -> int:
        """Tell the number of steps T."""
        return len(self.timesteps)

    @property
    def initial_scale(self) -> float:
        """Tell the size of the first latents: a flow starts from standard noise."""
        return 1.0

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """Return the latents as they are."""
        return latents

    def advance(
        self, latents: Tensor, noise_pred: Tensor, step: int, *, noise: Tensor | None = None
    ) -> Tensor:
        """Take step number `step`.

        Raises:
            ValueError: If noise is given: a flow has no stochastic form here.
        """
        if noise is not None:
            raise ValueError(
                "Noise maps belong to models of noise; a flow-matching model takes none."
            )
        return flow_step(latents, noise_pred, self.sigmas[step], self.sigmas[step + 1])

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents from the present ones."""
        return latents - self.sigmas[step] * noise_pred


def is_flow(config: Mapping[str, Any]) -> bool:
    """Tell from a model's scheduler settings whether it is a flow-matching model."""
    return str(config.get("_class_name", "")).startswith("FlowMatch")


def make_flow(config: Mapping[str, Any], steps: int, grid: tuple[int, int] | None) -> Flow:
    """Build the table of a flow.

    Args:
        config: The model's scheduler settings; "patch" is how many latents a token spans along
            each axis, "even" whether the shares of noise fall evenly before they are shifted.
        steps: Number of steps T.
        grid: Height and width of the latents, on which models with dynamic shifting depend.

    Raises:
        ValueError: If the settings ask for what is not supported.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    kind = str(config.get("_class_name"))
    if kind != "FlowMatchEulerDiscreteScheduler" or config.get("stochastic_sampling"):
        raise ValueError(
            f"The scheduler {kind} with these settings is not supported for flow-matching models. "
            "Use a FlowMatchEulerDiscreteScheduler without stochastic sampling."
        )
    settings = {name: value for name, value in config.items() if name not in ("patch", "even")}
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(settings)
    even = np.linspace(1.0, 1 / steps, steps) if config.get("even") else None
    shift = _shift(config, grid) if config.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(steps, sigmas=even, mu=shift)
    return Flow(scheduler.timesteps, scheduler.sigmas)


def _shift(config: Mapping[str, Any], grid: tuple[int, int] | None) -> float:
    """Tell how far the table is shifted towards noise: the more, the larger the picture."""
    if grid is None:
        raise ValueError("This model's steps depend on the picture's size; give its latents' size.")
    patch = int(config.get("patch", 1))
    positions = (grid[0] // patch) * (grid[1] // patch)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - least) / (many - few)
    return float(positions * slope + (least - slope * few))
