"""The one currency: a `Run` holds a picture, how it came about and what was recorded.

`generate`, `edit` and `invert` all return one; figures, widgets and metrics read it. This file
knows how a run is shown; it does not sample.
"""

from __future__ import annotations

import base64
import html
import io
import operator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from p2p_lab.attention import AttentionStore, AttentionTape, find_sites, sharp_map
from p2p_lab.edits import EditPlan
from p2p_lab.images import to_image
from p2p_lab.sampling.saving import read_run, save_run
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.tokens import Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from p2p_lab.models import Denoiser
    from p2p_lab.sampling.edit_job import EditCacheEntry


@dataclass(eq=False)
class EditCache:
    """What edits of a run leave for later ones.

    Attributes:
        entries: Steps of the newest edits.
        tape: Of a run that kept none itself and was edited all the same.
    """

    entries: list[EditCacheEntry] = field(default_factory=list)
    tape: AttentionTape | None = None

    def clear(self) -> None:
        """Forget everything."""
        self.entries, self.tape = [], None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The latents of every step, and what an inversion measured beside them.

    Attributes:
        latents: (T + 1, C, h, w), from pure noise to the clean latents, in the sampler's scale.
        negative_embeds: Unconditional embedding of each step, (T, L, D), or None for the negative
            prompt's own (null-text inversion optimises them).
        noise_maps: Noise added after each step, (T, C, h, w), or None for deterministic steps.
        pinned: Whether a source row is set back to `latents` after each step (direct inversion).
        start: First step that is run; the ones before were skipped (edit-friendly inversion).
    """

    latents: Tensor
    negative_embeds: Tensor | None = None
    noise_maps: Tensor | None = None
    pinned: bool = False
    start: int = 0

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.latents) - 1


@dataclass(frozen=True, eq=False)
class Run:
    """One picture, how it came about and what was recorded on the way.

    Attributes:
        prompt: The prompt of the picture.
        pixels: The picture, (3, H, W) in [0, 1], float32 (float64 for a float64 model).
        trajectory: The latents of every step.
        negative: The negative prompt.
        seed: What the first noise was drawn from; None if it was given or measured.
        guidance_scale: Strength of classifier-free guidance; 1 is none.
        sampler: Name of the sampler.
        attention: The recorded maps, or None.
        tape: What an edit needs of this run, or None: edits then run the source again beside them.
        plan: The edit that made this run; None for a generated or inverted picture.
        source: The run that was edited.
        masks: Where local blending let the edit act, (T, h, w) in latent positions, or None.
        note: What was chosen for the user, in a sentence.
        model: The denoiser; None for a run loaded without one.
        model_name: Its name.
        made_by: Digest of its weights, if the run was read from a file (`models.identity`).
        cache: What earlier edits of this run leave for later ones.
    """

    prompt: Prompt
    pixels: Tensor
    trajectory: Trajectory
    negative: str = ""
    seed: int | None = None
    guidance_scale: float = 7.5
    sampler: Sampler = "ddim"
    attention: AttentionStore | None = None
    tape: AttentionTape | None = None
    plan: EditPlan | None = None
    source: Run | None = None
    masks: Tensor | None = None
    note: str = ""
    model: Denoiser | None = field(default=None, repr=False)
    model_name: str = ""
    made_by: str = field(default="", repr=False)
    cache: EditCache = field(default_factory=EditCache, repr=False)

    def __post_init__(self) -> None:
        """Let the maps read this run's tape: there is one, and the run owns it."""
        if self.attention is not None and self.attention.tape is not self.tape:
            object.__setattr__(self, "attention", replace(self.attention, tape=self.tape))

    @property
    def steps(self) -> int:
        """Number of steps T of the schedule."""
        return self.trajectory.steps

    @property
    def size(self) -> tuple[int, int]:
        """Height and width (H, W) of the picture."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    @property
    def array(self) -> NDArray[np.float32]:
        """Return the picture as an array (H, W, 3) in [0, 1], float32."""
        array: NDArray[np.float32] = self.pixels.float().cpu().permute(1, 2, 0).numpy()
        return array

    @property
    def image(self) -> Image:
        """Return the picture as a PIL image, 8 bits a channel."""
        return to_image(self.pixels)

    def map(self, word: str, **options: Any) -> Tensor:
        """Return where the picture looked at a word: `attention.map` of this run.

        Raises:
            ValueError: If the run recorded no maps.
        """
        if self.attention is None:
            raise ValueError("This run recorded no maps. Run it with record='store' or 'tape'.")
        return self.attention.map(word, **options)

    def sharp_map(self, word: str, **options: Any) -> Tensor:
        """Return a sharper map of a word at the picture's size: `attention.sharp_map` of this run.

        Raises:
            ValueError: If the run recorded no maps.
        """
        if self.attention is None:
            raise ValueError("This run recorded no maps. Run it with record='store' or 'tape'.")
        return sharp_map(self.attention, word, **{"image": self.pixels, **options})

    def explain(self) -> str:
        """Return what made the picture: its plan, and which layers of its model that changed.

        Raises:
            ValueError: If the run is no edit, or was loaded without its model.
        """
        if self.plan is None or self.model is None:
            what = "no edit" if self.plan is None else "loaded without its model"
            raise ValueError(f"This run is {what}, so there is no plan to explain on a model.")
        h, w = self.trajectory.latents.shape[-2:]
        return f"{self.plan}\n{self.plan.touches(find_sites(self.model.module, (h, w)))}"

    def save(self, path: str | Path, *, tape: bool = True, replace: bool = False) -> Path:
        """Write the whole run to one file; see `p2p_lab.sampling.saving`."""
        return save_run(self, path, tape=tape, replace=replace)

    @staticmethod
    def load(path: str | Path, model: Denoiser | None = None) -> Run:
        """Read a run that `save` wrote; give its model to edit it further.

        Raises:
            ValueError: If the file is not a run, or damaged, or of another model.
        """
        run: Run | None = None
        for fields in reversed(read_run(path, model)):
            fields["trajectory"] = Trajectory(**fields["trajectory"])
            run = Run(**fields, source=run, model=model)
        assert run is not None
        return run

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be pickled or copied: a run holds its model, with a lock.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "A Run is not pickled or copied: it holds its model. Write it with run.save(path) and "
            "read it with Run.load(path, model); dataclasses.replace(run) makes a second one."
        )

    def __repr__(self) -> str:
        """Return what the run is in one line, without its tensors."""
        kind = "edit" if self.source is not None else "picture"
        return (
            f"Run({kind} of {self.prompt.text!r}, seed={self.seed}, steps={self.steps}, "
            f"size={self.size[0]}×{self.size[1]})"
        )

    def _repr_html_(self) -> str:
        """Show the picture with its prompt, which is escaped."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="png")
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        text = html.escape(self.prompt.text, quote=True)
        lines = [f"<strong>{text or '(empty prompt)'}</strong>"]
        if self.source is not None:
            lines.append(f"edited from: {html.escape(self.source.prompt.text, quote=True)}")
        if self.note:
            lines.append(html.escape(self.note, quote=True))
        width = max(192, min(self.size[1], 512))
        return (
            f'<figure><img alt="Picture of: {text}" width="{width}" '
            f'style="image-rendering:auto" src="data:image/png;base64,{data}">'
            f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
        )


def checked_run(value: Any, name: str = "run", use: str = "") -> Run:
    """Return a run as it is.

    Args:
        value: What stands in a run's place.
        name: The argument's name.
        use: What is done with it, as the end of a sentence.

    Raises:
        ValueError: If it is something else, such as a prompt or a model.
    """
    if not isinstance(value, Run):
        what = use or "generate, invert and edit make one."
        raise ValueError(f"{name} is a {type(value).__name__}, not a Run: {what}")
    return value


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Draw standard noise from a seed, on the CPU in float32: the same on every device.

    Raises:
        ValueError: If the seed is not a whole number from 0 to 2⁶³ − 1.
    """
    generator = torch.Generator("cpu").manual_seed(checked_seed(seed))
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def is_seed(value: Any) -> bool:
    """Return whether a value is a seed: a whole number from 0 to 2⁶³ − 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def checked_seed(value: Any) -> int:
    """Return a seed as a plain number; whole numbers of NumPy and torch are taken too.

    Raises:
        ValueError: If it is not a whole number from 0 to 2⁶³ − 1.
    """
    try:
        seed = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        seed = -1
    if not is_seed(seed):
        raise ValueError(
            f"seed={value!r:.80} is not possible: give a whole number from 0 on, or a list of them."
        )
    return seed
