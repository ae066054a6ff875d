"""Laws of the house: imports run one way, and importing the package costs nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

import p2p_lab

HOUSE = Path(p2p_lab.__file__).parent

# What each room may know. A room that is missing here may know every other one.
STAIRS = ["tokens", "edits", "attention", "sampling", "inversion", "recipes", "figures", "widgets"]
GROUND = {"files", "images", "codec", "devices", "warn"}  # every room may stand on these
# The border: what edits pictures, of any model, and the world that the course is set in.
EDITING = {*STAIRS, "models", "metrics", "rivals"}
WORLD = {"scenes", "judge", "training", "checks"}
KNOWS = {
    **{room: {*STAIRS[:i], "models", "metrics"} for i, room in enumerate(STAIRS)},
    **{room: set() for room in (*GROUND, "scenes", "metrics")},
    "judge": {"scenes", "metrics", "training"},
    "rivals": {"tokens", "edits", "attention", "models", "sampling", "inversion"},
    "tokens": set(),
    "edits": {"tokens"},
    "models": {"tokens"},
    "training": {"tokens", "attention", "models", "scenes", "metrics"},
}


def rooms() -> list[str]:
    return sorted({path.stem for path in HOUSE.iterdir() if is_room(path)})


def is_room(path: Path) -> bool:
    inside = path.is_dir() and (path / "__init__.py").exists()
    return inside or (path.suffix == ".py" and path.stem != "__init__")


def files_of(room: str) -> list[Path]:
    one = HOUSE / f"{room}.py"
    return [one] if one.exists() else sorted((HOUSE / room).rglob("*.py"))


def imported_rooms(text: str, package: str) -> set[str]:
    """Return the rooms of the package that a file imports anywhere, for types or in a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    found = {name.split(".")[1] for name in names if name.startswith("p2p_lab.")}
    return {p2p_lab._HOME.get(name, name) for name in found}


def package_of(path: Path) -> str:
    return ".".join(["p2p_lab", *path.relative_to(HOUSE).parent.parts])


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    for path in files_of(room):
        known = imported_rooms(path.read_text(encoding="utf-8"), package_of(path))
        wrong = known - KNOWS.get(room, set(rooms())) - GROUND - {room, "__version__"}
        assert not wrong, f"{path.relative_to(HOUSE.parent)} imports {sorted(wrong)}"


@pytest.mark.parametrize("room", sorted(EDITING))
def test_what_edits_pictures_knows_nothing_of_the_world_of_the_course(room: str) -> None:
    assert not KNOWS[room] & WORLD
    for path in files_of(room):
        crossed = imported_rooms(path.read_text(encoding="utf-8"), package_of(path)) & WORLD
        assert not crossed, f"{path.relative_to(HOUSE.parent)} imports {sorted(crossed)}"


def test_one_name_crosses_the_border_and_stands_in_one_table() -> None:
    from p2p_lab.inversion.suggesting import OFFERED

    texts = [path.read_text(encoding="utf-8") for room in EDITING for path in files_of(room)]
    named = re.findall(rf"\"p2p_lab\.(?:{'|'.join(sorted(WORLD))})\b[^\"]*\"", "\n".join(texts))
    assert named == [f'"{name}"' for name in OFFERED]


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("import p2p_lab.sampling", "sampling"),
        ("from p2p_lab.sampling.loop import edit", "sampling"),
        ("from p2p_lab import sampling", "sampling"),
        ("from p2p_lab import generate", "sampling"),
        ("from ..sampling import edit", "sampling"),
        ("def f():\n    from p2p_lab.widgets import EditPanel", "widgets"),
    ],
)
def test_the_reader_of_imports_sees_every_form(line: str, room: str) -> None:
    assert imported_rooms(line, "p2p_lab.tokens") == {room}


def test_no_files_import_one_another_in_a_circle_not_even_inside_a_function() -> None:
    files = {".".join([package_of(path), path.stem]): path for path in HOUSE.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    known = {name: imported_files(path, set(files)) - {name} for name, path in files.items()}
    assert known["p2p_lab.sampling.runs"] >= {"p2p_lab.sampling.saving", "p2p_lab.attention"}
    TopologicalSorter(known).prepare()  # raises CycleError with the circle


def imported_files(path: Path, files: set[str]) -> set[str]:
    """Return the files of the package that a file imports when it runs, not those for types."""
    left, found = [ast.parse(path.read_text(encoding="utf-8"))], set()  # type: list[ast.AST], set[str]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package_of(path))
            full = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in files else base for name in full}
        left.extend(ast.iter_child_nodes(node))
    return found & files


# Words of our own in the place of a term of the field; each has been renamed.
RETIRED = {
    *("Work", "_Work", "_Plain", "Memory", "Texts", "Hands", "Call", "Rows", "Scores", "Fixed"),
    *("Ticket", "Folder", "Look", "look_at", "walk", "placed", "ticket", "hands", "fence"),
    *("told", "said", "given", "usual", "own"),
}


def names_made_in(text: str) -> set[str]:
    """Return every name that a file makes: classes, functions, arguments, variables."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {n.name for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    names |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    return names | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


@pytest.mark.parametrize("room", rooms())
def test_a_room_uses_the_terms_of_the_field(room: str) -> None:
    for path in files_of(room):
        private = names_made_in(path.read_text(encoding="utf-8")) & RETIRED
        assert not private, f"{path.relative_to(HOUSE.parent)} calls things {sorted(private)}"


def test_importing_the_package_is_quick_and_loads_no_torch() -> None:
    code = (
        "import time; start = time.perf_counter(); import p2p_lab\n"
        "print(time.perf_counter() - start)\n"
        "import sys; print(sorted({'torch', 'numpy', 'diffusers'} & set(sys.modules)))\n"
        "assert 'Replace' in dir(p2p_lab) and 'edits' in dir(p2p_lab)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, cwd=HOUSE.parent,
        ).stdout.splitlines()
        for _ in range(2)
    ]  # fmt: skip
    assert {loaded for _, loaded in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.3


def names_in(room: str) -> set[str]:
    """Return what a room defines or imports at its top; read, for importing all takes long."""
    path = HOUSE / f"{room}.py"
    text = (path if path.exists() else HOUSE / room / "__init__.py").read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("room", [room for room in p2p_lab._ROOMS if room in rooms()])
def test_every_public_name_is_in_its_room(room: str) -> None:
    assert set(p2p_lab._ROOMS[room]) <= names_in(room)
    assert set(p2p_lab._ROOMS[room]) <= set(p2p_lab.__all__)


def test_the_package_hands_out_the_names_of_its_rooms() -> None:
    for room in ("tokens", "edits"):
        home = import_module(f"p2p_lab.{room}")
        assert getattr(p2p_lab, room) is home
        for name in p2p_lab._ROOMS[room]:
            assert getattr(p2p_lab, name) is getattr(home, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'p2p_lab' has no attribute 'replace_words'"):
        _ = p2p_lab.replace_words


def test_the_version_is_that_of_the_distribution() -> None:
    text = (HOUSE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{p2p_lab.__version__}"' in text or "p2p_lab.__version__" in text


def test_type_hints_are_shipped() -> None:
    assert (HOUSE / "py.typed").exists()


GLOSSARY = HOUSE.parent / "docs" / "glossary.md"


def glossary_rows() -> list[tuple[str, str, str]]:
    """Return word, names and explanation of each entry, headings of the tables left out."""
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [(word, names, text) for word, names, text in rows if word != "word"]


def glossary_names() -> list[str]:
    """Return the public names that the glossary gives: classes, functions and their fields."""
    quoted = [name for _, names, _ in glossary_rows() for name in re.findall(r"`([^`]+)`", names)]
    calls = [name.split("(")[0] for name in quoted]
    return [
        call
        for call, name in zip(calls, quoted, strict=True)
        if call.isidentifier() and (call != name or call[0].isupper()) or "." in call
    ]


def test_the_glossary_has_an_entry_for_every_class_of_the_package() -> None:
    """Errors explain themselves and widgets are looked at; all other classes are words to learn."""
    public = {name for room in p2p_lab._ROOMS if room != "widgets" for name in p2p_lab._ROOMS[room]}
    classes = {name for name in public if isinstance(getattr(p2p_lab, name), type)}
    words = {name for name in classes if not issubclass(getattr(p2p_lab, name), Exception)}
    assert {"EditPlan", "LocalBlend", "Run"} <= words
    assert words <= set(glossary_names())


def test_the_glossary_has_an_entry_for_every_method_of_inversion() -> None:
    methods = import_module("p2p_lab.inversion").METHODS
    names = " ".join(names for _, names, _ in glossary_rows())
    assert set(re.findall(r'`method="([a-z-]+)"`', names)) == set(methods)


@pytest.mark.parametrize("name", glossary_names())
def test_every_name_in_the_glossary_exists(name: str) -> None:
    value, *rest = name.split(".")
    assert value in p2p_lab.__all__
    found = getattr(p2p_lab, value)
    assert not rest or rest[0] in {*dir(found), *found.__annotations__}


def test_each_word_of_the_glossary_has_one_entry_of_one_or_two_sentences() -> None:
    words = [word for word, _, _ in glossary_rows()]
    assert len(words) > 40 and len(set(words)) == len(words)
    for word, _, text in glossary_rows():
        assert text.endswith("."), word
        assert 1 <= len(re.findall(r"[.!?](?= |$)", text)) <= 2, word


def test_type_checkers_know_what_is_imported_from_the_package(tmp_path: Path) -> None:
    script = tmp_path / "typed.py"
    script.write_text("from p2p_lab import generate, load\nreveal_type(generate)\n1 + load\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=HOUSE.parent,
    )
    assert "p2p_lab.sampling.runs.Run" in done.stdout, done.stdout + done.stderr
    assert "Unsupported operand types" in done.stdout


READS_AT_ONCE = {
    *("inner_text", "all_inner_texts", "text_content", "input_value", "get_attribute", "count"),
    *("is_visible", "is_hidden", "is_enabled", "is_checked"),
}
BROWSER_TESTS = [
    path
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if "chromium" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", BROWSER_TESTS, ids=lambda path: path.stem)
def test_a_browser_test_waits_for_what_it_asserts(path: Path) -> None:
    """What a page says at one moment depends on the machine: `expect` waits until it says so."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    for asserted in (node for node in nodes if isinstance(node, ast.Assert)):
        read = {n.attr for n in ast.walk(asserted) if isinstance(n, ast.Attribute)} & READS_AT_ONCE
        assert not read, f"{path.name}:{asserted.lineno} reads {sorted(read)} at once"


# Nouns for classes and properties ("Number of steps T."), verbs of the field for functions.
NO_DOCSTRING_BEGINS_WITH = ("Tell", "Hold", "Say", "Describe", "Stand", "Hear")


def docstrings(room: str) -> list[tuple[str, str]]:
    """Return where each class and function of a room is, and its docstring."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [
        (f"{path}:{node.lineno}", ast.get_docstring(node) or "")
        for path in files_of(room)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
    ]


@pytest.mark.parametrize("room", rooms())
def test_a_docstring_says_at_once_what_a_thing_is_or_returns(room: str) -> None:
    for where, text in docstrings(room):
        first = text.partition(" ")[0]
        assert first not in NO_DOCSTRING_BEGINS_WITH, f"{where} {first}"


@pytest.mark.parametrize("room", rooms())
def test_arguments_begin_with_a_capital_and_errors_say_if(room: str) -> None:
    for where, whole in docstrings(room):
        for head, line in entries_of(whole):
            text = line.partition(": ")[2]
            word = re.match(r"[A-Za-z]\w*", text)
            symbol = word is None or "_" in word[0] or word[0] != word[0].lower()
            named = symbol or (len(word[0]) == 1 and word[0] != "a")
            assert named or text[0].isupper(), f"{where} {line}"
            if head == "Raises":
                assert text.startswith(("If ", "With ", "Always", "On ")), f"{where} {line}"


def entries_of(text: str) -> list[tuple[str, str]]:
    """Return the first line of each entry of a docstring's sections, with the section's name."""
    found, head = [], ""
    for line in text.splitlines():
        if line.rstrip(":") in ("Args", "Attributes", "Raises"):
            head = line.rstrip(":")
        elif line and not line.startswith(" "):
            head = ""
        elif head and re.match(r"    \w[\w.,* ]*: \S", line):
            found.append((head, line.strip()))
    return found


@pytest.mark.parametrize("room", sorted(EDITING))
def test_warnings_are_laid_to_the_callers_line_in_one_way(room: str) -> None:
    """A number of frames is wrong as soon as a function is put between: `warn_caller` counts."""
    for path in files_of(room):
        assert "warnings.warn(" not in path.read_text(encoding="utf-8"), path
