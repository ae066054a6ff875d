"""Which scene seeds are used for what: one table, without overlaps.

Nothing that trains a model, or chooses a setting, may see the scenes that report its results.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """A range of scene seeds for one use.

    Attributes:
        use: What its scenes are for.
        start, stop: First seed, and the one after the last.
    """

    use: str
    start: int
    stop: int

    def seed(self, offset: int) -> int:
        """Return the scene seed at an offset into the range.

        Raises:
            ValueError: If the range has no such offset.
        """
        if not 0 <= offset < self.stop - self.start:
            count = self.stop - self.start
            raise ValueError(
                f"Scene {offset} lies outside the {count:,} scenes for {self.use}: take a "
                "smaller --seed or fewer cases, so that no other use sees these scenes."
            )
        return self.start + offset


TRAINING = Split("training the generators", 0, 1_000_000_000)
ENCODERS = Split("fitting fixed encoders, and previews", 1_000_000_000, 1_100_000_000)
INVERSION = Split("the benchmark of inversions", 1_100_000_000, 1_200_000_000)
EDITING = Split("the benchmark of edits", 1_200_000_000, 1_400_000_000)
MOVING = Split("the benchmark of moves", 1_400_000_000, 1_500_000_000)
MODEL = Split("the benchmark of the model", 1_500_000_000, 1_600_000_000)
SAMPLES = Split("the model card's pictures", 1_600_000_000, 1_700_000_000)
FEATURES = Split("the network of the Fréchet distance", 1_700_000_000, 1_800_000_000)
JUDGE_TRAINING = Split("training the judge", 2_000_000_000, 2_080_000_000)
JUDGE_TUNING = Split("choosing the judge's threshold", 2_080_000_000, 2_090_000_000)
JUDGE_TEST = Split("testing the judge", 2_090_000_000, 2_100_000_000)

SPLITS = (
    TRAINING, ENCODERS, INVERSION, EDITING, MOVING, MODEL, SAMPLES, FEATURES,
    JUDGE_TRAINING, JUDGE_TUNING, JUDGE_TEST,
)  # fmt: skip
