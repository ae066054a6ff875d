"""A pipeline's scheduler settings, checked and completed for the samplers of this package.

A setting that the saved class does not have is not left to another class's default: a DPM-Solver
knows no `clip_sample`, and DDIM's own default would clamp latents, which are not confined to ±1.
Whatever else is missing is decided by diffusers' `from_config`, as in its own pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from p2p_lab.models.errors import ModelError

Space = Literal["stable", "latents", "pixels"]

# Schedulers of a table of betas, whose noise levels and times DDIM, Euler and DPM-Solver++ read.
BETAS = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDIM",
        "DDIMParallel",
        "DDPM",
        "DDPMParallel",
        "DEISMultistep",
        "DPMSolverMultistep",
        "DPMSolverSDE",
        "DPMSolverSinglestep",
        "EulerAncestralDiscrete",
        "EulerDiscrete",
        "HeunDiscrete",
        "KDPM2AncestralDiscrete",
        "KDPM2Discrete",
        "LCM",
        "LMSDiscrete",
        "PNDM",
        "SASolver",
        "TCD",
        "UniPCMultistep",
    )
)
FLOWS = frozenset({"FlowMatchEulerDiscreteScheduler"})
_CURVES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_DISTILLED = ("LCMScheduler", "TCDScheduler")


def noise_settings(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Check and complete the settings of a model of noise.

    Args:
        config: The scheduler's settings as they were saved.
        space: "stable" for Stable Diffusion 1 and 2, whose pipeline overrules two settings,
            "latents" for other models in latent space, "pixels" for models of pictures.

    Raises:
        ModelError: If its noise levels are not those that the samplers here are made for.
    """
    _check_class(config, BETAS, "a model of noise")
    _check_noise(config)
    if space == "pixels":
        return dict(config)  # pictures lie in ±1, so DDIM's own default is right
    if space == "latents":
        return {"clip_sample": False, **config}
    known = config.get("_class_name") != "DPMSolverSinglestepScheduler"  # it has no such offset
    offset = {"steps_offset": 1} if known else {}
    return {**config, "clip_sample": False, **offset}  # as StableDiffusionPipeline does


def flow_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check the settings of a flow-matching model.

    Raises:
        ModelError: If its steps are not those of `FlowMatchEulerDiscreteScheduler`.
    """
    _check_class(config, FLOWS, "a flow-matching model")
    if config.get("stochastic_sampling"):
        raise ModelError(
            "This model's scheduler asks for stochastic_sampling, which draws new noise at every "
            "step and is not supported. Set it to false in scheduler/scheduler_config.json."
        )
    return dict(config)


def is_distilled(config: Mapping[str, Any]) -> bool:
    """Return whether a model was distilled to few steps without guidance, by its settings.

    So are those that are saved with a consistency sampler (LCM, TCD), and those of noise whose
    steps trail (SD-Turbo, SDXL-Turbo, Lightning). Velocity models and those whose schedule ends at
    pure noise trail as well, and were not distilled.
    """
    if config.get("_class_name") in _DISTILLED:
        return True
    trails = config.get("timestep_spacing") == "trailing"
    noise = config.get("prediction_type", "epsilon") == "epsilon"
    return trails and noise and not config.get("rescale_betas_zero_snr")


def _check_class(config: Mapping[str, Any], known: frozenset[str], kind: str) -> None:
    class_name = str(config.get("_class_name", next(iter(known))))
    if class_name not in known:
        raise ModelError(
            f"The scheduler is {class_name}, whose noise levels the samplers here do not read. "
            f"For {kind} they read those of {', '.join(sorted(known))}."
        )


def _check_noise(config: Mapping[str, Any]) -> None:
    """Raise for settings of a known scheduler that stand for another kind of model."""
    prediction = config.get("prediction_type", "epsilon")
    if config.get("use_flow_sigmas") or prediction not in _PREDICTIONS:
        raise ModelError(
            f"This model's scheduler says prediction_type={prediction!r}, use_flow_sigmas="
            f"{bool(config.get('use_flow_sigmas'))}. Supported in this family are models of noise "
            f"that predict one of {', '.join(_PREDICTIONS)}."
        )
    curve = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is None and curve not in _CURVES:
        raise ModelError(
            f"This model's scheduler says beta_schedule={curve!r}; the samplers here know "
            f"{', '.join(_CURVES)}, and trained_betas."
        )
