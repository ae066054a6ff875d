"""`python -m p2p_lab.training --size small --hours 2 --out runs/mine`."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path

from accelerate import PartialState

from p2p_lab.training.config import SIZES
from p2p_lab.training.export import save
from p2p_lab.training.loop import train


def main() -> None:
    """Train a pipeline and save it; run the same line again to go on after a stop."""
    parser = argparse.ArgumentParser("p2p_lab.training", description=main.__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--hours", type=float, help="wall time of the whole run")
    parser.add_argument("--pictures", type=int, default=0, help="pictures a stage, not hours")
    parser.add_argument("--resume", "--out", dest="out", type=Path, default=Path("runs/model"))
    parser.add_argument("--save", type=Path, help="folder of the finished pipeline")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes ahead")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--supervision", type=float, help="weight of the attention loss; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="pictures a step, over all processes")
    parser.add_argument("--warm-start", help="a trained model to go on from: a name or a folder")
    options = parser.parse_args()
    changes = {
        name: value
        for name in ("hours", "supervision", "batch", "warm_start")
        if (value := getattr(options, name)) is not None
    }
    config = dataclasses.replace(
        SIZES[options.size], seed=options.seed, pictures=options.pictures, **changes
    )
    target = options.save or options.out / "pipeline"
    if target.exists():
        parser.error(f"{target} exists; choose another --save folder.")
    parts = train(
        config,
        options.out,
        device=options.device,
        workers=options.workers,
        precision=options.precision,
    )
    if PartialState().is_main_process:
        log = (options.out / "denoiser" / "log.jsonl").read_bytes()
        facts = {"command": " ".join(sys.argv[1:]), "log": hashlib.sha256(log).hexdigest()}
        save(parts, config, target, facts)
        print(f"Saved {target}")


if __name__ == "__main__":
    main()
