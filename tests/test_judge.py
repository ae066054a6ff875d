"""Laws of the judge: it answers what it learned, refuses the rest, and scores by its answers."""

from __future__ import annotations

import colorsys
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2p_lab.judge import Judge, JudgeError, Labels, Verdict, Wanted, load_judge, train
from p2p_lab.judge import __main__ as command
from p2p_lab.judge.distort import blocks, distort, wobble
from p2p_lab.judge.labels import NATURAL, true_answers
from p2p_lab.judge.network import JudgeNet
from p2p_lab.judge.reading import WEIGHTS, save_judge, to_tensor
from p2p_lab.judge.suggest import suggest_caption
from p2p_lab.judge.train import JudgeConfig, draw, loss_of
from p2p_lab.judge.verdict import OWN_ATTRIBUTES, compare
from p2p_lab.scenes import SMALL, Scene, Thing, parse, render, sample_scene
from p2p_lab.scenes.art import RAMPS, sprite
from p2p_lab.scenes.splits import JUDGE_TEST, JUDGE_TRAINING, JUDGE_TUNING, TRAINING
from p2p_lab.training.checkpoint import ResumeError, load_checkpoint, save_checkpoint
from p2p_lab.training.optim import orthogonalise

LABELS = Labels.of_world(SMALL)
TINY = JudgeConfig(batch=4, pictures=24)


@pytest.fixture(scope="module")
def net() -> JudgeNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return JudgeNet(LABELS).eval()


@pytest.fixture(scope="module")
def folder(net: JudgeNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judges") / "judge-v7"
    save_judge(net, LABELS, path, {"threshold": 0.5})
    return path


@pytest.fixture(scope="module")
def bundled() -> Judge:
    if not list(WEIGHTS.glob("judge-v*/card.json")):
        pytest.skip("no judge is bundled: train one with python -m p2p_lab.judge")
    return load_judge()


def verdict(objects: dict[str, str], masks: dict[str, Any] | None = None, **scene: str) -> Verdict:
    """Make a verdict that sees objects with their attributes, for sure."""
    names = {"place": "field", "time": "day", "weather": "clear", "style": "3d", **scene}
    return Verdict(
        {name: 0.99 if name in objects else 0.01 for name in LABELS.objects},
        0.5,
        {name: {NATURAL: 0.1, objects.get(name, NATURAL): 0.9} for name in LABELS.objects},
        masks or {},
        {question: {name: 1.0} for question, name in names.items()},
        0.7 if names["weather"] != "clear" else 0.0,
    )


# -- scoring ---------------------------------------------------------------------------------


def test_a_picture_holds_a_caption_when_all_it_says_is_seen() -> None:
    seen = verdict({"cat": "golden", "car": NATURAL}, place="city", time="night")
    wanted = Wanted.from_caption("a golden cat riding a car in a city at night")
    finding = compare(seen, wanted)
    assert finding and finding.failures == ()


@pytest.mark.parametrize(
    ("text", "part", "said"),
    [
        ("a dog in a field", "objects", "no dog"),
        ("a blue cat in a field", "attributes", "the cat is golden, not blue"),
        ("a golden cat on a beach", "scene", "the place is field, not beach"),
        ("a golden cat in a field at night", "scene", "the time is day, not night"),
        ("a golden cat in a snowy field", "scene", "the weather is clear, not snowy"),
        ("a pencil sketch of a golden cat in a field", "scene", "the style is 3d, not sketch"),
    ],
)
def test_what_is_not_seen_is_named_and_counted_in_its_part_only(
    text: str, part: str, said: str
) -> None:
    finding = compare(verdict({"cat": "golden"}), Wanted.from_caption(text))
    assert not finding and finding.failures == (said,)
    assert {p for p in ("objects", "attributes", "scene") if not getattr(finding, p)} == {part}


def test_an_unwanted_object_fails_the_objects() -> None:
    finding = compare(verdict({"cat": NATURAL, "dog": NATURAL}), Wanted(("dog",), ("cat",)))
    assert not finding.objects and finding.failures == ("a cat that should not be there",)


def test_an_attribute_of_an_object_that_is_not_there_is_not_held() -> None:
    finding = compare(verdict({"cat": NATURAL}), Wanted(attributes={"dog": "red"}))
    assert not finding.attributes and finding.objects


def test_an_own_colour_may_be_called_natural_and_natural_the_own_colour() -> None:
    red = Wanted(attributes={"apple": "red"})
    assert compare(verdict({"apple": NATURAL}), red)
    assert compare(verdict({"apple": "red"}), Wanted(attributes={"apple": NATURAL}))
    assert not compare(verdict({"apple": NATURAL}), Wanted(attributes={"apple": "blue"}))
    assert not compare(verdict({"cat": NATURAL}), Wanted(attributes={"cat": "red"}))


def test_own_colours_have_the_hue_of_the_art() -> None:
    def hue(rgb: Any) -> float:
        return 360 * colorsys.rgb_to_hsv(*rgb)[0]

    for name, word in OWN_ATTRIBUTES.items():
        art = sprite(name, "3d", "", 2)
        rgb = art[:3] / art[3].clamp_min(1e-4)
        strength = ((rgb.amax(0) - rgb.amin(0)) * (art[3] > 0.5)) ** 2
        mean = ((rgb * strength).sum((1, 2)) / strength.sum()).tolist()
        apart = abs((hue(mean) - hue(RAMPS[word][1]) + 180) % 360 - 180)
        assert apart < 55, (name, word, apart)


def test_a_caption_without_a_place_asks_for_none_but_for_day_and_clear_sky() -> None:
    wanted = Wanted.from_caption("a cat")
    assert wanted.place is None and (wanted.time, wanted.weather) == ("day", "clear")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("a lion in a field", "not learned the object 'lion'"),
        ("a purple cat", "not learned the attribute 'purple'"),
        ("a cat in a desert", "not learned the place 'desert'"),
        (Wanted(("pengin",)), "not learned the object 'pengin'; did you mean 'penguin'"),
        ("a cat over the moon", "Cannot read"),
    ],
)
def test_what_the_judge_never_learned_is_refused_in_a_sentence(
    wanted: Any, said: str, folder: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        load_judge(folder).holds(torch.rand(3, 64, 64), wanted)


# -- a prompt for a picture ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a cat in a field",
        "a golden cat riding a bicycle in a city at night",
        "a penguin next to a red pumpkin in a snowy field",
        "a basket of lemons on a beach",
        "a pumpkin cake in a field",
        "a rabbit wearing a crown in space",
        "a pencil sketch of a house in a foggy field at sunset",
    ],
)
def test_a_prompt_is_suggested_from_what_is_seen_and_where(text: str) -> None:
    scene = replace(parse(text, seed=4), seed=4)
    pictures = render(scene)
    masks = {name: torch.zeros(pictures.masks.shape[-2:]) for name in LABELS.objects}
    for thing, mask in zip(scene.things, pictures.masks[0], strict=True):
        masks[thing.name] = masks[thing.name] + mask
    objects = {thing.name: thing.attribute or NATURAL for thing in scene.things}
    seen = verdict(
        objects, masks, place=scene.place, time=scene.time, weather=scene.weather, style=scene.style
    )
    suggested = suggest_caption(seen)
    mirrored = " next to ".join(reversed(text.split(" in ")[0].split(" next to ")))
    assert suggested in (text, text.replace(text.split(" in ")[0], mirrored))


def test_no_prompt_is_suggested_for_a_picture_without_known_objects() -> None:
    with pytest.raises(ValueError, match="sees no object it knows"):
        suggest_caption(verdict({}))


# -- reading ---------------------------------------------------------------------------------


def test_a_picture_is_read_the_same_as_tensor_array_pil_or_run(folder: Path) -> None:
    from PIL import Image

    judge = load_judge(folder)
    array = (render(sample_scene(3, "small")).images[0].permute(1, 2, 0).numpy() * 255).round()
    array = array.astype(np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 255

    class Holder:
        pixels = tensor

    one = judge.read(tensor)
    for image in (array, array / 255, Image.fromarray(array), Holder()):
        other = judge.read(image)
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-5)
    batch = judge.read_all(torch.stack([tensor, tensor.flip(-1)]))
    assert batch[0].probabilities == pytest.approx(one.probabilities, abs=1e-4)
    assert batch[0].probabilities != pytest.approx(batch[1].probabilities, abs=1e-4)


@pytest.mark.parametrize("side", [64, 128])
def test_a_judge_reads_pictures_at_the_size_that_its_card_says(side: int, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []
    save_judge(JudgeNet(LABELS, side), LABELS, tmp_path / "judge-v8", {"threshold": 0.5})
    judge = load_judge(tmp_path / "judge-v8")
    judge.net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    found = judge.read(torch.rand(3, 96, 96))
    assert seen == [(1, 3, side, side)] and found.masks["cat"].shape == (96, 96)
    assert draw(replace(TINY, picture_size=side), LABELS, 0)[0].shape[-1] == side
    with pytest.raises(ValueError, match=r"pictures of \(64, 128\) pixels; got 96"):
        JudgeNet(LABELS, 96)


def test_masks_come_at_the_size_of_the_picture_and_probabilities_sum_to_one(folder: Path) -> None:
    seen = load_judge(folder).read(torch.rand(3, 96, 80))
    assert all(mask.shape == (96, 80) for mask in seen.masks.values())
    assert sum(seen.masks.values()).max() <= 1 + 1e-4  # type: ignore[union-attr]
    for answers in (*seen.scene.values(), *seen.attributes.values()):
        assert sum(answers.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.rand(64, 64), r"must be \(3, H, W\).*got \(64, 64\)"),
        (torch.rand(2, 3, 64, 64), "read_all"),
        (torch.rand(3, 64, 64) * 2 - 1, r"must lie in \[0, 1\]; got -"),
        (torch.full((3, 64, 64), float("nan")), r"must lie in \[0, 1\]"),
    ],
)
def test_a_picture_of_a_wrong_form_is_refused_in_a_sentence(image: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_tensor(image)


# -- weights ---------------------------------------------------------------------------------


def test_a_saved_judge_reads_as_before_to_half_precision(net: JudgeNet, folder: Path) -> None:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = Judge(net, LABELS, 0.5, {}).read(image)
    after = load_judge(folder).read(image)
    assert after.probabilities == pytest.approx(before.probabilities, abs=0.02)


def test_changed_missing_or_foreign_weights_are_refused_in_a_sentence(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(JudgeError, match=r"no judge in .*python -m p2p_lab\.judge"):
        load_judge(tmp_path)
    card = json.loads((folder / "card.json").read_text())
    data = (folder / "judge.safetensors").read_bytes()
    (tmp_path / "judge.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(JudgeError, match="SHA-256 differs"):
        load_judge(tmp_path)


def test_a_published_judge_is_never_overwritten(net: JudgeNet, folder: Path) -> None:
    with pytest.raises(FileExistsError, match="choose the next number"):
        save_judge(net, LABELS, folder, {"threshold": 0.5})


# -- learning --------------------------------------------------------------------------------


def test_the_truth_of_a_scene_is_what_was_drawn() -> None:
    cake = parse("a lemon cake in a field", seed=1)
    cat = Scene((Thing("cat", 0.5, 0.6, 0.5, "red"),), place="beach", weather="foggy", degree=0.35)
    truth = true_answers([cake, cat], render([cake, cat]), LABELS, 32)
    row = LABELS.objects.index
    assert truth.present[0].nonzero().flatten().tolist() == sorted([row("lemon"), row("cake")])
    assert truth.attribute[0, row("cake")] == -1  # its fruit colours it
    assert truth.attribute[1, row("cat")] == LABELS.attributes.index("red")
    assert truth.place.tolist() == [LABELS.places.index("field"), LABELS.places.index("beach")]
    assert truth.degree[0] == -1 and truth.degree[1] == pytest.approx(0.35)
    assert truth.masks[1].sum((1, 2)).nonzero().flatten().tolist() == [row("cat")]


def test_distortions_stay_in_range_repeat_and_move_masks_with_their_pictures() -> None:
    images, truth = draw(replace(TINY, batch=16), LABELS, 0, spoiled=False)
    spoiled, masks = distort(images, truth.masks, torch.Generator().manual_seed(0))
    again, _ = distort(images, truth.masks, torch.Generator().manual_seed(0))
    assert torch.equal(spoiled, again) and 0 <= spoiled.min() <= spoiled.max() <= 1
    assert (spoiled - images).abs().mean((1, 2, 3)).min() > 0.003
    assert masks.shape == truth.masks.shape
    disc = (torch.linspace(-1, 1, 64)[:, None] ** 2 + torch.linspace(-1, 1, 64) ** 2 < 0.3).float()
    pictures = disc.expand(4, 3, 64, 64)
    small = torch.nn.functional.adaptive_avg_pool2d(disc[None, None], 32).expand(4, 1, -1, -1)
    moved, moved_mask = wobble(pictures, small, torch.Generator().manual_seed(1))
    seen = torch.nn.functional.adaptive_avg_pool2d(moved[:, :1], 32)
    assert (moved - pictures).abs().mean() > 0.01
    assert (seen - moved_mask).abs().mean() < 0.6 * (seen - small).abs().mean()


def test_blocks_of_cosines_are_rounded_but_not_moved() -> None:
    image = render(sample_scene(5, "small")).images
    rounded = blocks(image, torch.Generator().manual_seed(0))
    assert 1e-4 < (rounded - image).abs().mean() < 0.05


def test_the_judge_is_never_shown_a_scene_of_the_generator_nor_two_splits_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[int] = []

    def noted(seed: int, world: str, **kind: Any) -> Any:
        shown.append(seed)
        return sample_scene(seed, world, **kind)

    monkeypatch.setattr(train, "sample_scene", noted)
    for split in (JUDGE_TRAINING, JUDGE_TUNING, JUDGE_TEST):
        draw(TINY, LABELS, 0, split)
    assert len(set(shown)) == 3 * TINY.batch and min(shown) >= TRAINING.stop


def test_the_loss_of_a_judge_falls() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = JudgeNet(LABELS)
    images, truth = draw(replace(TINY, batch=6), LABELS, 0)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    totals = []
    for _ in range(8):
        losses = loss_of(net(images), truth)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append({name: loss.item() for name, loss in losses.items()})
    assert all(totals[-1][name] < totals[0][name] for name in ("present", "masks", "attribute"))


def test_an_update_of_an_inner_matrix_moves_all_its_directions_alike() -> None:
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    for one, left, right in ((matrix, u, vt), (matrix.T, vt.T, u.T)):
        inner = left.T @ orthogonalise(one) @ right.T
        assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-6)
        assert ((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3)).all()


def test_an_interrupted_training_and_an_uninterrupted_one_agree_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.train(TINY, tmp_path / "whole").state_dict()

    def stop(config: JudgeConfig, labels: Labels, first: int) -> Any:
        if first >= 12:
            raise KeyboardInterrupt
        return draw(config, labels, first)

    with monkeypatch.context() as patch:
        patch.setattr(train, "draw", stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(TINY, tmp_path / "parts", checkpoint_seconds=0.0)
    resumed = train.train(TINY, tmp_path / "parts").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ResumeError, match="choose another --out"):
        train.train(replace(TINY, learning_rate=1e-4), tmp_path / "parts")


def test_a_checkpoint_of_another_network_is_a_sentence(tmp_path: Path) -> None:
    train.train(TINY, tmp_path)
    folder = tmp_path / train.STAGE
    tensors, state = load_checkpoint(folder, TINY.digest()) or ({}, {})
    shorter = {name: t for name, t in tensors.items() if not name.endswith("running_mean")}
    save_checkpoint(folder, shorter, state)
    with pytest.raises(ResumeError, match=r"damaged: its .*running_mean.*Delete"):
        train.train(replace(TINY, pictures=2 * TINY.pictures), tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        *(f"--minutes {value}" for value in ("-1", "0", "nan", "inf", "soon")),
        *("--pictures -3", "--pictures 2.5", "--test 0", "--test 1", "--test -8"),
        *("--seed -1", "--seed 10", "--pictures 90000000", "--out file", "--save file/judge"),
    ],
)
def test_a_judge_that_cannot_be_trained_is_refused_in_a_sentence_before_any_work(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("of another")
    monkeypatch.setattr(sys, "argv", ["p2p_lab.judge", *line.split()])
    monkeypatch.setattr(command, "train", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        command.main()
    message = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and message.startswith("p2p_lab.judge: error: ")
    reasons = ("is not possible: give a", "take a smaller --seed", "is a file. Name a folder")
    assert any(reason in message for reason in reasons)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_judge_of_numbers_that_are_not_finite_is_never_saved(tmp_path: Path) -> None:
    spoiled = JudgeNet(LABELS)
    name, weight = next(iter(spoiled.named_parameters()))
    weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=f"not saved: its weight {name} is not finite"):
        save_judge(spoiled, LABELS, tmp_path / "judge-v1", {"threshold": 0.5})
    assert not list(tmp_path.iterdir())


# -- the bundled judge -----------------------------------------------------------------------


def test_the_bundled_judge_is_small_and_its_card_says_how_good_it_is(bundled: Judge) -> None:
    path = sorted(WEIGHTS.glob("judge-v*"))[-1]
    assert sum(file.stat().st_size for file in path.iterdir()) <= 2e6
    scores = bundled.card["metrics"]["renders"]
    questions = {"objects", "attribute", "place", "time", "weather", "style", "mask_iou", "degree"}
    assert questions <= set(scores)


def test_the_bundled_judge_reads_unseen_renders(bundled: Judge) -> None:
    scenes = [sample_scene(3_000_000_000 + i, "small") for i in range(48)]
    truth = true_answers(scenes, render(scenes), LABELS, 32)
    seen = bundled.read_all(render(scenes).images)
    right = [
        set(one.objects) == {LABELS.objects[k] for k in (row == 1).nonzero().flatten()}
        for one, row in zip(seen, truth.present, strict=True)
    ]
    assert np.mean(right) > 0.85
    assert (
        np.mean([one.place == scene.place for one, scene in zip(seen, scenes, strict=True)]) > 0.9
    )
