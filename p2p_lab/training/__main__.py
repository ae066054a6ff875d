"""`python -m p2p_lab.training --size small --hours 2 --out runs/mine`."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from p2p_lab.files import check_may_write
from p2p_lab.training.cascade_export import save_cascade
from p2p_lab.training.config import CASCADES, SIZES, CascadeConfig, TrainConfig
from p2p_lab.training.export import save
from p2p_lab.training.latent import STAGES, check_start, stages_of
from p2p_lab.training.loop import train
from p2p_lab.training.options import failing, refusing
from p2p_lab.training.ranges import RANGES

FREE = (
    *("hours", "pictures", "supervision", "batch", "seed", "warm_start", "prediction"),
    *("decoder_pictures", "crop"),
)

LATENT_ONLY = {
    "warm_start": "a cascade starts from nothing",
    "stages": "a cascade's second stage needs its first",
    "decoder_pictures": "a cascade has no decoder",
    "crop": "a cascade has no decoder",
}
OF_LATENT, OF_CASCADE = ("v_prediction", "sample"), ("v_prediction", "epsilon")
_PREDICTION = (
    "--prediction {}: a latent model can predict v_prediction or sample (the clean latents), a "
    "cascade v_prediction or epsilon (the noise)."
)
_CROP = (
    "--crop takes 0 (whole pictures) or a multiple of {0.scale} up to {0.picture_size}, the side "
    "of this size's pictures; got {1}."
)

_STAGE = "--size {0} has no stage {1!r}: leave it out of --stages, or take --size scenes-128."


def main() -> None:
    """Train a pipeline and save it; run the same line again to go on after a stop."""
    parser = _parser()
    options = parser.parse_args()
    target = options.save or options.out / "pipeline"
    _check_kind(parser, options)
    if target.exists():
        parser.error(f"{target} exists; choose another --save folder.")
    with refusing(parser):
        check_may_write(options.out)
        check_may_write(target)
        config = _config(options)
        if isinstance(config, TrainConfig):
            check_start(config)
    how = {name: getattr(options, name) for name in ("device", "workers", "precision")}
    with failing(parser):
        if isinstance(config, CascadeConfig):
            parts = train(config, options.out, **how)
            _finish(lambda facts: save_cascade(parts, config, target, facts), options.out, target)
            return
        stages = options.stages or stages_of(config)
        latent = train(config, options.out, stages=stages, **how)
        if set(stages) >= set(stages_of(config)):
            _finish(lambda facts: save(latent, config, target, facts), options.out, target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("p2p_lab.training", description=main.__doc__)
    parser.add_argument("--size", choices=sorted(SIZES | CASCADES), default="small")
    parser.add_argument("--hours", type=RANGES["hours"], help="wall time of the whole run")
    parser.add_argument(
        "--pictures", type=RANGES["pictures"], default=0, help="pictures a stage, not hours"
    )
    parser.add_argument("--resume", "--out", dest="out", type=Path, default=Path("runs/model"))
    parser.add_argument("--save", type=Path, help="folder of the finished pipeline")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--workers", type=RANGES["workers"], default=0, help="processes that draw scenes ahead"
    )
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument(
        "--supervision", type=RANGES["supervision"], help="weight of the attention loss; 0: none"
    )
    parser.add_argument("--seed", type=RANGES["seed"], default=0)
    parser.add_argument("--batch", type=RANGES["batch"], help="pictures a step, over all processes")
    parser.add_argument("--warm-start", help="a trained model to go on from: a name or a folder")
    parser.add_argument(
        "--decoder-pictures",
        type=RANGES["decoder_pictures"],
        help="pictures of the autoencoder's stage",
    )
    parser.add_argument("--crop", type=int, help="side of the decoder's windows; 0: whole pictures")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, help="train these alone; nothing is saved as a model"
    )
    parser.add_argument(
        "--prediction", choices=sorted({*OF_LATENT, *OF_CASCADE}), help="what the U-Net predicts"
    )
    return parser


def _check_kind(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that the size's kind of model does not have."""
    of_cascade = options.size in CASCADES
    for name, why in LATENT_ONLY.items():
        if of_cascade and getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for latent models; {why}.")
    if not of_cascade and (no := {*(options.stages or ())} - {*stages_of(SIZES[options.size])}):
        parser.error(_STAGE.format(options.size, *no))
    if options.crop and not _fits(options.crop, SIZES[options.size]):
        parser.error(_CROP.format(SIZES[options.size], options.crop))
    if options.prediction not in (None, *(OF_CASCADE if of_cascade else OF_LATENT)):
        parser.error(_PREDICTION.format(options.prediction))


def _config(options: argparse.Namespace) -> TrainConfig | CascadeConfig:
    """Return the size's configuration with what the options change."""
    changes = {name: value for name in FREE if (value := getattr(options, name)) is not None}
    sizes: dict[str, TrainConfig | CascadeConfig] = {**SIZES, **CASCADES}
    return dataclasses.replace(sizes[options.size], **changes)


def _fits(side: int, config: TrainConfig) -> bool:
    """Return whether windows of so many pixels are whole latent positions of a picture."""
    return 0 < side <= config.picture_size and side % config.scale == 0


def _finish(write: Callable[[dict[str, Any]], None], out: Path, target: Path) -> None:
    """Write the pipeline once, with the command and the log's digest on its card."""
    if PartialState().is_main_process:
        logs = [out / name / "log.jsonl" for name in ("denoiser", "base", "super")]
        log = b"".join(path.read_bytes() for path in logs if path.is_file())
        write({"command": " ".join(sys.argv[1:]), "log": hashlib.sha256(log).hexdigest()})
        print(f"Saved {target}")


if __name__ == "__main__":
    main()
