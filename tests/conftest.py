"""What several tests share: tiny random models, built here, so that nothing is downloaded.

The random weights are drawn from a fixed seed inside a forked generator state, so every test sees
the same model and no test changes another's randomness.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import pytest
import torch

from tests.worlds import LENGTH, tiny_tokenizer

torch.set_num_threads(1)

VOCABULARY = 1000


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A CLIP tokenizer of a dozen words."""
    return tiny_tokenizer()


def seeded(build: Any) -> Any:
    """Build a module whose random weights are always the same, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build()
        for parameter in module.parameters():  # zero-initialised parts would hide mistakes
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.05)
    return module.double().eval().requires_grad_(False)


def tiny_unet(**changes: Any) -> Any:
    """A two-block U-Net: latents 16×16, cross-attention at 16×16 and 8×8, 2 heads."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return seeded(lambda: UNet2DConditionModel(**{**settings, **changes}))


def tiny_vae() -> Any:
    """An autoencoder that shrinks by two."""
    from diffusers import AutoencoderKL

    return seeded(
        lambda: AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=32,
        )
    )


def tiny_text_encoder(*, projection: bool = False, width: int = 16, length: int = LENGTH) -> Any:
    """A CLIP text encoder of one or two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return seeded(lambda: kind(config))


def scheduler(**changes: Any) -> Any:
    """Stable Diffusion's noise schedule."""
    from diffusers import DDIMScheduler

    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**settings, **changes})


def save_sd(folder: Path, **schedule: Any) -> Path:
    """Save a tiny Stable Diffusion pipeline in diffusers format, float32 on disk."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        unet=tiny_unet(),
        scheduler=scheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x on disk."""
    return save_sd(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2.x on disk: it predicts the velocity."""
    folder = tmp_path_factory.mktemp("models") / "tiny-v"
    return save_sd(folder, prediction_type="v_prediction")


def save_sdxl(folder: Path) -> Path:
    """Save a tiny SDXL pipeline in diffusers format, float32 on disk."""
    from diffusers import StableDiffusionXLPipeline

    unet = tiny_unet(
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        use_linear_projection=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        text_encoder_2=tiny_text_encoder(projection=True),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=scheduler(),
        force_zeros_for_empty_prompt=True,
    )
    pipeline.to(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL on disk."""
    return save_sdxl(tmp_path_factory.mktemp("models") / "tiny-xl")


@pytest.fixture(scope="session")
def sd(sd_folder: Path) -> Any:
    """The tiny Stable Diffusion in float64, where equalities are sharp."""
    from p2p_lab.models import load

    return load(sd_folder, "cpu", torch.float64)


@pytest.fixture(scope="session")
def sd32(sd_folder: Path) -> Any:
    """The tiny Stable Diffusion in float32, as users run it."""
    from p2p_lab.models import load

    return load(sd_folder, "cpu", torch.float32)


@pytest.fixture(scope="session")
def sdxl32(sdxl_folder: Path) -> Any:
    """The tiny SDXL in float32."""
    from p2p_lab.models import load

    return load(sdxl_folder, "cpu", torch.float32)


@pytest.fixture(scope="session")
def page_runtime() -> Path:
    """The files of the runtime that the page computes with, from the user's cache or from npm."""
    from p2p_lab.page import runtime
    from p2p_lab.page.export import PageError

    try:
        return runtime.runtime()
    except PageError as error:
        pytest.skip(f"The runtime is not there: {error}")


@pytest.fixture(scope="session")
def page_of(page_runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a model to a page of it; graphs are written once for all that test."""
    from filelock import FileLock  # it comes with torch

    from p2p_lab.page import build

    home = tmp_path_factory.getbasetemp().parent / "page-models"  # one for all processes

    def write(model: Any) -> Path:
        with FileLock(home.with_suffix(".lock")):
            graphs = build.cached_model(model, home)
        folder = tmp_path_factory.mktemp("page") / "page"
        build.write_page(folder, page_runtime, graphs)
        return folder

    return write


@pytest.fixture(scope="session")
def bundled_page(page_of: Any) -> Path:
    """A page of the bundled model; only to be read."""
    from p2p_lab.page import build

    return Path(page_of(build.open_for_export(None)))


@pytest.fixture(scope="session")
def tiny_page(page_of: Any, v_folder: Path) -> Path:
    """A page of the tiny model that predicts the velocity; only to be read."""
    from p2p_lab.page import build

    return Path(page_of(build.open_for_export(str(v_folder))))
