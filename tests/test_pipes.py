"""Laws of a pipeline in memory, as people have it: adapters, other parts, offloading, every family.

`load(pipe)` takes it as it is: nothing is copied or moved, and what cannot be steered is refused by
its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from p2p_lab.attention import UnsupportedAttention, find_sites
from p2p_lab.edits import Replace
from p2p_lab.models import ModelError, load
from p2p_lab.sampling import Run, edit, generate
from tests.conftest import seeded, tiny_vae
from tests.family_pipelines import FAMILIES
from tests.test_pipelines import drawn, ours

CAT, DOG = "a cat on grass", "a dog on grass"
DENOISERS = ("transformer", "unet")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """Open a family's pipeline anew, and the package's model of the same folder."""
    folder = tmp_path_factory.mktemp("pipes")

    def get(key: str) -> tuple[Any, Any]:
        if not (folder / key).is_dir():
            FAMILIES[key].save(folder / key)
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder / key, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe, load(folder / key, "cpu")

    return get


def denoiser_of(pipe: Any) -> Any:
    return next(getattr(pipe, name) for name in DENOISERS if getattr(pipe, name, None) is not None)


def processors(module: Any) -> list[Any]:
    return [module.get_submodule(name).processor for name in find_sites(module, (8, 8))]


def both(model: Any, record: Any = "tape") -> tuple[Run, Run]:
    """A picture and its edit."""
    side = {"Flux": 32, "PixArt": 64}.get(type(model).__name__)
    run = generate(model, CAT, seed=3, steps=2, guidance_scale=2, size=side, record=record)
    return run, edit(run, DOG, [Replace(self_pixels=1024)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", FAMILIES)
def test_a_pipeline_of_every_family_draws_and_edits_as_its_folder_does(
    key: str, opened: Any
) -> None:
    pipe, folder = opened(key)
    module = denoiser_of(pipe)
    before, model = processors(module), load(pipe)
    assert model.module is module and type(model) is type(folder)
    for mine, theirs in zip(both(model), both(folder), strict=True):
        assert torch.allclose(mine.pixels, theirs.pixels, atol=1e-6)
    assert all(a is b for a, b in zip(before, processors(module), strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["model", "sequential"])
@pytest.mark.parametrize("key", FAMILIES)
def test_an_offloaded_pipeline_of_every_family_draws_and_edits_the_same(
    key: str, how: str, opened: Any
) -> None:
    """As enable_model_cpu_offload and enable_sequential_cpu_offload set it up, to the CPU here."""
    from accelerate import cpu_offload, cpu_offload_with_hook

    pipe, folder = opened(key)
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    hook = None
    for network in networks:
        if how == "sequential":
            cpu_offload(network, execution_device="cpu", offload_buffers=True)
        else:
            _, hook = cpu_offload_with_hook(network, "cpu", prev_module_hook=hook)
    for mine, theirs in zip(both(load(pipe)), both(folder), strict=True):
        assert torch.allclose(mine.pixels, theirs.pixels, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", FAMILIES)
def test_a_lora_on_a_pipeline_of_every_family_stays_in_force(key: str, opened: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    pipe, folder = opened(key)
    targets = ["to_q", "to_k", "to_v"]
    module = denoiser_of(pipe)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        inject_adapter_in_model(config, module)
    model = load(pipe)
    (run, edited), (plain, _) = both(model), both(folder)
    assert not torch.allclose(run.pixels, plain.pixels, atol=1e-3)
    assert torch.allclose(edited.pixels, both(model, "none")[1].pixels, atol=1e-4)
    if key == "sd1":
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        assert torch.allclose(ours(model), drawn(pipe), atol=1e-5)


def test_another_autoencoder_is_the_one_that_decodes(opened: Any) -> None:
    pipe, folder = opened("sd1")
    pipe.vae = seeded(tiny_vae).float().requires_grad_(False)
    pipe.vae.register_to_config(scaling_factor=0.5)
    model = load(pipe)
    assert torch.equal(ours(model), ours(folder))
    theirs = drawn(pipe, output_type="pt")
    mine = generate(model, CAT, seed=4, steps=3, guidance_scale=3, record="none").pixels
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert not torch.allclose(mine, both(folder)[0].pixels, atol=1e-2)
    small = {f"{half}_block_out_channels": (8, 8) for half in ("encoder", "decoder")}
    counts = {f"num_{half}_blocks": (1, 1) for half in ("encoder", "decoder")}
    pipe.vae = diffusers.AutoencoderTiny(**small, **counts)
    with pytest.raises(ModelError, match="'vae'.*AutoencoderTiny, and only a AutoencoderKL"):
        load(pipe)


def test_an_image_adapter_is_refused_by_its_name(opened: Any) -> None:
    """Put on before the pipeline is given, and afterwards."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    pipe, _ = opened("sd1")
    model = load(pipe)
    sites = find_sites(pipe.unet, (16, 16))
    for name, site in sites.items():
        if site.kind == "cross":
            width = pipe.unet.get_submodule(name).inner_dim
            adapter = IPAdapterAttnProcessor2_0(width, cross_attention_dim=16)
            pipe.unet.get_submodule(name).set_processor(adapter)
    with pytest.raises(UnsupportedAttention, match="IPAdapterAttn.*unload_ip_adapter"):
        generate(model, CAT, steps=1)
    with pytest.raises(ModelError, match="IP-Adapter.*unload_ip_adapter"):
        load(pipe)


@pytest.mark.parametrize(
    "weights",
    [
        {"<toy>": torch.zeros(2, 16)},
        {"emb_params": torch.zeros(3, 16)},
        {"clip_l": torch.zeros(2, 16), "clip_g": torch.zeros(2, 32)},
    ],
)
def test_a_textual_inversion_in_a_models_place_is_called_one(
    weights: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path / "toy.safetensors", folder / "learned_embeds.safetensors"):
        save_file(weights, place)
    for given in (tmp_path / "toy.safetensors", folder):
        with pytest.raises(ModelError, match=r"is a textual inversion.*load_textual_inversion"):
            load(given, "cpu")


@pytest.mark.parametrize("how", ["enable_tiling", "enable_slicing"])
def test_tiling_and_slicing_of_the_autoencoder_stay_in_force(how: str, opened: Any) -> None:
    pipe, folder = opened("sd1")
    getattr(pipe.vae, how)()
    z = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    alone = (z / pipe.vae.config.scaling_factor).split([1, 1])  # as on the CPU
    theirs = torch.cat([pipe.vae.decode(one).sample for one in alone]) / 2 + 0.5
    mine = load(pipe).decode(z)
    assert torch.equal(mine, theirs.clamp(0, 1))
    assert torch.allclose(mine, folder.decode(z), atol=1e-6) == (how == "enable_slicing")


def test_on_the_cpu_a_picture_is_decoded_alike_alone_and_among_others(opened: Any) -> None:
    _, model = opened("sd1")
    z = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.decode(z)[1:2], model.decode(z[1:2]))


def test_where_memory_does_not_suffice_pictures_are_decoded_one_by_one_or_in_tiles(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = opened("sd1")
    decode, z = model.vae.decoder.forward, torch.randn(2, 4, 32, 32)
    usual = model.decode(z)
    most = [32 * 32]

    def small(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(x, *rest)

    monkeypatch.setattr(model.vae.decoder, "forward", small)
    assert torch.allclose(model.decode(z), usual, atol=1e-6)
    most[0] = 16 * 16
    with pytest.warns(UserWarning, match="decoded in tiles"):
        tiled = model.decode(z)
    assert tiled.shape == usual.shape and not model.vae.use_tiling
    assert (tiled - usual).abs().mean() < 0.05
    most[0] = 1
    with pytest.warns(UserWarning, match="tiles"), pytest.raises(torch.OutOfMemoryError):
        model.decode(z)
    assert not model.vae.use_tiling
