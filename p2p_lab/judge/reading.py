"""Open the judge and let it read pictures: `load_judge().read(picture)`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.codec import decode_known, parse_object
from p2p_lab.devices import cpu_by_default
from p2p_lab.files import sha256_of, whole_folder
from p2p_lab.judge.labels import Labels
from p2p_lab.judge.network import Answers, JudgeNet
from p2p_lab.judge.suggest import refuse_empty, suggest_caption
from p2p_lab.judge.verdict import Finding, Verdict, Wanted, compare
from p2p_lab.scenes import Scene

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
QUESTIONS = ("place", "time", "weather", "style")


class JudgeError(ValueError):
    """The judge's weights are missing, changed, or of another kind."""


@dataclass(frozen=True)
class _Card:
    """The fields of a judge's card that anything depends on."""

    labels: dict[str, list[str]]
    threshold: float
    files: dict[str, str]
    picture_size: int = 64


class Judge:
    """Read pictures of the scene world and score edits. It never trains a generator.

    Attributes:
        labels: The names it can answer with.
        threshold: Probability from which on an object counts as present.
        card: Its data, metrics and checksums.
    """

    def __init__(self, net: JudgeNet, labels: Labels, threshold: float, card: dict[str, Any]):
        self.net = net.eval().requires_grad_(False)
        self.labels, self.threshold, self.card = labels, threshold, card

    def read(self, image: Any) -> Verdict:
        """Read what is in one picture.

        Args:
            image: A tensor (3, H, W) in [0, 1], an array (H, W, 3), a PIL picture, or anything
                with such `pixels` (a `Run`). Square pictures are read best.
        """
        return self.read_all([image])[0]

    @torch.no_grad()
    @cpu_by_default()
    def read_all(self, images: Sequence[Any] | Tensor, batch: int = 16) -> list[Verdict]:
        """Read what is in each of several pictures; a tensor is (B, 3, H, W)."""
        tensors = [to_tensor(image) for image in images]
        verdicts: list[Verdict] = []
        for first in range(0, len(tensors), batch):
            part = tensors[first : first + batch]
            answers = self.net(torch.stack([self._resize(image) for image in part]))
            verdicts += [
                self._verdict(answers, i, tuple(image.shape[1:])) for i, image in enumerate(part)
            ]
        return verdicts

    @cpu_by_default()
    def holds(
        self, image: Any, wanted: str | Scene | Wanted, *, absent: Sequence[str] = ()
    ) -> Finding:
        """Return whether a picture holds what was wanted: "a dog, no cat, all else as before".

        Args:
            image: As for `read`, or a `Verdict` that it gave.
            wanted: A caption, a scene, or the requirements one by one.
            absent: Objects that must not be there, besides those that `wanted` names.

        Raises:
            ValueError: If the caption cannot be read or names what the judge never learned.
        """
        if isinstance(wanted, str):
            wanted = Wanted.from_caption(wanted)
        elif isinstance(wanted, Scene):
            wanted = Wanted.from_scene(wanted)
        wanted = Wanted(**{**vars(wanted), "absent": (*wanted.absent, *absent)})
        wanted.check_known(self.labels)
        return compare(image if isinstance(image, Verdict) else self.read(image), wanted)

    @cpu_by_default()
    def suggest(self, image: Any) -> str:
        """Suggest a prompt for a picture, in the words of the scene world.

        Raises:
            ValueError: If nothing of this world is in it.
        """
        if not isinstance(image, Verdict):
            refuse_empty(to_tensor(image))
        return suggest_caption(image if isinstance(image, Verdict) else self.read(image))

    def _resize(self, image: Tensor) -> Tensor:
        """Return a picture at the network's size, (3, S, S)."""
        side = self.net.picture_size
        if image.shape[1:] == (side, side):
            return image
        return F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)[0]

    def _verdict(self, answers: Answers, i: int, size: tuple[int, ...]) -> Verdict:
        masks = F.interpolate(
            answers.masks[i].softmax(0)[None, 1:], size=size, mode="bilinear", align_corners=False
        )[0]  # (O, H, W)
        labels = self.labels
        scene = {
            question: _named(getattr(labels, f"{question}s"), getattr(answers, question)[i])
            for question in QUESTIONS
        }
        clear = max(scene["weather"], key=scene["weather"].__getitem__) == "clear"
        return Verdict(
            dict(zip(labels.objects, answers.present[i].sigmoid().tolist(), strict=True)),
            self.threshold,
            {
                name: _named(labels.attributes, answers.attribute[i, k])
                for k, name in enumerate(labels.objects)
            },
            dict(zip(labels.objects, masks, strict=True)),
            scene,
            0.0 if clear else float(answers.degree[i].sigmoid()),
        )


def _named(names: Sequence[str], scores: Tensor) -> dict[str, float]:
    return dict(zip(names, scores.softmax(-1).tolist(), strict=True))


def to_tensor(image: Any) -> Tensor:
    """Return a picture of any make as (3, H, W) in [0, 1], float32.

    Raises:
        ValueError: If it is not one RGB picture with values in [0, 1].
    """
    image = getattr(image, "pixels", image)
    if not isinstance(image, Tensor):
        array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
        scale = 255 if np.issubdtype(array.dtype, np.integer) else 1
        image = torch.from_numpy(array.astype(np.float32) / scale)
        image = image.permute(2, 0, 1) if image.ndim == 3 else image  # (3, H, W)
    image = torch.as_tensor(image).detach().float().cpu()
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"A picture must be (3, H, W), or (H, W, 3) as an array; got {tuple(image.shape)}. "
            "Pass the pictures of a batch to read_all."
        )
    if not (image.min() >= -0.01 and image.max() <= 1.01):
        raise ValueError(
            f"A picture's values must lie in [0, 1]; got {image.min():.2f} to {image.max():.2f}. "
            "Decode the latents and rescale from [-1, 1] first."
        )
    return torch.clamp(image, 0, 1)


def captioner_of(model: Any) -> Callable[[Any], str] | None:
    """Return a captioner that knows a model's world, or None if the judge does not.

    `p2p_lab.inversion.suggest_prompt` asks it by its name.

    Args:
        model: A `Denoiser`; the judge knows the world of those whose card has a vocabulary.
    """
    return load_judge().suggest if model.card.vocabulary else None


def save_judge(net: JudgeNet, labels: Labels, folder: Path, facts: dict[str, Any]) -> None:
    """Write a judge in half precision with its card; `facts` must hold "threshold".

    Raises:
        FileExistsError: If the folder is there: a published version never changes.
        FloatingPointError: If a weight is not finite in half precision.
    """
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists and a published version never changes; choose the next number."
        )
    tensors = {
        name: (t.half() if t.is_floating_point() else t).contiguous()
        for name, t in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    if broken := [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]:
        raise FloatingPointError(
            f"The judge is not saved: its weight {broken[0]} is not finite in half precision. "
            "Train it again with a lower learning rate, or with another --seed."
        )
    with whole_folder(folder) as draft:
        save_file(tensors, draft / "judge.safetensors")
        (draft / "judge.safetensors").chmod(0o644)  # safetensors keeps what it writes to its owner
        files = {"judge.safetensors": sha256_of(draft / "judge.safetensors")}
        about = {"name": folder.name, "labels": labels.to_dict(), "picture_size": net.picture_size}
        card = {**about, **facts, "files": files}
        (draft / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


@cpu_by_default()
def load_judge(folder: str | os.PathLike[str] | None = None) -> Judge:
    """Open the bundled judge, or one from a folder that its trainer wrote.

    Raises:
        JudgeError: If it is not there, or its weights are not those of its card.
    """
    path = _newest() if folder is None else Path(folder)
    if not (path / "card.json").is_file():
        raise JudgeError(
            f"There is no judge in {str(path)!r}: card.json is missing. Install the package again, "
            "or train one with `python -m p2p_lab.judge`."
        )
    try:
        card = parse_object((path / "card.json").read_bytes())
        known = decode_known(_Card, card)
        labels = Labels.from_dict(known.labels)
        empty = JudgeNet(labels, known.picture_size)
    except (ValueError, TypeError, KeyError) as error:
        raise JudgeError(
            f"The card of the judge in {path} cannot be read: {error}. Install the package again."
        ) from error
    for relative, digest in known.files.items():
        if not (path / relative).is_file() or sha256_of(path / relative) != digest:
            raise JudgeError(
                f"{path / relative} is missing or is not the file that its card describes "
                "(SHA-256 differs). Install the package again."
            )
    net = empty.float()  # whatever torch's default precision is
    tensors = {name: t.float() for name, t in load_file(path / "judge.safetensors").items()}
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise JudgeError(
            f"The weights in {path} are of another network than this version's judge. "
            "Install the package again."
        )
    return Judge(net, labels, known.threshold, card)


def _newest() -> Path:
    found = [p for p in WEIGHTS.glob("judge-v*") if p.name.removeprefix("judge-v").isdigit()]
    return max(found, key=lambda p: int(p.name.removeprefix("judge-v")), default=WEIGHTS / "judge")
