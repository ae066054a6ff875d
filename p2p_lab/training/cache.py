"""Scenes kept on disk as latents, so that a fixed encoder and the drawing cost nothing twice.

The first pass over the scenes fills the cache while it trains; each later pass reads it and takes
other captions of the same scenes. A file holds the scenes of one group: latents in half precision,
what things cover, the masks of what captions can name, and the captions. A file that is damaged or
was cut off is made again; a full disk stops nothing, the scenes are then drawn each time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.scenes import Scene, caption, render, sample_scene
from p2p_lab.scenes.splits import TRAINING
from p2p_lab.training.checkpoint import ResumeError
from p2p_lab.training.config import TrainConfig
from p2p_lab.training.data import SUPERVISED, Batch, Words

GROUP = 16  # scenes in a file
WORDINGS = 3  # captions of each kind (short, long) that are kept for a scene
DEGREES_FROM = 0.15  # the weakest weather that is drawn
Saying = dict[str, Any]  # "text", and "words": [start, end, mask] of each supervised phrase


@dataclass(frozen=True)
class Group:
    """The scenes of one file.

    Attributes:
        latents: (G, C, h, w) in half precision.
        cover: (G, 1, h, w) in [0, 255].
        masks: (M, h, w) in [0, 255], of all scenes.
        short, long: Captions of each scene.
    """

    latents: Tensor
    cover: Tensor
    masks: Tensor
    short: list[list[Saying]]
    long: list[list[Saying]]


class SceneCache:
    """The cache of one run; groups are made when they are first asked for."""

    def __init__(self, config: TrainConfig, vae: AutoencoderKL, folder: Path) -> None:
        self.config, self.vae, self.folder = config, vae, folder
        self.groups = max(1, config.cached // GROUP)
        self.first = config.seed * self.groups
        self.writing = True
        _claim(folder, _digest(config, vae))

    def group(self, index: int) -> Group:
        """Return a group from disk, or make it and keep it.

        Args:
            index: From 0. Runs of other seeds have other scenes.
        """
        index += self.first
        path = self.folder / f"group-{index:06d}.safetensors"
        found = self._read(path) if path.is_file() else None
        if found is not None:
            return found
        made = make_group(self.config, self.vae, TRAINING.seed(index * GROUP))
        if self.writing:
            self._write(path, made)
        return made

    def _read(self, path: Path) -> Group | None:
        side = self.config.picture_size // self.config.scale
        shape = (GROUP, self.config.latent_channels, side, side)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("latents", "cover", "masks")}
                text = json.loads((file.metadata() or {})["captions"])
            group = Group(**tensors, short=text["short"], long=text["long"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        whole = tuple(group.latents.shape) == shape and bool(group.latents.isfinite().all())
        return group if whole else None

    def _write(self, path: Path, group: Group) -> None:
        draft = path.with_name(f"{path.stem}.{os.getpid()}.draft")
        tensors = {name: getattr(group, name) for name in ("latents", "cover", "masks")}
        text = json.dumps({"short": group.short, "long": group.long})
        try:
            save_file(tensors, draft, {"captions": text})
            os.replace(draft, path)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            self.writing = False
            print(f"The cache {self.folder} takes no more ({error}); scenes are drawn each time.")


def _claim(folder: Path, digest: str) -> None:
    """Make the folder, or refuse one that another world or encoder made."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "cache.json"
    if mark.is_file():
        found = mark.read_text()
        if found != json.dumps({"digest": digest}):
            raise ResumeError(
                f"{folder} holds scenes of another world, size or encoder; choose another --out "
                "folder, or delete that one: it is made again."
            )
        return
    draft = mark.with_name(f"cache.{os.getpid()}.draft")
    draft.write_text(json.dumps({"digest": digest}))
    os.replace(draft, mark)


def _digest(config: TrainConfig, vae: AutoencoderKL) -> str:
    """Return a hash of all that decides what a cached group holds."""
    what = (config.world, config.picture_size, config.latent_channels, GROUP, WORDINGS)
    found = hashlib.sha256(repr(what).encode())
    for part in (vae.encoder, vae.quant_conv):
        assert part is not None
        for name, tensor in sorted(part.state_dict().items()):
            found.update(name.encode() + tensor.detach().cpu().half().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def make_group(config: TrainConfig, vae: AutoencoderKL, first: int) -> Group:
    """Draw a group of scenes and encode it.

    Args:
        config: Of the run.
        vae: Its encoder is used.
        first: Seed of the first scene.
    """
    scenes = [_any_degree(sample_scene(first + i, config.world)) for i in range(GROUP)]
    pictures = render(scenes, config.picture_size)
    side = config.picture_size // config.scale
    images = (pictures.images * 2 - 1).to(vae.device, memory_format=torch.channels_last)
    latents = vae.encode(images).latent_dist.mean.cpu()
    masks: list[Tensor] = []
    short, long = [], []
    for b, scene in enumerate(scenes):
        known: dict[Any, int | None] = {}

        def mask_of(phrase: Any, b: int = b, known: dict[Any, int | None] = known) -> int | None:
            key = (phrase.kind == "place", phrase.things)
            if key not in known:
                mask = F.adaptive_avg_pool2d(pictures.phrase_mask(b, phrase)[None], side)[0]
                known[key] = len(masks) if mask.sum() > 1 else None
                if known[key] is not None:
                    masks.append(mask)
            return known[key]

        short.append([_say(scene, n, False, mask_of) for n in range(WORDINGS)])
        long.append([_say(scene, n, True, mask_of) for n in range(WORDINGS)])
    cover = F.adaptive_avg_pool2d(pictures.masks.sum(1, keepdim=True).clamp(0, 1), side)
    stacked = torch.stack(masks) if masks else torch.zeros(1, side, side)
    return Group(latents.half().contiguous(), _bytes(cover), _bytes(stacked), short, long)


def _bytes(fractions: Tensor) -> Tensor:
    return (fractions * 255).round().byte().contiguous()


def _any_degree(scene: Scene) -> Scene:
    """Return the scene with a degree of its weather between the three that have words.

    The caption still says the nearest word: so the amount is a line and not three points.
    """
    if scene.weather == "clear":
        return scene
    degree = random.Random(f"degree {scene.seed}").uniform(DEGREES_FROM, 1.0)
    return dataclasses.replace(scene, degree=degree)


def _say(scene: Scene, wording: int, detail: bool, mask_of: Any) -> Saying:
    text = caption(scene, scene.seed + wording, detail=detail)
    words = [
        [phrase.start, phrase.end, mask]
        for phrase in text.phrases
        if phrase.kind in SUPERVISED and (mask := mask_of(phrase)) is not None
    ]
    return {"text": text.text, "words": words}


class CachedBatches:
    """Batches from a cache: each pass over the scenes has its own order and captions."""

    def __init__(self, cache: SceneCache, tokenizer: Any) -> None:
        self.cache, self.tokenizer, self.config = cache, tokenizer, cache.config

    def __call__(self, first: int, count: int) -> Batch:
        """Return the batch of `count` scenes that begins at scene `first` of the run."""
        parts = [
            self._part(number) for number in range(first // GROUP, -(-(first + count) // GROUP))
        ]
        return merge(parts) if len(parts) > 1 else parts[0]

    def _part(self, number: int) -> Batch:
        turn, place = divmod(number, self.cache.groups)
        order = torch.randperm(
            self.cache.groups, generator=torch.Generator().manual_seed(self.config.seed + turn)
        )
        group = self.cache.group(int(order[place]) if turn else place)
        rng = random.Random(f"captions {self.config.seed} {number}")
        texts = [self._choose(group, i, rng) for i in range(GROUP)]
        return self._batch(group, texts)

    def _choose(self, group: Group, i: int, rng: random.Random) -> Saying:
        kind = group.long if rng.random() < self.config.long_captions else group.short
        choice = rng.choice(kind[i])
        if len(self.tokenizer(choice["text"]).input_ids) > self.config.length:
            choice = rng.choice(group.short[i])
        return {"text": "", "words": []} if rng.random() < self.config.prompt_dropout else choice

    def _batch(self, group: Group, sayings: list[Saying]) -> Batch:
        encoded = self.tokenizer(
            [choice["text"] for choice in sayings],
            padding="max_length",
            max_length=self.config.length,
            truncation=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        starts, ends = encoded.offset_mapping.unbind(-1)  # (B, L)
        picture, tokens, masks = [], [], []
        for b, choice in enumerate(sayings):
            for start, end, mask in choice["words"]:
                inside = (starts[b] >= start) & (ends[b] <= end) & (ends[b] > starts[b])
                if inside.any():
                    picture.append(b)
                    tokens.append(inside.float() / inside.sum())
                    masks.append(group.masks[mask])
        side = group.masks.shape[-1]
        words = Words(
            torch.tensor(picture, dtype=torch.long),
            torch.stack(tokens) if tokens else torch.zeros(0, self.config.length),
            torch.stack(masks).float() / 255 if masks else torch.zeros(0, side, side),
        )
        return Batch(group.latents.float(), encoded.input_ids, group.cover.float() / 255, words)


def merge(parts: list[Batch]) -> Batch:
    """Return several batches as one."""
    offsets = [sum(len(part.ids) for part in parts[:i]) for i in range(len(parts))]
    words = Words(
        torch.cat([part.words.picture + n for part, n in zip(parts, offsets, strict=True)]),
        torch.cat([part.words.tokens for part in parts]),
        torch.cat([part.words.masks for part in parts]),
    )

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return Batch(joined("images"), joined("ids"), joined("cover"), words)
