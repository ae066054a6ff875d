"""Rebuild the sprite atlas of the scene world from the two emoji art packages.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 @lobehub/fluent-emoji-flat@1.1.0
    mkdir 3d flat && tar xzf *3d*.tgz -C 3d && tar xzf *flat*.tgz -C flat
    pip install resvg-py
    python tools/build_atlas.py --art . --out p2p_lab/assets

The atlas is one RGBA picture: a row for each object, a column for each drawn style.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from p2p_lab.scenes.vocabulary import OBJECTS

SIZE = 128
COLUMNS = ("3d", "flat")


def draw_3d(art: Path, code: str) -> Image.Image:
    """Return the rendered sprite of one code point at the atlas size."""
    with Image.open(art / "3d" / "package" / "assets" / f"{code}.webp") as picture:
        return resize_premultiplied(picture.convert("RGBA"))


def draw_flat(art: Path, code: str) -> Image.Image:
    """Return the flat vector sprite of one code point, rasterised at the atlas size."""
    import resvg_py

    path = art / "flat" / "package" / "assets" / f"{code}.svg"
    png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=4 * SIZE, height=4 * SIZE))
    return resize_premultiplied(Image.open(io.BytesIO(png)).convert("RGBA"))


def resize_premultiplied(picture: Image.Image) -> Image.Image:
    """Shrink a picture without letting the colour of clear pixels bleed into its edge."""
    rgba = np.asarray(picture, dtype=np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    planes = [
        np.asarray(Image.fromarray(rgba[..., k]).resize((SIZE, SIZE), Image.Resampling.BOX))
        for k in range(4)
    ]
    alpha = np.clip(planes[3], 1e-6, 1)
    colour = np.stack([np.clip(plane / alpha, 0, 1) for plane in planes[:3]], -1)
    colour[planes[3] < 1 / 255] = 0
    out = np.concatenate([colour, planes[3][..., None]], -1)
    return Image.fromarray((out * 255 + 0.5).astype(np.uint8), "RGBA")


def build(art: Path) -> Image.Image:
    """Return the whole atlas: a row for each object of the vocabulary."""
    atlas = Image.new("RGBA", (SIZE * len(COLUMNS), SIZE * len(OBJECTS)))
    for row, kind in enumerate(OBJECTS.values()):
        for column, draw in enumerate((draw_3d, draw_flat)):
            atlas.paste(draw(art, kind.code), (column * SIZE, row * SIZE))
    return atlas


def main() -> None:
    """Write `atlas.png` and `atlas.json` to the folder named by `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="folder that holds 3d/ and flat/")
    parser.add_argument("--out", type=Path, default=Path("p2p_lab/assets"))
    options = parser.parse_args()
    atlas = build(options.art)
    options.out.mkdir(parents=True, exist_ok=True)
    atlas.save(options.out / "atlas.png", optimize=True)
    digest = hashlib.sha256((options.out / "atlas.png").read_bytes()).hexdigest()
    card = {"size": SIZE, "columns": COLUMNS, "objects": list(OBJECTS), "sha256": digest}
    (options.out / "atlas.json").write_text(json.dumps(card, indent=1) + "\n")
    print(f"{len(OBJECTS)} objects, {(options.out / 'atlas.png').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
