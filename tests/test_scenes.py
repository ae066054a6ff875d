"""Laws of the scene world: pictures, masks and captions say the same thing."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_lab.scenes import (
    WORLDS,
    CorruptAtlas,
    Scene,
    Thing,
    art,
    caption,
    held_out,
    nearest,
    parse,
    render,
    sample_scene,
    scene_pairs,
    splits,
)
from p2p_lab.scenes.vocabulary import FULL, OBJECTS, PLACES, SMALL, STYLES, synonyms

seeds = st.integers(0, 10**9)
worlds = st.sampled_from(sorted(WORLDS))
cheap = settings(max_examples=60, deadline=None, derandomize=True)


def what_it_says(scene: Scene) -> object:
    """Return all of a scene that its caption tells."""
    things = sorted(
        {(t.role, t.name, t.attribute if t.role != "content" else "", t.size) for t in scene.things}
    )
    named = scene.named_place or scene.weather != "clear"
    place = scene.place if named else None
    return things, scene.relation, place, scene.time, scene.weather, scene.degree, scene.style


@cheap
@given(seeds, worlds, seeds)
def test_a_caption_read_back_says_the_same(seed: int, world: str, wording: int) -> None:
    scene = sample_scene(seed, world)
    for text in (caption(scene).text, caption(scene, wording).text):
        assert what_it_says(parse(text)) == what_it_says(scene), text


@cheap
@given(seeds, worlds)
def test_a_detailed_caption_read_back_says_size_side_and_facing_too(seed: int, world: str) -> None:
    scene = sample_scene(seed, world)
    text = caption(scene, detail=True).text
    again = parse(text)
    assert what_it_says(again) == what_it_says(scene), text
    assert caption(again, detail=True).text == text


@cheap
@given(seeds, worlds, seeds)
def test_every_phrase_of_a_caption_is_the_word_of_what_it_describes(
    seed: int, world: str, wording: int
) -> None:
    scene = sample_scene(seed, world)
    said = caption(scene, wording)
    ends = [0]
    for phrase in said.phrases:
        words = said.text[phrase.start : phrase.end]
        assert words == words.strip() and phrase.start >= ends[-1]
        ends.append(phrase.end)
        for index in phrase.things:
            thing = scene.things[index]
            if phrase.kind == "object":
                singular = {OBJECTS[thing.name].plural: thing.name} | synonyms()
                assert singular.get(words, words) == thing.name
            else:
                assert words == getattr(thing, phrase.kind)
    described = {i for phrase in said.phrases for i in phrase.things}
    assert described == set(range(len(scene.things)))


def test_pictures_and_masks_lie_in_range_and_masks_sum_to_at_most_one() -> None:
    for world in sorted(WORLDS):
        pictures = render([sample_scene(i, world) for i in range(24)])
        assert pictures.images.shape == (24, 3, 128, 128)
        assert pictures.images.min() >= 0 and pictures.images.max() <= 1
        assert pictures.masks.min() >= 0
        assert pictures.masks.sum(1).max() <= 1 + 1e-5


def test_a_mask_covers_what_changes_when_its_thing_is_taken_away() -> None:
    for seed in range(30):
        scene = replace(sample_scene(seed, "full"), style="3d", weather="clear", degree=0.0)
        if len(scene.things) < 2 or scene.relation == "cake":
            continue
        for k, thing in enumerate(scene.things):
            if thing.role == "subject":
                continue
            others = tuple(other for i, other in enumerate(scene.things) if i != k)
            both = render([scene, replace(scene, things=others)])
            change = (both.images[0] - both.images[1]).abs().amax(0)
            mask = both.masks[0, k]
            assert change[mask < 1e-6].max() < 1e-5, caption(scene).text
            solid = mask > 0.9
            if solid.sum() > 20:  # a thing may match what it hides here and there
                assert (change[solid] > 0.01).float().mean() > 0.6, caption(scene).text


def test_the_mask_of_a_place_is_what_no_thing_covers() -> None:
    scene = parse("a cat next to a dog in a snowy field at night", seed=3)
    pictures, said = render(scene), caption(scene)
    by_kind = {phrase.kind: phrase for phrase in said.phrases}
    place = pictures.phrase_mask(0, by_kind["place"])
    assert torch.allclose(place, 1 - pictures.masks[0].sum(0), atol=1e-6)
    for kind in ("weather", "time"):
        assert pictures.phrase_mask(0, by_kind[kind]).min() == 1


def test_the_same_seed_gives_the_same_scene_caption_and_picture_alone_or_in_a_batch() -> None:
    scenes = [sample_scene(seed, "full") for seed in range(8)]
    assert scenes == [sample_scene(seed, "full") for seed in range(8)]
    assert [caption(s, 5) for s in scenes] == [caption(s, 5) for s in scenes]
    together = render(scenes)
    again = render(scenes)
    assert torch.equal(together.images, again.images)
    for i, scene in enumerate(scenes):
        alone = render(scene)
        assert torch.allclose(alone.images[0], together.images[i], atol=1e-6)
        assert torch.allclose(alone.masks[0], together.masks[i, : len(scene.things)], atol=1e-6)


def test_drawing_leaves_the_global_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    render(sample_scene(1, "full"))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("size", [16, 48, 100, 128, 256])
def test_a_scene_can_be_drawn_at_any_size_and_looks_the_same(size: int) -> None:
    scene = replace(sample_scene(11, "small"), style="3d", weather="clear", degree=0.0)
    large, small = render(scene, size), render(scene, 64)
    assert large.images.shape == (1, 3, size, size)
    halved = torch.nn.functional.adaptive_avg_pool2d
    assert (halved(large.images, 8) - halved(small.images, 8)).abs().mean() < 0.03
    assert (halved(large.masks, 8) - halved(small.masks, 8)).abs().mean() < 0.03


def test_every_object_place_and_style_can_be_drawn_and_differs_from_the_others() -> None:
    for style in STYLES:
        drawn = render([Scene((Thing(n, 0.5, 0.5, 0.7),), style=style) for n in FULL.objects])
        flat = drawn.images.flatten(1)
        distances = torch.cdist(flat, flat) + 1e3 * torch.eye(len(flat))
        assert distances.min() > 1
    cats = [Scene((Thing("cat", 0.5, 0.7, 0.4),), place=place) for place in PLACES]
    places = render(cats)
    flat = places.images.flatten(1)
    assert (torch.cdist(flat, flat) + 1e3 * torch.eye(len(flat))).min() > 2


def test_stronger_weather_changes_the_picture_more() -> None:
    for weather in ("snowy", "foggy", "rainy"):
        scene = replace(parse("a cat in a field", seed=2), weather=weather)
        clear = render(replace(scene, weather="clear")).images
        change = [
            float((render(replace(scene, degree=d)).images - clear).abs().mean())
            for d in (0.0, 0.35, 0.7, 1.0)
        ]
        assert change[0] == 0 and change == sorted(change) and change[1] > 0.005


def test_a_flipped_scene_is_the_mirror_of_its_thing() -> None:
    thing = Thing("car", 0.5, 0.5, 0.7)
    one, two = render(Scene((thing,))), render(Scene((replace(thing, flip=True),)))
    assert torch.allclose(one.masks[0].flip(-1), two.masks[0], atol=1e-4)


def test_held_out_pairs_never_occur_in_training_scenes_and_always_in_unseen_ones() -> None:
    for world in sorted(WORLDS):
        for seed in range(150):
            assert not any(held_out(*pair) for pair in scene_pairs(sample_scene(seed, world)))
        for seed in range(10):
            unseen = sample_scene(seed, world, unseen=True)
            assert any(held_out(*pair) for pair in scene_pairs(unseen))
    pairs = [(a, b) for a in FULL.objects for b in FULL.attributes]
    assert 0.05 < sum(held_out(*pair) for pair in pairs) / len(pairs) < 0.15


def test_a_world_is_part_of_the_vocabulary_and_its_scenes_stay_inside_it() -> None:
    for seed in range(200):
        scene = sample_scene(seed, SMALL)
        assert {t.name for t in scene.things} <= set(SMALL.objects)
        assert {t.attribute for t in scene.things} <= {"", *SMALL.attributes}
        assert scene.place in SMALL.places and scene.weather in SMALL.weathers
        assert scene.style in SMALL.styles and scene.relation in SMALL.relations


@pytest.mark.parametrize(("other", "name"), sorted(synonyms().items()))
def test_a_synonym_is_read_as_its_object(other: str, name: str) -> None:
    assert parse(f"a {other} in a field").subject.name == name


def test_the_nearest_words_come_first() -> None:
    assert nearest("pengin", FULL.objects)[0] == "penguin"
    assert nearest("Bicycles", FULL.objects)[0] == "bicycle"
    assert nearest("xyzzy", FULL.objects) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Thing("pengin", 0.5, 0.5, 0.5), "no object 'pengin'; did you mean 'penguin'"),
        (lambda: Thing("cat", 0.5, 0.5, 0.5, "crimson"), "no attribute 'crimson'"),
        (lambda: Thing("cat", 0.5, 0.5, 0.5, size="huge"), "no size 'huge'; known: small, big"),
        (lambda: Scene((Thing("cat", 0.5, 0.5, 0.5),), style="oil"), "no style 'oil'"),
        (lambda: Scene((Thing("cat", 0.5, 0.5, 0.5),), place="dessert"), "did you mean 'desert'"),
        (lambda: Scene((Thing("cat", 0.5, 0.5, 0.5),), degree=2), "between 0 and 1; got 2"),
        (lambda: sample_scene(0, "middle"), "no world named 'middle'"),
        (lambda: parse("a pengin in a field"), "Cannot read 'pengin'.*Did you mean 'penguin'"),
        (lambda: parse("a cat over a dog"), "Cannot read 'cat over a dog'"),
        (lambda: parse(5), "A caption is a text; got a int: 5"),  # type: ignore[arg-type]
        (lambda: caption("a cat"), "'a cat' is a str, not a Scene: `parse`"),  # type: ignore[arg-type]
        (lambda: render("a cat"), "'a cat' is a str, not a Scene: `parse`"),  # type: ignore[arg-type]
        (lambda: render(["a cat"]), "'a cat' is a str, not a Scene"),  # type: ignore[list-item]
        (lambda: render(5), "5 is a int, not a Scene"),  # type: ignore[arg-type]
        (lambda: render([]), "no scene to render"),
        (lambda: render(sample_scene(0), 8), "between 16 and 256 pixels; got 8"),
        (lambda: render(sample_scene(0), 300), "between 16 and 256 pixels; got 300"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_a_corrupt_atlas_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    shutil.copytree(Path(art.__file__).parents[1] / "assets", assets)
    data = bytearray((assets / "atlas.png").read_bytes())
    data[len(data) // 2] ^= 1
    (assets / "atlas.png").write_bytes(bytes(data))
    monkeypatch.setattr(art, "files", lambda package: tmp_path)
    art.load_atlas.cache_clear()
    try:
        with pytest.raises(CorruptAtlas, match=r"checksum .* its card says .* reinstall"):
            art.load_atlas()
    finally:
        monkeypatch.undo()
        art.load_atlas.cache_clear()
    assert art.load_atlas()[0] == tuple(OBJECTS)


def test_the_atlas_card_lists_the_vocabulary_and_its_licence_lies_beside_it() -> None:
    assets = Path(art.__file__).parents[1] / "assets"
    card = json.loads((assets / "atlas.json").read_text())
    assert card["objects"] == list(OBJECTS)
    assert "MIT" in (assets / "LICENSE-art.txt").read_text()


def test_the_committed_atlas_is_what_the_tool_makes() -> None:
    folder = Path(os.environ.get("P2P_LAB_ART", ""))
    if not os.environ.get("P2P_LAB_ART") or importlib.util.find_spec("resvg_py") is None:
        pytest.skip("needs the art packages (tools/build_atlas.py says how): set P2P_LAB_ART")
    import numpy as np
    from PIL import Image

    spec = importlib.util.spec_from_file_location("build_atlas", "tools/build_atlas.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    made = np.asarray(tool.build(folder), dtype=int)
    kept = np.asarray(Image.open(Path(art.__file__).parents[1] / "assets/atlas.png"), dtype=int)
    assert made.shape == kept.shape and np.abs(made - kept).max() <= 2


def test_no_scene_seed_is_used_for_two_things() -> None:
    """What trains a model or chooses a setting never sees what reports it."""
    named = [value for value in vars(splits).values() if isinstance(value, splits.Split)]
    assert sorted(named, key=id) == sorted(splits.SPLITS, key=id)
    ranges = sorted((split.start, split.stop) for split in splits.SPLITS)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))
    assert all(start < stop for start, stop in ranges)


def test_a_seed_beyond_its_split_is_refused() -> None:
    editing = splits.EDITING
    assert editing.seed(0) == editing.start
    for offset in (-1, editing.stop - editing.start):
        with pytest.raises(ValueError, match="no other use sees"):
            editing.seed(offset)
