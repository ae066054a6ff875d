"""What a training run left behind: its log, its curve, the size of what it made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p2p_lab.files import whole_lines

END = "<!-- end of figures -->"
MEANING = {
    "object_success": "pictures in which the judge sees every object asked for",
    "attribute_success": "pictures in which every asked colour or material is on its object",
    "scene_success": "pictures with the place, time, weather and style asked for",
    "held_out_success": "objects and attributes right, for pairs never seen in training",
    "pointing": "object words whose map is strongest on the object",
    "iou": "overlap of an object word's map with the object's mask",
    "autoencoder_psnr": "dB, unseen pictures after the autoencoder",
    "seconds_per_image": "seconds a picture, with guidance",
    "size_mb": "MB on disk",
}
CURVES = {
    "autoencoder": {"psnr": "PSNR (dB)"},
    "denoiser": {"loss": "velocity loss", "maps": "attention loss"},
    "sharpening": {"slopes": "mean slope, of the true one"},
    "base": {"loss": "velocity loss", "maps": "attention loss"},
    "super": {"loss": "velocity loss", "maps": "attention loss"},
}
LINEAR = {"autoencoder": "dB", "sharpening": "share"}  # their axes; all others show losses
TITLES = {
    "autoencoder": "Autoencoder",
    "denoiser": "U-Net and text encoder",
    "sharpening": "The decoder's last level",
    "base": "Base stage and text encoder",
    "super": "Super-resolution stage",
}


def last_line(path: Path) -> Any:
    """Return the JSON that a benchmark ended with."""
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the lines of a log, where a resumption repeats some the later ones."""
    lines = [json.loads(line) for line in whole_lines(path)]
    last = {line["pictures"]: line for line in lines}
    return [last[pictures] for pictures in sorted(last)]


def slope(log: list[dict[str, float]], key: str) -> float:
    """Return by how much a number changed over the last tenth of the pictures, a line's fit."""
    import numpy as np

    tail = [line for line in log if line["pictures"] >= 0.9 * log[-1]["pictures"]]
    if len(tail) < 2:
        return 0.0
    x, y = [line["pictures"] for line in tail], [line[key] for line in tail]
    return float(np.polyfit(x, y, 1)[0] * (x[-1] - x[0]))


def draw_curve(run: Path, target: Path) -> None:
    """Draw the stages of a run: what was learned against the pictures seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stages = [stage for stage in CURVES if (run / stage / "log.jsonl").is_file()]
    figure, axes = plt.subplots(
        1, len(stages), figsize=(4.5 * len(stages), 3.2), layout="constrained", squeeze=False
    )
    for axis, stage in zip(axes[0], stages, strict=True):
        log = read_log(run / stage / "log.jsonl")
        x = [line["pictures"] / 1e3 for line in log]
        for key, label in CURVES[stage].items():
            if key in log[-1]:
                axis.plot(x, [line[key] for line in log], label=label)
        axis.set(title=TITLES[stage], xlabel="thousand pictures")
        axis.set(ylabel=LINEAR.get(stage, "loss"), yscale="linear" if stage in LINEAR else "log")
        if stage not in LINEAR:
            axis.yaxis.set_major_formatter("{x:.2g}")
            axis.yaxis.set_minor_formatter("{x:.2g}")
        axis.legend()
        axis.grid(alpha=0.3)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)


def count_parameters(weights: Path) -> int:
    """Return the number of parameters in all safetensors files of a folder."""
    from safetensors import safe_open

    total = 0
    for path in weights.rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def fill(page: Path, tool: str, text: str) -> None:
    """Put a tool's figures between its marks of a page."""
    start = f"<!-- figures: {tool} -->"
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(start)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{start}\n{text}\n{END}{after}", encoding="utf-8")
