"""How much control costs: ratios to plain diffusers, measured in one run.

    python benchmarks/speed.py [--quick] [--json] [--port FILE]

On the bundled model and on a random one of Stable Diffusion 1.x's shape at 256×256, it measures

- a joint edit (source beside target) against diffusers making the same two pictures;
- an edit from a tape against diffusers making one picture;
- a recorded `generate` against a plain one, with and without tape;
- a second edit of the same source, in seconds: what a fader feels like;
- bytes kept against the number of steps, and as they were predicted.

`--port` takes a copy of diffusers' community file `pipeline_prompt2prompt.py` and compares with it,
on models that read 77 tokens: that number is fixed in the file.
On the CPU processor time is compared, so that other programs disturb little; cases take turns, and
the best of the rounds counts. A table goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting is no work: do not count it

import psutil
import torch

from p2p_lab.attention import AttentionTape, find_sites, taped_sites
from p2p_lab.edits import Replace, Reweight
from p2p_lab.models import Denoiser, StableDiffusion, list_models, load
from p2p_lab.models.denoiser import Defaults
from p2p_lab.sampling import edit, generate

RESULTS = Path(__file__).resolve().parent / "results"
SOURCE, TARGET = "a cat on a beach", "a dog on a beach"
SWAP = (Replace(cross=(0, 0.8), self_attention=(0, 0.4)),)
PORT_TOKENS = 77  # what the port takes every text to be padded to
TARGETS = {
    "edit_joint_ratio": 1.10,
    "edit_tape_ratio": 1.10,
    "record_ratio": 1.05,
    "tape_ratio": 1.25,
    "second_edit_seconds": 1.0,
}


@dataclass
class Subject:
    """A model to measure on, and for how long."""

    name: str
    model: Any
    steps: int
    rounds: int
    scale: float = 3.0
    left_out: tuple[str, ...] = ()


@dataclass
class Times:
    """Processor or device seconds of each case, a number a round, and wall seconds beside."""

    work: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    def best(self, case: str) -> float:
        return min(self.work[case])

    def ratio(self, case: str, reference: str) -> float:
        return self.best(case) / self.best(reference)


def main() -> int:
    options = _arguments()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    tables = [_heading(options)]
    for subject in subjects(options):
        times, peaks = measure(subject, options)
        table, numbers = report(subject, times, peaks)
        note = port_note(subject, options)
        table = f"{table}\n\n{note}" if note else table
        tables += [table, growth(subject)]
        found[subject.name] = numbers
        print(table, flush=True)
        write(tables, options)
    bundled = next(iter(found.values()))
    summary = {**bundled, "peak_mb": round(_peak_mb(), 1), "models": found}
    if options.json:
        print(json.dumps(summary))
    return 0


def write(tables: list[str], options: argparse.Namespace) -> None:
    """Write what is measured so far, so that a run that is stopped leaves its finished part."""
    name = f"speed-{options.device}{'-quick' if options.quick else ''}.md"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text("\n\n".join(tables) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="end within a minute on two cores")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--port", type=Path, help="your copy of pipeline_prompt2prompt.py")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    return parser.parse_args()


def subjects(options: argparse.Namespace) -> list[Subject]:
    """Open the bundled model, and build one of Stable Diffusion 1.x's shape."""
    quick, gpu = options.quick, options.device == "cuda"
    rounds = 3 if quick else 7
    shape = Subject("SD 1.x shape, random, 256×256", None, 2 if quick else 6, 2 if quick else 5)
    shape.model = sd_shaped(options.device, width=320 if gpu else 96)
    if not gpu:
        shape.name += ", a third as wide"
    if list_models():
        model = load(device=options.device)
        first = Subject(f"bundled: {model.name}", model, model.defaults.steps, rounds)
    else:
        first = Subject("bundled shape, random weights", bundled_shaped(options.device), 20, rounds)
    first.steps = 10 if quick else first.steps
    shape.left_out = ("generate, no record", "second edit") if quick else ()
    return [first, shape]


def sd_shaped(device: str, width: int) -> Denoiser:
    """Build a random model with the layers, heads and text length of Stable Diffusion 1.x."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(32, 32, 32, 32),
        sample_size=256,
        mid_block_add_attention=False,
    )
    words = _tokenizer(77)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=768,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return _denoiser("sd-shaped", unet, vae, CLIPTextModel(config), words, 256, device)


def bundled_shaped(device: str) -> Denoiser:
    """Build the bundled model with random weights, where none is installed."""
    from p2p_lab.training.build import build
    from p2p_lab.training.config import TrainConfig

    parts = build(TrainConfig())
    size = TrainConfig().picture_size
    return _denoiser(
        "bundled-shaped", parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, size, device
    )


def _tokenizer(length: int) -> Any:
    """Build a tokenizer of letters: what it knows does not matter here."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {entry: n for n, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def _denoiser(name: str, unet: Any, vae: Any, text: Any, words: Any, size: int, device: str) -> Any:
    dtype = torch.float16 if device == "cuda" else torch.float32
    unet, vae, text = (
        part.eval().requires_grad_(False).to(device, dtype) for part in (unet, vae, text)
    )
    config = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return StableDiffusion(
        name=name,
        module=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=words,
        scheduler_config=config,
        defaults=Defaults(size, size, 20, 3.0),
    )


def cases(subject: Subject, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name; every case ends with a decoded picture."""
    model, settings = (
        subject.model,
        {"seed": 1, "steps": subject.steps, "guidance_scale": subject.scale},
    )
    taped = generate(model, SOURCE, record="tape", **settings)
    bare = generate(model, SOURCE, record="none", **settings)
    if taped.tape is None:
        raise SystemExit("There is not enough free memory for a tape; close other programs.")
    pipe = diffusers_pipeline(model)
    plain = {"num_inference_steps": subject.steps, "guidance_scale": subject.scale}

    def diffusers(prompts: list[str]) -> Any:
        return pipe(prompts, generator=_generators(len(prompts)), output_type="pt", **plain)

    found: dict[str, Callable[[], Any]] = {
        "diffusers, one picture": lambda: diffusers([SOURCE]),
        "diffusers, two pictures": lambda: diffusers([SOURCE, TARGET]),
        "generate, no record": lambda: generate(model, SOURCE, record="none", **settings),
        "generate, word maps": lambda: generate(model, SOURCE, record="store", **settings),
        "generate, word maps and tape": lambda: generate(model, SOURCE, record="tape", **settings),
        "joint edit": lambda: edit(bare, TARGET, SWAP),
        "edit from the tape": lambda: edit(taped, TARGET, SWAP, reuse=False),
        "second edit": lambda: _second_edit(taped),
    }
    if options.port is not None and _length(model) == PORT_TOKENS:
        found["port, its edit"] = port_edit(options.port, model, plain)
    return {name: case for name, case in found.items() if name not in subject.left_out}


def _length(model: Any) -> int:
    """Return how many tokens a model reads."""
    return int(model.tokenizer.model_max_length)


def port_note(subject: Subject, options: argparse.Namespace) -> str:
    """Return the line that says why the port was not measured on a model; "" if it was."""
    length = _length(subject.model)
    if options.port is None or length == PORT_TOKENS:
        return ""
    return (
        f"The port's edit is left out here: it is written for texts of {PORT_TOKENS} tokens, and "
        f"this model reads {length}."
    )


_COUNT = count(1)


def _second_edit(taped: Any) -> Any:
    """Turn a fader of an edit that was made before; its scale counts from the first step on."""
    scale = 1 + 0.01 * next(_COUNT)
    return edit(taped, TARGET, [*SWAP, Reweight("beach", scale)])


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1) for _ in range(count)]


def diffusers_pipeline(model: Any, scheduler: Any = None) -> Any:
    """Put diffusers' own pipeline around the same weights, with a scheduler's class, or DDIM's."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline(**_parts(model, scheduler or DDIMScheduler))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _parts(model: Any, scheduler: Any) -> dict[str, Any]:
    return {
        "vae": model.vae,
        "text_encoder": model.text_encoder,
        "tokenizer": model.tokenizer,
        "unet": model.module,
        "scheduler": scheduler.from_config(dict(model.scheduler_config)),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def port_edit(path: Path, model: Any, plain: dict[str, Any]) -> Callable[[], Any]:
    """Make the same edit with the pipeline port in `path`; give the model back afterwards."""
    from diffusers import DDIMScheduler

    spec = importlib.util.spec_from_file_location("their_port", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--port {path}: this is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipe = module.Prompt2PromptPipeline(**_parts(model, DDIMScheduler))
    pipe.set_progress_bar_config(disable=True)
    size = {"height": model.defaults.height, "width": model.defaults.width}
    control = {"edit_type": "replace", "n_cross_replace": 0.8, "n_self_replace": 0.4}

    def run() -> Any:
        before = dict(model.module.attn_processors)
        try:
            return pipe(
                [SOURCE, TARGET],
                generator=_generators(2),
                output_type="pt",
                cross_attention_kwargs=dict(control),
                **size,
                **plain,
            )
        finally:
            model.module.set_attn_processor(before)

    return run


def measure(subject: Subject, options: argparse.Namespace) -> tuple[Times, dict[str, float]]:
    """Run every case in turn, round by round, after one round to warm up that measures memory."""
    times, todo = Times(), cases(subject, options)
    peaks = {name: peak_of(case, options.device) for name, case in todo.items()}
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    for _ in range(subject.rounds):
        for name, case in todo.items():
            begun, begun_wall = clock(), time.perf_counter()
            case()
            if options.device == "cuda":
                torch.cuda.synchronize()
            times.work.setdefault(name, []).append(clock() - begun)
            times.wall.setdefault(name, []).append(time.perf_counter() - begun_wall)
    return times, peaks


def peak_of(case: Callable[[], Any], device: str) -> float:
    """Tell by how many MiB memory grew at most while a case ran."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    process, done, seen = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.is_set():
            seen.append(process.memory_info().rss)
            done.wait(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        case()
    finally:
        done.set()
        thread.join()
    return max(0, max(seen) - before) / 2**20


def report(subject: Subject, times: Times, peaks: dict[str, float]) -> tuple[str, dict[str, float]]:
    """Write one subject's table, and return its numbers."""
    one, two = "diffusers, one picture", "diffusers, two pictures"
    numbers = {
        "edit_joint_ratio": times.ratio("joint edit", two),
        "edit_tape_ratio": times.ratio("edit from the tape", one),
        "record_ratio": times.ratio("generate, word maps", one),
        "tape_ratio": times.ratio("generate, word maps and tape", one),
    }
    if "second edit" in times.wall:
        numbers["second_edit_seconds"] = min(times.wall["second edit"])
    lines = [
        f"## {subject.name}, {subject.steps} steps",
        "",
        "| case | seconds | against diffusers' one picture | memory while it runs, MiB |",
        "|---|---|---|---|",
    ]
    for name in times.work:
        ratio = times.ratio(name, one)
        lines.append(f"| {name} | {times.best(name):.3f} | {ratio:.2f}× | {peaks[name]:.0f} |")
    lines += ["", "| number | measured | wanted at most |", "|---|---|---|"]
    for name, value in numbers.items():
        lines.append(f"| {name} | {value:.3f} | {TARGETS[name]:.2f} |")
    port = "port, its edit"
    if port in times.work:
        numbers["port_ratio"] = times.ratio("joint edit", port)
        numbers["port_peak_mb"], numbers["joint_peak_mb"] = peaks[port], peaks["joint edit"]
        lines += [
            "",
            f"Joint edit against the port's edit: {numbers['port_ratio']:.2f}× its time, at most "
            f"{peaks['joint edit']:.0f} MiB where the port takes {peaks[port]:.0f} MiB.",
        ]
    return "\n".join(lines), {name: round(value, 4) for name, value in numbers.items()}


def growth(subject: Subject) -> str:
    """Write how the bytes that are kept grow with the steps, and what was predicted."""
    model = subject.model
    lines = [
        "| steps | word maps, KiB | tape, KiB | tape as predicted, KiB |",
        "|---|---|---|---|",
    ]
    for steps in (1, 2, 3):
        run = generate(model, SOURCE, seed=1, steps=steps, guidance_scale=subject.scale)
        if run.tape is None or run.attention is None:
            continue
        sites = find_sites(model.module, tuple(run.trajectory.latents.shape[-2:]))  # type: ignore[arg-type]
        kept = taped_sites(sites, max(s.pixels for s in run.tape.sites.values() if s.has_image))
        length = model.tokenizer.model_max_length
        predicted = AttentionTape.estimate(kept, steps, model.dtype, length)
        sizes = (run.attention.nbytes, run.tape.nbytes, predicted)
        lines.append(f"| {steps} | " + " | ".join(f"{size / 1024:.0f}" for size in sizes) + " |")
    return "\n".join(lines)


def _peak_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _heading(options: argparse.Namespace) -> str:
    import diffusers

    where = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    return (
        "# Speed\n\nMade by `python benchmarks/speed.py"
        f"{' --quick' if options.quick else ''}` on {options.device} ({where}, "
        f"{options.threads} threads), torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}. Seconds are {'processor' if options.device == 'cpu' else 'wall'}"
        " time, the best round of several in turn. Never edited by hand."
    )


if __name__ == "__main__":
    sys.exit(main())
