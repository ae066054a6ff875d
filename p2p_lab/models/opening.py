"""Open a pipeline in diffusers format part by part, without the pipeline class around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from p2p_lab.models.cards import read_card, read_json, verify
from p2p_lab.models.deepfloyd import open_deepfloyd
from p2p_lab.models.denoiser import Denoiser
from p2p_lab.models.errors import REINSTALL, ModelError, first_line, not_a_lora, not_an_embedding
from p2p_lab.models.flux import open_flux
from p2p_lab.models.latent_diffusion import open_latent_diffusion
from p2p_lab.models.parts import Parts, PipelineFolder
from p2p_lab.models.pipes import Pipe
from p2p_lab.models.pixart import open_pixart
from p2p_lab.models.single_file import open_single_file
from p2p_lab.models.stable_diffusion import open_stable_diffusion
from p2p_lab.models.stable_diffusion_3 import open_stable_diffusion_3
from p2p_lab.models.stable_diffusion_xl import open_stable_diffusion_xl

_NOT_DIFFUSERS = (
    "{folder} has no model_index.json, so it is not a pipeline in diffusers format. "
    "Give the folder that holds model_index.json, unet/, vae/, text_encoder/ and tokenizer/."
)


# What opens each pipeline, by its class.
FAMILIES: dict[str, Callable[[Parts], Denoiser]] = {
    "StableDiffusionPipeline": open_stable_diffusion,
    "StableDiffusionXLPipeline": open_stable_diffusion_xl,
    "LDMTextToImagePipeline": open_latent_diffusion,
    "PixArtAlphaPipeline": open_pixart,
    "PixArtSigmaPipeline": open_pixart,
    "IFPipeline": open_deepfloyd,
    "IFSuperResolutionPipeline": open_deepfloyd,
    "StableDiffusion3Pipeline": open_stable_diffusion_3,
    "FluxPipeline": open_flux,
}


# Newer pipelines of diffusers, and why they are not among those.
UNSUPPORTED = {
    "Flux2KleinPipeline": "its prompt stands inside a chat template, whose words are no words of "
    "the prompt, and text and image share one softmax as in Flux",
    "ZImagePipeline": "it pads text and image to multiples of 32 in one stream, so the places of "
    "the words in its softmax follow from no setting",
    "QwenImagePipeline": "its prompt stands inside a chat template, of which a part is cut off "
    "after encoding, so words and attention columns do not match one to one",
    "SanaPipeline": "its attention among image positions is linear, so there is no softmax that "
    "an edit could take from the source",
    "PRXPipeline": "its softmax is laid out as DeepFloyd IF's, but its transformer has attention "
    "modules of its own, which are not tapped yet",
}


def open_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, name: str | None = None
) -> Denoiser:
    """Open a folder in diffusers format.

    Raises:
        ModelError: If it is none, incomplete, changed on disk or of an unknown kind.
    """
    if not (folder / "model_index.json").is_file() and any(folder.glob("*lora*.safetensors")):
        raise not_a_lora(folder)
    if not (folder / "model_index.json").is_file() and any(folder.glob("learned_embeds*")):
        raise not_an_embedding(folder)
    index = read_json(folder / "model_index.json", missing=_NOT_DIFFUSERS.format(folder=folder))
    family = family_of(str(index.get("_class_name", "")), str(folder))
    verify(folder)
    card = read_card(folder)
    called = name or card.raw.get("name") or folder.name
    try:
        with _quiet():
            return family(PipelineFolder(folder, index, card, called, device, dtype))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model in {folder} could not be opened: {first_line(error)} {REINSTALL}"
        ) from error


def family_of(kind: str, where: str) -> Callable[[Parts], Denoiser]:
    """Return what opens a pipeline of this class.

    Raises:
        ModelError: If it is not supported.
    """
    if kind in FAMILIES:
        return FAMILIES[kind]
    if kind in UNSUPPORTED:
        raise ModelError(
            f"{where} holds a {kind}, which is not supported: {UNSUPPORTED[kind]}. Supported are "
            f"{', '.join(FAMILIES)}."
        )
    raise ModelError(
        f"{where} holds a {kind or 'pipeline without a class name'}. Supported are "
        f"{', '.join(FAMILIES)}."
    )


def open_file(
    path: Path,
    config: str | os.PathLike[str] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Denoiser:
    """Open a single-file checkpoint; `config` is a folder of the same architecture.

    Raises:
        ModelError: If it cannot be opened.
    """
    with _quiet():
        pipe, _ = open_single_file(path, config, dtype)
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    _check_filled(parts, path)
    for part in parts:
        part.eval().requires_grad_(False).to(device)
    return open_pipe(pipe, path.stem)


def _check_filled(parts: list[torch.nn.Module], path: Path) -> None:
    """Raise for a weight that the file lacks: diffusers leaves it without storage."""
    for part in parts:
        empty = next((name for name, weight in part.named_parameters() if weight.is_meta), None)
        if empty is not None:
            raise ModelError(
                f"{path.name} lacks the weight {empty} of its {type(part).__name__}, so it is "
                "incomplete, a LoRA, or of another architecture than config. Take the whole model."
            )


def open_pipe(pipe: Any, name: str | None = None) -> Denoiser:
    """Open a pipeline that is in memory, as it is.

    Raises:
        ModelError: If it is of an unknown kind, or set up as cannot be steered.
    """
    parts = Pipe(pipe, name)
    model = family_of(parts.kind, parts.where)(parts)
    _refuse_image_adapters(model.module, parts.where)
    return model


def _refuse_image_adapters(module: torch.nn.Module, where: str) -> None:
    """Raise for attention that looks at a picture beside the text."""
    for part in module.modules():
        kind = type(getattr(part, "processor", None)).__name__
        if "IPAdapter" in kind:
            raise ModelError(
                f"{where} has an IP-Adapter ({kind}), whose attention looks at a picture beside "
                "the text, so it is not clear which softmax an edit means. Take it off, "
                "pipe.unload_ip_adapter(), and give the pipeline again."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the library's loading bars for the length of a block: a model opens in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
