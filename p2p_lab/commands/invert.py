"""`p2p_lab invert PICTURE PROMPT [TARGET]`: bring a real picture in, and edit it if asked to."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_lab.commands import _early
from p2p_lab.commands._edit_options import add_edit_options, add_model_options
from p2p_lab.commands._files import check_writable, write_picture
from p2p_lab.commands.edit import make_edits

if TYPE_CHECKING:
    from p2p_lab.edits import Edit
    from p2p_lab.models import Denoiser
    from p2p_lab.sampling import Run

METHODS = ("direct", "ddim", "negative-prompt", "null-text", "edit-friendly")
EXAMPLES = """examples:
  p2p_lab invert cat.png "a cat on a beach" -o again.png
  p2p_lab invert cat.png "a cat on a beach" "a dog on a beach" -o dog.png
  p2p_lab invert cat.png "a dog on a beach" --suggest --method null-text -o dog.png
"""


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser(
        "invert",
        help="bring a real picture in, and edit it by its prompt",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("picture", type=Path, help="the picture: PNG, JPEG, WebP, …")
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="what the picture shows, then the edit's prompt",
    )
    parser.add_argument(
        "--suggest", action="store_true", help="let the judge say what it shows; name the edit only"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the result (.png)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--method", choices=METHODS, default="direct", help="(default: direct)")
    parser.add_argument(
        "--fit", choices=("crop", "pad"), default="crop", help="for other shapes (default: crop)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's)")
    parser.add_argument("--no-cache", action="store_true", help="neither look up nor keep on disk")
    add_edit_options(parser)
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="end with the numbers as one JSON line")


def run(options: argparse.Namespace) -> int:
    """Invert, edit if a target is named, write the picture and print the numbers."""
    if options.output is None:
        raise ValueError("Nothing would be written. Name a file: -o result.png.")
    check_writable(options.output, (".png",), force=options.force)
    model, source, target = _texts(options)
    edits = [] if target is None else _edits(options, model, source, target)
    started = time.perf_counter()
    inverted = _invert(options, model, source)
    numbers = {**_kept(options, inverted), "invert_seconds": time.perf_counter() - started}
    result = inverted
    if target is not None:
        started = time.perf_counter()
        result = _edit(inverted, target, edits)
        numbers["edit_seconds"] = time.perf_counter() - started
    write_picture(options.output, result, force=options.force)
    print(f'"{source}": {inverted.note}')
    print(", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in numbers.items()))
    print(f"wrote {options.output}")
    if options.json:
        print(json.dumps({"prompt": source, **{k: round(v, 3) for k, v in numbers.items()}}))
    return 0


def _texts(options: argparse.Namespace) -> tuple[Denoiser, str, str | None]:
    """Return the model, the source prompt and the target prompt if there is one."""
    prompts_needed = 0 if options.suggest else 1
    if not prompts_needed <= len(options.prompts) <= prompts_needed + 1:
        raise ValueError(
            f"Got {len(options.prompts)} prompt(s) after the picture. Say what it shows and, if it "
            "is to be edited, the edit's prompt; with --suggest the edit's prompt alone."
        )
    _early.check_picture(options.picture)
    _early.check_numbers(options)
    _early.check_model(options.model)
    for target in options.prompts[prompts_needed:]:
        _early.check_edit(options, None if options.suggest else options.prompts[0], target)
    if len(options.prompts) == prompts_needed:
        _early.check_no_edit(options)
    from p2p_lab.inversion import suggest_prompt
    from p2p_lab.models import load

    model = load(options.model, options.device)
    source = suggest_prompt(model, options.picture) if options.suggest else options.prompts[0]
    return model, source, next(iter(options.prompts[prompts_needed:]), None)


def _edits(
    options: argparse.Namespace, model: Denoiser, source: str, target: str
) -> Sequence[Edit]:
    """Return the edits, compiled once before the inversion: a wrong word costs no time."""
    from p2p_lab.edits import compile_edits

    before, after = model.prompt(source), model.prompt(target)
    edits, _ = make_edits(options, before, after)
    steps = model.defaults.steps if options.steps is None else options.steps
    compile_edits(edits, before, after, steps)
    return edits


def _invert(options: argparse.Namespace, model: Denoiser, source: str) -> Run:
    from p2p_lab.inversion import invert

    return invert(
        model,
        options.picture,
        source,
        method=options.method,
        steps=options.steps,
        guidance_scale=options.guidance,
        fit=options.fit,
        cache=not options.no_cache,
        progress=sys.stderr.isatty(),
    )


def _edit(inverted: Run, target: str, edits: Sequence[Edit]) -> Run:
    from p2p_lab.sampling import edit

    return edit(inverted, target, edits)


def _kept(options: argparse.Namespace, inverted: Run) -> dict[str, float]:
    """Return how much of the picture came back, beside how much the autoencoder keeps."""
    from p2p_lab.inversion import load_image, to_tensor
    from p2p_lab.metrics import psnr

    assert inverted.model is not None
    picture = load_image(options.picture, inverted.size, options.fit)
    trip = inverted.model.decode(inverted.model.encode(to_tensor(picture)))[0].cpu()
    return {
        "reconstruction_psnr": min(psnr(picture, inverted.array), 99.0),
        "autoencoder_psnr": min(psnr(to_tensor(picture)[0], trip), 99.0),
    }
