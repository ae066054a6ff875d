"""Rebuild the pictures from outside the model's world: another artist's emoji, and photographs.

    npm pack @iconify-json/noto@1.2.9 && mkdir noto && tar xzf iconify-json-noto-*.tgz -C noto
    pip download --no-deps scikit-image==0.26.0 && unzip scikit_image-*.whl 'skimage/data/*'
    pip install resvg-py
    python tools/build_examples.py --art . --out p2p_lab/assets/examples

No model of this project is trained on either source. The emoji stand before places of the scene
world; the photographs are cut square and shrunk.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2p_lab.scenes import Scene, render

SIZE = 256
NOTO = "Noto Emoji by Google (@iconify-json/noto 1.2.9), Apache-2.0"
# name, icon, place, (centre x, centre y, side) in fractions of the picture, prompt
EMOJI = (
    ("cat", "cat-face", "beach", (0.5, 0.62, 0.55), "a cat on a beach"),
    ("penguin", "penguin", "mountains", (0.45, 0.62, 0.6), "a penguin in the mountains"),
    ("apple", "red-apple", "plain", (0.5, 0.55, 0.6), "an apple on a plain background"),
    ("rocket", "rocket", "space", (0.52, 0.5, 0.62), "a rocket in space"),
    ("castle", "castle", "field", (0.5, 0.55, 0.66), "a castle in a field"),
)
# name, file, (left, top, side) in pixels, prompt, origin and licence
PHOTOGRAPHS = (
    ("photo-cat", "chelsea.png", (90, 0, 300), "a cat",
     "Chelsea, photographed by Stéfan van der Walt (scikit-image 0.26.0), CC0 1.0"),
    ("photo-rocket", "rocket.jpg", (180, 60, 360), "a rocket",
     "Falcon 9 with DSCOVR, photographed by SpaceX (scikit-image 0.26.0), public domain"),
)  # fmt: skip


def draw_icon(icons: Path, name: str, side: int) -> Image.Image:
    """Return one icon of the set, rasterised."""
    import resvg_py

    data = json.loads((icons / "icons.json").read_text(encoding="utf-8"))
    icon = data["icons"][name]
    width, height = (icon.get(k, data.get(k, 128)) for k in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        f"{icon['body']}</svg>"
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * side, height=4 * side))
    large = Image.open(io.BytesIO(png)).convert("RGBA")
    return large.convert("RGBa").resize((side, side), Image.Resampling.BOX).convert("RGBA")


def draw_emoji(icons: Path, icon: str, place: str, spot: tuple[float, float, float]) -> Image.Image:
    """Return an emoji before a place of the scene world."""
    seed = int(hashlib.sha256(icon.encode()).hexdigest()[:8], 16) // 2
    ground = render(Scene((), place=place, seed=seed), SIZE).images[0].permute(1, 2, 0).numpy()
    picture = Image.fromarray((ground * 255).round().astype(np.uint8))
    x, y, side = (round(value * SIZE) for value in spot)
    art = draw_icon(icons, icon, side)
    picture.paste(art, (x - side // 2, y - side // 2), art)
    return picture


def cut_photograph(path: Path, box: tuple[int, int, int]) -> Image.Image:
    """Return a square part of a photograph, shrunk."""
    left, top, side = box
    with Image.open(path) as photo:
        part = photo.convert("RGB").crop((left, top, left + side, top + side))
        return part.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def save(picture: Image.Image, path: Path, prompt: str, origin: str) -> dict[str, Any]:
    """Write one picture and return its entry in the list."""
    options: dict[str, Any] = {"optimize": True}
    if path.suffix == ".jpg":
        options |= {"quality": 90}
    picture.save(path, **options)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": path.name, "prompt": prompt, "origin": origin, "sha256": digest}


def main() -> None:
    """Write the pictures and `examples.json` to the folder named by `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="folder of noto/ and skimage/")
    parser.add_argument("--out", type=Path, default=Path("p2p_lab/assets/examples"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, icon, place, spot, prompt in EMOJI:
        picture = draw_emoji(options.art / "noto" / "package", icon, place, spot)
        entries[name] = save(picture, options.out / f"{name}.png", prompt, NOTO)
    for name, file, box, prompt, origin in PHOTOGRAPHS:
        picture = cut_photograph(options.art / "skimage" / "data" / file, box)
        entries[name] = save(picture, options.out / f"{name}.jpg", prompt, origin)
    listed = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    (options.out / "examples.json").write_text(listed, encoding="utf-8")
    print(f"{len(entries)} pictures")


if __name__ == "__main__":
    main()
