"""`p2p_lab edit SOURCE TARGET`: one edit from the command line, its picture and its numbers."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_lab.commands import _early
from p2p_lab.commands._edit_options import add_edit_options, add_model_options, named_edits
from p2p_lab.commands._files import check_writable, write_picture, write_whole

if TYPE_CHECKING:
    from p2p_lab.edits import Edit
    from p2p_lab.metrics import EditSummary
    from p2p_lab.sampling import Run

SUFFIXES = (".png",)
EXAMPLES = """examples:
  p2p_lab edit "a cat on a beach" "a dog on a beach" --seed 3 -o dog.png
  p2p_lab edit "a snowy field" "a snowy field" --reweight snowy=-2 --figure fader.png
  p2p_lab edit "a cat on a beach" "a dog on a beach" --cross 0.6 --blend cat:dog -o dog.png
"""


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser(
        "edit",
        help="edit a generated picture by its prompt",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="the prompt of the picture")
    parser.add_argument("target", help="the prompt of the edit")
    parser.add_argument("-o", "--output", type=Path, help="write the edited picture (.png)")
    parser.add_argument("--figure", type=Path, help="write source | re-prompt | edit (.png)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    add_edit_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's)")
    parser.add_argument("--negative", default="", help="negative prompt")
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="end with the numbers as one JSON line")


def run(options: argparse.Namespace) -> int:
    """Generate the source, edit it, write what was asked for and print the numbers."""
    outputs = [p for p in (options.output, options.figure) if p is not None]
    if not outputs:
        raise ValueError("Nothing would be written. Name a file: -o edit.png or --figure all.png.")
    if len(outputs) == 2 and outputs[0].resolve() == outputs[1].resolve():
        raise ValueError(f"-o and --figure both name {outputs[0]}. Name two files.")
    for path in outputs:
        check_writable(path, SUFFIXES, force=options.force)
    _early.check_numbers(options)
    _early.check_edit(options, options.source, options.target)
    _early.check_model(options.model)
    source, plain, edited, seconds = sample(options)
    summary = _write_and_sum_up(options, source, plain, edited)
    print(edited.note or f"Edited as asked: {_how(edited)}.")
    print(f"{summary_line(summary, plain)}\n{_seconds(seconds)}")
    for path in outputs:
        print(f"wrote {path}")
    if options.json:
        numbers = to_numbers(summary, seconds)
        print(json.dumps(numbers if plain else _without_plain(numbers)))
    return 0


def sample(options: argparse.Namespace) -> tuple[Run, Run | None, Run, dict[str, float]]:
    """Return source, plain re-prompt of the same seed and edit, and what each took.

    Equal prompts have no re-prompt: it would be the source. The edit is compiled first, so that a
    wrong word costs no time.
    """
    from p2p_lab.edits import compile_edits
    from p2p_lab.models import load
    from p2p_lab.sampling import edit, generate

    model = load(options.model, options.device)
    before, after = model.prompt(options.source), model.prompt(options.target)
    edits, note = make_edits(options, before, after)
    steps = model.defaults.steps if options.steps is None else options.steps
    compile_edits(edits, before, after, steps)
    settings: dict[str, Any] = {
        "seed": options.seed, "steps": steps, "guidance_scale": options.guidance,
        "negative": options.negative, "progress": sys.stderr.isatty(),
    }  # fmt: skip
    started = time.perf_counter()
    source = generate(model, options.source, **settings)
    made = time.perf_counter()
    edited = replace(edit(source, options.target, edits), note=note)
    done = time.perf_counter()
    plain = None
    if source.prompt.ids != edited.prompt.ids:
        plain = generate(model, options.target, record="none", **settings)
    return source, plain, edited, {"source": made - started, "edit": done - made}


def make_edits(options: argparse.Namespace, source: Any, target: Any) -> tuple[list[Edit], str]:
    """Return the edits that the options name, and what was chosen for the user, in a sentence."""
    from p2p_lab.edits import Refine, Replace, default_edits

    note, kinds = "", {"replace": Replace, "refine": Refine}
    kind: Any = kinds.get(options.edit)
    if kind is None:
        chosen, note = default_edits(source, target)
        kind = type(chosen[0])
    return named_edits(options, kind), note


def _write_and_sum_up(
    options: argparse.Namespace, source: Run, plain: Run | None, edited: Run
) -> EditSummary:
    from p2p_lab.metrics import edit_summary

    if options.output is not None:
        write_picture(options.output, edited, force=options.force)
    if options.figure is not None:
        from p2p_lab.figures import show_edit, show_pictures, to_png

        figure = show_edit(source, plain, edited) if plain else _two(show_pictures, source, edited)
        write_whole(options.figure, to_png(figure), force=options.force)
    return edit_summary(source.image, (plain or source).image, edited.image)


def _two(show: Any, source: Run, edited: Run) -> Any:
    """Return the figure of an edit whose prompt is the source's."""
    text = source.prompt.text
    return show([source, edited], [f"source: {text}", f"edit: {text}"])


def summary_line(summary: EditSummary, plain: Run | None) -> str:
    """Return the numbers to print: without a re-prompt where the prompts are equal."""
    if plain is not None:
        return str(summary)
    kept = "identical" if summary.kept_psnr == float("inf") else f"{summary.kept_psnr:.1f} dB"
    return (
        f"{summary.changed:.1%} of the pixels changed visibly; to the source: {kept}, structure "
        f"distance {summary.structure:.4f}. The prompts are equal, so there is no re-prompt."
    )


def _how(run: Run) -> str:
    """Return the plan's lines about attention, without its heading."""
    lines = str(run.plan).splitlines()
    return "; ".join(x.strip() for x in lines if "attention:" in x or "blend:" in x)


def _seconds(seconds: dict[str, float]) -> str:
    return f"source {seconds['source']:.1f} s, edit {seconds['edit']:.1f} s"


def _without_plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """Leave out what compares with a re-prompt that was not made."""
    return {k: v for k, v in numbers.items() if not k.endswith("_plain") and k != "verdict"}


def to_numbers(summary: EditSummary, seconds: dict[str, float]) -> dict[str, Any]:
    """Return the numbers of an edit, ready for JSON; an infinite PSNR becomes null."""
    numbers = {
        name: getattr(summary, name) for name in summary.__dataclass_fields__ if name != "inside"
    }
    infinite = float("inf")
    numbers = {name: None if value == infinite else value for name, value in numbers.items()}
    return {**numbers, **{f"{name}_seconds": round(s, 3) for name, s in seconds.items()}}
