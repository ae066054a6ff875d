"""The networks as the page calls them: one denoiser with the plan and the tape going in and out.

    ε̂ = ε(z, negative) + s · (ε(z, text) − ε(z, negative))
    M̂ = g_src · (M_src P) + g_tgt · M_tgt        at every site with text
    q, k ← the source's where the gate is 1       at every site among image positions

Gains (0, 1) and gates 0 change nothing: the same graph draws the source and records its tape. The
tape holds queries and keys, as `AttentionTape` does. This file knows nothing of ONNX or of the web.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from p2p_lab.attention import Site, find_sites
from p2p_lab.attention.blending import blend_sites
from p2p_lab.attention.store import nearest_size
from p2p_lab.judge.network import JudgeNet
from p2p_lab.models import Denoiser
from p2p_lab.models.stable_diffusion import StableDiffusion

INPUTS = (
    *("latents", "time", "text", "source_text", "guidance"),
    *("mapper", "source_gain", "target_gain", "self_gate", "tape"),
)
FEW = 6  # inputs of one operation
OUTPUTS = ("noise_pred", "maps", "blend_maps", "new_tape")


class Denoising(nn.Module):
    """One guided step of the denoiser, steered by one step of a plan.

    Args:
        model: The model; its attention processors are replaced for as long as `steered` lasts.

    Attributes:
        sites: All attention sites, in the order of the module.
        shapes: What the tape holds, in order: (heads, pixels, width of a head) each.
        map_sites: The sites whose maps are shown: the card's, or those nearest to 16×16.
        blend_sites: The sites that a local edit's mask is made of.
    """

    def __init__(self, model: StableDiffusion) -> None:
        super().__init__()
        defaults = model.defaults
        grid = model.latent_shape((defaults.height, defaults.width))[1:]
        self.unet = model.module
        self.sites = list(find_sites(model.module, grid).values())
        worded = [site for site in self.sites if site.has_text]
        preferred = [site for site in worded if site.name in model.card.map_sites]
        self.map_sites = nearest_size(preferred or worded)
        self.blend_sites = blend_sites({site.name: site for site in worded})
        self.shapes = [shape for site in self.sites for shape in _taped(site)]
        self.desk = _Desk(self.sites)

    @property
    def tape_size(self) -> int:
        """Number of values that a step's tape holds."""
        return sum(math.prod(shape) for shape in self.shapes)

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        source_text: Tensor,
        guidance: Tensor,
        mapper: Tensor,
        source_gain: Tensor,
        target_gain: Tensor,
        self_gate: Tensor,
        tape: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the noise of one step.

        Args:
            latents: z_t, (1, C, h, w).
            time: Model time t, (1,).
            text: Embeddings of the negative and the target prompt, (2, L, D).
            source_text: Embeddings of the source prompt, (1, L, D).
            guidance: Guidance scale s, (1,).
            mapper: P, (L, L).
            source_gain: Gains of this step, (L,).
            target_gain: The same of the target's own maps, (L,).
            self_gate: 1 where a self-attention site takes the source's map, else 0, (S,).
            tape: The source's queries and keys of this step, (N,).

        Returns:
            Guided prediction (1, C, h, w); maps (sites, pixels, L) to show, and those that make a
            local edit's mask, after the edit; the target's own tape (N,).
        """
        plan = _Step(source_text, mapper, source_gain, target_gain, self_gate)
        self.desk.begin(plan, self._cut(tape))
        noise_pred = self.unet(
            latents.expand(2, -1, -1, -1), time, encoder_hidden_states=text, return_dict=False
        )[0]
        negative, positive = noise_pred.chunk(2)
        guided = negative + guidance * (positive - negative)
        maps, taped = self.desk.maps, self.desk.taped
        return (
            guided,
            torch.stack([maps[site.name] for site in self.map_sites]),
            torch.stack([maps[site.name] for site in self.blend_sites]),
            _joined([part.flatten() for part in taped]),
        )

    def _cut(self, tape: Tensor) -> list[Tensor]:
        ends = [0, *accumulate(math.prod(shape) for shape in self.shapes)]
        return [
            tape[start:stop].reshape(shape)
            for start, stop, shape in zip(ends, ends[1:], self.shapes, strict=False)
        ]

    def processors(self) -> dict[str, _Steered]:
        """Return a processor for each site, by its name."""
        found, first, gate = {}, 0, 0
        for site in self.sites:
            found[site.name] = _Steered(site, self.desk, first, gate)
            first, gate = first + len(_taped(site)), gate + int(not site.has_text)
        return found


class steered:  # noqa: N801 - reads as a statement: `with steered(denoising)`
    """Install a denoiser's steered attention for the length of a block."""

    def __init__(self, denoising: Denoising) -> None:
        self.denoising = denoising
        names = [site.name for site in denoising.sites]
        self.hosts: dict[str, Any] = {n: denoising.unet.get_submodule(n) for n in names}
        self.before = {name: host.processor for name, host in self.hosts.items()}

    def __enter__(self) -> Denoising:
        for name, processor in self.denoising.processors().items():
            self.hosts[name].set_processor(processor)
        return self.denoising

    def __exit__(self, *_: object) -> None:
        for name, host in self.hosts.items():
            host.set_processor(self.before[name])


def _joined(parts: list[Tensor]) -> Tensor:
    """Put vectors one after another, few at a time: a graphics card takes few inputs at once."""
    while len(parts) > 1:
        parts = [torch.cat(parts[i : i + FEW]) for i in range(0, len(parts), FEW)]
    return parts[0]


def _taped(site: Site) -> list[tuple[int, int, int]]:
    """Return the shapes of what the tape holds of a site: queries, and keys that are no text."""
    shape = (site.heads, site.pixels, site.channels // site.heads)
    return [shape] if site.has_text else [shape, shape]


class _Step:
    """One step of a plan, as tensors."""

    def __init__(self, text: Tensor, mapper: Tensor, source: Tensor, target: Tensor, gate: Tensor):
        self.text, self.mapper, self.gate = text, mapper, gate
        self.source_gain, self.target_gain = source, target


class _Desk:
    """What the processors of one step read and write."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        self.plan: _Step | None = None
        self.tape: list[Tensor] = []
        self.taped: list[Tensor] = []
        self.maps: dict[str, Tensor] = {}

    def begin(self, plan: _Step, tape: list[Tensor]) -> None:
        """Put a step's plan and tape on the desk."""
        self.plan, self.tape, self.maps = plan, tape, {}
        self.taped = list(tape)


class _Steered:
    """Compute one site's attention: the negative row as it is, the other one as the plan says."""

    def __init__(self, site: Site, desk: _Desk, first: int, gate: int) -> None:
        self.site, self.desk, self.first, self.gate = site, desk, first, gate

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Return the attention's output, (2, pixels, C)."""
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            self._heads(part) for part in (attn.to_q(hidden), attn.to_k(text), attn.to_v(text))
        )  # (2, heads, Q, d), (2, heads, K, d)
        self.desk.taped[self.first] = query[1]
        mix = self._among_image if encoder_hidden_states is None else self._with_text
        out = mix(attn, query, key, value)  # (2, heads, Q, d)
        joined = out.transpose(1, 2).reshape(2, -1, self.site.channels)  # (2, Q, C)
        projected: Tensor = attn.to_out[0](joined)
        return projected

    def _among_image(self, attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        desk = self.desk
        assert desk.plan is not None
        desk.taped[self.first + 1] = key[1]
        taken = desk.plan.gate[self.gate] > 0
        query, key = (
            torch.stack([rows[0], torch.where(taken, desk.tape[self.first + i], rows[1])])
            for i, rows in enumerate((query, key))
        )
        return _probs(attn, query, key) @ value

    def _with_text(self, attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        desk, plan = self.desk, self.desk.plan
        assert plan is not None
        probs = _probs(attn, query, key)
        source_key = self._heads(attn.to_k(plan.text))[0]  # (heads, L, d)
        source = _probs(attn, desk.tape[self.first], source_key)  # (heads, pixels, L)
        edited = plan.source_gain * (source @ plan.mapper) + plan.target_gain * probs[1]
        desk.maps[self.site.name] = edited.mean(dim=0)  # (pixels, L)
        return torch.stack([probs[0], edited]) @ value

    def _heads(self, x: Tensor) -> Tensor:
        """Split (B, Q, C) into heads, (B, heads, Q, d)."""
        return x.reshape(*x.shape[:2], self.site.heads, -1).transpose(1, 2)


def _probs(attn: Any, query: Tensor, key: Tensor) -> Tensor:
    scores: Tensor = query * attn.scale @ key.transpose(-1, -2)
    return scores.softmax(dim=-1)


class Decoding(nn.Module):
    """Latents (1, C, h, w) to a picture (1, 3, H, W) in [0, 1]."""

    def __init__(self, model: StableDiffusion) -> None:
        super().__init__()
        self.model, self.vae = model, model.vae

    def forward(self, latents: Tensor) -> Tensor:
        """Return the picture of clean latents."""
        pictures: Tensor = self.vae.decode(self.model._unscale(latents), return_dict=False)[0]
        return (pictures * 0.5 + 0.5).clamp(0, 1)


class Reading(nn.Module):
    """Token ids (1, L) to text embeddings (1, L, D)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        """Return the last hidden states."""
        hidden: Tensor = self.encoder(ids.long(), attention_mask=None)[0]
        return hidden


class Judging(nn.Module):
    """A picture (1, 3, H, W) to the judge's answers, as probabilities.

    A picture of another size than the judge's is brought to it by the same linear filter as in
    Python, written as a matrix for each axis.
    """

    def __init__(self, net: JudgeNet, size: tuple[int, int]) -> None:
        super().__init__()
        self.net = _with_plain_norms(copy.deepcopy(net))
        self.rows = nn.Buffer(_filter(size[0], net.picture_size))  # (S, H)
        self.columns = nn.Buffer(_filter(size[1], net.picture_size))  # (S, W)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return presence (O,), attributes (O, A), place, time, weather, style, degree (1,)."""
        answers = self.net(self.rows @ picture @ self.columns.T)
        kinds = (answers.place, answers.time, answers.weather, answers.style)
        return (
            answers.present[0].sigmoid(),
            answers.attribute[0].softmax(dim=-1),
            *(kind[0].softmax(dim=-1) for kind in kinds),
            answers.degree.sigmoid(),
        )


class _Scaled(nn.Module):
    """A normalisation over the batch as it is after training: a factor and a shift a channel.

    Left as it is, the exporter would fold it into the convolution before it, whose weights half
    precision could then no longer hold without loss.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.scale = nn.Buffer(scale.detach()[:, None, None])
        self.shift = nn.Buffer((norm.bias - norm.running_mean * scale).detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        return x * self.scale + self.shift


def _with_plain_norms(net: JudgeNet) -> JudgeNet:
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _Scaled(child))
    return net


def _filter(size: int, side: int) -> Tensor:
    """Return the matrix (S, size) that does along an axis what the judge's resizing to S does."""
    if size == side:
        return torch.eye(size)
    lines = torch.eye(size)[:, None, :, None].expand(-1, 1, -1, size)  # a bright row each
    small = F.interpolate(lines, size=(side, side), mode="bilinear", antialias=True)
    return small[:, 0, :, 0].T.contiguous()


def checked(model: Denoiser) -> StableDiffusion:
    """Return the model if the page can run it.

    Raises:
        ValueError: If it is of another family, or its text encoder needs a mask.
    """
    if type(model) is not StableDiffusion or model._uses_mask():
        raise ValueError(
            f"The page draws with models built as Stable Diffusion 1 is, and {model.name} is not "
            "one of them. Take a bundled model: leave --model out."
        )
    return model
