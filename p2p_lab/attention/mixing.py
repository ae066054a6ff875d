"""Apply a plan to the probabilities of one site: the text block, and the image block.

On a joint softmax over text and image (IF, SD3, Flux) the same plan acts on its blocks, which is
our extension of the paper to such models.
"""

from __future__ import annotations

from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.edits import EditPlan, mix_cross


def mixes(plan: EditPlan, site: Site, step: int) -> bool:
    """Tell whether the plan changes the attention to text at a site and step."""
    return site.has_text and plan.edits_cross(step)


def injects(plan: EditPlan, site: Site, step: int) -> bool:
    """Tell whether the plan takes the attention among image positions from the source."""
    return site.has_image and plan.edits_self(step) and site.pixels <= plan.self_pixels


def mix_site(
    target: Tensor, source: Tensor | None, site: Site, plan: EditPlan, step: int
) -> Tensor:
    """Return the target's probabilities after the edit.

    Args:
        target: The target's own, (B, heads, pixels, K).
        source: The source's, same shape; None where the plan does not need them.
        site: Where, which tells how the K keys are laid out.
        plan: The compiled edit.
        step: 0 is the noisiest.

    Returns:
        A new tensor; `target` itself where the plan changes nothing.

    Raises:
        ValueError: If the plan was compiled for another number of tokens.
    """
    text, image = mixes(plan, site, step), injects(plan, site, step)
    if not (text or image):
        return target
    _check_length(site, target.shape[-1], plan)
    source = target if source is None else source  # multiplied by a gain of 0
    if site.kind == "cross":
        return mix_cross(source, target, plan, step)
    edited, words = target.clone(), site.text_keys(target.shape[-1])
    if text:
        edited[..., words] = mix_cross(source[..., words], target[..., words], plan, step)
    if image:
        pixels = site.image_keys(target.shape[-1])
        edited[..., pixels] = source[..., pixels]
    return edited


def _check_length(site: Site, keys: int, plan: EditPlan) -> None:
    text = site.text_keys(keys)
    length = text.stop - text.start
    if site.has_text and length != plan.length:
        raise ValueError(
            f"{site.name} attends to {length} text tokens and the plan was compiled for "
            f"{plan.length}. Compile it with prompts of the model's own length."
        )
