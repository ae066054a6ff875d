"""One step through noise, as a pure function of the present latents.

z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Prediction


def split(
    latents: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """Split noisy latents into the clean latents and the noise that the denoiser sees in them.

        z = α z_0 + σ ε

    epsilon: ẑ_0 = (z − σ ε̂)/α.  v: ẑ_0 = α z − σ v̂,  ε̂ = α v̂ + σ z  (Salimans and Ho 2022, section
    3.1; α² + σ² = 1).  sample: ε̂ = (z − α ẑ_0)/σ.  flow, α = 1 − σ: ẑ_0 = z − σ v̂,  ε̂ = ẑ_0 + v̂.

    Args:
        latents: z, (B, C, h, w).
        output: What the denoiser says after guidance, same shape.
        alpha: α, a scalar.
        sigma: σ, a scalar.
        prediction: What the denoiser predicts.

    Returns:
        ẑ_0 and ε̂, same shape.
    """
    if prediction == "epsilon":
        return (latents - sigma * output) / alpha, output
    if prediction == "v_prediction":
        return alpha * latents - sigma * output, alpha * output + sigma * latents
    if prediction == "flow":
        clean = latents - sigma * output
        return clean, clean + output
    return output, (latents - alpha * output) / sigma


def predict_clean(
    latents: Tensor, noise_pred: Tensor, alpha_bar: Tensor, prediction: Prediction = "epsilon"
) -> tuple[Tensor, Tensor]:
    """Split noisy latents at noise level ᾱ: `split` with α = √ᾱ and σ = √(1 − ᾱ).

    Args:
        latents: z, (B, C, h, w).
        noise_pred: What the denoiser said after guidance, same shape.
        alpha_bar: ᾱ, a scalar.
        prediction: What the denoiser predicts.

    Returns:
        ẑ_0 and ε̂, same shape.
    """
    return split(latents, noise_pred, alpha_bar**0.5, (1 - alpha_bar) ** 0.5, prediction)


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
