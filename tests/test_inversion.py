"""Laws of inversion: what comes back, what is optimised, what is kept on disk."""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import p2p_lab
from p2p_lab.__main__ import main
from p2p_lab.edits import LocalBlend, Refine, Replace, Reweight
from p2p_lab.inversion import (
    METHODS,
    EditFriendly,
    InversionCache,
    InversionContext,
    NullText,
    PictureError,
    ddim_invert,
    edit_friendly,
    invert,
    list_example_images,
    load_captioner,
    load_image,
    null_text,
    null_text_memory,
    null_text_step,
    open_example_image,
    suggest_prompt,
    suggesting,
    to_tensor,
)
from p2p_lab.judge.suggest import refuse_empty
from p2p_lab.metrics import psnr
from p2p_lab.models import Conditioning, StableDiffusion, load
from p2p_lab.sampling import Cancelled, EditCache, Run, edit, make_schedule, predict_clean
from p2p_lab.scenes import render, sample_scene

STEPS, SIDE = 3, 32
CAT, DOG = "a cat on grass", "a dog on grass"
QUICK: dict[str, Any] = {"null-text": NullText(inner_steps=1)}


def picture(seed: int = 0) -> Tensor:
    """A smooth random picture, (3, H, W)."""
    noise = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[0]


def round_trip(model: Any, image: Any) -> Tensor:
    """Encode and decode a picture: the best that any inversion can give back."""
    return model.decode(model.encode(to_tensor(load_image(image, SIDE))))[0]


def job_of(model: Any, **options: Any) -> InversionContext:
    return InversionContext.of(model, CAT, **{"steps": STEPS, "guidance_scale": 7.5, **options})


@pytest.fixture(scope="module")
def v64(v_folder: Path) -> Any:
    return load(v_folder, "cpu", torch.float64)


@pytest.fixture(scope="module")
def z0(sd: Any) -> Tensor:
    return sd.encode(to_tensor(load_image(picture(), SIDE)))


class Gaussian(StableDiffusion):
    """A denoiser that is right: pictures are normal around a mean that the text decides.

    ε(z, t) = √(1−ᾱ) (z − √ᾱ m) / (ᾱ s² + 1 − ᾱ)
    """

    spread = 0.5

    @staticmethod
    def of(model: StableDiffusion) -> Gaussian:
        names = ("name", "module", "vae", "text_encoder", "tokenizer", "scheduler_config")
        return Gaussian(**{n: getattr(model, n) for n in names}, defaults=model.defaults)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        from diffusers import DDIMScheduler

        level = DDIMScheduler.from_config(dict(self.scheduler_config)).alphas_cumprod[t].double()
        mean = conditioning.tokens[..., :4].mean(dim=(1, 2))[:, None, None, None]
        variance = level * self.spread**2 + 1 - level
        noise = (1 - level) ** 0.5 * (latents - level**0.5 * mean) / variance
        if self.prediction == "epsilon":
            return noise
        return (noise - (1 - level) ** 0.5 * latents) / level**0.5


# pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]
)
def test_a_picture_of_any_mode_comes_in_as_rgb(mode: str) -> None:
    grey = np.linspace(0, 255, 40 * 30).reshape(30, 40)
    if mode in ("I;16", "I", "F"):
        kinds = {"I;16": (np.uint16, 257), "I": (np.int32, 257), "F": (np.float32, 1 / 255)}
        kind, scale = kinds[mode]
        source = Image.fromarray((grey * scale).astype(kind))
    else:
        source = Image.fromarray(grey.astype(np.uint8)).convert(mode)
    opened = load_image(source, (30, 40))
    assert (opened.mode, opened.size) == ("RGB", (40, 30))
    if mode != "1":
        assert np.abs(np.asarray(opened.convert("L"), float) - grey).max() < 4


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64, bool])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_of_any_kind_come_in(kind: Any, channels: int) -> None:
    top = {np.uint8: 255, np.uint16: 65535}.get(kind, 1)
    shape = (8, 8, channels) if channels else (8, 8)
    opened = load_image(np.full(shape, top).astype(kind), 8)
    assert np.asarray(opened).min() == 255


def test_a_path_bytes_a_tensor_and_an_array_of_one_picture_are_the_same(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    tensor = torch.tensor(array).permute(2, 0, 1) / 255
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), array,
                   tensor, tensor[None].double(), Image.fromarray(array)):  # fmt: skip
        assert (np.asarray(load_image(source, 16)) == array).all()


def test_exif_turns_are_applied() -> None:
    upright = Image.fromarray(np.arange(20 * 10, dtype=np.uint8).reshape(20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    buffer = io.BytesIO()
    upright.rotate(90, expand=True).save(buffer, "png", exif=exif)
    assert (np.asarray(load_image(buffer.getvalue(), (20, 10)).convert("L")) == upright).all()


def test_transparent_parts_become_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert load_image(clear, 4).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(half, 4).getpixel((0, 0)) == (127, 127, 127)


def test_crop_fills_and_pad_shows_everything_on_white() -> None:
    wide = Image.new("RGB", (40, 20), "black")
    assert np.asarray(load_image(wide, 20, "crop")).max() == 0
    padded = np.asarray(load_image(wide, 20, "pad"))
    assert padded[0].min() == 255 and padded[10].max() == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"no picture", "cannot be read as a picture"),
        ("missing.png", "There is no file .missing.png"),
        ("https://example.org/cat.png", "Download the picture"),
        (12, "A int is no picture"),
        (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\)"),
        (np.zeros((2, 3, 4, 4)), r"shape \(2, 3, 4, 4\)"),
        (np.full((4, 4, 3), 7.0), "must lie in 0…1, got 7 to 7"),
        (np.full((4, 4), np.nan), "must lie in 0…1"),
        (np.full((4, 4), "a"), "Give numbers"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_sentence(source: Any, said: str) -> None:
    with pytest.raises(PictureError, match=said):
        load_image(source, 8)


def test_a_picture_that_is_cut_off_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PictureError, match=r"holiday\.jpg is broken or cut off"):
        load_image(path, 8)


# the inverse step -------------------------------------------------------------------------------


def test_a_step_back_undoes_a_step_with_the_same_noise(sd: Any) -> None:
    z, noise = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator())
    schedule = make_schedule(sd.scheduler_config, "ddim", STEPS)
    for step in range(STEPS):
        there = schedule.advance(z, noise, step)
        assert (schedule.undo(there, noise, step) - z).abs().max() < 1e-12


def test_noise_and_velocity_of_one_model_invert_alike(sd: Any, v64: Any, z0: Tensor) -> None:
    paths = [ddim_invert(job_of(Gaussian.of(model), steps=7), z0) for model in (sd, v64)]
    assert (paths[0] - paths[1]).abs().max() < 1e-6  # the levels are float32


@pytest.mark.parametrize("name", ["sd", "v64"])
def test_ddim_inversion_is_the_plain_loop(name: str, z0: Tensor, request: Any) -> None:
    model = request.getfixturevalue(name)
    from diffusers import DDIMScheduler

    levels = DDIMScheduler.from_config(dict(model.scheduler_config)).alphas_cumprod.double()
    text = model.encode_prompt(model.prompt(CAT), (SIDE, SIDE)).tokens
    stride = 1000 // STEPS
    z, expected = z0, [z0]
    for t in (1, 1 + stride, 1 + 2 * stride):  # Stable Diffusion's times, offset 1
        a, b = levels[t], levels[max(t - stride, 0)]
        with torch.no_grad():
            said = model.module(z, t, encoder_hidden_states=text).sample
        noise = said if name == "sd" else a**0.5 * said + (1 - a) ** 0.5 * z
        z = a**0.5 * (z - (1 - b) ** 0.5 * noise) / b**0.5 + (1 - a) ** 0.5 * noise
        expected.append(z)
    found = ddim_invert(job_of(model), z0)
    assert (found - torch.cat(expected[::-1])).abs().max() < 1e-5 * found.abs().max()


# what comes back --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["sd_folder", "v_folder"])
@pytest.mark.parametrize("method", ["direct", "edit-friendly"])
def test_direct_and_edit_friendly_give_back_all_that_the_autoencoder_keeps(
    method: Any, folder: str, request: Any
) -> None:
    model = load(request.getfixturevalue(folder), "cpu", torch.float32)
    run = invert(model, picture(), CAT, method=method, steps=4, guidance_scale=7.5)
    assert psnr(run.pixels, round_trip(model, picture())) >= 60


def test_the_noise_maps_alone_bring_the_picture_back(sd: Any) -> None:
    method = EditFriendly(skip=0.3, source_guidance=2.0)
    run = invert(sd, picture(), CAT, method=method, steps=4, guidance_scale=5.0)
    again = edit(run, CAT, [Refine(cross=(0, 0), self_attention=(0, 0))], guidance_scale=2.0)
    assert psnr(again.pixels, round_trip(sd, picture())) > 80
    assert (run.trajectory.noise_maps[0] == 0).all() and run.trajectory.start == 1


@pytest.mark.parametrize("name", ["sd", "v64"])
def test_guidance_breaks_ddim_and_negative_prompt_mends_it(name: str, request: Any) -> None:
    model = Gaussian.of(request.getfixturevalue(name))

    def score(method: Any, scale: float, steps: int = 25) -> float:
        run = invert(
            model, picture(), CAT, method=method, guidance_scale=scale, steps=steps, record="none"
        )
        return psnr(run.pixels, round_trip(model, picture()))

    unguided, guided = score("ddim", 1.0), score("ddim", 7.5)
    assert unguided > 20
    assert guided < unguided - 6
    assert guided < score("negative-prompt", 7.5) <= score("direct", 7.5)
    assert score("ddim", 1.0, steps=60) > unguided + 3  # a finer schedule, a smaller error


# null-text --------------------------------------------------------------------------------------


def test_null_text_falls_at_every_step_or_stops_by_its_rule(sd: Any, z0: Tensor) -> None:
    job, options = job_of(sd), NullText(inner_steps=4)
    found = null_text(job, ddim_invert(job, z0), options)
    for step, losses in enumerate(found.losses):
        goal = options.goal_at(step, STEPS)
        assert min(losses) < losses[0] or losses[0] < goal
        assert len(losses) == 5 or losses[-1] < goal
    assert found.embeds.shape == (STEPS, *job.negative.tokens.shape[1:])


def test_a_goal_that_is_met_leaves_the_embedding_as_it_is(sd: Any, z0: Tensor) -> None:
    job = job_of(sd)
    found = null_text(job, ddim_invert(job, z0), NullText(goal=1e9))
    assert all(len(losses) == 1 for losses in found.losses)
    assert (found.embeds == job.negative.tokens).all()


def test_the_reference_settings_at_fifty_steps() -> None:
    options = NullText()
    for i in (0, 10, 49):
        assert options.rate_at(i, 50) == pytest.approx(1e-2 * (1 - i / 100))
        assert options.goal_at(i, 50) == pytest.approx(1e-5 + 2e-5 * i)


@pytest.mark.parametrize("name", ["sd", "v64"])
def test_the_gradient_of_null_text_agrees_with_finite_differences(
    name: str, z0: Tensor, request: Any
) -> None:
    model = request.getfixturevalue(name)
    job = job_of(model)
    generator = torch.Generator().manual_seed(1)
    target, direction = (
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in (z0.shape, job.negative.tokens.shape)
    )
    with torch.no_grad():
        positive = job.predict(z0, 1)

    def loss(embed: Tensor) -> Tensor:
        z, _ = null_text_step(job, z0, positive, embed, 1)
        return (z - target).square().mean()

    embed = job.negative.tokens.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(embed), embed)
    with torch.no_grad():
        h = 1e-5
        slope = (loss(embed + h * direction) - loss(embed - h * direction)) / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_null_text_is_the_plain_loop(sd: Any, z0: Tensor) -> None:
    job, options = job_of(sd, steps=2), NullText(inner_steps=2, goal=0, goal_growth=0)
    pivots = ddim_invert(job, z0)
    found = null_text(job, pivots, options)
    z, embed, text = pivots[:1], job.negative.tokens, job.positive.tokens
    for step in range(2):
        a, b = (x[step].double() for x in (job.schedule.alpha_bar, job.schedule.alpha_bar_next))
        t, rate = job.schedule.timesteps[step], 1e-2 * (1 - step / 4)

        def advance(
            e: Tensor, z: Tensor = z, t: Tensor = t, a: Tensor = a, b: Tensor = b
        ) -> Tensor:
            negative, positive = (
                sd.module(z, t, encoder_hidden_states=x).sample for x in (e, text)
            )
            noise = negative + 7.5 * (positive - negative)
            return b**0.5 * (z - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise

        tried, m, v = [], 0.0, 0.0
        for i in (1, 2, 3):
            variable = embed.clone().requires_grad_(True)
            loss = (advance(variable) - pivots[step + 1]).square().mean()
            tried.append((loss.item(), variable.detach()))
            (g,) = torch.autograd.grad(loss, variable)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2  # Adam (Kingma and Ba 2015)
            embed = embed - rate * (m / (1 - 0.9**i)) / ((v / (1 - 0.999**i)).sqrt() + 1e-8)
        losses = [loss for loss, _ in tried]
        assert found.losses[step] == pytest.approx(losses, rel=1e-5)
        embed = min(tried, key=lambda pair: pair[0])[1]
        assert (found.embeds[step] - embed[0]).abs().max() < 1e-5
        z = advance(embed).detach()
    assert (found.latents[-1:] - z).abs().max() < 1e-5 * z.abs().max()


def test_checkpointing_changes_nothing_but_memory(sd: Any, z0: Tensor) -> None:
    job = job_of(sd, steps=1)
    pivots = ddim_invert(job, z0)
    plain, spared = (
        null_text(job, pivots, NullText(inner_steps=1, checkpointing=on)) for on in (False, True)
    )
    assert (plain.embeds - spared.embeds).abs().max() < 1e-12
    assert not sd.module.is_gradient_checkpointing


def test_null_text_without_guidance_is_refused(sd: Any) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale=1.*is none"):
        invert(sd, picture(), CAT, method="null-text", guidance_scale=1.0)


# edit-friendly ----------------------------------------------------------------------------------


def test_noise_maps_are_the_plain_loop(sd: Any, z0: Tensor) -> None:
    job = job_of(sd)
    path, maps = edit_friendly(job, z0, EditFriendly(skip=0, source_guidance=2.0, seed=5))
    noise = torch.randn((STEPS, *z0.shape[1:]), generator=torch.Generator().manual_seed(5)).double()
    for step in range(STEPS):
        a, b = (x[step].double() for x in (job.schedule.alpha_bar, job.schedule.alpha_bar_next))
        z = a**0.5 * z0 + (1 - a) ** 0.5 * noise[step]
        assert (path[step] - z).abs().max() < 1e-6 * z.abs().max()
        with torch.no_grad():
            negative, positive = (
                sd.module(z, job.schedule.timesteps[step], encoder_hidden_states=c.tokens).sample
                for c in (job.negative, job.positive)
            )
        eps = negative + 2.0 * (positive - negative)
        clean, _ = predict_clean(z, eps, a)
        sigma = ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        mean = b**0.5 * clean + (1 - b - sigma**2) ** 0.5 * eps
        expected = (path[step + 1] - mean) / sigma
        assert (maps[step] - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (path[-1] - z0).abs().max() < 1e-9


# one edit for all -------------------------------------------------------------------------------

EDITS = {
    "swap": (DOG, [Replace(), LocalBlend(["cat"], ["dog"], start=0)]),
    "fader": (CAT, [Reweight("cat", 2.0)]),
    "phrase": ("a red cat on grass", [Refine(self_attention=(0, 1))]),
}


@pytest.fixture(scope="module")
def inverted(sd: Any) -> dict[str, Run]:
    return {
        m: invert(sd, picture(), CAT, method=QUICK.get(m, m), steps=STEPS, guidance_scale=7.5)
        for m in METHODS
    }


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("method", METHODS)
def test_every_inversion_takes_every_edit_from_its_tape_as_beside_it(
    method: str, kind: str, inverted: dict[str, Run]
) -> None:
    run, (text, edits) = inverted[method], EDITS[kind]
    assert run.tape is not None
    taped = edit(run, text, edits)
    joint = edit(replace(run, tape=None, cache=EditCache()), text, edits)
    assert (taped.trajectory.latents - joint.trajectory.latents).abs().max() < 1e-9
    assert (taped.pixels - run.pixels).abs().max() > 1e-4


def test_an_identity_edit_of_a_guided_inversion_is_its_reconstruction(
    inverted: dict[str, Run],
) -> None:
    for method in ("ddim", "negative-prompt", "null-text"):  # the steps' embeddings are heeded
        again = edit(inverted[method], CAT, [Refine()])
        assert (again.pixels - inverted[method].pixels).abs().max() < 1e-9


def test_the_pinned_source_stays_on_the_measured_latents(inverted: dict[str, Run]) -> None:
    job = job_of(inverted["direct"].model)
    z = inverted["direct"].model.encode(to_tensor(load_image(picture(), SIDE)))
    assert (inverted["direct"].trajectory.latents - ddim_invert(job, z)).abs().max() < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_an_inversion_is_recorded_like_a_generated_picture(
    method: str, inverted: dict[str, Run]
) -> None:
    run = inverted[method]
    assert run.attention is not None
    for mean in run.attention.means.values():  # also where steps were skipped
        assert (mean.sum(dim=-1) - 1).abs().max() < 1e-6
    assert run.map("cat").shape[-1] in (8, 16)


def test_a_saved_inversion_is_edited_as_before(inverted: dict[str, Run], tmp_path: Path) -> None:
    run = inverted["edit-friendly"]
    again = Run.load(run.save(tmp_path / "run.safetensors"), run.model)
    assert (edit(again, DOG, [Replace()]).pixels == edit(run, DOG, [Replace()]).pixels).all()


# reporting, stopping, refusing ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_step_of_every_part_is_told_in_order(method: str, sd: Any) -> None:
    told: list[tuple[int, int]] = []
    invert(
        sd, picture(), CAT, method=QUICK.get(method, method), steps=STEPS,
        on_step=lambda step, total, preview: told.append((step, total)),
    )  # fmt: skip
    assert [step for step, _ in told] == list(range(told[0][1]))
    assert {total for _, total in told} == {len(told)}


def test_previews_are_pictures(sd: Any) -> None:
    sizes: list[tuple[int, int]] = []
    invert(
        sd, picture(), CAT, method=QUICK["null-text"], steps=1,
        on_step=lambda step, total, preview: sizes.append(preview().size),
    )  # fmt: skip
    assert sizes == [(SIDE, SIDE)] * 3


@pytest.mark.parametrize("method", METHODS)
def test_a_cancelled_inversion_leaves_the_model_as_it_was(
    method: str, sd: Any, tmp_path: Path
) -> None:
    before, stop = dict(sd.module.attn_processors), threading.Event()

    def halt(step: int, total: int, preview: Any) -> None:
        if step == total - 2:
            stop.set()

    cache = InversionCache(tmp_path)
    with pytest.raises(Cancelled):
        invert(
            sd, picture(), CAT, method=QUICK.get(method, method), steps=STEPS, on_step=halt,
            cancel=stop, cache=cache,
        )  # fmt: skip
    assert sd.module.attn_processors == before and not cache.files()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "method='magic' is not known"),
        ({"method": "negative-prompt", "negative": "dog"}, "Leave it out"),
        ({"steps": 0}, "steps=0"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5"),
        ({"size": 33}, "multiples of 2"),
        ({"fit": "squeeze"}, "fit='squeeze'"),
        ({"tape_budget": -1}, "tape_budget=-1 is not possible.*number of bytes"),
        ({"tape_budget": float("nan")}, "tape_budget=nan"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(
    options: dict[str, Any], said: str, sd: Any
) -> None:
    with pytest.raises(ValueError, match=said):
        invert(sd, picture(), CAT, **options)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (EditFriendly, "skip", (1.0, -0.1, NAN, "0.3", True)),
        (EditFriendly, "source_guidance", (0.5, NAN, INF, "3")),
        (EditFriendly, "seed", (-1, 1.5, None, NAN)),
        (NullText, "inner_steps", (-1, 2.5, NAN, INF, "3", True)),
        (NullText, "learning_rate", (0, -1.0, NAN, INF, "1")),
        (NullText, "goal", (-1.0, NAN, INF, None)),
        (NullText, "goal_growth", (NAN, INF, -INF, None)),
        (InversionCache, "limit", (-1, NAN, INF, "2")),
    ],
)
def test_a_setting_of_an_inversion_that_is_no_number_it_can_use_is_refused_at_once(
    kind: Any, name: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"{name}=.* not possible|{name}.* got .*"):
            kind(**{name: value})


# the cache --------------------------------------------------------------------------------------


class Counted:
    """Count the calls of a model's denoiser."""

    def __init__(self, model: Any) -> None:
        self.calls = 0
        self.hook = model.module.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1


def test_an_inversion_is_found_again_without_work(sd: Any, tmp_path: Path) -> None:
    cache, counted = InversionCache(tmp_path), Counted(sd)
    first = invert(sd, picture(), CAT, steps=2, cache=cache)
    made = counted.calls
    second = invert(sd, picture(), CAT, steps=2, cache=cache)
    counted.hook.remove()
    assert counted.calls == made > 0
    assert (first.pixels == second.pixels).all() and second.trajectory.pinned
    assert (edit(first, DOG, [Replace()]).pixels == edit(second, DOG, [Replace()]).pixels).all()


def test_every_thing_that_matters_makes_another_entry(sd: Any, v64: Any, tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)
    calls: list[tuple[Any, int, str, dict[str, Any]]] = [
        (sd, 0, CAT, {}),
        (v64, 0, CAT, {}),
        (sd, 1, CAT, {}),
        (sd, 0, DOG, {}),
        (sd, 0, CAT, {"steps": 2}),
        (sd, 0, CAT, {"method": "ddim"}),
        (sd, 0, CAT, {"method": EditFriendly(seed=1)}),
        (sd, 0, CAT, {"method": EditFriendly(seed=2)}),
        (sd, 0, CAT, {"guidance_scale": 2.0}),
        (sd, 0, CAT, {"negative": "dog"}),
        (sd, 0, CAT, {"record": "none"}),
    ]
    for count, (model, seed, text, options) in enumerate(calls, start=1):
        invert(model, picture(seed), text, **{"steps": 1, "cache": cache, **options})
        assert len(cache.files()) == count


def test_a_damaged_entry_is_made_again(sd: Any, tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)
    first = invert(sd, picture(), CAT, steps=1, cache=cache)
    (path,) = cache.files()
    path.write_bytes(path.read_bytes()[:100])
    again = invert(sd, picture(), CAT, steps=1, cache=cache)
    assert (first.pixels == again.pixels).all() and path.stat().st_size > 100


def test_the_cache_stays_in_its_bound_and_forgets_what_was_unused_longest(
    sd: Any, tmp_path: Path
) -> None:
    import os

    free = InversionCache(tmp_path)
    for seed in (0, 1):
        invert(sd, picture(seed), CAT, steps=1, cache=free, record="store")
    old, new = free.files()
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    invert(sd, picture(0), CAT, steps=1, cache=free, record="store")  # used again
    bound = InversionCache(tmp_path, limit=int(free.nbytes * 1.2))
    invert(sd, picture(2), CAT, steps=1, cache=bound, record="store")
    assert not new.exists() and len(bound.files()) == 2 and bound.nbytes <= bound.limit
    assert bound.clear() == 2 and not bound.files()


def test_an_unwritable_cache_does_no_harm_and_says_so_once(sd: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.warns(UserWarning, match=r"not kept: the folder .* cannot be written \(.*Give"):
            run = invert(sd, picture(), CAT, steps=1, cache=InversionCache(folder))
        assert run.steps == 1
    with warnings.catch_warnings(record=True) as heard:  # what it names is no draft of a moment
        warnings.simplefilter("default")
        for _ in range(2):
            invert(sd, picture(), CAT, steps=1, cache=folder)
    assert len(heard) == 1


# pictures from outside, prompts for pictures ----------------------------------------------------


def test_the_pictures_from_outside_are_there_and_are_what_they_are_said_to_be() -> None:
    import hashlib
    import json

    folder = Path(p2p_lab.__file__).parent / "assets" / "examples"
    entries = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    terms = (folder / "LICENSE-examples.txt").read_text(encoding="utf-8")
    assert list_example_images() == {name: entry["prompt"] for name, entry in entries.items()}
    for name, entry in entries.items():
        data = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert entry["file"] in terms and open_example_image(name, 64).size == (64, 64)
    with pytest.raises(PictureError, match="photo-cat"):
        open_example_image("dragon")


def test_without_judge_or_captioner_the_user_is_asked_for_a_prompt(sd: Any) -> None:
    with pytest.raises(ValueError, match="Write the prompt yourself"):
        suggest_prompt(sd, picture())


def mine(model: Any) -> Any:
    return (lambda image: CAT) if model.name == "tiny" else None


def test_the_captioner_that_a_world_offers_for_its_models_is_asked(
    sd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggesting, "OFFERED", [*suggesting.OFFERED, f"{__name__}:mine"])
    monkeypatch.setattr(sd, "name", "tiny")
    assert suggest_prompt(sd, picture()) == CAT


def test_a_captioner_of_ones_own_sees_the_whole_picture(sd: Any) -> None:
    seen: list[Any] = []

    def captioner(image: Any) -> str:
        seen.append(image)
        return " a cat on grass. "

    assert suggest_prompt(sd, np.zeros((10, 40, 3), np.uint8), captioner=captioner) == CAT
    assert seen[0].size == (SIDE, SIDE) and seen[0].getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="token"):
        suggest_prompt(sd, picture(), captioner=lambda _: "cat " * 40)


def test_a_captioning_network_of_transformers_can_be_named(sd: Any, tmp_path: Path) -> None:
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "cat", "dog", "on"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "encoder_hidden_size": 16, "num_hidden_layers": 1,
            "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}  # fmt: skip
    config = BlipConfig(
        text_config={**small, **text},
        vision_config={**small, "image_size": 16, "patch_size": 8, "num_hidden_layers": 1},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BlipForConditionalGeneration(config).save_pretrained(tmp_path / "blip")
    tokenizer = BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    pictures = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(pictures, tokenizer).save_pretrained(tmp_path / "blip")
    said = load_captioner(tmp_path / "blip")(load_image(picture(), 32))
    assert isinstance(said, str) and set(said.split()) <= set(words)


# memory -----------------------------------------------------------------------------------------


def test_the_memory_of_null_text_on_stable_diffusion_is_worked_out() -> None:
    config = {"cross_attention_dim": 32, "block_out_channels": (32, 64), "layers_per_block": 1,
              "down_block_types": ("CrossAttnDownBlock2D",) * 2,
              "up_block_types": ("CrossAttnUpBlock2D",) * 2, "attention_head_dim": 2}  # fmt: skip
    kept, spared, wide = (
        null_text_memory(config, (32, 32), recompute=recompute, dtype=dtype)
        for recompute, dtype in (
            (False, torch.float16),
            (True, torch.float16),
            (False, torch.float32),
        )
    )
    assert spared.activations < 0.7 * kept.activations
    assert wide.total == pytest.approx(2 * kept.total, rel=0.05)
    large = null_text_memory(config, (64, 64), recompute=False)
    assert large.activations == pytest.approx(4 * kept.activations, rel=0.05)


def test_the_count_of_memory_is_that_of_the_tensors_autograd_keeps() -> None:
    from p2p_lab.models.living import Living

    kept: dict[int, int] = {}
    net = torch.nn.Sequential(*[torch.nn.Linear(64, 64), torch.nn.GELU()] * 4)
    net.requires_grad_(False)
    weights = {p.untyped_storage()._cdata for p in net.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    given = torch.randn(32, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), Living() as living:
        output = net(given)
    assert living.now == sum(kept.values()) + output.nbytes


# the command line -------------------------------------------------------------------------------


@pytest.fixture
def line(sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("P2P_LAB_CACHE", str(tmp_path / "cache"))
    load_image(picture(), 40).save(tmp_path / "cat.png")
    options = ["--model", str(sd_folder), "--device", "cpu", "--steps", "2"]
    return [*options, "-o", str(tmp_path / "out.png"), str(tmp_path / "cat.png")]


def test_the_command_inverts_edits_and_says_what_was_kept(
    line: list[str], tmp_path: Path, sd32: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    assert main(["invert", *line, CAT, DOG, "--cross", "0.5", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers["reconstruction_psnr"] == pytest.approx(numbers["autoencoder_psnr"], abs=0.1)
    run = invert(sd32, tmp_path / "cat.png", CAT, steps=2)
    expected = edit(run, DOG, [Replace(cross=(0, 0.5))])
    assert (np.asarray(Image.open(tmp_path / "out.png")) == np.asarray(expected.image)).all()


def test_the_cache_command_shows_and_clears(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["invert", *line, CAT]) == 0
    assert main(["cache"]) == 0 and "1 inversion(s)" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0 and "Threw away 1" in capsys.readouterr().out
    assert main(["cache", "show"]) == 0 and "0 inversion(s)" in capsys.readouterr().out
    assert main(["invert", *line, CAT, "--force", "--no-cache"]) == 0
    assert not InversionCache().files()


@pytest.mark.parametrize("prompts", [[], [CAT, DOG, CAT], [CAT, DOG, "--suggest"]])
def test_a_wrong_number_of_prompts_is_refused(
    line: list[str], prompts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["invert", *line, *prompts]) == 2
    assert "prompt(s) after the picture" in capsys.readouterr().err


# figures ----------------------------------------------------------------------------------------


def test_figures_of_inversion_say_their_numbers(inverted: dict[str, Run]) -> None:
    from p2p_lab.figures import alt_text, show_cost, show_drift, show_losses, to_png

    pivots = inverted["direct"].trajectory.latents
    drift = show_drift({"direct": inverted["direct"], "ddim": inverted["ddim"]}, pivots)
    assert "direct ends 0.00 apart" in alt_text(drift)
    assert "falls by 50%" in alt_text(show_losses([(4.0, 2.0), (1.0, 0.5)]))
    cost = show_cost({"direct": (40, 30.0), "ddim": (60, 20.0)})
    assert "direct 30.0 at 40" in alt_text(cost) and to_png(cost)
    with pytest.raises(ValueError, match="same number of steps"):
        show_drift({"direct": inverted["direct"]}, pivots[1:])


@pytest.mark.parametrize("top", [200, 255, 256, 65535])
def test_a_picture_of_sixteen_bits_is_as_bright_from_a_file_as_from_an_array(
    top: int, tmp_path: Path
) -> None:
    grey = np.linspace(0, top, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    wanted = np.asarray(load_image(grey, (32, 32)))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    given = [tmp_path / "grey.png", Image.fromarray(grey), Image.fromarray(grey.astype(np.int32))]
    for one in given:
        assert np.array_equal(np.asarray(load_image(one, (32, 32))), wanted)
    assert abs(int(wanted.max()) - round(top / 257)) <= 1
    with pytest.raises(PictureError, match="65535"):
        load_image(Image.fromarray(np.full((32, 32), 70_000, np.int32)), (32, 32))


def test_a_picture_of_nothing_is_given_no_prompt() -> None:
    model, rng = p2p_lab.load(), np.random.default_rng(0)
    empty = {
        "white": Image.new("RGB", (64, 64), "white"),
        "black": Image.new("RGB", (64, 64), "black"),
        "transparent": Image.new("RGBA", (64, 64), (9, 200, 30, 0)),
        "blue": Image.new("RGB", (64, 64), "blue"),
        "noise": rng.random((64, 64, 3)),
        "large noise": rng.integers(0, 256, (512, 512, 3), dtype=np.uint8),
        "black and white noise": rng.integers(0, 2, (64, 64)).astype(bool),
        "a gradient": np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3),
        "waves": np.sin(np.arange(64) / 4)[:, None, None] * np.ones((64, 64, 3)) / 2 + 0.5,
    }
    for width in (1, 2, 4, 8, 16):  # blobs of any size
        soft = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(width))
        for _ in range(3):
            soft = torch.nn.functional.avg_pool2d(soft, 2 * width + 1, 1, width)
        soft = soft[0, :, 48:112, 48:112].permute(1, 2, 0)
        empty[f"blobs of {width}"] = ((soft - soft.min()) / (soft.max() - soft.min())).numpy()
    for name, picture in empty.items():
        with pytest.raises(ValueError, match="Nothing of this world is in"):
            print(name, suggest_prompt(model, picture))


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("world", ["small", "full"])
def test_every_picture_of_the_world_shows_something(world: str, size: int) -> None:
    scenes = [sample_scene(seed, world) for seed in range(3 * 10**6, 3 * 10**6 + 100)]
    for picture in render(scenes, size).images:
        refuse_empty(picture)
