"""Open a pipeline in diffusers format part by part, without the pipeline class around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from p2p_lab.models.cards import read_card, read_json, verify
from p2p_lab.models.deepfloyd import open_deepfloyd
from p2p_lab.models.denoiser import Defaults, Denoiser, ModelCard
from p2p_lab.models.errors import REINSTALL, ModelError, first_line
from p2p_lab.models.flux import open_flux
from p2p_lab.models.latent_diffusion import open_latent_diffusion
from p2p_lab.models.parts import Folder, open_part, open_tokenizer
from p2p_lab.models.pixart import open_pixart
from p2p_lab.models.single_file import open_single_file
from p2p_lab.models.stable_diffusion import StableDiffusion, StableDiffusionXL
from p2p_lab.models.stable_diffusion_3 import open_stable_diffusion_3

_NOT_DIFFUSERS = (
    "{folder} has no model_index.json, so it is not a pipeline in diffusers format. "
    "Give the folder that holds model_index.json, unet/, vae/, text_encoder/ and tokenizer/."
)


# The pipelines that have a file of their own, by class.
FAMILIES: dict[str, Callable[[Folder], Denoiser]] = {
    "LDMTextToImagePipeline": open_latent_diffusion,
    "PixArtAlphaPipeline": open_pixart,
    "PixArtSigmaPipeline": open_pixart,
    "IFPipeline": open_deepfloyd,
    "IFSuperResolutionPipeline": open_deepfloyd,
    "StableDiffusion3Pipeline": open_stable_diffusion_3,
    "FluxPipeline": open_flux,
}


def open_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, name: str | None = None
) -> Denoiser:
    """Open a folder in diffusers format.

    Raises:
        ModelError: If it is none, incomplete, changed on disk or of an unknown kind.
    """
    index = read_json(folder / "model_index.json", missing=_NOT_DIFFUSERS.format(folder=folder))
    kind = str(index.get("_class_name", ""))
    stable = kind.startswith(("StableDiffusionPipeline", "StableDiffusionXLPipeline"))
    if not stable and kind not in FAMILIES:
        raise ModelError(
            f"{folder} holds a {kind or 'pipeline without a class name'}. Supported are "
            "StableDiffusionPipeline (1.x, 2.x), StableDiffusionXLPipeline, "
            f"{', '.join(FAMILIES)}."
        )
    verify(folder)
    card = read_card(folder)
    called = name or card.raw.get("name") or folder.name
    try:
        with _quiet():
            if not stable:
                return FAMILIES[kind](Folder(folder, index, card, called, device, dtype))
            return _assemble(folder, index, device, dtype, name)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model in {folder} could not be opened: {first_line(error)} {REINSTALL}"
        ) from error


def _assemble(
    folder: Path,
    index: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    name: str | None,
) -> StableDiffusion:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    card = read_card(folder)
    xl = str(index["_class_name"]).startswith("StableDiffusionXL")
    parts: dict[str, Any] = {
        "unet": open_part(UNet2DConditionModel, folder / "unet", dtype),
        "vae": open_part(AutoencoderKL, folder / "vae", dtype),
        "text_encoder": open_part(CLIPTextModel, folder / "text_encoder", dtype),
        "tokenizer": open_tokenizer(folder / "tokenizer"),
    }
    if xl:
        kind = CLIPTextModelWithProjection
        parts["text_encoder_2"] = open_part(kind, folder / "text_encoder_2", dtype)
        parts["tokenizer_2"] = open_tokenizer(folder / "tokenizer_2")
    return _put_together(
        parts,
        read_json(folder / "scheduler" / "scheduler_config.json"),
        name=name or card.raw.get("name") or folder.name,
        card=card,
        device=device,
        blank_is_zero=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _put_together(
    parts: dict[str, Any],
    scheduler_config: Mapping[str, Any],
    *,
    name: str,
    card: ModelCard,
    device: torch.device,
    blank_is_zero: bool,
) -> StableDiffusion:
    """Move the networks to the device and put them behind one face."""
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False).to(device)
    xl = "text_encoder_2" in parts
    unet = parts.pop("unet")
    common: dict[str, Any] = {
        "name": name,
        "module": unet,
        "scheduler_config": scheduler_config,
        "defaults": _defaults(unet, parts["vae"], card, xl),
        "card": card,
        **parts,
    }
    return (
        StableDiffusionXL(**common, blank_is_zero=blank_is_zero)
        if xl
        else StableDiffusion(**common)
    )


def open_file(
    path: Path,
    config: str | os.PathLike[str] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> StableDiffusion:
    """Open a single-file checkpoint; `config` is a folder of the same architecture.

    Raises:
        ModelError: If it cannot be opened.
    """
    with _quiet():
        pipe, xl = open_single_file(path, config, dtype)
    names = ["unet", "vae", "text_encoder", "tokenizer"]
    names += ["text_encoder_2", "tokenizer_2"] if xl else []
    return _put_together(
        {name: getattr(pipe, name) for name in names},
        dict(pipe.scheduler.config),
        name=path.stem,
        card=ModelCard(),
        device=device,
        blank_is_zero=bool(getattr(pipe.config, "force_zeros_for_empty_prompt", True)),
    )


def _defaults(unet: Any, vae: Any, card: ModelCard, xl: bool) -> Defaults:
    sample = unet.config.sample_size
    h, w = (sample, sample) if isinstance(sample, int) else sample
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    usual = {"steps": 50, "guidance_scale": 5.0 if xl else 7.5}
    small = {"steps": 20, "guidance_scale": 3.0} if card.raw else {}  # a model of this package
    chosen = {**usual, **small, **card.raw.get("defaults", {})}
    return Defaults(h * scale, w * scale, int(chosen["steps"]), float(chosen["guidance_scale"]))


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
