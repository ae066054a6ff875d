"""Laws of the metrics: each number against its definition, and against what it must ignore."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from p2p_lab import metrics

RNG = np.random.default_rng(7)


def picture(size: int = 32, seed: int = 0) -> np.ndarray:
    """A smooth random picture with a dark square in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((size // 8, size // 8, 3))
    out = np.asarray(
        Image.fromarray((coarse * 255).astype(np.uint8)).resize((size, size), Image.BICUBIC)
    )
    out = out / 255
    out[size // 4 : size // 2, size // 4 : size // 2] *= 0.3
    return out


def square(size: int = 32) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[size // 4 : size // 2, size // 4 : size // 2] = True
    return mask


def ssim_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 written out window by window."""
    x = np.arange(11) - 5
    line = np.exp(-(x**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    scores = []
    for channel in range(a.shape[2]):
        for row in range(a.shape[0] - 10):
            for column in range(a.shape[1] - 10):
                p = a[row : row + 11, column : column + 11, channel]
                q = b[row : row + 11, column : column + 11, channel]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                both = (weights * (p - mp) * (q - mq)).sum()
                top = (2 * mp * mq + 0.0001) * (2 * both + 0.0009)
                scores.append(top / ((mp**2 + mq**2 + 0.0001) * (vp + vq + 0.0009)))
    return float(np.mean(scores))


def test_mse_and_psnr_agree_with_a_difference_known_by_hand() -> None:
    a, b = np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)
    assert metrics.mse(a, b) == pytest.approx(0.01)
    assert metrics.psnr(a, b) == pytest.approx(20.0)
    assert metrics.psnr(a, a) == math.inf


def test_a_picture_counts_the_same_as_numpy_torch_pil_float_or_byte() -> None:
    byte_a, byte_b = (RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8) for _ in range(2))
    want = metrics.ssim(byte_a, byte_b)
    torch_a = torch.from_numpy(byte_a).permute(2, 0, 1)
    assert metrics.ssim(torch_a, byte_b) == pytest.approx(want, abs=1e-12)
    assert metrics.ssim(torch_a.double() / 255, byte_b) == pytest.approx(want, abs=1e-12)
    assert metrics.ssim(Image.fromarray(byte_a), byte_b / 255) == pytest.approx(want, abs=1e-12)
    half = (torch_a.float() / 255).to(torch.bfloat16).requires_grad_()
    assert metrics.psnr(half, byte_a) > 45


def test_ssim_equals_the_formula_written_as_plain_loops() -> None:
    a, b = RNG.random((15, 17, 3)), RNG.random((15, 17, 3))
    assert metrics.ssim(a, b) == pytest.approx(ssim_by_loops(a, b), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.5))
def test_ssim_is_symmetric_bounded_and_one_only_for_equals(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.random((14, 14))
    b = np.clip(a + noise * rng.standard_normal(a.shape), 0, 1)
    assert metrics.ssim(a, a) == pytest.approx(1.0, abs=1e-12)
    assert metrics.ssim(a, b) == pytest.approx(metrics.ssim(b, a), abs=1e-12)
    assert -1 <= metrics.ssim(a, b) < 1


def test_more_noise_is_a_lower_psnr_and_a_lower_ssim() -> None:
    a, noise = picture(), RNG.standard_normal((32, 32, 3))
    levels = [0.01, 0.03, 0.1, 0.3]
    for measure in (metrics.psnr, metrics.ssim):
        values = [measure(a, a + level * noise) for level in levels]
        assert metrics.rank_correlation(levels, values) == pytest.approx(-1)


def test_what_happens_in_the_mask_has_no_say_in_the_background_and_the_reverse() -> None:
    a, mask = picture(), square()
    inside, outside = a.copy(), a.copy()
    inside[mask] = 1 - inside[mask]
    outside[~mask] = 1 - outside[~mask]
    assert metrics.background_mse(a, inside, mask) == 0
    assert metrics.background_psnr(a, inside, mask) == math.inf
    assert metrics.background_ssim(a, inside, mask) == pytest.approx(1)
    assert metrics.foreground_psnr(a, inside, mask) < 30
    assert metrics.foreground_ssim(a, inside, mask) < 0.9
    assert metrics.foreground_mse(a, outside, mask) == 0
    assert metrics.foreground_ssim(a, outside, mask) == pytest.approx(1)
    assert metrics.background_ssim(a, outside, mask) < 0.9


def test_foreground_and_background_errors_add_up_to_the_whole() -> None:
    a, b, mask = picture(seed=1), picture(seed=2), square()
    share = mask.mean()
    parts = share * metrics.foreground_mse(a, b, mask)
    parts += (1 - share) * metrics.background_mse(a, b, mask)
    assert parts == pytest.approx(metrics.mse(a, b))


def test_a_mask_counts_the_same_as_booleans_floats_or_bytes() -> None:
    a, b, mask = picture(seed=1), picture(seed=2), square()
    want = metrics.background_psnr(a, b, mask)
    for same in (mask.astype(float), mask.astype(np.uint8) * 255, torch.from_numpy(mask)):
        assert metrics.background_psnr(a, b, same) == want


def test_iou_of_masks_known_by_hand() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    a[:2], b[1:3] = True, True
    assert metrics.mask_iou(a, b) == pytest.approx(1 / 3)
    assert metrics.mask_iou(a, a) == 1
    assert metrics.mask_iou(a, ~a) == 0
    assert metrics.mask_iou(~a & a, ~b & b) == 1


def test_a_map_is_cut_at_a_fraction_of_its_maximum_whatever_its_scale() -> None:
    truth = square(8)
    heat = np.where(truth, 0.9, 0.2)
    for scale in (1e-6, 1.0, 50.0):
        assert metrics.mask_iou(heat * scale, truth, threshold=0.5) == 1
    assert metrics.mask_iou(heat, truth, threshold=0.1) == pytest.approx(truth.mean())


def test_pointing_takes_the_maximum_to_the_mask_at_any_resolution() -> None:
    heat = np.zeros((4, 8))
    heat[1, 6] = 1.0
    mask = np.zeros((32, 64), bool)
    mask[8:16, 48:56] = True  # just that cell
    assert metrics.pointing_accuracy(heat, mask) == 1
    assert metrics.pointing_accuracy(heat, ~mask) == 0
    assert metrics.pointing_accuracy([heat, heat], [mask, ~mask]) == 0.5
    assert metrics.pointing_accuracy(torch.from_numpy(np.stack([heat] * 4)), [mask] * 4) == 1


def test_structure_ignores_brightness_contrast_and_tint_and_sees_layout() -> None:
    a, other = picture(64, 3), picture(64, 4)
    assert metrics.structure_distance(a, a) == 0
    assert metrics.structure_distance(a, 0.5 * a + 0.2) == pytest.approx(0, abs=1e-12)
    assert metrics.structure_distance(a, other) > 0.005
    assert metrics.structure_distance(a, other) == metrics.structure_distance(other, a)
    tinted = a * np.array([1.0, 0.9, 0.8])
    assert metrics.structure_distance(a, tinted) < metrics.structure_distance(a, other) / 20


def test_structure_distance_grows_as_an_object_moves_away() -> None:
    def scene(column: int) -> np.ndarray:
        out = np.full((64, 64), 0.8)
        out[24:40, column : column + 16] = 0.2
        return out

    moved = [metrics.structure_distance(scene(4), scene(4 + d)) for d in (0, 8, 16, 24)]
    assert moved[0] == 0 and min(moved[1:]) > 0.001
    assert moved[3] > moved[1]


def test_rank_correlation_sees_order_and_not_size_and_shares_ties() -> None:
    assert metrics.rank_correlation([1, 2, 3], [1, 10, 1000]) == pytest.approx(1)
    assert metrics.rank_correlation([1, 2, 3], [3, 2, -9]) == pytest.approx(-1)
    assert metrics.rank_correlation([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(2 / 5**0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=12).filter(lambda v: len(set(v)) > 1))
def test_rank_correlation_with_oneself_is_one_and_with_the_negative_minus_one(v: list[int]) -> None:
    assert metrics.rank_correlation(v, v) == pytest.approx(1)
    assert metrics.rank_correlation(v, [-x for x in v]) == pytest.approx(-1)


def test_the_summary_says_when_nothing_happened_and_when_the_control_did_nothing() -> None:
    a, plain = picture(seed=1), picture(seed=2)
    edit = a.copy()
    edit[square()] = 1 - edit[square()]
    nothing = metrics.edit_summary(a, plain, a)
    assert nothing.changed == 0 and "Nothing visible" in nothing.verdict
    uncontrolled = metrics.edit_summary(a, plain, plain)
    assert "control did nothing" in uncontrolled.verdict
    good = metrics.edit_summary(a, plain, edit, square())
    assert good.inside == 1 and good.kept_psnr == math.inf
    assert good.structure < good.structure_plain
    assert "kept everything" in good.verdict
    assert "re-prompt" in str(good) and f"{good.changed:.1%}" in str(good)


def test_an_edit_that_keeps_no_more_than_the_re_prompt_is_told_so() -> None:
    a, plain = picture(seed=1), picture(seed=2)
    said = metrics.edit_summary(a, plain, 1 - a)
    assert "no more of it" in said.verdict


NAN = np.full((4, 4), np.nan)
GREY = (np.zeros((32, 32)), np.ones((32, 32)))


def test_infinite_values_have_a_rank_so_that_a_fader_of_decibels_can_be_scored() -> None:
    assert metrics.rank_correlation([1, 2, 3], [10.0, 20.0, float("inf")]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: metrics.mse(np.zeros((4, 4)), np.zeros((4, 5))), "one shape, got"),
        (lambda: metrics.mse(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3))), "one picture"),
        (lambda: metrics.psnr(np.full((4, 4), np.nan), np.zeros((4, 4))), "NaN"),
        (lambda: metrics.ssim(np.zeros((8, 8)), np.zeros((8, 8))), "at least 11"),
        (
            lambda: metrics.background_mse(np.zeros((4, 4)), np.ones((4, 4)), np.ones((4, 4))),
            "no background pixel",
        ),
        (
            lambda: metrics.background_mse(np.zeros((4, 4)), np.ones((4, 4)), np.ones((2, 2))),
            "like the picture",
        ),
        (lambda: metrics.structure_distance(np.zeros((8, 8)), np.zeros((8, 8))), "smaller `patch`"),
        (lambda: metrics.structure_distance(*GREY, patch=0), "patch=0 is not possible"),
        (lambda: metrics.ssim_map(*GREY, width=0), "width from 1 on"),
        (lambda: metrics.ssim_map(*GREY, sigma=float("nan")), "finite sigma above 0"),
        (lambda: metrics.mse(np.zeros((0, 0)), np.zeros((0, 0))), "no pixel"),
        (lambda: metrics.pointing_accuracy([NAN], [np.ones((4, 4))]), "A map holds NaN"),
        (lambda: metrics.pointing_accuracy(torch.tensor(NAN), np.ones((4, 4))), "A map holds NaN"),
        (lambda: metrics.mask_iou(NAN, np.ones((4, 4)), threshold=0.5), "The map holds NaN"),
        (lambda: metrics.mask_iou(np.ones((4, 4)), NAN, threshold=0.5), "finite numbers"),
        (
            lambda: metrics.mask_iou(np.ones((4, 4)), np.ones((4, 4)), threshold=float("nan")),
            "The threshold holds NaN",
        ),
        (lambda: metrics.rank_correlation([1, 2, 3], [1, np.nan, 3]), "second sequence holds NaN"),
        (lambda: metrics.rank_correlation([np.nan, 2, 3], [1, 2, 3]), "first sequence holds NaN"),
        (lambda: metrics.rank_correlation([1, 1], [1, 2]), "constant"),
        (lambda: metrics.rank_correlation([1], [2]), "at least 2"),
        (lambda: metrics.pointing_accuracy([], []), "no map"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(call, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_inputs_are_left_as_they_were() -> None:
    a, b, mask = picture(seed=1), picture(seed=2), square()
    before = a.copy(), b.copy(), mask.copy()
    metrics.edit_summary(a, b, b, mask)
    metrics.foreground_ssim(a, b, mask)
    for now, then in zip((a, b, mask), before, strict=True):
        assert np.array_equal(now, then)


@pytest.mark.parametrize("scale", [255.0, 10.0, -10.0])
def test_pictures_outside_their_range_are_refused(scale: float) -> None:
    picture = np.random.default_rng(0).random((16, 16, 3)) + 0.5
    with pytest.raises(ValueError, match="0…1"):
        metrics.psnr(picture * scale, picture * scale)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_mask_with_some_overshoot_is_cut_at_one_half(kind: type) -> None:
    rng = np.random.default_rng(1)
    one = rng.random((16, 16, 3))
    two, mask = one.copy(), np.zeros((16, 16), kind)
    two[:8], mask[:8] = rng.random((8, 16, 3)), 1.02
    assert metrics.background_psnr(one, two, mask) == float("inf")
    for wrong in (mask * 200, mask * 2, -mask, mask * np.nan):
        with pytest.raises(ValueError, match="mask"):
            metrics.background_psnr(one, two, wrong)
    assert metrics.background_psnr(one, two, (mask > 0).astype(np.uint8) * 255) == float("inf")
