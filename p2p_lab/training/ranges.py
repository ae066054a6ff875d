"""Which numbers a training run can be made of, in its configuration and on its command line."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, all finite; as a function it reads an option's text.

    Attributes:
        low, high: Its ends.
        above: Whether `low` itself is left out.
        whole: Whether only whole numbers are meant.
    """

    low: float = 0
    high: float = math.inf
    above: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Return whether a value is one of these numbers."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return self.low <= value <= self.high and abs(value) < math.inf and not self._at_end(value)

    def __call__(self, text: str) -> float:
        """Return the number that an option's text says, as argparse asks its `type`.

        Raises:
            argparse.ArgumentTypeError: If it is none of these numbers.
        """
        try:
            value: float = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        if not self.holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not possible: give {self}.")
        return value

    def __str__(self) -> str:
        """Return the range in words."""
        kind = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{kind} above {self.low}"
        return f"{kind} from {self.low} {'on' if self.high == math.inf else f'to {self.high}'}"

    def _at_end(self, value: float) -> bool:
        return self.above and value == self.low


_COUNT, _SHARE, _WEIGHT, _ABOVE = Range(whole=True), Range(0, 1), Range(), Range(above=True)
RANGES = {  # of every setting of this name, whatever kind of run has it
    "batch": Range(1, whole=True),
    **dict.fromkeys(("hours", "minutes", "learning_rate", "vae_factor"), _ABOVE),
    **dict.fromkeys(("pictures", "decoder_pictures", "cached", "crop", "workers"), _COUNT),
    **dict.fromkeys(("supervision", "object_weight", "muon_factor"), _WEIGHT),
    **dict.fromkeys(("latent_noise", "detail_weight"), _WEIGHT),
    **dict.fromkeys(("prompt_dropout", "long_captions", "neutral_padding", "ema"), _SHARE),
    **dict.fromkeys(("autoencoder_share", "sharpening_share", "base_share"), _SHARE),
    "constant_until": Range(0, 0.99),  # at 1 there would be no time for the rate to fall
    "noise_levels": Range(1, 1000, whole=True),
    "seed": Range(0, 2**32 - 1, whole=True),
}


def check_ranges(settings: object) -> None:
    """Refuse settings of a run that no run can have.

    Raises:
        ValueError: If a number lies outside its range.
    """
    for name, allowed in RANGES.items():
        value = getattr(settings, name, None)
        if value is not None and not allowed.holds(value):
            raise ValueError(f"{name}={value!r:.80} is not possible: give {allowed}.")
