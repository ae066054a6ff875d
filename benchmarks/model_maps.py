"""How well a model's maps find the objects that words name, where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

from benchmarks.full_pipeline import FullPipeline
from p2p_lab.attention import AttentionStore, BatchSlices, Controller, Site, attached, find_sites
from p2p_lab.judge import Verdict
from p2p_lab.metrics import mask_iou, pointing_accuracy
from p2p_lab.scenes import Caption, Phrase, Scene, caption, render

TIMES = (200, 400, 600, 800)  # model times of the noised true scenes
GRID = (16, 16)
MAP_THRESHOLD = 0.5  # of a map's maximum: from there on a position counts as the object


@dataclass
class Points:
    """Maps against masks: how many were scored, how many pointed, the sum of their IoUs."""

    words: int = 0
    hits: float = 0.0
    overlap: float = 0.0

    def add(self, heat: Tensor, mask: Tensor) -> None:
        """Score one map (h, w) against the mask (H, W) of its object."""
        self.words += 1
        self.hits += pointing_accuracy(heat, mask > 0.5)
        small = F.adaptive_avg_pool2d(mask[None, None].float(), heat.shape)[0, 0]
        self.overlap += mask_iou(heat, small > 0.5, threshold=MAP_THRESHOLD)

    @property
    def pointing(self) -> float:
        return self.hits / max(self.words, 1)

    @property
    def iou(self) -> float:
        return self.overlap / max(self.words, 1)


def object_phrases(text: Caption) -> Iterator[tuple[Phrase, str, int]]:
    """Yield each object's phrase, its word and which occurrence of the word it is."""
    for phrase in text.phrases:
        if phrase.kind == "object":
            word = text.text[phrase.start : phrase.end]
            yield phrase, word, text.text[: phrase.start].split().count(word)


def recommended(model: Any) -> list[str]:
    """Name the sites whose maps are best to look at: the card's, else middle and upward ones."""
    sites = all_sites(model)
    chosen = [name for name in model.card.map_sites if name in sites]
    usual = [n for n, s in sites.items() if s.has_text and s.place in ("mid", "up")]
    return chosen or usual


def all_sites(model: Any) -> dict[str, Site]:
    """Return a model's sites for pictures of its usual size."""
    size = model.defaults.height, model.defaults.width
    return find_sites(model.module, model.latent_shape(size)[1:])


def mean_map(store: AttentionStore, sites: list[str], word: str, occurrence: int) -> Tensor:
    """Return a word's map, mean over sites, at 16 × 16."""
    maps = [store.map(word, occurrence=occurrence, site=name, size=GRID) for name in sites]
    return torch.stack(maps).mean(0)


def score_maps(
    points: Points,
    store: AttentionStore,
    sites: list[str],
    scene: Scene,
    text: Caption,
    truth: Verdict | Tensor,
) -> None:
    """Score the maps of all object words; things that cover under two positions are left out."""
    for phrase, word, occurrence in object_phrases(text):
        name = scene.things[phrase.things[0]].name
        if isinstance(truth, Verdict):
            if name not in truth.objects:
                continue
            mask = truth.masks[name]
        else:
            mask = truth[list(phrase.things)].sum(0).clamp(0, 1)
        if mask.mean() * GRID[0] * GRID[1] >= 2:
            points.add(mean_map(store, sites, word, occurrence), mask)


@torch.no_grad()
def read_true_scenes(pipeline: FullPipeline, scenes: list[Scene]) -> Points:
    """Score maps on noised true scenes, each at several model times."""
    model, points = pipeline.model, Points()
    sites, everywhere = recommended(model), all_sites(model)
    alpha_bars = DDIMScheduler.from_config(dict(model.scheduler_config)).alphas_cumprod
    for i, scene in enumerate(scenes):
        text, pictures = caption(scene), render(scene, pipeline.size[0])
        prompt = model.prompt(text.text)
        images = pipeline.shrink(pictures.images)
        latents = model.encode(images.to(model.device, model.dtype))
        for t in TIMES:
            generator = torch.Generator().manual_seed(1000 * i + t)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            noisy = alpha_bars[t].sqrt() * latents + (1 - alpha_bars[t]).sqrt() * noise
            controller = Controller(everywhere, BatchSlices(source=slice(0, 1)))
            with model.lock, attached(model.module, controller, everywhere):
                controller.begin_step(0)
                said = model.encode_prompt(prompt, pipeline.own_size)
                model.predict(noisy, torch.tensor(t), said)
                controller.end_step(noisy, None)
            store = controller.stores(prompt)[0]
            score_maps(points, store, sites, scene, text, pictures.masks[0])
    return points
