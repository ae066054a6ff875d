"""Pictures drawn in Python beforehand: what a browser that cannot run the page shows instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2p_lab.models import Denoiser
from p2p_lab.sampling import edit, generate

COUNT = 4  # examples that are drawn, source and edit each
SHOWN = 192  # pixels along a side


def write_pictures(model: Denoiser, facts: Mapping[str, Any], folder: Path) -> Path | None:
    """Write the first examples as one strip, `strip.png`: sources above, their edits below."""
    examples = facts["examples"][:COUNT]
    if not examples:
        return None
    columns = []
    for one in examples:
        source = generate(model, one["source"], seed=one["seed"], steps=facts["live_steps"])
        edited = edit(source, one["target"])
        columns.append([_large(source.image), _large(edited.image)])
    strip = np.concatenate([np.concatenate(pair, axis=0) for pair in columns], axis=1)
    path = folder / "strip.png"
    Image.fromarray(strip).save(path, optimize=True)
    captions = [{"source": one["source"], "target": one["target"]} for one in examples]
    (folder / "strip.json").write_text(json.dumps(captions), encoding="utf-8")
    return path


def _large(image: Image.Image) -> Any:
    return np.asarray(image.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC).convert("RGB"))
