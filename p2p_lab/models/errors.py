"""The one error of this room, and how causes are quoted in it."""

from __future__ import annotations

REINSTALL = "Install the package, or download the model, again."


class ModelError(ValueError):
    """A model cannot be opened; the message says why and what to do."""


def not_a_lora(name: object) -> ModelError:
    """Return the error for a LoRA that was given in a model's place."""
    return ModelError(
        f"{name} is a LoRA, a change to a model and no model. Put it on a diffusers pipeline of "
        "its base model, pipe.load_lora_weights(...), and give that pipeline: load(pipe)."
    )


def not_an_embedding(name: object) -> ModelError:
    """Return the error for a textual inversion that was given in a model's place."""
    return ModelError(
        f"{name} is a textual inversion, the embedding of a word and no model. Put it on a "
        "diffusers pipeline of its base model, pipe.load_textual_inversion(...), and give that "
        "pipeline: load(pipe)."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, as a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return line + "."
