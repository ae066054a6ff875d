"""Laws of what folds away in the edit panel: masks, moves, the alignment, comparing, saving."""

from __future__ import annotations

import base64
import io
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_lab
from p2p_lab.commands import web
from p2p_lab.edits import LocalBlend, Move, Refine, Replace
from p2p_lab.inversion import invert
from p2p_lab.page import serve
from p2p_lab.recipes import Recipe, links, recipe_of, to_code
from p2p_lab.sampling import Run, edit, generate, mask_level
from p2p_lab.tokens import AlignmentError, align_by_hand, align_tokens, align_words, links_of
from p2p_lab.widgets import EditPanel
from p2p_lab.widgets.edit_tools import ALIGNMENT, COMPARE, LOCAL, MOVE, region_of_word
from test_widgets import SOURCE, TARGET, button, from_browser, same, upload

STEPS = 5
USUAL = Replace(cross=(0, 0.8), self_attention=(0, 0.4))


@pytest.fixture(scope="module")
def run(sd32: Any) -> Run:
    return generate(sd32, SOURCE, seed=3, steps=STEPS)


@pytest.fixture
def panel(run: Run) -> EditPanel:
    run.cache.clear()
    return EditPanel(source=run, target=TARGET, threaded=False)


def picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


# The local edit


def test_the_mask_that_the_browser_moves_is_the_mask_of_the_edit(panel: EditPanel) -> None:
    panel.folds.open(LOCAL)
    from_browser(panel.fields["blend"], value=True)
    fence = panel.controls.mask_stage
    level = np.frombuffer(fence.level, "uint8").reshape(fence.rows, fence.columns)
    assert np.abs(level / 255 - mask_level(panel.edited).numpy()).max() <= 0.5 / 255
    for threshold in (0.35, 0.6):
        from_browser(panel.fields["threshold"], value=threshold)
        masks = panel.edited.masks
        assert masks is not None
        level = np.frombuffer(fence.level, "uint8").reshape(fence.rows, fence.columns)
        seen = level > 255 * threshold  # as stage.js counts
        assert (seen != masks[-1].numpy().astype(bool)).mean() < 0.01
        assert fence.threshold == threshold
    assert same(picture(fence.picture), panel.edited.image)


def test_a_painted_mask_is_that_of_the_local_edit(panel: EditPanel, run: Run) -> None:
    panel.folds.open(LOCAL)
    fence = panel.controls.mask_stage
    mask = np.zeros((fence.rows, fence.columns), "uint8")
    mask[: fence.rows // 2] = 255
    from_browser(fence, painted=memoryview(mask.tobytes()))
    from_browser(panel.fields["blend"], value=True)
    made = edit(run, TARGET, [USUAL, LocalBlend(mask=mask / 255)])
    assert torch.equal(panel.edited.pixels, made.pixels)
    assert "only where painted" in repr(panel)
    kept = panel.edited.trajectory.latents[-1], run.trajectory.latents[-1]
    assert torch.equal(*(one[:, fence.rows // 2 :] for one in kept))
    from_browser(fence, painted=memoryview(b""))
    assert "p2p-error" in panel.status.value and "paint the place" in panel.status.value


# Moving


def test_an_object_that_is_dragged_is_moved_by_that_way(panel: EditPanel, run: Run) -> None:
    panel.folds.open(MOVE)
    mover = panel.controls.mover
    assert mover.region == b""
    from_browser(panel.fields["move"], index=list(panel.fields["move"].options).index("cat"))
    region = np.frombuffer(mover.region, "uint8").reshape(mover.rows, mover.columns)
    assert (region > 127).any()
    assert abs((region / 255).mean() - float(region_of_word(run, "cat").mean())) < 0.02
    before = panel.edited
    from_browser(mover, down=-0.25, right=0.125, scale=1.5)
    made = edit(run, TARGET, [USUAL, Move("cat", (-0.25, 0.125), 1.5)])
    assert torch.equal(panel.edited.pixels, made.pixels) and panel.edited is not before
    button(panel, "Reset").click()
    assert (mover.down, mover.right, mover.scale) == (0, 0, 1)
    assert torch.equal(panel.edited.pixels, before.pixels)


def test_the_panel_opens_with_a_move_that_it_is_given(run: Run) -> None:
    how = [Refine(), Move("cat", (0.0, 0.25)), Move("grass", (0.1, 0.0))]
    panel = EditPanel(source=run, target=TARGET, edits=how, threaded=False)
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, how).pixels)
    from_browser(panel.controls.mover, right=0.5)
    how[1] = Move("cat", (0.0, 0.5))
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, how).pixels)
    with pytest.raises(ValueError, match="no control for Move"):
        EditPanel(source=run, target=TARGET, edits=[Move("cat", (0, 0.2), window=(0, 0.5))])


# The alignment


def test_the_grid_shows_the_alignment_and_a_broken_one_is_that_of_the_edit(
    panel: EditPanel, run: Run
) -> None:
    panel.folds.open(ALIGNMENT)
    grid, target = panel.controls.grid, panel.edited.prompt
    found = align_words(run.prompt, target)
    assert sorted(map(tuple, grid.links)) == sorted(links_of(found))
    assert grid.columns == ["‹start›", "a", "dog", "on", "grass", "‹end›"]
    broken = [link for link in grid.links if link[1] != 2] + [[4, 2]]  # dog takes grass's map
    from_browser(grid, links=broken)
    by_hand = align_by_hand(found, [(int(i), int(j)) for i, j in broken])
    how = Replace(cross=(0, 0.8), self_attention=(0, 0.4), alignment=by_hand)
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, [how]).pixels)
    assert "alignment by hand" in repr(panel)
    panel.tools.found_button.click()
    assert panel.recipe.links is None
    assert sorted(map(tuple, grid.links)) == sorted(links_of(found))
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, [USUAL]).pixels)


def test_links_of_other_prompts_are_forgotten(panel: EditPanel) -> None:
    panel.folds.open(ALIGNMENT)
    from_browser(panel.controls.grid, links=[[2, 4]])
    assert panel.recipe.links == ((2, 4),)
    from_browser(panel.fields["target"], value="a bear on grass")
    assert panel.recipe.links is None and len(panel.controls.grid.links) > 3


def test_an_alignment_by_hand_says_its_links_again_and_keeps_the_padding(run: Run) -> None:
    target = run.model.prompt("a red dog on grass")  # type: ignore[union-attr]
    for align in (align_words, align_tokens):
        base = align(run.prompt, target)
        again = align_by_hand(base, links_of(base))
        assert torch.equal(again.mapper, base.mapper) and torch.equal(again.matched, base.matched)
        links = [(1, 1), (2, 3), (4, 3)]
        made = align_by_hand(base, links)
        assert links_of(made) == links and float(made.mapper[:, 3].sum()) == 1
        assert not made.matched[2] and made.gain[2] == 0
        assert torch.equal(made.mapper[:, target.end :], base.mapper[:, target.end :])
        with pytest.raises(AlignmentError, match="There is no link from token 99"):
            align_by_hand(base, [(99, 1)])


# Comparing


def test_any_two_pictures_can_be_compared(panel: EditPanel) -> None:
    panel.reprompt()
    assert panel.tools.compare.pictures == []
    panel.folds.open(COMPARE)
    pair = panel.tools.compare
    assert pair.names == ["source", "edit", "re-prompt"]
    shown = [picture(url) for url in pair.pictures]
    for one, made in zip(shown, (panel.run, panel.edited, panel.reprompt()), strict=True):
        assert made is not None and same(one, made.image)
    from_browser(panel.faders["dog"], value=2.0)
    assert same(picture(pair.pictures[1]), panel.edited.image)


# Recipes, code, files


def everything(run: Run) -> Recipe:
    return Recipe(
        SOURCE,
        TARGET,
        seed=3,
        steps=STEPS,
        guidance_scale=run.guidance_scale,
        mask=("0110", "1111"),
        moves=(("cat", 0.25, -0.125, 1.5),),
        links=((0, 0), (2, 2), (4, 4)),
        model=run.model_name,
    )


def test_masks_moves_and_links_come_back_from_json_and_from_code(
    sd32: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = everything(run)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe and hash(again) == hash(recipe)
    edited = recipe.apply(run)
    code = to_code(recipe, recipe.edits(run.prompt, edited.prompt), source=run)
    monkeypatch.setattr(p2p_lab, "load", lambda *_, **__: sd32)
    space: dict[str, Any] = {}
    exec(code, space)
    assert torch.equal(space["edited"].pixels, edited.pixels)
    panel = EditPanel.from_recipe(recipe, sd32, threaded=False)
    assert panel.controls.wanted() == recipe
    with pytest.raises(ValueError, match="mask"):
        Recipe(SOURCE, TARGET, mask=("01", "0"))


def test_a_local_edit_of_target_words_alone_is_copied_as_such(run: Run) -> None:
    recipe = Recipe(SOURCE, TARGET, blend=("", "dog"))
    code = to_code(recipe, recipe.edits(run.prompt, run.model.prompt(TARGET)))  # type: ignore[union-attr]
    assert "target_words='dog'" in code


def test_a_saved_recipe_is_opened_by_the_panel_s_own_button(
    sd32: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    panel = EditPanel(sd32, SOURCE, TARGET, seed=5, steps=4, threaded=False)
    from_browser(panel.faders["dog"], value=1.7)
    kept = panel.edited.pixels
    panel.saver.recipe_button.click()
    assert "EditPanel.from_recipe(&#x27;a-dog-on-grass.json&#x27;)" in panel.status.value
    other = EditPanel(sd32, "a bear", "a hat", seed=1, steps=3, threaded=False)
    upload(other.saver.open_button, (tmp_path / "a-dog-on-grass.json").read_bytes())
    assert torch.equal(other.edited.pixels, kept)
    upload(other.saver.open_button, b"{}")
    assert "x.png: This is no saved recipe" in other.status.value
    given = EditPanel(source=generate(sd32, "a bear", steps=3), threaded=False)
    upload(given.saver.open_button, (tmp_path / "a-dog-on-grass.json").read_bytes())
    assert "this panel&#x27;s source is" in given.status.value


def test_only_ticked_pictures_go_into_the_strip(
    panel: EditPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (2.0, 3.0):
        from_browser(panel.faders["dog"], value=value)
    ticks = [panel.saver._ticks[frame] for frame in panel.frames]
    from_browser(ticks[1], value=False)
    from_browser(panel.faders["dog"], value=2.5)
    panel.saver.gif_button.click()
    with Image.open(tmp_path / "edit.gif") as gif:
        assert gif.n_frames == 4  # the source, and three of four edits
    for tick in panel.saver._ticks.values():
        from_browser(tick, value=False)
    panel.saver.gif_button.click()
    assert "No picture is ticked" in panel.status.value


def test_the_same_code_can_be_copied_twice(panel: EditPanel) -> None:
    panel.sharing.code_button.click()
    copies = panel.sharing.box.copies
    panel.sharing.code_button.click()
    assert panel.sharing.box.copies == copies + 1 and panel.sharing.box.value == panel.code()


# The link to the page


def test_a_link_of_the_panel_holds_its_whole_recipe_and_opens_it_again(
    sd32: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("P2P_LAB_PAGE", raising=False)
    panel = EditPanel(sd32, SOURCE, TARGET, seed=5, steps=4, threaded=False)
    from_browser(panel.faders["dog"], value=1.7)
    from_browser(panel.fields["blend"], value=True)
    panel.sharing.link_button.click()
    link, copies = panel.sharing.box.value, panel.sharing.box.copies
    assert link.startswith("http://127.0.0.1:8620/#recipe=%7B") and copies == 1
    assert set(link.split("#")[1]) <= {*string.ascii_letters, *string.digits, *"=%.-_~"}
    assert panel.sharing.box.layout.display == "flex" and "This link" in panel.status.value
    again = EditPanel.from_recipe(f"  {link}\n", sd32, threaded=False)
    assert again.recipe == panel.recipe.with_(made_by="")
    assert torch.equal(again.edited.pixels, panel.edited.pixels)
    monkeypatch.setenv("P2P_LAB_PAGE", "https://lab.example/p2p/")
    panel.sharing.link_button.click()
    assert panel.sharing.box.value == link.replace(
        "http://127.0.0.1:8620", "https://lab.example/p2p"
    )


def test_the_page_answers_where_the_links_lead(tmp_path: Path) -> None:
    assert links.PORT == web.PORT
    with serve.server_of(tmp_path) as one:
        taken = one.server_address[1]
        with serve.first_server_of(tmp_path, (taken, 0)) as other:
            assert other.server_address[1] not in (taken, 0)
        with pytest.raises(OSError, match="in use"):
            serve.first_server_of(tmp_path, (taken,))
    with serve.first_server_of(tmp_path, (taken, 0)) as other:
        assert other.server_address[1] == taken


def test_a_link_that_was_cut_and_an_edit_that_the_page_cannot_draw_are_told(
    sd32: Any, run: Run
) -> None:
    link = links.to_link(Recipe(SOURCE, TARGET))
    with pytest.raises(ValueError, match="link was cut"):
        EditPanel.from_recipe(link[:-9], sd32, threaded=False)
    for recipe, named in (
        (Recipe(SOURCE, TARGET, seed=None), "a measured picture"),
        (Recipe(SOURCE, TARGET, sampler="dpm++2m"), "sampler dpm"),
        (Recipe(SOURCE, TARGET, moves=(("cat", 0.1, 0.1, 1.0),)), "Move"),
    ):
        with pytest.raises(ValueError, match=named):
            links.to_link(recipe)
    panel = EditPanel(source=edit(run, TARGET), threaded=False)
    panel.sharing.link_button.click()
    assert "a measured picture" in panel.status.value and panel.sharing.box.value == ""


# What is said


def test_an_edit_equal_to_its_source_is_identical(run: Run) -> None:
    panel = EditPanel(source=run, target=SOURCE, threaded=False)
    assert "identical to the source" in panel._pictures[1].value and "dB" not in repr(panel)
    assert "turn a fader" in panel.status.value
    from_browser(panel.faders["cat"], value=2.0)
    assert "Add a Reweight" not in panel.status.value
    assert "identical" not in panel._pictures[1].value


def test_a_measured_picture_has_no_seed_and_fields_that_are_fixed_say_why(
    sd32: Any, run: Run, panel: EditPanel
) -> None:
    measured = invert(sd32, run.image, SOURCE, steps=3)
    other = EditPanel(source=measured, target=TARGET, threaded=False)
    assert other.fields["seed"].layout.display == "none"
    assert "a measured picture" in other._pictures[0].value
    notes = [str(getattr(child, "value", "")) for child in panel.box.children]
    assert panel.fields["seed"].layout.display is None
    assert any("given as a run, so its prompt and seed are fixed" in note for note in notes)


def test_links_and_moves_that_are_given_make_the_same_plan_or_are_refused(run: Run) -> None:
    base = Recipe(SOURCE, TARGET)
    how = [Replace(), Move("cat", (0.1, 0.2), 0.5)]
    assert recipe_of(run, TARGET, how, base=base).moves == (("cat", 0.1, 0.2, 0.5),)
    by_hand = align_by_hand(align_words(run.prompt, run.model.prompt(TARGET)), [(2, 2)])  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="no control"):
        recipe_of(run, TARGET, [Replace(alignment=by_hand)], base=base)
