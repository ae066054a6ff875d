"""Laws of the page: the same method in JavaScript, graphs that equal torch, a folder that any host
serves.

JavaScript is run by node; where node is not installed, those laws are skipped with a line that says
so. The browser is in test_page_browser.py.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from p2p_lab.edits import (
    EditPlan,
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    compile_edits,
    default_edits,
)
from p2p_lab.models import Denoiser, load
from p2p_lab.models.vocabulary import unknown_words
from p2p_lab.recipes import Recipe, fader_words, listed, to_code
from p2p_lab.sampling.runs import noise_of
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.tokens import AlignmentError, Prompt
from p2p_lab.tokens.words import normal

HERE = Path(__file__).parent
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed, which runs JavaScript")

WORDS = (
    *("a", "cat", "dog", "the", "polar", "bear", "house", "snowy", "field", "next", "to", "in"),
    *("on", "beach", "riding", "bicycle", "very", "slightly", "red", "golden", "castle", "at"),
    *("night", "apples", "basket", "of", "lemons", "penguin", "zebra", "unicorn", "skateboard"),
)
ODD = (
    *("cat's", "don't", "o'clock", "well-known", "cat,", "dog.", "(red)", "…", "!?", "’s", "cat’s"),
    *(
        "café",
        "cafe\u0301",
        "naïve",
        "STRASSE",
        "straße",
        "Ünïcødé",
        "日本語",
        "猫",
        "🐱",
        "👩‍🚀",
        "e\u0301\u0323",
    ),
    *(
        "1",
        "42",
        "3d",
        "x2",
        "_a_b",
        "<b>",
        "<img onerror=alert(1)>",
        "&amp;",
        '"quoted"',
        "\\n",
        "İ",
        "ﬁ",
    ),
    *("\u1100\u1161\u11a8", "ǅ", "½", "٣", "Σας", "<|endoftext|>"),
)
SPACES = (" ", " ", " ", "  ", "\t", "\u00a0", "\u3000", "\n")


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return load(None, "cpu")


def texts(count: int, seed: int, *, odd: float) -> list[str]:
    """Prompts drawn from words that the model knows, that it does not know, and that are odd."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        words = [
            draw.choice(ODD) if draw.random() < odd else draw.choice(WORDS)
            for _ in range(draw.randint(0, 9))
        ]
        found.append("".join(word + draw.choice(SPACES) for word in words).strip(" "))
    return found


def ask_node(model: Denoiser | None, cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer cases with the page's own code."""
    request: dict[str, Any] = {"cases": list(cases)}
    if model is not None:
        request["tokenizer"] = model.tokenizer.backend_tokenizer.to_str()
        request["length"] = len(model.prompt("").ids)
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(HERE / "page_method.mjs")],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def fits(model: Denoiser, text: str) -> bool:
    try:
        Prompt.of(text, model.tokenizer)
    except ValueError:
        return False
    return True


@needs_node
def test_prompts_are_tokenized_as_in_python_with_the_words_and_characters_of_each_token(
    model: Denoiser,
) -> None:
    asked = [*texts(400, 1, odd=0.5), *texts(300, 2, odd=0.05), "", " ", *ODD]
    answers = ask_node(model, [{"ask": "prompt", "text": text} for text in asked])
    short = 0
    for text, answer in zip(asked, answers, strict=True):
        if not fits(model, text):
            assert answer["error"].startswith("InputError: The prompt is "), text
            continue
        short += 1
        expected = json.loads(json.dumps(asdict(Prompt.of(text, model.tokenizer))))
        assert answer.get("value") == expected, (text, answer.get("stack"))
    assert short > 500


@needs_node
def test_words_are_compared_as_in_python_whatever_letters_they_have() -> None:
    skip = {*range(0xD800, 0xE000), *range(0x13A0, 0x1400), *range(0xAB70, 0xABC0)}
    known = (i for i in range(0x3000) if i not in skip and unicodedata.category(chr(i)) != "Cn")
    letters = [chr(i) for i in known]
    blocks = ["x" + "x".join(letters[i : i + 64]) for i in range(0, len(letters), 64)]
    answers = ask_node(None, [{"ask": "normal", "text": block} for block in blocks])
    assert [one.get("value") for one in answers] == [normal(block) for block in blocks]


def window(draw: random.Random) -> tuple[float, float]:
    a, b = sorted(round(draw.random(), 2) for _ in range(2))
    return draw.choice([(0.0, b), (a, b), (0.0, 1.0), (0.0, 0.0)])


def drawn_edits(
    draw: random.Random, source: Prompt, target: Prompt
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return random edits of two prompts, for Python and, the same, for the page."""
    ours: list[Any] = []
    theirs: list[dict[str, Any]] = []
    named = [word for word in target.words if len(target.find(word)) == 1]
    if draw.random() < 0.85:
        kind = draw.choice([Replace, Refine])
        options: dict[str, Any] = {
            "cross": window(draw),
            "self_attention": window(draw),
            "self_pixels": draw.choice([256, 64, 0]),
        }
        own = {word: window(draw) for word in named if draw.random() < 0.2}
        ours.append(kind(**options, words=own))
        theirs.append({"kind": kind.__name__, "options": {**options, "words": list(own.items())}})
    for i, word, place in fader_words(target):
        if draw.random() < 0.2:
            many = len(target.find(word)) > 1 or target.words[i] != word
            options = {"word": word, "scale": round(draw.uniform(-2, 4), 2), "window": window(draw)}
            options["occurrence"] = place if many else draw.choice([None, 0])
            ours.append(Reweight(**options))
            theirs.append({"kind": "Reweight", **options})
    if draw.random() < 0.5 and source.words and named:
        before, after = draw.choice(source.words), draw.choice([None, draw.choice(named)])
        if after is None and not target.find(before):
            after = draw.choice(named)
        minus = draw.choice([(), (draw.choice(named),)])
        numbers = {"threshold": round(draw.random(), 2), "start": round(draw.random(), 2)}
        ours.append(LocalBlend(before, after, subtract=minus, **numbers))
        words = {"source_words": [before], "target_words": None if after is None else [after]}
        theirs.append({"kind": "LocalBlend", **words, "subtract": list(minus), **numbers})
    return ours, theirs


def outcome(make: Any) -> Any:
    try:
        return make()
    except (AlignmentError, ValueError) as error:
        return error


@needs_node
def test_hundreds_of_random_plans_equal_pythons(model: Denoiser) -> None:
    draw = random.Random(3)
    pool = [text for text in texts(500, 4, odd=0.12) if fits(model, text)]
    expected: list[Any] = []
    cases = []
    for _ in range(700):
        source, target = (Prompt.of(draw.choice(pool), model.tokenizer) for _ in range(2))
        if draw.random() < 0.7:
            target = Prompt.of(near_text(model, draw, source.text), model.tokenizer)
        steps = draw.choice([1, 3, 5, 10, 20, 50])
        ours, theirs = drawn_edits(draw, source, target)
        expected.append(
            outcome(lambda s=source, t=target, o=ours, n=steps: compile_edits(o, s, t, n))
        )
        cases.append(
            {"ask": "plan", "source": source.text, "target": target.text, "steps": steps,
             "edits": theirs}
        )  # fmt: skip
    compare(expected, ask_node(model, cases), cases)
    assert sum(isinstance(plan, EditPlan) for plan in expected) >= 500


def near_text(model: Denoiser, draw: random.Random, text: str) -> str:
    """A prompt as people edit one: a word swapped, added or dropped."""
    fresh = _changed(draw, text)
    return fresh if fits(model, fresh) else text


def _changed(draw: random.Random, text: str) -> str:
    words = text.split(" ")
    place = draw.randrange(len(words))
    fresh = draw.choice(WORDS)
    changed = draw.choice(
        [[fresh], [fresh, draw.choice(WORDS)], [words[place], fresh], [], [words[place]]]
    )
    return " ".join([*words[:place], *changed, *words[place + 1 :]])


def compare(
    expected: Sequence[Any], answers: Sequence[dict[str, Any]], cases: Sequence[Any]
) -> None:
    for plan, answer, case in zip(expected, answers, cases, strict=True):
        if isinstance(plan, EditPlan):
            assert answer.get("value") == json.loads(plan.to_json()), (case, answer.get("stack"))
        else:
            kind = "AlignmentError" if isinstance(plan, AlignmentError) else "InputError"
            assert answer.get("error", "").startswith(kind), (case, plan, answer)


@needs_node
def test_the_default_edit_of_two_prompts_is_pythons(model: Denoiser) -> None:
    draw = random.Random(5)
    pool = [text for text in texts(300, 6, odd=0.1) if fits(model, text) and text.strip()]
    pairs = [(text, near_text(model, draw, text)) for text in pool]
    pairs += [(draw.choice(pool), draw.choice(pool)) for _ in range(200)]
    answers = ask_node(model, [{"ask": "kind", "source": a, "target": b} for a, b in pairs])
    for (a, b), answer in zip(pairs, answers, strict=True):
        prompts = [Prompt.of(text, model.tokenizer) for text in (a, b)]
        found = outcome(lambda p=prompts: type(default_edits(*p)[0][0]).__name__)
        if isinstance(found, str):
            assert answer.get("value") == found, (a, b, answer)
        else:
            assert answer["error"].startswith("AlignmentError"), (a, b, answer)


def drawn_recipe(draw: random.Random, model: Denoiser, source: str) -> Recipe:
    target = near_text(model, draw, source)
    prompts = [Prompt.of(text, model.tokenizer) for text in (source, target)]
    words = [word for word in prompts[0].words if any(map(str.isalnum, word))]
    shared = [word for word in words if prompts[1].find(word)]
    scales = [
        (word, place, round(draw.uniform(-2, 4), 1))
        for _, word, place in fader_words(prompts[1])
        if draw.random() < 0.3
    ]
    blend = None
    if shared and draw.random() < 0.5:
        blend = (draw.choice(words), draw.choice(["", draw.choice(shared)]))
        if not blend[1] and not prompts[1].find(blend[0]):
            blend = (blend[0], draw.choice(shared))
    return Recipe(
        source=source,
        target=target,
        seed=draw.randrange(2**40),
        method=draw.choice(["auto", "Replace", "Refine"]),
        cross=round(draw.random(), 2),
        self_attention=round(draw.random(), 2),
        scales=tuple(scales),
        blend=blend,
        threshold=round(draw.random(), 2),
        start=draw.choice([0.2, 0.5]),
        steps=draw.choice([5, 20]),
        guidance_scale=draw.choice([3.0, 4.5]),
        model=draw.choice(["", "scenes-128-v4"]),
        made_by=draw.choice(["", "float32:0123abcd"]),
        mask=draw.choice([(), ("0110", "1111")]),
        links=draw.choice([None, None, (), ((1, 1), (2, 1), (2, 2), (1, 1))]),
    )


@needs_node
def test_a_recipe_means_the_same_plan_and_the_same_python_lines(model: Denoiser) -> None:
    draw = random.Random(7)
    pool = [text for text in texts(150, 8, odd=0.1) if fits(model, text) and text.strip()]
    recipes = [drawn_recipe(draw, model, text) for text in pool if len(text.split()) > 1]
    cases = [{"ask": "recipe", "json": r.to_json(), "steps": r.steps} for r in recipes]
    good = 0
    for recipe, answer in zip(recipes, ask_node(model, cases), strict=True):
        source, target = (Prompt.of(t, model.tokenizer) for t in (recipe.source, recipe.target))
        edits = outcome(lambda r=recipe, s=source, t=target: r.edits(s, t))
        plan = edits
        if isinstance(edits, list):
            plan = outcome(
                lambda e=edits, s=source, t=target, n=recipe.steps: compile_edits(e, s, t, n)
            )
        if not isinstance(plan, EditPlan):
            assert "Error" in answer["error"], recipe
            continue
        good += 1
        assert "value" in answer, (recipe, answer)
        assert answer["value"]["plan"] == json.loads(plan.to_json()), recipe
        assert answer["value"]["code"] == to_code(recipe, edits)
    assert good > 60


@needs_node
def test_a_link_holds_the_whole_recipe_and_python_reads_it(model: Denoiser) -> None:
    draw = random.Random(9)
    pool = [text for text in texts(60, 10, odd=0.3) if fits(model, text)]
    recipes = [drawn_recipe(draw, model, text) for text in pool]
    cases = [{"ask": "hash", "json": recipe.to_json()} for recipe in recipes]
    for recipe, answer in zip(recipes, ask_node(None, cases), strict=True):
        assert Recipe.from_json(json.dumps(answer["value"])) == recipe


@pytest.mark.parametrize(
    "wrong",
    ["", "[]", "null", '{"cross": 2}', '{"seed": -1}', '{"format": 9}', '{"surprise": 1}',
     '{"scales": [["cat", 0]]}', '{"steps": 0}', '{"blend": ["a"]}', '{"source": 1}',
     '{"guidance_scale": 0.5}', '{"mask": ["01", "1"]}', '{"links": [[1]]}', '{"moves": [[1]]}'],
)  # fmt: skip
@needs_node
def test_a_recipe_that_cannot_be_is_refused_with_a_sentence(wrong: str) -> None:
    (answer,) = ask_node(None, [{"ask": "hash", "json": wrong}])
    assert answer["error"].startswith("InputError: This is no saved recipe")


@needs_node
def test_a_recipe_that_the_page_cannot_draw_is_refused_with_a_sentence(model: Denoiser) -> None:
    recipe = Recipe("a cat on a beach", "a dog on a beach")
    recipes = [recipe.with_(moves=(("cat", 0.1, 0.2, 1.0),))]
    recipes += [recipe.with_(sampler=one) for one in get_args(Sampler) if one != "ddim"]
    cases = [{"ask": "recipe", "json": one.to_json(), "steps": 5} for one in recipes]
    answers = ask_node(model, cases)
    assert len(answers) > 2
    for answer in answers:
        assert answer["error"].endswith("Open it in EditPanel.")


@needs_node
@pytest.mark.parametrize("seed", [0, 1, 8888, 2**31, 2**32 + 5, 2**53 - 1])
@pytest.mark.parametrize("count", [16, 2048, 8192, 1000])
def test_a_seed_draws_the_same_noise_as_in_python(seed: int, count: int) -> None:
    (answer,) = ask_node(None, [{"ask": "noise", "seed": seed, "count": count}])
    ours = noise_of(seed, (count,))
    assert torch.allclose(torch.tensor(answer["value"]), ours, rtol=0, atol=2e-6)


@needs_node
def test_unknown_words_and_the_nearest_known_ones_are_pythons(model: Denoiser) -> None:
    import difflib

    known = sorted(model.card.vocabulary)
    words = [*WORDS, "kat", "dogg", "hous", "bicicle", "pengwin", "snow", "xyzzy", "a", "ridding"]
    answers = ask_node(None, [{"ask": "near", "word": word, "known": known} for word in words])
    for word, answer in zip(words, answers, strict=True):
        assert answer["value"] == difflib.get_close_matches(word, known, n=3, cutoff=0.5), word
    asked = [text for text in texts(100, 11, odd=0.2) if fits(model, text)]
    answers = ask_node(model, [{"ask": "unknown", "text": t, "known": known} for t in asked])
    for text, answer in zip(asked, answers, strict=True):
        found = unknown_words(Prompt.of(text, model.tokenizer), model.card.vocabulary)
        assert list(dict.fromkeys(answer["value"])) == found, text


@needs_node
def test_half_of_a_character_is_refused(model: Denoiser) -> None:
    cases = [{"ask": "prompt", "text": text} for text in ("a cat \ud800", "\udfff")]
    for case, answer in zip(cases, ask_node(model, cases), strict=True):
        assert "half of a character" in answer["error"], case


@needs_node
def test_lists_of_words_are_read_and_written_as_in_python() -> None:
    asked = ["cat", "cat, hat", ' a ,b,, "x, y" ,z', '"he said ""no""", b', "", " , ", "polar bear"]
    answers = ask_node(None, [{"ask": "listed", "text": text} for text in asked])
    for text, answer in zip(asked, answers, strict=True):
        assert tuple(answer["value"]["words"]) == listed(text), text
        assert answer["value"]["again"] == answer["value"]["words"]


TOOLS = HERE.parent / "tools" / "page"
INSTALL = "its tools are not installed: npm --prefix tools/page install"


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["tsc", "eslint"])
def test_types_and_habits_of_the_javascript_hold(tool: str) -> None:
    program = TOOLS / "node_modules" / ".bin" / tool
    if not program.exists():
        pytest.skip(INSTALL)
    options = {
        "tsc": ["-p", "tools/page/tsconfig.json"],
        "eslint": ["-c", "tools/page/eslint.config.js", "--max-warnings", "0", "p2p_lab/page/site"],
    }
    done = subprocess.run(
        [str(program), *options[tool]],
        cwd=HERE.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@needs_node
@pytest.mark.slow
def test_the_checks_of_the_javascript_find_a_wrong_type_and_raw_html(tmp_path: Path) -> None:
    if not (TOOLS / "node_modules" / ".bin" / "tsc").exists():
        pytest.skip(INSTALL)
    wrong = tmp_path / "wrong.js"
    wrong.write_text("/** @type {number} */\nconst a = 'x';\ndocument.body.innerHTML = a;\n")
    settings = json.loads((TOOLS / "tsconfig.json").read_text())
    (tmp_path / "tsconfig.json").write_text(json.dumps({**settings, "include": ["wrong.js"]}))
    shutil.copy(TOOLS / "eslint.config.js", tmp_path)
    (tmp_path / "node_modules").symlink_to(TOOLS / "node_modules")
    for tool, options in {"tsc": [], "eslint": ["wrong.js"]}.items():
        program = TOOLS / "node_modules" / ".bin" / tool
        done = subprocess.run(
            [str(program), *options], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert ("not assignable" if tool == "tsc" else "stays text") in done.stdout


def test_modules_of_the_page_are_small() -> None:
    site = HERE.parent / "p2p_lab" / "page" / "site"
    sizes = {path.name: len(path.read_text().splitlines()) for path in site.rglob("*.js")}
    assert len(sizes) > 15 and max(sizes.values()) <= 400, sizes
