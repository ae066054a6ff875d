"""One step through noise, as a pure function of the present latents.

z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Prediction


def predict_clean(
    latents: Tensor, noise_pred: Tensor, alpha_bar: Tensor, prediction: Prediction = "epsilon"
) -> tuple[Tensor, Tensor]:
    """Split noisy latents into the clean latents and the noise that the denoiser sees in them.

    epsilon: ẑ_0 = (z − √(1−ᾱ) ε̂)/√ᾱ.  v: ẑ_0 = √ᾱ z − √(1−ᾱ) v̂,  ε̂ = √ᾱ v̂ + √(1−ᾱ) z
    (Salimans and Ho 2022, arXiv 2202.00512).

    Args:
        latents: z_t, (B, C, h, w).
        noise_pred: What the denoiser said, same shape.
        alpha_bar: ᾱ_t, a scalar.
        prediction: What it predicts.

    Returns:
        ẑ_0 and ε̂, same shape.
    """
    beta_bar = 1 - alpha_bar
    if prediction == "epsilon":
        return (latents - beta_bar**0.5 * noise_pred) / alpha_bar**0.5, noise_pred
    if prediction == "v_prediction":
        clean = alpha_bar**0.5 * latents - beta_bar**0.5 * noise_pred
        return clean, alpha_bar**0.5 * noise_pred + beta_bar**0.5 * latents
    return noise_pred, (latents - alpha_bar**0.5 * noise_pred) / beta_bar**0.5


def ddim_step(
    latents: Tensor,
    noise_pred: Tensor,
    alpha_bar: Tensor,
    alpha_bar_next: Tensor,
    *,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    noise: Tensor | None = None,
    clip: float | None = None,
    threshold: tuple[float, float] | None = None,
) -> Tensor:
    """Take one DDIM step from noise level ᾱ to ᾱ' (Song et al. 2021, eq. 12).

        z' = √ᾱ' ẑ_0 + √(1 − ᾱ' − σ²) ε̂ + σ ξ,    σ = η √((1−ᾱ')/(1−ᾱ)) √(1 − ᾱ/ᾱ')

    With η = 0 it is deterministic and, with ᾱ' < ᾱ, runs backwards: that is DDIM inversion.

    Args:
        latents: z, (B, C, h, w).
        noise_pred: What the denoiser said after guidance, same shape.
        alpha_bar: ᾱ at the present noise level, a scalar.
        alpha_bar_next: ᾱ' at the level to go to.
        prediction: What the denoiser predicts.
        eta: 0 for DDIM, 1 for DDPM's noise.
        noise: ξ, same shape as latents; needed if eta > 0.
        clip: Clamp ẑ_0 to ±clip, for models that were trained so.
        threshold: Quantile and largest value of `dynamic_threshold`, in the clip's place.

    Returns:
        z', same shape.

    Raises:
        ValueError: If eta > 0 and no noise is given.
    """
    clean, direction = predict_clean(latents, noise_pred, alpha_bar, prediction)
    if threshold is not None:
        clean = dynamic_threshold(clean, *threshold)
    elif clip is not None:
        clean = clean.clamp(-clip, clip)
    if eta == 0:
        return alpha_bar_next**0.5 * clean + (1 - alpha_bar_next) ** 0.5 * direction
    if noise is None:
        raise ValueError(f"A step with eta={eta} adds noise; pass noise of the latents' shape.")
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    sigma = eta * variance.clamp_min(0) ** 0.5
    ahead = (1 - alpha_bar_next - sigma**2).clamp_min(0) ** 0.5 * direction
    return alpha_bar_next**0.5 * clean + ahead + sigma * noise


def dynamic_threshold(clean: Tensor, quantile: float, largest: float) -> Tensor:
    """Bring an estimate of the clean picture back into ±1 without saturating it.

        s = quantile(|x̂_0|), at least 1 and at most `largest`;    x̂_0 ← clamp(x̂_0, −s, s)/s

    (Saharia et al. 2022, arXiv 2205.11487, section 2.3.) It has a meaning in pixel space alone.

    Args:
        clean: x̂_0, (B, 3, H, W).
        quantile: Share of the values of one picture that lie within ±s.
        largest: Bound of s.

    Returns:
        The same shape.
    """
    wide = clean.to(torch.promote_types(clean.dtype, torch.float32))
    s = torch.quantile(wide.flatten(1).abs(), quantile, dim=1).clamp(1, largest)  # (B,)
    s = s.view(-1, 1, 1, 1)
    return (wide.clamp(-s, s) / s).to(clean.dtype)


def multistep(
    latents: Tensor, clean: Tensor, previous: Tensor, levels: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Take one step of second-order DPM-Solver++, 2M (Lu et al. 2022, arXiv 2211.01095, alg. 2).

        z' = σ'/σ z − α' (e^{−h} − 1) (ẑ_0 + (ẑ_0 − ẑ_0⁻) / (2 r))
        λ = ln(α/σ),  h = λ' − λ,  r = (λ − λ⁻)/h,  α = √ᾱ,  σ = √(1 − ᾱ)

    Args:
        latents: z, (B, C, h, w).
        clean: ẑ_0 at the present level, same shape.
        previous: ẑ_0⁻ at the level before, same shape.
        levels: ᾱ⁻, ᾱ and ᾱ': before, now, and where to go.

    Returns:
        z', same shape.
    """
    _, level, level_next = levels
    estimate = clean + (clean - previous) / (2 * spacing(*levels))
    kept = ((1 - level_next) / (1 - level)) ** 0.5
    h = _half_log_ratio(level_next) - _half_log_ratio(level)
    return kept * latents - level_next**0.5 * torch.expm1(-h) * estimate


def spacing(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """Return r = (λ − λ⁻)/(λ' − λ) of three noise levels ᾱ⁻, ᾱ and ᾱ'."""
    first, second, third = (_half_log_ratio(level) for level in (before, now, after))
    return (second - first) / (third - second)


def _half_log_ratio(alpha_bar: Tensor) -> Tensor:
    """Return λ = ln(√ᾱ/√(1 − ᾱ))."""
    return 0.5 * (alpha_bar / (1 - alpha_bar)).log()


def flow_step(latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Take one Euler step along a flow from noise to picture (Liu et al. 2022, arXiv 2209.03003).

        z' = z + (σ' − σ) v,    z = (1 − σ) z_0 + σ ε,    v = ε − z_0

    On this straight path it is DDIM's step too: z' = (1 − σ') ẑ_0 + σ' ε̂. With σ' > σ it leads
    back.

    Args:
        latents: z, (B, C, h, w).
        velocity: v̂, what the denoiser said after guidance, same shape.
        sigma: Share of noise in z, a scalar.
        sigma_next: Share of noise to go to.

    Returns:
        z', same shape and the precision of `velocity`.
    """
    wide = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return (wide + (sigma_next - sigma) * velocity).to(velocity.dtype)


def euler_step(latents: Tensor, clean: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Take one Euler step of the probability-flow equation (Karras et al. 2022, algorithm 1).

        x' = x + (σ' − σ) (x − x̂_0)/σ,    x = z/√ᾱ,  σ = √(1−ᾱ)/√ᾱ

    Args:
        latents: x, (B, C, h, w).
        clean: x̂_0, same shape.
        sigma: Present noise level, a scalar.
        sigma_next: Level to go to.

    Returns:
        x', same shape.
    """
    return latents + (sigma_next - sigma) * (latents - clean) / sigma
