"""A source prompt for a picture, so that it need not be guessed.

Who says what a picture shows is handed in: a function, a captioning network, or the captioner that
a world of models offers, by its name in `OFFERED`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from p2p_lab.inversion.pictures import Fit, load_image
from p2p_lab.models import Denoiser
from p2p_lab.models.denoiser import checked_model

if TYPE_CHECKING:
    from PIL.Image import Image

Captioner = Callable[["Image"], str]
# Functions (Denoiser) -> Captioner | None, opened when they are asked; add one for your own models.
OFFERED = ["p2p_lab.judge:captioner_of"]


def suggest_prompt(
    model: Denoiser, image: Any, *, captioner: Captioner | str | os.PathLike[str] | None = None
) -> str:
    """Return what a picture shows, in words that the model knows.

    Args:
        model: The model that the prompt is for.
        image: A picture of any make (see `load_image`).
        captioner: A function from a PIL image to a sentence, or the folder or hub id of a
            captioning network for transformers. None takes what the model's world offers.

    Returns:
        A prompt that fits the model.

    Raises:
        ValueError: If no captioner is given for a model of another world, or nothing known is seen.
    """
    checked_model(model)
    fit: Fit = "pad"
    if captioner is None:
        captioner, fit = captioner_for(model), "crop"  # what `invert` will keep of the picture
    caption = captioner if callable(captioner) else load_captioner(captioner)
    defaults = model.defaults
    text = caption(load_image(image, (defaults.height, defaults.width), fit)).strip().rstrip(".")
    model.prompt(text)  # refuse what the model cannot read
    return text


def captioner_for(model: Denoiser) -> Captioner:
    """Return the captioner that knows a model's world.

    Raises:
        ValueError: If there is none.
    """
    for name in OFFERED:
        captioner: Captioner | None = resolve_name(name)(model)
        if captioner is not None:
            return captioner
    raise ValueError(
        f"No captioner knows the world of {model.name}. Write the prompt "
        "yourself, or name a captioning network: captioner='path/to/blip'."
    )


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
