"""`p2p_lab showcase MODEL`: a dated strip of one edit of each kind, made by a model of yours.

Two files are written: NAME-DATE.png with the pictures, and NAME-DATE.json with model, seed, device,
versions and the seconds that each picture took. Lesson 07 shows the newest one that lies beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_lab.commands import _early
from p2p_lab.commands._files import write_whole
from p2p_lab.files import check_may_write

if TYPE_CHECKING:
    from p2p_lab.models import Denoiser
    from p2p_lab.sampling import Run

FOLDER = Path("showcase")
SOURCE, SWAPPED, GROWN = "a cat on a beach", "a dog on a beach", "a cat on a snowy beach"
WORD, WEIGHT = "snowy", 3.0
EXAMPLES = """example:
  p2p_lab showcase stable-diffusion-v1-5/stable-diffusion-v1-5
"""


@dataclass(frozen=True)
class Showcase:
    """A strip that was made, and how.

    Attributes:
        picture: Path of the PNG.
        facts: What the JSON file beside it says.
    """

    picture: Path
    facts: dict[str, Any]

    def __repr__(self) -> str:
        """Return the facts as a line."""
        took = ", ".join(f"{name} {value:.1f} s" for name, value in self.facts["seconds"].items())
        return (
            f"Strip of {self.facts['model']}, {self.facts['date']}, seed {self.facts['seed']}, "
            f"{self.facts['steps']} steps on {self.facts['device']}: {took}."
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the picture, with the facts as its text."""
        from p2p_lab.figures import picture_html

        shown = picture_html(self.picture.read_bytes(), repr(self))
        return {"text/plain": repr(self), "text/html": shown}


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser(
        "showcase",
        help="write a dated strip of edits by a model of yours",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="bundled name, folder or hub id")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    parser.add_argument("--seed", type=int, default=8, help="of the source (default: 8)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"(default: ./{FOLDER})")
    parser.add_argument("--force", action="store_true", help="replace today's strip")


def run(options: argparse.Namespace) -> int:
    """Draw the strip, write both files and say where they lie."""
    options.guidance = None
    _early.check_numbers(options)
    _early.check_model(options.model)
    check_may_write(options.folder)
    today = date.today().isoformat()
    picture = _picture(options, today)
    from p2p_lab.figures import show_pictures, to_png
    from p2p_lab.models import load

    model = load(options.model, options.device)
    options.folder.mkdir(parents=True, exist_ok=True)
    runs, seconds = draw(model, options.seed, options.steps)
    made = Showcase(picture, _facts(model, runs["source"], seconds, today))
    figure = show_pictures(list(runs.values()), [f"{k}: {r.prompt.text}" for k, r in runs.items()])
    write_whole(picture, to_png(figure), force=options.force)
    text = json.dumps(made.facts, indent=1) + "\n"
    write_whole(picture.with_suffix(".json"), text.encode(), force=options.force)
    print(f"{made}\nwrote {picture} and {picture.with_suffix('.json').name}")
    return 0


def _picture(options: argparse.Namespace, today: str) -> Path:
    """Return where today's strip of a model is to be.

    Raises:
        FileExistsError: If there is one, and it must not be replaced.
    """
    from p2p_lab.models.loading import name_of

    name = re.sub(r"[^\w.-]+", "-", name_of(options.model)).strip("-")
    picture: Path = options.folder / f"{name}-{today}.png"
    for path in (picture, picture.with_suffix(".json")):
        if path.exists() and not options.force:
            raise FileExistsError(
                f"{path} exists already. Name another --folder, or add --force to replace it."
            )
    return picture


def draw(model: Denoiser, seed: int, steps: int | None) -> tuple[dict[str, Run], dict[str, float]]:
    """Return source, re-prompt and three edits by name, and the seconds that each took."""
    from p2p_lab.edits import Refine, Replace, Reweight
    from p2p_lab.sampling import edit, generate

    runs: dict[str, Run] = {}
    seconds: dict[str, float] = {}

    def take(name: str, make: Callable[[], Run]) -> None:
        started = time.perf_counter()
        runs[name] = make()
        seconds[name] = round(time.perf_counter() - started, 2)

    take("source", lambda: generate(model, SOURCE, seed=seed, steps=steps))
    source = runs["source"]
    take("re-prompt", lambda: generate(model, SWAPPED, seed=seed, steps=steps, record="none"))
    take("word swap", lambda: edit(source, SWAPPED, [Replace()]))
    take("refinement", lambda: edit(source, GROWN, [Refine()]))
    take(
        f"{WORD} × {WEIGHT:g}",
        lambda: edit(source, GROWN, [Refine(), Reweight(WORD, WEIGHT)]),
    )
    return runs, seconds


def _facts(model: Denoiser, source: Run, seconds: dict[str, float], today: str) -> dict[str, Any]:
    import diffusers
    import torch

    from p2p_lab import __version__

    device = torch.device(model.device)
    on_gpu = device.type == "cuda"
    return {
        "model": model.name,
        "date": today,
        "seed": source.seed,
        "steps": source.steps,
        "size": list(source.size),
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds": seconds,
        "versions": {
            "p2p_lab": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
    }


def newest_showcase(folders: Sequence[Path] = (FOLDER, Path("..") / FOLDER)) -> Showcase | None:
    """Return the newest strip that lies in one of the folders; None where there is none."""
    found = []
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            facts = json.loads(path.read_text(encoding="utf-8"))
            if path.with_suffix(".png").is_file() and {"model", "date", "seconds"} <= set(facts):
                found.append(Showcase(path.with_suffix(".png"), facts))
    return max(found, key=lambda one: one.facts["date"], default=None)
