"""The peak memory of a picture and of its edits, computed before anything is drawn.

One step of each kind is run on PyTorch's meta device with the very controllers that the samplers
use, and the picture is decoded there; see `models.living`. Not counted: what CUDA and its libraries
need themselves, some 0.5 to 1 GiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from p2p_lab.attention import AttentionTape, BatchSlices, Controller, Site, attached, find_sites
from p2p_lab.attention.tape import taped_sites
from p2p_lab.edits import Replace, compile_edits
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.models.living import Fused, Living
from p2p_lab.sampling.tape_budget import USUAL

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class PeakMemory:
    """What drawing and editing one picture takes at the worst moment, in bytes.

    Attributes:
        weights: All networks of the model.
        generate: Activations of a plain step, with guidance where the model has it.
        record: The same with maps of words and a tape of that step.
        edit: An edit's step with the source from the tape.
        joint_edit: An edit's step with the source beside the target.
        decode: From latents to the picture.
        tape: A whole run's tape, which lies here or in the host's memory.
    """

    weights: int
    generate: int
    record: int
    edit: int
    joint_edit: int
    decode: int
    tape: int

    def total(self, action: str) -> int:
        """Return the peak of "generate", "record", "edit" or "joint_edit", without the tape."""
        step: int = getattr(self, action)
        return self.weights + max(step, self.decode)

    def __str__(self) -> str:
        """Return the peaks in one line."""
        actions = ("generate", "record", "edit", "joint_edit")
        peaks = [f"{name.replace('_', ' ')} {_shown(self.total(name))}" for name in actions]
        return f"{', '.join(peaks)}; beside it the tape's {_shown(self.tape)}, here or on the host"


def _shown(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.0f} MiB"


def peak_memory(
    model: Denoiser, *, size: tuple[int, int] | None = None, steps: int | None = None
) -> PeakMemory:
    """Compute what one picture takes at the worst moment.

    Args:
        model: A denoiser; its weights are not touched, and may be on the meta device themselves.
        size: Height and width of the picture; None takes the model's.
        steps: Number of steps T, for the tape; None takes the model's.
    """
    full = size or (model.defaults.height, model.defaults.width)
    steps = steps or model.defaults.steps
    prompts = [model.prompt(text) for text in ("a cat", "a dog")]
    rows = 2 if model.defaults.guidance_scale > 1 else 1
    shadow = _Shadow(model, full, model.encode_prompt(prompts[0], full))
    chosen = taped_sites(shadow.sites, USUAL)
    tape = AttentionTape(model.name, chosen, steps, torch.device("meta"))
    plan = compile_edits([Replace()], prompts[0], prompts[1], steps)
    last = slice(rows - 1, rows)
    plain = Controller(shadow.sites, BatchSlices(source=last), record=False)
    keeping = Controller(shadow.sites, BatchSlices(source=last), keep=[tape])
    joint = BatchSlices(slice(2 * rows - 2, 2 * rows - 1), slice(2 * rows - 1, 2 * rows))
    return PeakMemory(
        weights=sum(_bytes_of(part) for part in _networks(model)),
        generate=shadow.step(rows, plain),
        record=shadow.step(rows, keeping),
        edit=shadow.step(
            rows, Controller(shadow.sites, BatchSlices(target=last), plan=plan, tapes=[tape])
        ),
        joint_edit=shadow.step(2 * rows, Controller(shadow.sites, joint, plan=plan)),
        decode=shadow.decode(),
        tape=AttentionTape.estimate(chosen, steps, model.dtype, len(prompts[0])),
    )


class _Shadow:
    """A model of the same shapes on the meta device."""

    def __init__(self, model: Denoiser, size: tuple[int, int], text: Conditioning) -> None:
        self.size = size
        networks = {n: getattr(model, n) for n in ("module", "vae") if hasattr(model, n)}
        there: Any = model
        self.model = replace(there, **{name: _on_meta(part) for name, part in networks.items()})
        self.shape = model.latent_shape(size)
        self.sites: dict[str, Site] = find_sites(model.module, self.shape[1:])
        self.text = _each(text, lambda tensor: tensor.to("meta"))

    def step(self, rows: int, controller: Controller) -> int:
        """Return the most bytes that are alive during a step of so many rows."""
        model = self.model
        latents = torch.empty(rows, *self.shape, dtype=model.dtype, device="meta")
        t = torch.empty((), dtype=torch.long, device="meta")
        controller.begin_step(0)
        with _counting() as living, attached(model.module, controller, self.sites):
            model.predict(latents, t, self.text.expand(rows))
        return latents.nbytes + living.peak

    def decode(self) -> int:
        """Return the most bytes that are alive while a picture is decoded."""
        latents = torch.empty(1, *self.shape, dtype=self.model.dtype, device="meta")
        with _counting() as living:
            self.model.decode(latents)
        return living.peak


@contextmanager
def _counting() -> Iterator[Living]:
    with torch.no_grad(), torch.device("meta"), Living() as living, Fused():
        yield living


def _on_meta(module: Any) -> Any:
    """Return a network of the same class and settings without numbers."""
    with torch.device("meta"):
        made = type(module).from_config(module.config)
    nn.Module.to(made, module.dtype)
    return made.eval().requires_grad_(False)


def _each(text: Conditioning, change: Any) -> Conditioning:
    values = {field.name: getattr(text, field.name) for field in fields(text)}
    return replace(text, **{n: change(v) for n, v in values.items() if isinstance(v, Tensor)})


def _networks(model: Denoiser) -> Sequence[nn.Module]:
    found = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    return list({id(part): part for part in found}.values())


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
