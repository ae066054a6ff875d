"""A source prompt for a picture, so that it need not be guessed.

In the bundled world a judge reads the picture and the world's grammar says what it saw. For other
models a captioning network can be given; nothing here needs one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from p2p_lab.inversion.pictures import load_image, to_tensor
from p2p_lab.models import Denoiser

if TYPE_CHECKING:
    from PIL.Image import Image

EVEN = 0.02  # standard deviation of a picture in 0 … 1 below which it shows nothing
EDGES = 1.25
NOISE = 0.9
Captioner = Callable[["Image"], str]


def suggest_prompt(
    model: Denoiser, image: Any, *, captioner: Captioner | str | os.PathLike[str] | None = None
) -> str:
    """Say what a picture shows, in words that the model knows.

    Args:
        model: The model that the prompt is for.
        image: A picture of any make (see `load_image`).
        captioner: For models of the whole world: a function from a PIL image to a sentence, or the
            folder or hub id of a captioning network for transformers. None reads the picture with
            the judge, which knows the bundled models' world alone.

    Returns:
        A prompt that fits the model.

    Raises:
        ValueError: If no captioner is given for a model of another world, or nothing known is seen.
    """
    if captioner is None:
        return _judged(model, image)
    caption = captioner if callable(captioner) else load_captioner(captioner)
    defaults = model.defaults
    text = caption(load_image(image, (defaults.height, defaults.width), "pad")).strip().rstrip(".")
    model.prompt(text)  # refuse what the model cannot read
    return text


def _judged(model: Denoiser, image: Any) -> str:
    from p2p_lab.judge import load_judge

    if not model.card.vocabulary:
        raise ValueError(
            f"The judge knows the bundled models' world alone, and {model.name} is of another one. "
            "Write the prompt yourself, or name a captioning network: captioner='path/to/blip'."
        )
    defaults = model.defaults
    picture = load_image(image, (defaults.height, defaults.width))
    _refuse_empty(to_tensor(picture)[0])
    return load_judge().suggest(picture)


def _refuse_empty(pixels: Tensor) -> None:
    """Refuse a picture (3, H, W) that shows nothing: one even colour, a gradient, blobs, noise.

    A picture of things is smooth nearly everywhere and steep at a few edges. In noise, sharp or
    blurred, and in gradients the slopes Δ are alike: √(mean Δ²) is at most 1.13 times mean |Δ|; in
    6,000 scenes of the bundled worlds it is at least 1.44 times. In noise of two values a pixel
    differs from its neighbour as much as from any other: mean |Δ| is the standard deviation.

    Raises:
        ValueError: If there is nothing to see.
    """
    spread = float(pixels.std(dim=(1, 2)).mean())
    slopes = [pixels.diff(dim=axis).abs() for axis in (1, 2)]
    uneven = min(_unevenness(along.amax(dim=0)) for along in slopes)
    noise = min(float(along.mean()) for along in slopes) > NOISE * spread
    if spread < EVEN or uneven < EDGES or noise:
        shows = "one even colour" if spread < EVEN else "a gradient, blobs or noise"
        raise ValueError(
            f"Nothing of this world is in this picture: it is {shows}. Write the prompt yourself."
        )


def _unevenness(slopes: Tensor) -> float:
    """Return √(mean Δ²) / mean |Δ|, 0 where there is no slope at all."""
    return float(slopes.square().mean().sqrt() / slopes.mean().clamp_min(1e-9))


def load_captioner(name_or_path: str | os.PathLike[str]) -> Captioner:
    """Open a captioning network (such as BLIP) as a function from a PIL image to a sentence.

    Only safetensors are read, and no code that comes with the weights is run.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    where, safe = os.fspath(name_or_path), {"trust_remote_code": False}  # None would ask the user
    processor: Any = AutoProcessor.from_pretrained(where, **safe)
    network: Any = AutoModelForImageTextToText.from_pretrained(where, use_safetensors=True, **safe)

    def caption(image: Image) -> str:
        inputs = processor(images=image, return_tensors="pt")
        ids = network.generate(**inputs, max_new_tokens=30)
        return str(processor.batch_decode(ids, skip_special_tokens=True)[0])

    return caption
