"""Exercises of lesson 6: the resolution of maps, and a cascade of super-resolution stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.checks.exercise import Exercise, Wrong, agree, call, draw, tensor


def resize_map(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map (h, w) at the picture's size (H, W), between its values a straight line."""
    return F.interpolate(heat[None, None], size=size, mode="bilinear")[0, 0]


def _test_resize(answer: Callable[..., Any]) -> str:
    for seed, (small, size) in enumerate(
        [((8, 8), (64, 64)), ((4, 6), (32, 48)), ((5, 3), (20, 9))]
    ):
        heat = draw(*small, seed=seed).abs()
        value = call(answer, heat, size)
        if getattr(value, "shape", None) == size[::-1] and size[0] != size[1]:
            raise Wrong(f"Height and width are exchanged: asked for is (H, W) = {size}.")
        if len(getattr(value, "shape", ())) == 4:
            raise Wrong("The two axes that interpolate needs are still there: take [0, 0].")
        got = tensor(value, size, "(H, W)")
        whole = heat[None, None]
        right = resize_map(heat, size)
        area = heat.numel() / (size[0] * size[1])
        agree(
            got,
            right,
            {
                "This is nearest neighbour: blocks. Use mode='bilinear'.": F.interpolate(
                    whole, size=size, mode="nearest"
                )[0, 0],
                "align_corners=True stretches the map: its cells no longer lie over their part "
                "of the picture.": F.interpolate(
                    whole, size=size, mode="bilinear", align_corners=True
                )[0, 0],
                "This is bicubic, which overshoots below 0. Use mode='bilinear'.": F.interpolate(
                    whole, size=size, mode="bicubic"
                )[0, 0],
                "The values were divided by the growth in area. A probability per position keeps "
                "its value.": right * area,
                "The values were divided by their maximum: the map loses its scale.": right
                / right.max(),
            },
            "The enlarged map differs.",
        )
    return "Three sizes, also not square: the enlarged maps agree."


def cascade(
    base: Callable[[str, str], Tensor],
    upscalers: Sequence[Callable[[Tensor, str], Tensor]],
    source: str,
    target: str,
) -> Tensor:
    """Return the large picture: only the base stage is edited, the others enlarge its result."""
    picture = base(source, target)
    for upscale in upscalers:
        picture = upscale(picture, target)
    return picture


_SOURCE, _TARGET = "a cat on a beach", "a dog on a beach"


class _Stages:
    """Stand in for a base model and its upscalers, and write down how they are called."""

    def __init__(self, count: int) -> None:
        self.edited = draw(3, 4, 4, seed=12)
        self.calls: list[tuple[str, int, str]] = []
        self.upscalers = [self._upscaler(n) for n in range(count)]

    def base(self, source: str, target: str) -> Tensor:
        self.calls.append(("base", 4, f"{source} -> {target}"))
        return self.edited.clone()

    def _upscaler(self, n: int) -> Callable[[Tensor, str], Tensor]:
        def upscale(picture: Tensor, prompt: str) -> Tensor:
            self.calls.append((f"stage {n + 1}", picture.shape[-1], prompt))
            return picture.repeat_interleave(2, -1).repeat_interleave(2, -2) + n + 1

        return upscale


def _test_cascade(answer: Callable[..., Any]) -> str:
    for count in (2, 0, 3):
        stages = _Stages(count)
        value = call(answer, stages.base, stages.upscalers, _SOURCE, _TARGET)
        _judge_calls(stages.calls, count)
        right = _Stages(count)
        wanted = cascade(right.base, right.upscalers, _SOURCE, _TARGET)
        got = tensor(value, tuple(wanted.shape), "(3, H, W)")
        agree(got, wanted, {}, f"With {count} stages the picture differs.")
    return "No, two and three stages: the base is edited once and every stage enlarges its result."


def _judge_calls(calls: list[tuple[str, int, str]], count: int) -> None:
    bases = [said for name, _, said in calls if name == "base"]
    stages = [(name, side, said) for name, side, said in calls if name != "base"]
    if len(bases) != 1:
        raise Wrong(f"The base stage runs once, here it ran {len(bases)} times.")
    if bases[0] != f"{_SOURCE} -> {_TARGET}":
        raise Wrong("The base stage takes the source prompt first, then the target prompt.")
    if [name for name, _, _ in stages] != [f"stage {n + 1}" for n in range(count)]:
        names = ", ".join(name for name, _, _ in stages) or "none"
        raise Wrong(f"{count} stages have to run, each once and in order; these ran: {names}.")
    for n, (name, side, said) in enumerate(stages):
        if said != _TARGET:
            raise Wrong(f'{name} got the prompt "{said}"; what it enlarges is the edited picture.')
        if side != 4 * 2**n:
            raise Wrong(f"{name} got a picture of {side} pixels; give it the result before it.")


EXERCISES = (
    Exercise(
        id="06.resize_map",
        title="A map at the picture's size",
        signature="f(heat (h, w), size (H, W)) -> (H, W)",
        hints=(
            "F.interpolate works on (B, C, h, w): add two axes and take them away again.",
            "F.interpolate(heat[None, None], size=size, mode='bilinear')[0, 0]",
        ),
        reference=resize_map,
        test=_test_resize,
    ),
    Exercise(
        id="06.cascade",
        title="An edit in a cascade",
        signature="f(base, upscalers, source, target) -> picture; base(source, target) edits, "
        "upscaler(picture, prompt) enlarges",
        hints=(
            "The edit happens in the base stage only. The others just enlarge what they get.",
            "picture = base(source, target); then for each stage: picture = stage(picture, "
            "target).",
        ),
        reference=cascade,
        test=_test_cascade,
    ),
)
