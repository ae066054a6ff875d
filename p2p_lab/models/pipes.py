"""A pipeline that is in memory: its parts as they are, with whatever was put on them.

Nothing is copied, moved or frozen. Adapters (LoRA), added tokens, another autoencoder and
offloading stay in force, because every part is called as the pipeline calls it.
"""

from __future__ import annotations

import copy
from typing import Any

from p2p_lab.models.denoiser import Defaults, ModelCard
from p2p_lab.models.parts import check_part, chosen, tokenizer_names


class Pipe:
    """The parts of a pipeline in memory.

    Args:
        pipe: The diffusers pipeline.
        name: What to call it; None takes the name that it was loaded by, or its class.
    """

    def __init__(self, pipe: Any, name: str | None = None) -> None:
        self.pipe, self.card = pipe, ModelCard()
        self.name = name or getattr(pipe, "name_or_path", None) or type(pipe).__name__

    @property
    def kind(self) -> str:
        """Name of the pipeline's class."""
        return type(self.pipe).__name__

    @property
    def where(self) -> str:
        """The pipeline, as errors name it."""
        return f"the pipeline {self.name!r}"

    def class_name(self, part: str) -> str | None:
        """Name of a part's class, or None if the pipeline goes without it."""
        found = getattr(self.pipe, part, None)
        return None if found is None else type(found).__name__

    def network(self, part: str, *kinds: Any) -> Any:
        """Return a network as it is.

        Raises:
            ModelError: If it is missing or of another class.
        """
        check_part(self, part, [kind.__name__ for kind in kinds])
        return getattr(self.pipe, part)

    def tokenizer(self, part: str, kind: Any, length: int | None = None) -> Any:
        """Return a tokenizer; where the model reads fewer tokens than it says, a copy."""
        check_part(self, part, tokenizer_names(kind))
        tokenizer = getattr(self.pipe, part)
        if length is None or int(tokenizer.model_max_length) <= length:
            return tokenizer
        tokenizer = copy.copy(tokenizer)
        tokenizer.model_max_length = length
        return tokenizer

    def settings(self, part: str) -> dict[str, Any]:
        """Return a scheduler's settings."""
        scheduler = getattr(self.pipe, part)
        return {**scheduler.config, "_class_name": type(scheduler).__name__}

    def option(self, name: str, default: Any) -> Any:
        """Return a setting of the pipeline itself."""
        return getattr(self.pipe.config, name, default)

    def defaults(self, height: int, width: int, steps: int, guidance_scale: float) -> Defaults:
        """Return the settings that the model works best with."""
        return chosen(self.card, height, width, steps, guidance_scale)
