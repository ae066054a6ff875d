"""What a model is, whatever it is called: a digest of all its weights and settings.

Two models that were trained apart may well have one name (every trained model's folder is called
`pipeline`), so whatever is kept of a model is compared by this digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from p2p_lab.models.denoiser import Denoiser
from p2p_lab.warn import warn_caller

_APART = {"name", "defaults", "card", "lock", "tokenizer"}  # change no prediction
_SHORT = 12  # hexadecimal digits


def digest_of(model: Denoiser) -> str:
    """Return a text that two models share only if all their weights and settings are equal.

    Every bit of every weight is read, at about 1.5 GB a second: 20 ms for a bundled model. It is
    never remembered, for weights may change in ways that leave no trace (`tensor.data`).

    Returns:
        The precision and a SHA-256, as "float32:3b1f…".
    """
    digest = hashlib.sha256()
    for name, part in sorted(vars(model).items()):
        if name in _APART:
            continue
        digest.update(f"\n{name}: ".encode())
        for piece in _pieces(part):
            digest.update(piece)
    return f"{str(model.dtype).removeprefix('torch.')}:{digest.hexdigest()}"


def short_digest(model: Denoiser) -> str:
    """Return the beginning of a model's digest, enough to tell it from any other one."""
    return digest_of(model)[: len(str(model.dtype)) - len("torch.") + 1 + _SHORT]


def warn_of_another_model(model: Denoiser, digest: str, what: str) -> None:
    """Warn if a model is not the one that something was made with.

    Args:
        model: The model at hand.
        digest: What `digest_of` or `short_digest` gave for the other; "" if it is not known.
        what: What was made with it, to begin the sentence with.
    """
    now = digest_of(model) if digest else ""
    if now.startswith(digest):
        return
    if same_precision(now, digest):
        why = f"weights or settings of {model.name!r} differ, so the picture will be another one"
    else:
        why = f"it ran in {digest.partition(':')[0]} and {model.name!r} runs in another precision"
    warn_caller(f"{what} was made with another model: {why}.")


def same_precision(one: str, other: str) -> bool:
    """Return whether two digests are of weights in the same precision, so can be compared."""
    return one.partition(":")[0] == other.partition(":")[0]


def bytes_of(tensor: Tensor) -> Any:
    """Return a tensor's bytes in the order of its elements, without a copy where it has them."""
    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy()


def _pieces(part: Any) -> Iterator[Any]:
    """Return what a part of a model consists of, as bytes."""
    if isinstance(part, nn.Module):
        for name, tensor in part.state_dict().items():
            yield name.encode()
            yield from _pieces(tensor)
    elif isinstance(part, Tensor):
        yield f" {part.dtype} {tuple(part.shape)} ".encode()
        yield bytes_of(part)
    elif isinstance(part, Mapping):
        yield json.dumps(dict(part), sort_keys=True, default=str).encode()
    elif isinstance(part, (str, int, float, bool, type(None))):
        yield repr(part).encode()
