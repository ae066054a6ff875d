"""Laws of the page's folder: graphs that equal torch, pictures that equal Python's, any host.

The tiny random pipelines stand for any model folder; one test draws with the bundled model. What
needs node or the runtime's package is skipped, with a line that says so, where they are missing.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p2p_lab.__main__ import main
from p2p_lab.judge import load_judge
from p2p_lab.models import Denoiser, load
from p2p_lab.page import build, export, networks, packing, runtime, serve
from p2p_lab.page.export import PageError
from p2p_lab.recipes import Recipe

HERE = Path(__file__).parent
NODE = shutil.which("node")

pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxscript")
ort = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime"
)


def unpacked(path: Path) -> bytes:
    """A file's bytes; those of a packed one as they were before, by plain loops."""
    if path.exists():
        return path.read_bytes()
    data = gzip.decompress(path.with_name(f"{path.name}.pack").read_bytes())
    stride, planes = data[0], data[1:]
    found = bytearray(len(planes))
    at = 0
    for plane in range(stride):
        count = len(range(plane, len(planes), stride))
        found[plane::stride] = planes[at : at + count]
        at += count
    return bytes(found)


def arrays(path: Path, inputs: dict[str, Any]) -> list[Any]:
    session = ort.InferenceSession(unpacked(path), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return found


def test_nothing_of_a_plan_is_lost_on_the_way_through_the_graph(sd_folder: Path) -> None:
    """Gains (0, 1) and gates 0 leave the model's own prediction; other ones do change it."""
    tiny = load(sd_folder, "cpu")
    denoising = networks.Denoising(networks.checked(tiny)).eval()
    step = list(export.example_step(networks.checked(tiny), denoising))
    latents, time, text = step[:3]
    with torch.no_grad():
        plain = tiny.module(
            latents.expand(2, -1, -1, -1), time, encoder_hidden_states=text, return_dict=False
        )[0]
        guided = plain[:1] + 3 * (plain[1:] - plain[:1])
        with networks.steered(denoising):
            same = denoising(*step)[0]
            step[9] = torch.randn_like(step[9])
            still = denoising(*step)[0]
            changed = []
            for place, value in ((6, 0.5), (7, 0.5), (8, 1.0)):
                other = list(step)
                other[place] = torch.full_like(step[place], value)
                changed.append(denoising(*other)[0])
    assert torch.allclose(same, guided, atol=1e-5) and torch.equal(still, same)
    assert all((one - same).abs().max() > 1e-4 for one in changed)


def test_the_models_own_attention_is_back_after_an_export_and_after_a_fault(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = load(sd_folder, "cpu")
    before = dict(tiny.module.attn_processors)

    def fails(*_: Any) -> None:
        raise RuntimeError("no disk")

    monkeypatch.setattr(export, "write_graph", fails)
    with pytest.raises(RuntimeError):
        export.export_model(tiny, tmp_path)
    assert dict(tiny.module.attn_processors) == before


def test_weights_are_halved_only_where_nothing_is_lost(tmp_path: Path) -> None:
    import onnx

    network = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).eval().requires_grad_(False)
    network[0].weight.copy_(network[0].weight.half().float())
    network[1].weight[0, 0] = 1e-9  # half precision has no such number
    example = torch.randn(4, 16)
    path = export.write_graph(network, (example,), ["x"], ["y"], tmp_path, "two")
    kinds = {
        tuple(one.dims): one.data_type
        for one in onnx.load(path).graph.initializer
        if len(one.dims) == 2
    }
    stored = [one.data_type for one in onnx.load(path).graph.initializer if len(one.dims) == 2]
    assert sorted(stored) == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16], kinds
    (found,) = arrays(path, {"x": example})
    assert np.allclose(found, network(example).numpy(), rtol=1e-6, atol=1e-6)


def test_the_judge_reads_in_its_graph_as_in_python_at_any_size(tmp_path: Path) -> None:
    judge = load_judge()
    for size in (64, 128):
        draw = torch.Generator().manual_seed(size)
        picture = torch.rand(1, 3, size, size, generator=draw)
        net = networks.Judging(judge.net, (size, size)).eval()
        path = export.write_graph(net, (picture,), ["picture"], export.JUDGED, tmp_path, "judge")
        found = dict(zip(export.JUDGED, arrays(path, {"picture": picture}), strict=True))
        verdict = judge.read(picture[0])
        assert np.allclose(found["present"], list(verdict.probabilities.values()), atol=1e-4)
        for name in ("place", "time", "weather", "style"):
            assert np.allclose(found[name], list(verdict.scene[name].values()), atol=1e-4), name


def test_a_model_that_the_page_cannot_run_is_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", "--build", str(tmp_path / "out"), "--model", "cascade-64"]) == 2
    message = capsys.readouterr().err
    assert "cascade-64" in message and "leave --model out" in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_the_exporters_the_line_to_type_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["web", "--build", str(tmp_path / "out")]) == 2
    assert "python -m pip install onnx onnxscript" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(PageError, match="nothing is written"):
        build.check_folder(tmp_path)
    build.check_folder(tmp_path / "new")
    (tmp_path / "page.json").write_text("{}")
    build.check_folder(tmp_path)  # a page that may be replaced


def test_without_npm_and_with_another_package_the_line_to_type_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime, "runtime_folder", lambda: tmp_path / "none")
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    with pytest.raises(PageError, match=r"npm pack onnxruntime-web@\d"):
        runtime.runtime()
    other = tmp_path / "other.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(PageError, match="SHA-512 differs"):
        runtime.runtime(other)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", [["--build", "page"], ["--no-browser"]])
def test_a_runtime_that_is_given_is_looked_at_before_any_work_though_another_is_kept(
    verb: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(build, "open_for_export", never)
    monkeypatch.setattr(runtime, "runtime_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("other.tgz").write_bytes(b"something else")
    for name, sentence in (("nofile.tgz", "There is no file"), ("other.tgz", "SHA-512 differs")):
        assert main(["web", *verb, "--runtime", name]) == 2
        assert sentence in capsys.readouterr().err
        with pytest.raises(PageError, match=sentence):
            runtime.runtime(Path(name))


def never(*_: Any) -> None:
    raise AssertionError("a model was opened")


def test_a_page_in_a_folder_that_cannot_be_written_in_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "open_for_export", never)
    (tmp_path / "afile").write_text("mine")
    assert main(["web", "--build", str(tmp_path / "afile" / "page")]) == 2
    assert "afile is a file" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert main(["web", "--build", str(tmp_path / "new" / "page")]) == 2
    assert f"no right to write in the folder {tmp_path}" in capsys.readouterr().err


def test_a_models_files_are_written_once_and_again_for_other_weights_words_or_code(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(folder: Path, model: Denoiser) -> Path:
        (folder / "text.onnx.pack").write_bytes(b"graph")
        written.append(folder)
        return folder

    monkeypatch.setattr(build, "write_model", write)
    tiny = load(sd_folder, "cpu")
    first = build.cached_model(tiny, tmp_path)
    assert build.cached_model(load(sd_folder, "cpu"), tmp_path) == first and len(written) == 1
    room = tmp_path / "p2p_lab"
    shutil.copytree(build.HERE.parent, room, ignore=shutil.ignore_patterns("weights", "assets"))
    monkeypatch.setattr(build, "HERE", room / "page")
    assert build.mark_of(tiny) == first.name
    for name, same in (("recipes/code.py", True), ("sampling/loop.py", False)):
        (room / name).write_text((room / name).read_text() + "# other code\n")
        assert (build.mark_of(tiny) == first.name) == same, name
    monkeypatch.setattr(build, "HERE", Path(build.__file__).parent)
    other = replace(tiny, card=replace(tiny.card, raw={**tiny.card.raw, "words": ["cat"]}))
    marks = {build.mark_of(other), first.name}
    tiny.text_encoder.get_input_embeddings().weight.data[0, 0] += 1e-3
    assert len({build.mark_of(tiny), *marks}) == 3


def test_only_what_nobody_used_for_a_day_leaves_the_cache(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abcdef"]
    for hours, folder in zip((100, 90, 80, 2, 1, 70), folders, strict=True):
        folder.mkdir()
        os.utime(folder, (time.time() - hours * 3600,) * 2)
    build._used(folders[0])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d", "e"}
    build._used(folders[0])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d", "e"}


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    allowed = ("http://www.w3.org/", "https://arxiv.org/")
    for path in sorted(build.SITE.rglob("*")):
        if path.suffix in {".js", ".html", ".css", ".mjs"}:
            text = path.read_text(encoding="utf-8")
            found = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}/?", text)
            found = [one for one in found if not one.startswith(allowed)]
            assert found == [], path.name
            assert not re.search(r"""(?:src|href)=["']/""", text), f"{path.name}: not relative"


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000])
def test_what_is_packed_comes_back_and_halves_grow_smaller_than_by_gzip(
    tmp_path: Path, count: int
) -> None:
    halves = torch.randn(count, generator=torch.Generator().manual_seed(1)).half().numpy()
    for data in (halves.tobytes(), bytes(range(256)) * (count // 9) + b"odd"):
        for stride in (1, 2):
            path = tmp_path / "file"
            path.write_bytes(data)
            packing.pack_file(path, stride)
            assert not path.exists() and unpacked(path) == data
    many = torch.randn(50_000, generator=torch.Generator().manual_seed(1)).half().numpy().tobytes()
    assert len(packing.pack(many, 2)) < 0.95 * len(gzip.compress(many, 9))


def test_every_graph_of_a_model_folder_equals_torch(tiny_page: Path, v_folder: Path) -> None:
    graphs, tiny = tiny_page / "model", load(v_folder, "cpu")
    facts = json.loads((graphs / "model.json").read_text())
    model = networks.checked(tiny)
    denoising = networks.Denoising(model).eval()
    step = list(export.example_step(model, denoising))
    draw = torch.Generator().manual_seed(1)
    length = facts["tokens"]
    step[5] = torch.rand(length, length, generator=draw)  # mapper
    step[6], step[7] = torch.rand(2, length, generator=draw)  # gains
    step[8] = torch.tensor([float(i % 2) for i in range(len(facts["self_pixels"]))])
    step[9] = torch.randn(facts["tape"], generator=draw)
    with torch.no_grad(), networks.steered(denoising):
        ours = denoising(*step)
    named = dict(zip(networks.INPUTS, step, strict=True))
    for one, other in zip(ours, arrays(graphs / "denoiser.onnx", named), strict=True):
        assert np.allclose(one.numpy(), other, rtol=1e-4, atol=2e-4)
    ids = torch.tensor([tiny.prompt("a cat on grass").ids], dtype=torch.int32)
    (text,) = arrays(graphs / "text.onnx", {"ids": ids})
    assert np.allclose(text, networks.Reading(model.text_encoder)(ids).numpy(), atol=1e-5)
    (picture,) = arrays(graphs / "decoder.onnx", {"latents": step[0]})
    assert np.allclose(picture, tiny.decode(step[0]).numpy(), atol=1e-5)


def test_the_list_of_a_page_names_every_file_with_its_size(tiny_page: Path) -> None:
    record = json.loads((tiny_page / "page.json").read_text())
    there = {
        path.relative_to(tiny_page).as_posix(): path.stat().st_size
        for path in tiny_page.rglob("*")
        if path.is_file() and path.name != "page.json"
    }
    assert {name: one["bytes"] for name, one in record["files"].items()} == there
    facts = json.loads((tiny_page / "model" / "model.json").read_text())
    assert facts["judge"] is None and "model/judge.onnx.pack" not in there  # it knows other words


@pytest.fixture
def served(tiny_page: Path) -> Iterator[str]:
    server = serve.server_of(tiny_page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield serve.address_of(server)
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_server_isolates_the_page_lists_no_folder_and_answers_this_machine_alone(
    served: str,
) -> None:
    assert served.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(served + "method/plan.js") as answer:
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers["Content-Type"] == "text/javascript"
    for path in ("model/", "../pyproject.toml", "%2e%2e/%2e%2e/etc/passwd", "nothing"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(served + path)


def floats(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=np.float32)


def draw_in_node(folder: Path, recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
    if NODE is None:
        pytest.skip("node is not installed, which runs JavaScript")
    done = subprocess.run(
        [NODE, str(HERE / "page_drawing.mjs"), str(folder)],
        input=json.dumps([asdict(recipe) for recipe in recipes]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def compare(model: Denoiser, recipes: Sequence[Recipe], drawn: Sequence[dict[str, Any]]) -> None:
    """Pictures to a hundredth of a level in 255, maps to 1e-5, masks exactly."""
    for recipe, found in zip(recipes, drawn, strict=True):
        source = recipe.generate(model)
        edited = recipe.apply(source)
        for name, run in (("source", source), ("edited", edited)):
            far = np.abs(floats(found[name]) - run.pixels.numpy().ravel()).max()
            assert far * 255 < 0.01, (name, recipe)
        first = source.map(source.prompt.words[0], occurrence=0).numpy().ravel()
        assert np.abs(floats(found["map"]) - first).max() < 1e-5
        assert edited.attention is not None
        for one, other in zip(found["maps"], edited.attention.maps().values(), strict=True):
            assert np.abs(floats(one) - other.numpy().ravel()).max() < 1e-5, recipe
        masks = [] if edited.masks is None else list(edited.masks)
        assert len(found["masks"]) == len(masks)
        for one, other in zip(found["masks"], masks, strict=True):
            assert np.array_equal(floats(one), other.numpy().ravel()), recipe


CAT, DOG = "a cat on grass", "a dog on grass"
BASE = Recipe(CAT, DOG, seed=1, steps=5, guidance_scale=3.0)


def variants(base: Recipe, word: str, blend: tuple[str, str]) -> list[Recipe]:
    """Recipes that use every control, in an order in which later ones share steps with earlier."""
    return [
        base,
        base.with_(cross=0.4, scales=((word, 0, 2.5),)),
        base.with_(self_attention=1.0, cross=1.0),
        base.with_(blend=blend),
        base.with_(blend=blend, cross=0.2, threshold=0.6, start=0.4, scales=((word, 0, -1.0),)),
        base.with_(blend=blend, mask=("0" * 20 + "1" * 12,) * 9 + ("1" * 32,) * 4),
        base.with_(mask=("10", "11"), links=((1, 1), (2, 3), (3, 3))),
        base.with_(method="Refine", seed=2**40, guidance_scale=5.0),
        base.with_(negative=word, steps=3),
    ]


def test_the_page_draws_a_model_folder_as_python_does(tiny_page: Path, v_folder: Path) -> None:
    model = load(v_folder, "cpu")
    recipes = variants(BASE, "grass", ("cat", "dog"))
    compare(model, recipes, draw_in_node(tiny_page, recipes))


@pytest.mark.slow
def test_the_page_draws_the_bundled_model_as_python_does(bundled_page: Path) -> None:
    model = load(None, "cpu")
    base = Recipe(
        "a cat next to a house in a snowy field",
        "a dog next to a house in a snowy field",
        seed=1,
        steps=5,
        guidance_scale=3.0,
    )
    recipes = variants(base, "snowy", ("cat", "dog"))[:7]
    drawn = draw_in_node(bundled_page, recipes)
    compare(model, recipes, drawn)
    verdict = load_judge().read(recipes[0].generate(model))
    judged = floats(drawn[0]["judged"])
    assert np.abs(judged - list(verdict.probabilities.values())).max() < 1e-3
    record = json.loads((bundled_page / "page.json").read_text())
    assert build.wire_bytes(record) < 20e6


@pytest.mark.slow
def test_a_model_that_predicts_the_noise_is_drawn_as_python_does(
    sd_folder: Path, page_of: Any
) -> None:
    model = load(sd_folder, "cpu")
    recipes = variants(BASE, "grass", ("cat", "dog"))[3:6]
    compare(model, recipes, draw_in_node(page_of(model), recipes))
