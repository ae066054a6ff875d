"""A model folder as the files that the page fetches: four ONNX graphs and their facts.

Weights that half precision holds without any loss are written so, each behind a cast back to
float32 that the page's runtime folds when it opens the file: exact, and half the size.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2p_lab.judge import Judge, load_judge
from p2p_lab.models import Denoiser, load
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.page.facts import facts_of
from p2p_lab.page.networks import (
    INPUTS,
    OUTPUTS,
    Decoding,
    Denoising,
    Judging,
    Reading,
    checked,
    steered,
)

OPSET = 18
JUDGED = ("present", "attributes", "place", "time", "weather", "style", "degree")
LEAST = 64  # values of a tensor that is worth a cast


class PageError(ValueError):
    """What the page is made with is missing, or does not fit."""


def check_exporters() -> None:
    """See that what writes ONNX files is installed.

    Raises:
        PageError: If it is not; the message has the line to type.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise PageError(
            f"The page is made with onnx and onnxscript, and {' and '.join(missing)} is not "
            "installed. Type: python -m pip install onnx onnxscript"
        )


def export_model(model: Denoiser, folder: Path) -> dict[str, Any]:
    """Write a model for the page: `denoiser`, `decoder`, `text` and `judge`.onnx, `model.json`.

    Args:
        model: A model of the Stable Diffusion 1 family, in float32 on the CPU.
        folder: Where to write; it must be there.

    Returns:
        The facts that were written to `model.json`.

    Raises:
        PageError: If the exporters are not installed.
        ValueError: If the model is of another family.
    """
    check_exporters()
    taken = checked(model)
    judge = _judge_for(taken)
    with taken.lock, torch.no_grad():
        denoising = Denoising(taken).eval()
        with steered(denoising):
            write_graph(
                denoising, example_step(taken, denoising), INPUTS, OUTPUTS, folder, "denoiser"
            )
        _write_others(taken, judge, folder)
    facts = facts_of(taken, denoising, judge)
    (folder / "model.json").write_text(json.dumps(facts, separators=(",", ":")), encoding="utf-8")
    return facts


def open_for_export(name: str | None) -> Denoiser:
    """Open a model as the exporter needs it: on the CPU, in float32."""
    return load(name, "cpu", torch.float32)


def example_step(model: StableDiffusion, denoising: Denoising) -> tuple[Tensor, ...]:
    """Return inputs of a step that changes nothing, in the order of `INPUTS`."""
    defaults = model.defaults
    shape = model.latent_shape((defaults.height, defaults.width))
    length, width = len(model.prompt("").ids), model.text_encoder.config.hidden_size
    gates = sum(not site.has_text for site in denoising.sites)
    draw = torch.Generator("cpu").manual_seed(0)
    return (
        torch.randn(1, *shape, generator=draw),
        torch.tensor([500.0]),
        torch.randn(2, length, width, generator=draw),
        torch.randn(1, length, width, generator=draw),
        torch.tensor([3.0]),
        torch.eye(length),
        torch.zeros(length),
        torch.ones(length),
        torch.zeros(gates),
        torch.zeros(denoising.tape_size),
    )


def _write_others(model: StableDiffusion, judge: Judge | None, folder: Path) -> None:
    defaults = model.defaults
    latents = torch.zeros(1, *model.latent_shape((defaults.height, defaults.width)))
    ids = torch.tensor([model.prompt("").ids], dtype=torch.int32)
    picture = torch.zeros(1, 3, defaults.height, defaults.width)
    write_graph(Decoding(model).eval(), (latents,), ["latents"], ["picture"], folder, "decoder")
    write_graph(Reading(model.text_encoder).eval(), (ids,), ["ids"], ["text"], folder, "text")
    if judge is not None:
        size = (defaults.height, defaults.width)
        net = Judging(judge.net, size).eval()
        write_graph(net, (picture,), ["picture"], JUDGED, folder, "judge")


def _judge_for(model: StableDiffusion) -> Judge | None:
    """Return the bundled judge, for a model that draws what the judge knows."""
    judge = load_judge()
    return judge if set(judge.labels.objects) & model.card.vocabulary else None


def write_graph(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    folder: Path,
    name: str,
) -> Path:
    """Write a network as `<name>.onnx`, with exact weights in half precision where they can be."""
    import onnx

    with _quietly():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _without_remarks(proto)
    halve(proto)
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))
    return path


def halve(proto: Any) -> None:
    """Keep in half precision what loses nothing by it, and cast it back in the graph."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for stored in proto.graph.initializer:
        if stored.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(stored)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < LEAST or not np.array_equal(half.astype(np.float32), values):
            continue
        name = stored.name
        stored.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _without_remarks(proto: Any) -> None:
    """Drop what the exporter notes for its own use, which holds paths of this machine."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for stored in proto.graph.initializer:
        del stored.metadata_props[:]
    for function in proto.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    del proto.graph.value_info[:]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's progress and its remarks about itself from the reader."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def copy_tokenizer(model: StableDiffusion, folder: Path) -> None:
    """Write the model's fast tokenizer as `tokenizer.json`."""
    text = model.tokenizer.backend_tokenizer.to_str(pretty=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
