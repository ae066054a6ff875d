"""How far two layouts are apart, and the summary "did anything happen?" of an edit.

    D(a, b) = mean over patch pairs of (Sᵢⱼ(a) − Sᵢⱼ(b))²,     S the patches' self-similarity

Prompts and runs are not known here: three pictures come in, numbers go out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from p2p_lab.metrics._arrays import Bools, Floats, to_mask, to_pair
from p2p_lab.metrics.pictures import background_psnr

LUMA = (0.299, 0.587, 0.114)
VISIBLE = 0.1  # a change of a tenth of the range is seen at a glance


def _self_similarity(picture: Floats, patch: int, bins: int = 8) -> Floats:
    """Return the cosine similarity of every two patches' gradient histograms, (N, N)."""
    grey = picture @ np.asarray(LUMA) if picture.shape[-1] == 3 else picture.mean(-1)
    down, right = np.gradient(grey)  # (H, W) each
    strength = np.hypot(down, right)
    scale = strength.mean() or 1.0
    angle = np.rint(np.arctan2(down, right) / np.pi * bins).astype(int) % bins  # (H, W)
    h, w = (side // patch for side in grey.shape)
    histogram = np.zeros((h, w, bins))
    rows, columns = np.indices((h * patch, w * patch)) // patch
    inside = (slice(h * patch), slice(w * patch))
    np.add.at(histogram, (rows, columns, angle[inside]), strength[inside] / scale / patch**2)
    flat = np.full((h, w, 1), 0.25)  # what two empty patches have in common
    features = np.concatenate([histogram, flat], -1).reshape(h * w, bins + 1)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features @ features.T)


def structure_distance(a: Any, b: Any, *, patch: int = 8) -> float:
    """Return how far two pictures' layouts are apart: 0 for the same, about 0.1 for unrelated ones.

    D = mean over patch pairs (i, j) of (Sᵢⱼ(a) − Sᵢⱼ(b))², with S the cosine similarity of the
    patches' gradient-orientation histograms. The idea, comparing self-similarities rather than
    pictures, is that of Tumanyan et al. 2022, who take S from the keys of a DINO transformer. This
    one needs no network, sees edges instead of meaning, and its values must not be compared with
    published DINO distances; it ignores brightness, contrast and the colour of an area.
    """
    first, second = to_pair(a, b)
    if patch < 1:
        raise ValueError(f"patch={patch} is not possible: give a side in pixels, from 1 on.")
    if min(first.shape[:2]) < 2 * patch:
        raise ValueError(
            f"The structure distance needs at least 2 × 2 patches of {patch} pixels, got a picture "
            f"of {first.shape[:2]}. Pass a smaller `patch`."
        )
    return float(np.mean((_self_similarity(first, patch) - _self_similarity(second, patch)) ** 2))


@dataclass(frozen=True)
class EditSummary:
    """The few numbers that say whether an edit did something, and whether it kept the rest.

    Attributes:
        changed: Share of pixels that visibly differ from the source (by a tenth of the range).
        changed_plain: The same for the plain re-prompt.
        kept_psnr: PSNR to the source in dB, on the background when a mask was given.
        kept_psnr_plain: The same for the plain re-prompt.
        structure: Structure distance to the source.
        structure_plain: The same for the plain re-prompt.
        inside: Share of the visible change that lies in the mask, None without one.
        verdict: One sentence.
    """

    changed: float
    changed_plain: float
    kept_psnr: float
    kept_psnr_plain: float
    structure: float
    structure_plain: float
    inside: float | None
    verdict: str

    def __str__(self) -> str:
        """Print the numbers as a small table with the verdict above it."""
        lines = [
            self.verdict,
            f"{'':22}{'edit':>9}{'re-prompt':>11}",
            f"{'pixels changed':22}{self.changed:9.1%}{self.changed_plain:11.1%}",
            f"{'kept (PSNR, dB)':22}{self.kept_psnr:9.1f}{self.kept_psnr_plain:11.1f}",
            f"{'structure distance':22}{self.structure:9.4f}{self.structure_plain:11.4f}",
        ]
        if self.inside is not None:
            lines.append(f"{'change inside mask':22}{self.inside:9.1%}")
        return "\n".join(lines)


def _visible(a: Floats, b: Floats) -> Bools:
    """Return the pixels at which some channel differs by a tenth of the range."""
    return np.asarray(np.abs(a - b).max(-1) > VISIBLE)


def _verdict(changed: float, kept: float, kept_plain: float, *, as_plain: bool) -> str:
    """Return in one sentence what the numbers mean."""
    if changed == 0:
        return "Nothing visible happened: the edit looks like its source."
    if as_plain:
        return "The control did nothing: the edit equals the plain re-prompt."
    if kept <= kept_plain:
        return "The edit changed the picture, and kept no more of it than a plain re-prompt does."
    more = "everything" if kept == float("inf") else f"{kept:.1f} dB"
    return f"The edit changed the picture and kept {more}; a re-prompt keeps {kept_plain:.1f} dB."


def edit_summary(source: Any, plain: Any, edited: Any, mask: Any = None) -> EditSummary:
    """Answer "did anything happen?" for one edit, against the plain re-prompt of the same seed.

    Args:
        source: The source picture.
        plain: The target prompt's picture from the same seed, uncontrolled.
        edited: The edit.
        mask: (H, W), the object that was to change; the numbers of what was kept then count the
            background only.
    """
    first, second = to_pair(source, edited)
    _, third = to_pair(source, plain)
    where = np.zeros(first.shape[:2], bool) if mask is None else to_mask(mask, first.shape)
    seen = _visible(first, second)
    kept, kept_plain = (background_psnr(first, p, where) for p in (second, third))
    changed, changed_plain = float(seen.mean()), float(_visible(first, third).mean())
    as_plain = not _visible(second, third).any()
    return EditSummary(
        changed=changed,
        changed_plain=changed_plain,
        kept_psnr=kept,
        kept_psnr_plain=kept_plain,
        structure=structure_distance(first, second),
        structure_plain=structure_distance(first, third),
        inside=None if mask is None else float((seen & where).sum() / max(1, seen.sum())),
        verdict=_verdict(changed, kept, kept_plain, as_plain=as_plain),
    )
