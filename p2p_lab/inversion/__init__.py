"""Inversion: a real picture becomes a `Run`.

    >>> run = invert(model, "photo.jpg", "a cat on a beach")
    >>> dog = edit(run, "a dog on a beach", [Replace()])

Five methods behind one call; they differ in the trajectory that they measure and in nothing else.
The room knows models and sampling; it draws no figures.
"""

from p2p_lab.inversion.caching import InversionCache, cache_folder
from p2p_lab.inversion.ddim import ddim_invert
from p2p_lab.inversion.edit_friendly import EditFriendly, edit_friendly
from p2p_lab.inversion.example_images import list_example_images, open_example_image
from p2p_lab.inversion.inverting import METHODS, Method, invert
from p2p_lab.inversion.jobs import InversionContext, Report
from p2p_lab.inversion.null_text import NullText, NullTextResult, null_text, null_text_step
from p2p_lab.inversion.null_text_memory import MemoryEstimate, null_text_memory
from p2p_lab.inversion.pictures import PictureError, load_image, to_tensor
from p2p_lab.inversion.suggesting import load_captioner, suggest_prompt

__all__ = [
    "METHODS",
    "EditFriendly",
    "InversionCache",
    "InversionContext",
    "MemoryEstimate",
    "Method",
    "NullText",
    "NullTextResult",
    "PictureError",
    "Report",
    "cache_folder",
    "ddim_invert",
    "edit_friendly",
    "invert",
    "list_example_images",
    "load_captioner",
    "load_image",
    "null_text",
    "null_text_memory",
    "null_text_step",
    "open_example_image",
    "suggest_prompt",
    "to_tensor",
]
