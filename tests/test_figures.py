"""Laws of the figures: what is drawn is what was given, on one scale, with words beside it."""

from __future__ import annotations

import base64
import io
import itertools
import re
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from p2p_lab import figures
from p2p_lab.edits import LocalBlend, Replace, Reweight, compile_edits
from p2p_lab.sampling import Relations
from p2p_lab.scenes import parse, render
from p2p_lab.tokens import Prompt, align_words
from worlds import tiny_tokenizer

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def prompts() -> tuple[Prompt, Prompt]:
    tokenizer = tiny_tokenizer()
    return (
        Prompt.of("a cat on the grass", tokenizer),
        Prompt.of("a polar bear on the grass with $hat$", tokenizer),
    )


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((24, 24, 3))


def texts(figure) -> list[str]:
    """Every text of a figure, titles and captions, as written."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def all_figures(prompts) -> dict[str, figures.LabFigure]:
    a, b, c = picture(0), picture(1), picture(2)
    alignment = align_words(*prompts)
    plan = compile_edits(
        [Replace(), Reweight("grass", 2.0), LocalBlend("cat", "bear")], *prompts, 8
    )
    maps = {w: RNG.random((6, 6)) for w in ("cat", "grass")}
    return {
        "alignment": figures.show_alignment(alignment),
        "plan": figures.show_plan(plan),
        "edit": figures.show_edit(a, b, c),
        "maps": figures.show_maps(maps, image=a),
        "map": figures.show_map(maps["cat"], title="cat"),
        "sweep": figures.show_sweep([a, b], [0.2, 0.8], name="τ", source=a),
        "pictures": figures.show_pictures([a, b], ["one", "two"]),
    }


def test_every_figure_has_alternative_text_and_carries_it_into_its_png(prompts) -> None:
    for name, figure in all_figures(prompts).items():
        text = figures.alt_text(figure)
        assert len(text) > 20 and text.endswith("."), name
        saved = Image.open(io.BytesIO(figures.to_png(figure)))
        assert saved.info["Description"] == text, name


def test_the_alternative_text_of_every_figure_is_in_the_page_of_an_export(prompts) -> None:
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter
    from nbformat import v4

    drawn = list(all_figures(prompts).values())
    drawn[0].alt += ' It says "cat" & <b>.'
    outputs = [v4.new_output("execute_result", data=one._repr_mimebundle_()) for one in drawn]
    cells = [v4.new_code_cell("figure", outputs=[one]) for one in outputs]
    page, _ = HTMLExporter().from_notebook_node(v4.new_notebook(cells=cells))
    shown = BeautifulSoup(page, "html.parser").select(".jp-OutputArea-output img")
    assert [one["alt"] for one in shown] == [figures.alt_text(one) for one in drawn]
    for one in shown:
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", one["src"]).groups()
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.format.lower() == kind


def test_a_figure_of_pictures_is_embedded_small_and_looks_the_same(prompts) -> None:
    photo = np.asarray(render(parse("a cat next to a car in a city", seed=1)).images[0])
    grain = np.clip(photo.transpose(1, 2, 0) + 0.01 * RNG.standard_normal((128, 128, 3)), 0, 1)
    figure = figures.show_pictures([grain] * 3, ["one", "two", "three"])
    exact = figures.to_png(figure)
    kind, data = re.search(
        r"data:image/(\w+);base64,([^\"]+)", figures.picture_html(exact, "x")
    ).groups()
    with (
        Image.open(io.BytesIO(exact)) as one,
        Image.open(io.BytesIO(base64.b64decode(data))) as two,
    ):
        error = np.asarray(one.convert("RGB"), float) - np.asarray(two.convert("RGB"), float)
    assert kind == "jpeg" and len(data) < len(exact)
    assert np.square(error).mean() < 4**2  # of 255: 36 dB


def test_lines_and_tables_stay_exact(prompts) -> None:
    exact = figures.to_png(figures.show_map(RNG.random((6, 6)), title="cat"))
    assert base64.b64encode(exact).decode() in figures.picture_html(exact, "x")


def test_a_small_picture_shows_its_pixels_and_a_large_one_is_enlarged_smoothly() -> None:
    for side, way in ((32, "nearest"), (64, "nearest"), (96, "bicubic"), (512, "bicubic")):
        figure = figures.show_pictures([RNG.random((side, side, 3))], ["x"])
        assert [image.get_interpolation() for image in figure.axes[0].images] == [way]


def test_the_room_does_not_import_pyplot_so_nothing_stays_open() -> None:
    import subprocess
    import sys

    code = "import p2p_lab.figures, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_figure_is_the_same_bytes() -> None:
    heat = RNG.random((6, 6))
    one, two = (figures.to_png(figures.show_map(heat, title="cat")) for _ in range(2))
    assert one == two


def test_given_axes_are_drawn_on_and_returned(prompts) -> None:
    figure = figures.LabFigure()
    left, right = figure.subplots(1, 2)
    assert figures.show_alignment(align_words(*prompts), left) is left
    assert figures.show_map(np.eye(4), right, title="cat") is right
    assert isinstance(left, Axes) and left.images and right.images
    assert "Alignment" in figures.alt_text(left) and "cat" in figures.alt_text(left)


def test_the_drawn_alignment_is_the_mapper_and_marks_new_tokens(prompts) -> None:
    alignment = align_words(*prompts)
    source, target = prompts
    figure = figures.show_alignment(alignment)
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(drawn, alignment.mapper[: source.end, : target.end])
    new = [t.get_text() for t in figure.axes[0].get_xticklabels() if "(new)" in t.get_text()]
    assert len(new) == target.end - int(alignment.matched[: target.end].sum())


def test_the_drawn_plan_is_its_gains_on_one_stated_range(prompts) -> None:
    edits = [
        Replace(cross=(0, 0.5)),
        Reweight("grass", -2.0),
        LocalBlend("cat", "bear", start=0.25),
    ]
    plan = compile_edits(edits, *prompts, 8)
    figure = figures.show_plan(plan)
    end = prompts[1].end
    left, right = (ax.images[0] for ax in figure.axes[:2])
    assert np.allclose(left.get_array(), plan.source_gain[:, :end].T)
    assert np.allclose(right.get_array(), plan.target_gain[:, :end].T)
    assert left.get_clim() == right.get_clim() == (-2.0, 2.0)
    assert "gain, -2 … 2, white is 0" in texts(figure)
    assert left.cmap(left.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.04)
    assert "local blend in steps 2 to 7" in figures.alt_text(figure)


def test_word_maps_share_one_scale_and_each_says_its_numbers() -> None:
    maps = {"cat": np.full((4, 4), 0.1), "grass": torch.full((4, 4), 0.4)}
    maps["cat"][1, 2] = 0.3
    figure = figures.show_maps(maps)
    ranges = {ax.images[0].get_clim() for ax in figure.axes if ax.images}
    assert len(ranges) == 1 and next(iter(ranges)) == pytest.approx((0, 0.4), abs=1e-6)
    assert any("max 0.30, mean 0.113" in text for text in texts(figure))
    assert '"cat" peaks top centre at 0.30' in figures.alt_text(figure) or (
        '"cat" peaks top right at 0.30' in figures.alt_text(figure)
    )


def test_a_map_on_its_own_mask_is_scored_as_a_hit() -> None:
    mask = np.zeros((24, 24), bool)
    mask[:12, :12] = True
    heat = np.zeros((6, 6))
    heat[:3, :3] = 0.5
    figure = figures.show_maps({"cat": heat}, image=picture(), masks={"cat": mask})
    assert any("peak: hit" in text for text in texts(figure))
    figure = figures.show_maps({"cat": heat}, image=picture(), masks={"cat": ~mask})
    assert any("IoU 0.0" in text and "peak: miss" in text for text in texts(figure))


def test_maps_of_a_run_are_drawn_over_its_own_picture() -> None:
    maps = {"cat": np.eye(4), "hat": np.eye(4)[::-1].copy()}
    attention = SimpleNamespace(maps=lambda: maps, map=lambda word: maps[word])
    run = SimpleNamespace(attention=attention, image=picture())
    everything = figures.show_maps(run)
    assert {"cat", "hat", "picture"} <= set(texts(everything))
    assert "hat" not in texts(figures.show_maps(run, ["cat"]))


def test_the_overlay_shows_the_picture_where_the_map_is_high_and_darkness_elsewhere() -> None:
    white = np.ones((16, 16, 3))
    heat = np.zeros((4, 4))
    heat[0, 0] = 0.7
    lit = figures.overlay(white, heat)
    assert lit[0, 0, 0] == pytest.approx(1) and lit[-1, -1, 0] == pytest.approx(0.12)
    assert np.all(white == 1)


def test_upsampling_keeps_the_mean_of_a_map_and_its_range() -> None:
    heat = RNG.random((8, 8))
    big = figures.upsample(heat, 32, 48)
    assert big.shape == (32, 48)
    assert big.min() >= heat.min() - 1e-6 and big.max() <= heat.max() + 1e-6
    assert big.mean() == pytest.approx(heat.mean(), rel=0.05)


def relations_of(prompt: Prompt) -> Relations:
    """Relations on a grid of 2×2: each token looks at itself, each place at the second token."""
    count = len(prompt)
    matrix = torch.zeros(count + 4, count + 4)
    matrix[range(count), range(count)] = 1
    matrix[count:, 1] = 1
    return Relations(prompt, (2, 2), matrix)


def test_relations_are_drawn_as_shares_of_who_looks(prompts: list[Prompt]) -> None:
    figure = figures.show_relations(relations_of(prompts[0]))
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [label.get_text() for label in axes.get_xticklabels()]
    table = np.asarray(axes.images[0].get_array())
    assert np.allclose(table.sum(axis=1), 1)
    assert table[-1, 1] == 1 and table[1, 1] == 1  # places look at the first word, it at itself
    said = "The picture gives 100% to the text; the words give it 0% to 0%."
    assert said in figures.alt_text(figure)


def test_show_edit_says_what_each_picture_kept(prompts) -> None:
    a, b = picture(0), picture(1)
    c = a.copy()
    c[:6, :6] = 1 - c[:6, :6]
    mask = np.zeros((24, 24), bool)
    mask[:6, :6] = True
    run = SimpleNamespace(image=a, prompt=prompts[0])
    figure = figures.show_edit(run, b, SimpleNamespace(image=c, prompt=prompts[1]), mask=mask)
    said = " ".join(texts(figure)).replace("\n", " ")
    assert "background identical, changed" in said and "re-prompt, same seed" in said
    assert prompts[0].text in said and prompts[1].text in said


def test_dollar_signs_in_prompts_are_text_and_not_mathematics(prompts) -> None:
    broken = "a $\\frac cat$ for $10"
    for figure in (
        figures.show_pictures([picture()], [broken]),
        figures.show_maps({broken: np.eye(4)}),
        figures.show_alignment(align_words(*prompts)),
    ):
        assert figures.to_png(figure)


SIGNS = ["$ cat $", "a $\\frac{ dog", "$x^2_1$ on $grass$", "100 % & a_b^c \\alpha", "{}"]


@pytest.mark.parametrize("text", SIGNS)
def test_every_text_of_every_figure_is_drawn_as_it_is_written(text: str, sd32) -> None:
    from p2p_lab.edits import Move
    from p2p_lab.sampling import edit, generate

    tokenizer = tiny_tokenizer(40)
    pair = Prompt.of(f"a cat {text}", tokenizer), Prompt.of(f"a dog {text}", tokenizer)
    moved = compile_edits([Move("cat", (0, 0.2)), LocalBlend("cat", "dog")], *pair, 4)
    a, heat = picture(), RNG.random((6, 6))
    ax = matplotlib.figure.Figure().add_subplot()
    run = generate(sd32, "a $cat$", seed=1, steps=2)
    fenced = edit(run, "a $dog$", [Replace(), LocalBlend("cat", "dog")])
    drawn = [
        figures.show_alignment(align_words(*pair)),
        figures.show_plan(moved),
        figures.show_relations(relations_of(pair[0])),
        figures.show_edit(
            SimpleNamespace(image=a, prompt=pair[0]), a, SimpleNamespace(image=a, prompt=pair[1])
        ),
        figures.show_maps({text: heat}, image=a),
        figures.show_map(heat, title=text),
        figures.show_map(heat, ax, title=text),
        figures.show_sweep([a, a], [0, 1], name=text),
        figures.show_pictures([a], [text]),
        figures.show_frames([a, a]),
        figures.show_drift(
            {text: SimpleNamespace(trajectory=SimpleNamespace(latents=torch.ones(3, 4, 2, 2)))},
            torch.zeros(3, 4, 2, 2),
        ),
        figures.show_losses([[1.0, 1e-7], [0.5]]),
        figures.show_guidance(torch.zeros(2, 2, 2), torch.ones(2, 2, 2), 3.0),
        figures.show_cost({text: (1.0, 2.0)}, cost=text, quality=text),
        figures.show_trajectory(fenced),
        figures.show_blend(fenced),
    ]
    for figure in drawn:
        whole = figure if isinstance(figure, matplotlib.figure.Figure) else figure.figure
        assert figures.to_png(whole)


def test_guidance_is_drawn_where_the_text_moves_the_prediction_most() -> None:
    negative, positive = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    positive[1, 0, 1], positive[2, 1, 1] = 2.0, 1.0
    figure = figures.show_guidance(negative, positive, 3.0)
    assert "position (0, 1)" in figure.alt
    assert "moves the prediction by 2.00, guidance 3 by 6.00" in figure.alt
    assert {"s = 0: empty prompt", "s = 1: the text", "s = 3: guided"} <= set(texts(figure))


@pytest.mark.parametrize("step", [(4, 1), (4, -1), (-1, 4), (-4, -1)])
def test_guidance_names_its_points_inside_the_axes_and_beside_the_arrow(
    step: tuple[float, float],
) -> None:
    positive = torch.tensor(step).view(2, 1, 1)
    drawn = figures.show_guidance(torch.zeros(2, 1, 1), positive, 3.0).figure
    axes = drawn.axes[0]
    drawn.canvas.draw()
    a, b = (int(label.split()[1]) for label in (axes.get_xlabel(), axes.get_ylabel()))
    along = np.linspace(0, 3, 200)[:, None] * np.array([step[a], step[b]])
    arrow = axes.transData.transform(along)  # (200, 2), in pixels
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 3
    for box in boxes:
        assert axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
        assert axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
        assert not any(box.contains(x, y) for x, y in arrow)
        assert box.count_overlaps([other for other in boxes if other is not box]) == 0


def test_maps_below_zero_are_drawn_on_a_range_that_says_so() -> None:
    maps = {"cat": -RNG.random((6, 6)), "hat": RNG.random((6, 6)) - 0.5, "dog": np.zeros((6, 6))}
    figure = figures.show_maps(maps, image=picture())
    low = min(float(one.min()) for one in maps.values())
    assert any(f"mean probability, {low:.2f} …" in text for text in texts(figure))
    assert figures.to_png(figure)
    for one in maps.values():
        assert figures.to_png(figures.show_map(one))
        lit = figures.overlay(picture(), one)
        assert lit.min() >= 0 and lit.max() <= 1


def test_a_sweep_names_each_value_and_its_distance_from_the_source() -> None:
    a = picture()
    figure = figures.show_sweep([a, a * 0.5], [0, 0.5], name="fader", source=a)
    said = texts(figure)
    assert {"fader 0", "fader 0.5", "identical"} <= set(said)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: figures.show_map(np.zeros((2, 3, 3))), "Average heads"),
        (lambda: figures.show_map(np.full((3, 3), np.nan)), "finite"),
        (lambda: figures.show_maps({"cat": np.eye(3)}, ["dog"]), "there are: \\['cat'\\]"),
        (lambda: figures.show_maps(SimpleNamespace(attention=None)), 'record="store"'),
        (lambda: figures.show_sweep([picture()], [1, 2]), "one value a picture"),
        (lambda: figures.show_pictures([], []), "one title a picture"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_sentence(call, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_what_is_no_plan_and_no_alignment_is_refused_with_a_sentence(sd32, prompts) -> None:
    from p2p_lab.sampling import generate

    run = generate(sd32, "a cat on the grass", steps=1)
    with pytest.raises(TypeError, match="plan is a Run, not an EditPlan.*run.plan"):
        figures.show_plan(run)
    with pytest.raises(TypeError, match="target is a str .*not a Prompt"):
        figures.show_plan(compile_edits([Replace()], *prompts, 4), "a dog")
    with pytest.raises(TypeError, match="is a str, not an Alignment.*align_words"):
        figures.show_alignment("a cat")


def test_a_trajectory_starts_with_one_noise_and_an_edit_then_leaves_its_source(sd32) -> None:
    from p2p_lab.sampling import edit, generate

    source = generate(sd32, "a cat on the grass", seed=1, steps=3)
    assert "Decoded latents" in figures.alt_text(figures.show_trajectory(source, columns=3))
    blend = LocalBlend("cat", "dog", start=0.4, threshold=0.97)
    edited = edit(source, "a dog on the grass", [Replace(), blend])
    figure = figures.show_trajectory(edited, columns=4)
    said = [t for t in texts(figure) if t.startswith("apart")]
    assert said[0] == "apart 0.00" and len(said) == 4
    assert {"step 0", "step 3"} <= set(texts(figure))
    mask = figures.show_blend(edited, columns=3)
    areas = [t for t in texts(mask) if t.startswith("area")]
    assert areas[0] == "area 100%" and areas[-1] == f"area {edited.masks[-1].mean():.0%}"
    assert "it acts from step 1" in figures.alt_text(mask)


def test_a_run_without_masks_or_model_is_refused_with_a_sentence(sd32) -> None:
    from dataclasses import replace

    from p2p_lab.sampling import generate

    run = generate(sd32, "a cat", seed=1, steps=1, record="none")
    with pytest.raises(ValueError, match="Add\n? ?LocalBlend"):
        figures.show_blend(run)
    with pytest.raises(ValueError, match="without"):
        figures.show_trajectory(replace(run, model=None))


def extents(figure):
    """Boxes of all titles, in parts of the figure."""
    figures.to_png(figure)  # lays it out as a file gets it
    whole = figure.bbox
    titles = [ax.title for ax in figure.axes if ax.title.get_text()]
    for box in (title.get_window_extent() for title in titles):
        yield (
            box.x0 / whole.width,
            box.y0 / whole.height,
            box.x1 / whole.width,
            (box.y1 / whole.height),
        )


@pytest.mark.parametrize("count", [1, 5, 8, 12])
def test_many_pictures_wrap_and_no_title_is_cut_or_laid_over_another(count: int) -> None:
    long = (
        "a very long prompt of a cat on the grass · τ cross 0.8, τ self 0.4, × -1.5 donaudampf" * 2
    )
    figure = figures.show_pictures([picture()] * count, [f"{long} {i}" for i in range(count)])
    assert figure.get_figwidth() <= 5 * 2.3 + 0.01
    boxes = list(extents(figure))
    assert len(boxes) == count
    for left, low, right, high in boxes:
        assert left >= 0 and low >= 0 and right <= 1 and high <= 1
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0]
            assert apart or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("image", [None, picture()])
@pytest.mark.parametrize("masked", [False, True])
def test_no_line_below_a_heatmap_is_cut_or_touches_its_neighbours(
    count: int, image, masked: bool
) -> None:
    heats = {f"word {i}": RNG.random((6, 6)) for i in range(count)}
    masks = dict.fromkeys(heats, np.eye(12) > 0) if masked else None
    figure = figures.show_maps(heats, image=image, masks=masks)
    figures.to_png(figure)
    lines = [text.get_window_extent() for ax in figure.axes for text in ax.texts]
    assert len(lines) == count
    for left, right in itertools.pairwise(sorted(lines, key=lambda box: box.x0)):
        assert left.x1 < right.x0
    assert all(line.x0 >= 0 and line.y0 >= 0 for line in lines)


@pytest.mark.parametrize("side", [24, 96, 100, 256])
def test_a_gif_has_the_side_that_is_asked_for(side: int) -> None:
    with Image.open(io.BytesIO(figures.to_gif([np.ones((18, 24, 3))], side=side))) as gif:
        assert gif.size == (side, round(side * 3 / 4))
    with Image.open(io.BytesIO(figures.to_gif([picture()], side=8))) as gif:
        assert gif.size == (24, 24)  # never made smaller
