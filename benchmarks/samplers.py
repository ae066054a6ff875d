"""How near do few steps of each sampler come to very many? Writes `benchmarks/results/samplers.md`.

    python benchmarks/samplers.py [--model NAME_OR_PATH]

Three prompts, each from one noise, guidance as the model's card says. The distance is the PSNR in
dB to the same picture after 200 steps of DDIM. UniPC, which the package does not offer, is
diffusers' own pipeline on the same weights from the same noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import Tensor

import p2p_lab
from benchmarks.speed import diffusers_pipeline
from p2p_lab.metrics import psnr

RESULTS = Path(__file__).parent / "results" / "samplers.md"
PROMPTS = ("a cat on a beach", "a red apple in the snowy mountains", "a frog riding a bicycle")
SAMPLERS = ("ddim", "dpm++", "dpm++2m")
STEPS, FINE = (6, 10, 20), 200
Draw = Callable[[str, int, int], Tensor]  # from prompt, seed and steps to a picture (3, H, W)


def ours(model: Any, sampler: Any) -> Draw:
    """Return what draws with one of the package's samplers."""

    def draw(prompt: str, seed: int, steps: int) -> Tensor:
        run = p2p_lab.generate(
            model, prompt, seed=seed, steps=steps, sampler=sampler, record="none"
        )
        return run.pixels

    return draw


def unipc(model: Any) -> Draw:
    """Return what draws with diffusers' UniPC, from the package's noise."""
    from diffusers import UniPCMultistepScheduler

    pipe = diffusers_pipeline(model, UniPCMultistepScheduler)

    def draw(prompt: str, seed: int, steps: int) -> Tensor:
        start = p2p_lab.generate(model, prompt, seed=seed, steps=1, record="none")
        picture: Tensor = pipe(
            prompt,
            latents=start.trajectory.latents[:1],
            num_inference_steps=steps,
            guidance_scale=model.defaults.guidance_scale,
            output_type="pt",
        ).images[0]
        return picture

    return draw


def nearness(draw: Draw, truth: list[Tensor], steps: int) -> float:
    """Return the mean PSNR in dB to the pictures of many steps."""
    drawn = (draw(prompt, seed, steps) for seed, prompt in enumerate(PROMPTS))
    return statistics.fmean(psnr(a, b) for a, b in zip(drawn, truth, strict=True))


def measure(model: Any) -> dict[str, list[float]]:
    """Return for each sampler its nearness after each number of steps."""
    draws = {name: ours(model, name) for name in SAMPLERS} | {"UniPC (diffusers)": unipc(model)}
    truth = [draws["ddim"](prompt, seed, FINE) for seed, prompt in enumerate(PROMPTS)]
    return {name: [nearness(draw, truth, n) for n in STEPS] for name, draw in draws.items()}


def table(found: dict[str, list[float]]) -> str:
    """Return the table, a row for each number of steps."""
    rows = ["| steps | " + " | ".join(found) + " |", "|--:|" + "--:|" * len(found)]
    for i, steps in enumerate(STEPS):
        rows.append(f"| {steps} | " + " | ".join(f"{row[i]:.1f}" for row in found.values()) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser("benchmarks/samplers.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    options = parser.parse_args()
    model = p2p_lab.load(options.model)
    found = table(measure(model))
    print(found)
    RESULTS.write_text(
        f"Measured by `python benchmarks/samplers.py` on `{model.name}`: PSNR in dB to {FINE} "
        f"steps of DDIM, the mean of {len(PROMPTS)} prompts.\n\n{found}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
