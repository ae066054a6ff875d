"""Laws of the command line: it edits, it says its numbers, and it never harms a file."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2p_lab.__main__ import build_parser, main, parse
from p2p_lab.commands import _files, doctor, lab, lessons
from p2p_lab.commands.edit import make_edits
from tests.servers import wait_until_up

ROOT = Path(__file__).resolve().parents[1]
CAT, DOG = "a cat on the grass", "a dog on the grass"


@pytest.fixture
def base(sd_folder: Path) -> list[str]:
    return ["edit", CAT, DOG, "--model", str(sd_folder), "--device", "cpu", "--steps", "2"]


def test_an_edit_writes_picture_and_figure_and_ends_with_its_numbers(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "dog.png", tmp_path / "all.png"
    assert main([*base, "--seed", "3", "-o", str(out), "--figure", str(figure), "--json"]) == 0
    said = capsys.readouterr().out.splitlines()
    numbers = json.loads(said[-1])
    assert {"changed", "kept_psnr", "kept_psnr_plain", "verdict", "edit_seconds"} <= set(numbers)
    assert any("Replace" in line for line in said), "the choice made for the user is said"
    assert Image.open(out).size == (32, 32)
    assert "Source, plain re-prompt and edit" in Image.open(figure).info["Description"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.png", "dog.png"]


def test_the_picture_is_the_one_that_the_library_makes(
    base: list[str], tmp_path: Path, sd32
) -> None:
    from p2p_lab.edits import Replace, Reweight
    from p2p_lab.sampling import edit, generate

    out = tmp_path / "dog.png"
    options = ["--cross", "0.6", "--self-attention", "0.1:0.5", "--reweight", "grass=2"]
    assert main([*base, "--seed", "5", *options, "-o", str(out)]) == 0
    source = generate(sd32, CAT, seed=5, steps=2)
    edits = [Replace(cross=(0, 0.6), self_attention=(0.1, 0.5)), Reweight("grass", 2.0)]
    want = np.asarray(edit(source, DOG, edits).image)
    assert np.array_equal(np.asarray(Image.open(out)), want)


def test_every_option_becomes_the_edit_that_it_names(sd) -> None:
    given = build_parser().parse_args(
        ["edit", CAT, DOG, "--edit", "refine", "--cross", "0.5", "--self-attention", "0.2:0.3"]
        + ["--reweight", "grass=-1", "--reweight", "dog=2.5", "--blend", "cat:dog"]
    )
    edits, note = make_edits(given, sd.prompt(CAT), sd.prompt(DOG))
    assert [type(e).__name__ for e in edits] == ["Refine", "Reweight", "Reweight", "LocalBlend"]
    assert (edits[0].cross, edits[0].self_attention) == ((0.0, 0.5), (0.2, 0.3))
    assert [(e.word, e.scale) for e in edits[1:3]] == [("grass", -1.0), ("dog", 2.5)]
    assert (edits[3].source_words, edits[3].target_words) == (["cat"], ["dog"])
    assert note == ""


def test_a_file_that_exists_is_left_alone_without_force_and_replaced_with_it(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dog.png"
    out.write_bytes(b"mine")
    assert main([*base, "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err and out.read_bytes() == b"mine"
    assert main([*base, "-o", str(out), "--force"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_file_that_appears_while_the_edit_runs_is_not_overwritten(tmp_path: Path) -> None:
    out = _files.check_writable(tmp_path / "a.png", (".png",), force=False)
    out.write_bytes(b"someone else's")
    with pytest.raises(FileExistsError, match="--force"):
        _files.write_whole(out, b"ours", force=False)
    assert out.read_bytes() == b"someone else's"
    assert list(tmp_path.iterdir()) == [out]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        _files.write_whole(out, b"new", force=True)
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Name a file"),
        (["-o", "x.jpg"], "must end in .png"),
        (["-o", "missing/x.png"], "does not exist"),
        (["-o", "x.png", "--figure", "x.png"], "Name two files"),
        (["-o", "x.png", "--cross", "1.4"], "0 <= start <= end <= 1"),
        (["-o", "x.png", "--cross", "nan"], "window"),
        (["-o", "x.png", "--reweight", "snow=2"], "'snow' is not in the prompt"),
        (["-o", "x.png", "--reweight", "dog=inf"], "finite"),
        (["-o", "x.png", "--blend", "whale"], "'whale' is not in the prompt"),
        (["-o", "x.png", "--steps", "0"], "at least 1 step"),
        (["-o", "x.png", "--seed", "-1"], "whole number"),
        (["-o", "x.png", "--device", "abacus"], "abacus"),
        (["-o", "x.png", "--model", "no/such model here"], "no/such model here"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_no_file(
    base: list[str],
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*base, *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--reweight", "dog"], ["--reweight", "=2"], ["--cross", "x"]])
def test_what_cannot_be_read_is_refused_by_the_parser(
    base: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*base, *options])
    assert stop.value.code == 2 and "write" in capsys.readouterr().err


def never(*_: object, **__: object) -> None:
    raise AssertionError("a model was opened")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "at least 1 step"),
        (["--seed", "-1"], "whole number"),
        (["--guidance", "nan"], "a number from 1 on"),
        (["--cross", "1.4"], "0 <= start <= end <= 1"),
        (["--reweight", "snow=2"], "'snow' is not in the prompt"),
        (["--blend", "cat:whale"], "'whale' is not in the prompt"),
        (["--model", "./nowhere"], "no folder or file ./nowhere"),
        (["--blend", ""], "--blend '' names no word"),
        (["--blend", ":"], "--blend ':' names no word"),
        (["--model", ""], "--model is empty"),
    ],
)
def test_bad_values_are_told_before_any_model_is_opened(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("p2p_lab.models.load", never)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("cat.png")
    assert main(["edit", CAT, DOG, "-o", "x.png", *options]) == 2
    assert sentence in capsys.readouterr().err
    if "--seed" not in options:
        assert main(["invert", "cat.png", CAT, DOG, "-o", "x.png", *options]) == 2
        assert sentence in capsys.readouterr().err


def test_a_picture_that_is_missing_or_broken_is_told_before_any_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("p2p_lab.models.load", never)
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    for name in ("nowhere.png", "text.png"):
        assert main(["invert", name, CAT, "-o", "x.png"]) == 2
        assert name in capsys.readouterr().err


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without the right to write in it, for root too."""
    folder = tmp_path / "locked"
    folder.mkdir()
    usual = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **how: folder != Path(path) and usual(path, mode, **how)
    )
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("cat.png")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["edit", CAT, DOG, "-o", "locked/x.png"],
        ["edit", CAT, DOG, "--figure", "locked/x.png"],
        ["invert", "cat.png", CAT, "-o", "locked/x.png"],
        ["lessons", "locked/mine"],
    ],
)
def test_a_folder_that_cannot_be_written_in_is_told_before_any_work(
    words: list[str],
    locked: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("p2p_lab.models.load", never)
    assert main(words) == 2
    assert f"no right to write in the folder {locked}" in capsys.readouterr().err
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([CAT, "--blend", "zebra"], "--blend"),
        ([CAT, "--reweight", "dog=3", "--cross", "0.5"], "--cross, --reweight"),
        ([CAT, "--edit", "refine"], "--edit"),
        (["--suggest", "--self-attention", "0.4"], "--self-attention"),
    ],
)
def test_options_of_an_edit_are_refused_where_there_is_none(
    words: list[str],
    sentence: str,
    locked: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("p2p_lab.models.load", never)
    assert main(["invert", "cat.png", *words, "-o", "x.png"]) == 2
    assert f"({sentence}) and no edit's prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([CAT, "a cat " * 60], "too long"),
        (["--suggest", DOG, "--blend", "whale:dog"], "'whale' is not in the prompt"),
    ],
)
def test_an_edit_that_cannot_be_made_is_told_before_the_inversion(
    words: list[str],
    sentence: str,
    locked: Path,
    sd_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("p2p_lab.inversion.invert", never)
    monkeypatch.setattr("p2p_lab.inversion.suggest_prompt", lambda *_: CAT)
    line = ["invert", "cat.png", *words, "--model", str(sd_folder), "--device", "cpu"]
    assert main([*line, "--steps", "2", "-o", "x.png"]) == 2
    assert sentence in capsys.readouterr().err


def test_an_edit_to_the_empty_prompt_is_made(
    locked: Path, sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(sd_folder), "--device", "cpu", "--steps", "2", "--no-cache"]
    assert main(["invert", "cat.png", CAT, "", *model, "-o", "x.png", "--json"]) == 0
    assert "edit_seconds" in json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    "words",
    [
        ["invert", "cat.png", "-o", "out.png", CAT, DOG],
        ["invert", "-o", "out.png", "cat.png", "--steps", "3", CAT, DOG],
        ["invert", "cat.png", CAT, "--force", DOG, "-o", "out.png"],
    ],
)
def test_options_may_stand_before_between_and_behind_the_prompts(words: list[str]) -> None:
    given = parse(words)
    assert (given.picture, given.prompts) == (Path("cat.png"), [CAT, DOG])
    assert given.output == Path("out.png") and given.command == "invert"
    edited = parse(["edit", CAT, "-o", "out.png", DOG, "--seed", "3"])
    assert (edited.source, edited.target, edited.seed) == (CAT, DOG, 3)


def test_equal_prompts_are_not_compared_with_a_re_prompt(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.png"
    line = ["edit", CAT, CAT, "--model", str(sd_folder), "--device", "cpu", "--steps", "2"]
    assert main([*line, "--reweight", "cat=3", "--figure", str(out), "--json"]) == 0
    said = capsys.readouterr().out
    assert "there is no re-prompt" in said and "re-prompt  " not in said and "better" not in said
    assert not [name for name in json.loads(said.splitlines()[-1]) if "plain" in name]
    assert "re-prompt" not in Image.open(out).info["Description"]


def test_a_warning_is_said_once_and_without_a_line_of_source() -> None:
    code = (
        "import sys, warnings; from p2p_lab import __main__ as cli\n"
        "def run(_):\n"
        "    for i in range(3):\n"
        "        exec(compile('warnings.warn(\"the word fox\")', f'{i}.py', 'exec'))\n"
        "    return 0\n"
        "from p2p_lab.commands import cache\n"
        "cache.run = run\n"
        "sys.exit(cli.main(['cache']))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert said.stderr == "p2p_lab cache: the word fox\n" and said.returncode == 0


def test_stopping_writes_nothing_and_says_so(
    base: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("p2p_lab.commands.edit.sample", stop)
    assert main([*base, "-o", str(tmp_path / "a.png")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_doctor_tells_versions_device_memory_and_that_the_engine_works(
    sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["doctor", "--model", str(sd_folder), "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "diffusers", "device", "memory", "checksum", "engine"} <= set(found)
    assert code == (1 if found["wrong"] else 0)
    assert not [s for s in found["wrong"] if "engine" in s or "edit" in s]


def test_doctor_tries_a_later_stage_on_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--model", "cascade-64/super", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert "two edits" in found["engine"]
    assert not [s for s in found["wrong"] if "edit" in s or "turned up" in s]


def test_doctor_says_what_is_wrong_and_exits_with_1(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = shutil.copytree(sd_folder, tmp_path / "broken")
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["doctor", "--model", str(folder), "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "wrong: " in said and "Traceback" not in said


def test_doctor_names_a_package_that_is_missing_or_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=99", "no-such-thing>=1"])
    wrong = [found for found in doctor.versions() if isinstance(found, str)]
    assert any("torch is" in s and ">=99" in s for s in wrong)
    assert any("no-such-thing is missing" in s for s in wrong)


@pytest.mark.parametrize("host", sorted(doctor.HOSTS))
def test_doctor_says_where_it_runs(host: str, tmp_path: Path) -> None:
    assert doctor.where({doctor.HOSTS[host]: "yes"}).startswith(f"{host}, ")
    (tmp_path / "conda-meta").mkdir()
    assert doctor.where({}, str(tmp_path)).endswith(f", conda environment {tmp_path}")
    assert "virtual environment" in doctor.where({}, str(tmp_path / "venv"))
    assert "system" in doctor.where({}, sys.base_prefix)


def test_doctor_names_what_is_missing_to_open_the_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    for mark in doctor.HOSTS.values():
        monkeypatch.delenv(mark, raising=False)
    assert any(isinstance(f, str) and "JupyterLab is missing" in f for f in doctor.place())
    monkeypatch.setenv("COLAB_RELEASE_TAG", "yes")
    assert not any(isinstance(f, str) for f in doctor.place())


def test_doctor_counts_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plenty = doctor.free_memory(tmp_path / "no group")
    (tmp_path / "memory.max").write_text(str(40 * 2**20))
    (tmp_path / "memory.current").write_text(str(30 * 2**20))
    assert doctor.free_memory(tmp_path) == pytest.approx(10)
    (tmp_path / "memory.max").write_text("max")
    assert doctor.free_memory(tmp_path) == pytest.approx(plenty, rel=0.5)
    monkeypatch.setattr(doctor, "free_memory", lambda: 10.0)
    assert any(isinstance(f, str) and "only 10 MB" in f for f in doctor.machine())


def lab_line(*words: str, folder: Path) -> list[str]:
    return lab.command(parse(["lab", str(folder), *words]), folder)


def test_lab_opens_the_first_lesson_of_its_folder_and_passes_on_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    (tmp_path / lab.FIRST).write_text("{}")
    line = lab_line("--port", "9999", "--no-browser", "--allow-root", folder=tmp_path)
    assert line[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--LabApp.default_url=/lab/tree/{lab.FIRST}" in line
    assert "--port=9999" in line and "--no-browser" in line and line[-1] == "--allow-root"


def test_only_lab_passes_options_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["cache", "--allow-root"])
    assert stop.value.code == 2 and "--allow-root" in capsys.readouterr().err


def test_lab_without_a_folder_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", str(tmp_path / "nowhere"), "--allow-root"]) == 2
    assert "Name one that holds notebooks" in capsys.readouterr().err


def test_lab_tells_root_in_a_sentence_what_jupyter_wants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.chdir(tmp_path)
    assert main(["lab"]) == 2
    assert "add --allow-root" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return a process's status and what it still says; after a minute, where it stands."""
    try:
        said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler says what each thread waits for
        said = process.communicate(timeout=60)
    return process.returncode, "".join(said)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no execve")
def test_lab_becomes_the_server_prints_the_address_of_lesson_00_and_ends_when_it_is_ended(
    tmp_path: Path,
) -> None:
    line = [sys.executable, "-m", "p2p_lab", "lab", "--no-browser", "--allow-root", "--port=0"]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_RUNTIME_DIR": str(tmp_path / "run")}
    around["PYTHONFAULTHANDLER"] = "1"
    server = subprocess.Popen(
        line, cwd=tmp_path, env=around, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        said = next(x for x in server.stderr if "http://" in x and "token=" in x)
        assert f"/lab/tree/{lab.FIRST}?token=" in said
        assert (tmp_path / "p2p_lessons" / lab.FIRST).is_file()
        address = re.search(r"http://\S+", said)[0]  # type: ignore[index]
        wait_until_up(address.replace(f"lab/tree/{lab.FIRST}", "api/status"), server, 60)
    finally:
        server.terminate()
    ended, rest = end_of(server)
    assert ended in (0, -signal.SIGTERM), rest
    assert "nothing was written" not in rest
    assert not list((tmp_path / "run").glob("jpserver-*.json")), "the server itself has ended"


def test_the_lab_asks_no_question_about_news_and_shows_no_menu_of_the_grader() -> None:
    config = json.loads((lab.QUIET / "labconfig" / "page_config.json").read_text())
    first = lab.environment()["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0]
    assert first == str(lab.QUIET)
    names = {"@jupyterlab/apputils-extension:announcements", "@jupyter/nbgrader"}
    assert {name for name, off in config["disabledExtensions"].items() if off} == names


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_lessons_are_written_without_outputs_and_without_solutions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lessons", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    for path in lessons.originals():
        assert path.name in said, "it prints what it wrote"
        cells = read(tmp_path / "mine" / path.name)["cells"]
        assert not [c for c in cells if c.get("outputs") or c.get("execution_count")]
        assert not [c for c in cells if "solution" in c["metadata"].get("tags", ())]
        assert len(cells) > 10
    assert main(["lessons", str(tmp_path / "all"), "--solutions"]) == 0
    assert any(
        "solution" in c["metadata"].get("tags", ())
        for path in (tmp_path / "all").glob("*.ipynb")
        for c in read(path)["cells"]
    )


def test_a_lesson_that_was_changed_is_kept_and_named_and_the_others_are_renewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lessons.write_lessons(tmp_path)
    written, ran, broken, gone, *_ = sorted(tmp_path.glob("*.ipynb"))
    mine = read(written)
    mine["cells"][1]["source"] = "my notes"
    written.write_text(json.dumps(mine))
    done = read(ran)
    next(c for c in done["cells"] if c["cell_type"] == "code")["outputs"] = [{"name": "x"}]
    ran.write_text(json.dumps(done))
    broken.write_text("half a file")
    gone.unlink()
    before = {path: path.read_bytes() for path in (written, ran, broken)}
    assert main(["lessons", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"Wrote 1 lesson(s) to {tmp_path}: {gone.name}." in said
    assert f"Kept 3 that you changed: {written.name}, {ran.name}, {broken.name}." in said
    assert {path: path.read_bytes() for path in before} == before
    told = lessons.write_lessons(tmp_path, solutions=True)
    assert not set(told.wrote) & {p.name for p in before} and len(told.wrote) >= 4
    assert lessons.write_lessons(tmp_path, solutions=True).wrote == ()


def test_a_lesson_that_jupyter_saved_as_it_was_counts_as_unchanged(tmp_path: Path) -> None:
    lessons.write_lessons(tmp_path)
    path = next(iter(sorted(tmp_path.glob("*.ipynb"))))
    notebook = read(path)
    for cell in notebook["cells"]:  # Jupyter writes lines, sorts keys and adds its own metadata
        cell["source"] = cell["source"].splitlines(keepends=True)
        cell["metadata"]["trusted"] = True
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.11"}
    path.write_text(json.dumps(notebook, sort_keys=True))
    assert lessons.unchanged(path)


def test_lessons_refuse_a_path_that_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("years")
    assert main(["lessons", str(file)]) == 2
    assert "is a file. Name a folder" in capsys.readouterr().err and file.read_text() == "years"


def test_help_names_every_command_and_starts_without_torch() -> None:
    code = (
        "import sys; from p2p_lab.__main__ import build_parser as build;"
        "print(build().format_help());"
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("edit", "lab", "lessons", "doctor"):
        assert name in said.stdout


def shown_commands() -> list[str]:
    """Return the commands that edit or invert, as documents show them in a line of their own."""
    root = Path(__file__).resolve().parents[1]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    lines = [line.strip() for page in pages for line in page.read_text("utf-8").splitlines()]
    wanted = re.compile(r"(\S*/)?python -m p2p_lab (edit|invert) ")
    return [line for line in lines if wanted.match(line) and "--help" not in line]


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_that_a_document_shows_is_known_and_names_what_it_writes(line: str) -> None:
    words = shlex.split(line, comments=True)
    options = build_parser().parse_args(words[words.index("p2p_lab") + 1 :])
    assert options.output is not None or getattr(options, "figure", None) is not None


def test_documents_show_commands() -> None:
    assert len(shown_commands()) >= 4
