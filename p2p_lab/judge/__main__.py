"""`python -m p2p_lab.judge --picture-size 128 --pictures 140000 --save runs/judge-v3`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from p2p_lab.files import check_may_write, sha256_of, whole_lines
from p2p_lab.judge.labels import Labels
from p2p_lab.judge.measure import best_threshold, collect, measure
from p2p_lab.judge.network import PICTURE_SIZES, JudgeNet
from p2p_lab.judge.reading import save_judge
from p2p_lab.judge.train import STAGE, JudgeConfig, train
from p2p_lab.scenes import WORLDS
from p2p_lab.scenes.splits import JUDGE_TEST, JUDGE_TUNING
from p2p_lab.training.options import failing, refusing
from p2p_lab.training.ranges import RANGES, Range

TESTED = Range(2, JUDGE_TEST.stop - JUDGE_TEST.start, whole=True)  # half as many choose a threshold


def main() -> None:
    """Train a judge, measure it and save it; run the same line again to go on after a stop."""
    parser = argparse.ArgumentParser("p2p_lab.judge", description=main.__doc__)
    parser.add_argument("--world", choices=sorted(WORLDS), default="small")
    parser.add_argument("--picture-size", type=int, choices=PICTURE_SIZES, default=64)
    parser.add_argument("--minutes", type=RANGES["minutes"], default=12.0)
    parser.add_argument(
        "--pictures", type=RANGES["pictures"], default=0, help="train on so many, not by the clock"
    )
    parser.add_argument("--test", type=TESTED, default=4096, help="pictures to measure on")
    parser.add_argument("--out", type=Path, default=Path("runs/judge"), help="checkpoint and log")
    parser.add_argument("--save", type=Path, help="folder of the finished judge")
    parser.add_argument("--seed", type=RANGES["seed"], default=0)
    options = parser.parse_args()
    target = options.save or options.out / "judge"
    if target.exists():
        parser.error(f"{target} exists; choose another --save folder.")
    with refusing(parser):
        check_may_write(options.out)
        check_may_write(target)
        config = JudgeConfig(
            options.world,
            options.minutes,
            options.pictures,
            seed=options.seed,
            picture_size=options.picture_size,
        )
    torch.set_num_threads(1)
    with failing(parser):
        _make(config, options, target)


def _make(config: JudgeConfig, options: argparse.Namespace, target: Path) -> None:
    """Train, measure and save a judge, and print its scores."""
    net = train(config, options.out)
    labels = Labels.of_world(WORLDS[config.world])
    threshold, scores = grade(net, config, labels, options.test)
    path = options.out / STAGE / "log.jsonl"
    facts = {
        "threshold": threshold,
        "metrics": scores,
        "config": asdict(config),
        "pictures": json.loads(whole_lines(path)[-1])["pictures"],
        "command": " ".join(sys.argv[1:]),
        "log": sha256_of(path),
        "licence": "Apache-2.0; trained on scenes of p2p_lab.scenes (art: Fluent Emoji, MIT)",
    }
    save_judge(net, labels, target, facts)
    print(json.dumps({"threshold": threshold, **scores}, indent=1))
    print(f"Saved {target}")


def grade(
    net: JudgeNet, config: JudgeConfig, labels: Labels, count: int
) -> tuple[float, dict[str, dict[str, float]]]:
    """Return the threshold, chosen on other pictures, and the scores, clean and spoiled."""
    tuning = collect(net, config, labels, JUDGE_TUNING, count // 2, spoiled=True)
    threshold = best_threshold(*tuning)
    scores = {}
    for name, spoiled in (("renders", False), ("spoiled renders", True)):
        answers, truth = collect(net, config, labels, JUDGE_TEST, count, spoiled=spoiled)
        scores[name] = measure(answers, truth, labels, threshold)
    return threshold, scores


if __name__ == "__main__":
    main()
