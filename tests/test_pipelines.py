"""Laws of Stable Diffusion as people have it: settings, parts and files of many kinds.

Right is what diffusers' own pipeline draws from the same noise; what cannot be so is refused in a
sentence when the model is opened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils.dummy_pt_objects import DummyObject
from torch import Tensor

from p2p_lab.edits import Replace
from p2p_lab.models import ModelError, load
from p2p_lab.models.opening import UNSUPPORTED
from p2p_lab.models.parts import variant_of
from p2p_lab.models.scheduling import BETAS, noise_settings
from p2p_lab.sampling import edit, generate, make_schedule, noise_of
from tests.conftest import scheduler
from tests.family_pipelines import FAMILIES
from tests.worlds import LENGTH

CAT, DOG = "a cat on grass", "a dog on grass"
STEPS, SEED = 3, 4
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"solver_order": 1, "algorithm_type": "dpmsolver++"}),
}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def saved_scheduler(name: str, folder: Path, **settings: Any) -> dict[str, Any]:
    """Return the settings that diffusers writes for a scheduler of this class."""
    made = getattr(diffusers, name)(**{**SD, **settings})
    made.save_config(folder)
    config: dict[str, Any] = json.loads((folder / "scheduler_config.json").read_text())
    return config


def importable(name: str) -> bool:
    return not isinstance(getattr(diffusers, name), DummyObject)


def pipeline(model: Any, folder: Path, sampler: str) -> Any:
    """Put diffusers' pipeline around a model, with the saved scheduler turned to a sampler."""
    saved = json.loads((folder / "scheduler_config.json").read_text())["_class_name"]
    pipe = diffusers.StableDiffusionPipeline(
        vae=model.vae,
        unet=model.module,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        scheduler=getattr(diffusers, saved).from_pretrained(folder),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    kind, options = THEIRS[sampler]
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, **options: Any) -> Tensor:
    noise = noise_of(SEED, (1, 4, 16, 16)).to(pipe.unet.dtype)  # in float64 it would draw others
    settings = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    latents: Tensor = pipe(CAT, latents=noise, **{**settings, **options}).images[0]
    return latents


def ours(model: Any, sampler: Any = "ddim", **options: Any) -> Tensor:
    settings = {"seed": SEED, "steps": STEPS, "guidance_scale": 3.0, "record": "none"}
    return generate(model, CAT, sampler=sampler, **{**settings, **options}).trajectory.latents[-1]


@pytest.fixture
def folder(sd_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(sd_folder, tmp_path / "copy"))


def change(path: Path, **changes: Any) -> None:
    """Change a JSON file's entries."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", list(THEIRS))
@pytest.mark.parametrize("name", sorted(BETAS))
def test_whatever_scheduler_was_saved_the_picture_is_diffusers_own(
    name: str, sampler: str, sd: Any, tmp_path: Path
) -> None:
    """DPM-Solver, UniPC, Euler and PNDM know no clip_sample: DDIM's own would clamp latents."""
    if not importable(name):
        pytest.skip("diffusers needs another package for this scheduler")
    config = saved_scheduler(name, tmp_path)
    before, sd.scheduler_config = sd.scheduler_config, noise_settings(config, "stable")
    try:
        theirs, mine = drawn(pipeline(sd, tmp_path, sampler)), ours(sd, sampler)
    finally:
        sd.scheduler_config = before
    assert theirs.isfinite().all() and float(theirs.abs().max()) > 1
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_the_settings_of_an_opened_model_are_those_decided_for_its_family(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    saved_scheduler("UniPCMultistepScheduler", path.parent)
    settings = load(folder, "cpu").scheduler_config
    assert settings["clip_sample"] is False and settings["steps_offset"] == 1


def test_every_scheduler_of_diffusers_is_known_or_refused_by_name(folder: Path) -> None:
    others = {name for name in dir(diffusers) if name.endswith("Scheduler")} - BETAS
    assert {"EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"} < others
    for name in others:
        with pytest.raises(ModelError, match=f"scheduler is {name}, whose noise levels"):
            noise_settings({**SD, "_class_name": name}, "stable")
    change(folder / "scheduler" / "scheduler_config.json", _class_name="EDMEulerScheduler")
    with pytest.raises(ModelError, match="scheduler is EDMEulerScheduler"):
        load(folder, "cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({"beta_schedule": "laplace"}, "beta_schedule='laplace'"),
    ],
)
def test_settings_of_another_kind_of_model_are_refused(
    changes: dict[str, Any], said: str, folder: Path
) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(ModelError, match=said):
        load(folder, "cpu")


def test_stochastic_flows_and_flows_of_other_schedulers_are_refused(tmp_path: Path) -> None:
    from tests.family_pipelines import save_flux

    save_flux(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    change(path, stochastic_sampling=True)
    with pytest.raises(ModelError, match="stochastic_sampling.*not supported"):
        load(tmp_path, "cpu")
    change(path, stochastic_sampling=False, _class_name="FlowMatchHeunDiscreteScheduler")
    with pytest.raises(ModelError, match="FlowMatchHeunDiscreteScheduler"):
        load(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("settings", "steps", "guidance"),
    [
        ({"_class_name": "LCMScheduler"}, 4, 1),
        ({"_class_name": "TCDScheduler"}, 4, 1),
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}, 4, 1),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "leading"}, 50, 7.5),
        (
            {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
            50,
            7.5,
        ),
        ({"timestep_spacing": "trailing", "prediction_type": "v_prediction"}, 50, 7.5),
    ],
)
def test_models_distilled_to_few_steps_are_run_with_few_steps_and_no_guidance(
    settings: dict[str, Any], steps: int, guidance: float, folder: Path
) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **settings)
    defaults = load(folder, "cpu").defaults
    assert (defaults.steps, defaults.guidance_scale) == (steps, guidance)


UNETS: dict[str, tuple[dict[str, Any], str]] = {
    "inpainting": ({"in_channels": 9}, "takes 9 channels.*masked picture.*inpainting"),
    "instructions": ({"in_channels": 8}, "takes 8 channels.*InstructPix2Pix"),
    "depth": ({"in_channels": 5}, "takes 5 channels.*depth"),
    "a variance": ({"out_channels": 8}, "returns 8 channels for 4"),
    "a told guidance": ({"time_cond_proj_dim": 8}, "told the guidance.*time_cond_proj_dim=8"),
    "classes": ({"num_class_embeds": 3}, "class label.*num_class_embeds=3"),
    "class times": ({"class_embed_type": "timestep"}, "class label.*'timestep'"),
    "an added text": (
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 2},
        "told more than the text.*'text'",
    ),
    "an image": (
        {"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 16},
        "told more than the text.*'image_proj'",
    ),
    "two texts": ({"dual_cross_attention": True}, "second cross-attention"),
    "a gate": ({"attention_type": "gated"}, "second cross-attention.*'gated'"),
    "another width": ({"cross_attention_dim": 24}, "width 24 and the text encoder makes 16"),
}


@pytest.mark.parametrize("name", list(UNETS))
def test_a_u_net_that_must_be_told_more_is_refused_when_it_is_opened(
    name: str, folder: Path
) -> None:
    from tests.conftest import tiny_unet

    changes, said = UNETS[name]
    tiny_unet(**changes).float().save_pretrained(folder / "unet")
    with pytest.raises(ModelError, match=said):
        load(folder, "cpu")


def test_as_many_steps_as_noise_levels_are_refused_where_the_table_is_shifted(sd: Any) -> None:
    with pytest.raises(ValueError, match="steps=1000.*begins at time 1000.*fewer steps"):
        generate(sd, CAT, steps=1000)
    assert make_schedule(sd.scheduler_config, "ddim", 999).steps == 999


def test_settings_that_exclude_each_other_give_a_sentence() -> None:
    both = {"use_karras_sigmas": True, "use_exponential_sigmas": True}
    with pytest.raises(ValueError, match="not possible with this model's scheduler settings"):
        make_schedule({**scheduler().config, **both}, "euler", 5)


@pytest.mark.parametrize("sampler", list(THEIRS))
def test_a_schedule_that_ends_at_pure_noise_is_finite_in_half_precision(
    sampler: Any, folder: Path, tmp_path: Path
) -> None:
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    settings = {**zero, "prediction_type": "v_prediction", "clip_sample": False}
    saved_scheduler("DDIMScheduler", tmp_path, **settings)
    shutil.copy(tmp_path / "scheduler_config.json", folder / "scheduler")
    half = load(folder, "cpu", torch.float16)
    mine, theirs = ours(half, sampler), drawn(pipeline(half, tmp_path, sampler))
    assert mine.isfinite().all() and theirs.isfinite().all()
    assert torch.allclose(mine, theirs, atol=2e-2)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_or_additional_weights_are_errors(part: str, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = next((folder / part).glob("*.safetensors"))
    weights = load_file(path)
    lost = sorted(weights)[len(weights) // 2]
    save_file({**weights, "another.weight": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} hold more than .*another.weight"):
        load(folder, "cpu")
    save_file({k: v for k, v in weights.items() if k != lost}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} lack .*{lost.split('.', 2)[-1]}"):
        load(folder, "cpu")


@pytest.mark.parametrize(
    ("part", "named", "said"),
    [
        ("text_encoder", ["transformers", "BertModel"], "a BertModel, and only a CLIPTextModel"),
        ("tokenizer", ["transformers", "BertTokenizer"], "a BertTokenizer, and only a CLIPTok"),
        ("vae", ["diffusers", "AutoencoderTiny"], "an? AutoencoderTiny, and only a"),
        ("unet", ["diffusers", "UNet2DModel"], "a UNet2DModel, and only a UNet2DCondition"),
        ("text_encoder", [None, None], "without its part 'text_encoder'"),
    ],
)
def test_a_part_is_opened_by_the_class_that_the_index_names_or_refused(
    part: str, named: list[Any], said: str, folder: Path
) -> None:
    change(folder / "model_index.json", **{part: named})
    with pytest.raises(ModelError, match=said):
        load(folder, "cpu")


def test_a_pipeline_in_memory_is_taken_as_it_is(sd32: Any, sd_folder: Path) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder, local_files_only=True)
    processors = dict(pipe.unet.attn_processors)
    model = load(pipe)
    assert model.module is pipe.unet and model.tokenizer is pipe.tokenizer
    assert torch.equal(ours(model), ours(sd32))
    pipe.unet.conv_in.weight.data.mul_(1.1)  # what is done to it afterwards is seen
    assert not torch.equal(ours(model), ours(sd32))
    assert pipe.unet.attn_processors == processors
    with pytest.raises(ModelError, match="taken as it is.*load\\(pipe.to"):
        load(pipe, "cpu")


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_textual_inversion_of_several_vectors_is_read_whole_and_is_one_word(
    kind: str, tmp_path: Path
) -> None:
    FAMILIES[kind].save(tmp_path)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    if kind == "sdxl":
        pairs.append((pipe.tokenizer_2, pipe.text_encoder_2))
    for tokenizer, encoder in pairs:
        vectors = torch.randn(3, encoder.config.hidden_size, generator=torch.manual_seed(1))
        pipe.load_textual_inversion(
            vectors, token="<toy>", tokenizer=tokenizer, text_encoder=encoder
        )
    model: Any = load(pipe)
    text = "a <toy> on grass"
    prompt = model.prompt(text)
    assert prompt.words == ("a", "<toy>", "on", "grass") and len(prompt) == LENGTH
    numbers = [prompt.ids[token] for token in prompt.tokens_of("<toy>")]
    assert pipe.tokenizer.convert_ids_to_tokens(numbers) == ["<toy>", "<toy>_1", "<toy>_2"]
    theirs = pipe.encode_prompt(
        text, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    mine = model.encode_prompt(prompt, (32, 32))
    assert torch.equal(mine.tokens, theirs[0])
    assert kind == "sd1" or torch.equal(mine.pooled, theirs[2])


def test_an_offloaded_pipeline_draws_the_same_picture(sd32: Any, sd_folder: Path) -> None:
    from accelerate import cpu_offload

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder, local_files_only=True)
    for part in (pipe.unet, pipe.text_encoder):
        cpu_offload(part, execution_device="cpu")
    model = load(pipe)
    assert next(model.module.parameters()).is_meta and model.device.type == "cpu"
    assert torch.equal(ours(model), ours(sd32))


def test_a_model_is_one_line_for_a_notebook(sd32: Any) -> None:
    said = repr(sd32)
    assert "\n" not in said and len(said) < 160
    assert "StableDiffusion(" in said and "32×32" in said and "float32 on cpu" in said


def test_an_autoencoder_that_overflows_while_encoding_is_run_in_float32(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load(sd_folder, "cpu", torch.float16)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wide = load(sd_folder, "cpu").encode(image)
    encode = model.vae.encode

    def overflow(x: Any) -> Any:
        output = encode(x)
        if x.dtype == torch.float16:
            output.latent_dist.mean.mul_(torch.inf)
        return output

    monkeypatch.setattr(model.vae, "encode", overflow)
    assert torch.allclose(model.encode(image).float(), wide, atol=1e-2)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["model.safetensors", "model.fp16.safetensors"], ""),
        (["model.fp16-00001-of-00002.safetensors"], "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.bf16.safetensors"], "bf16"),
        (["diffusion_pytorch_model.non_ema.safetensors"], "non_ema"),
        (["pytorch_lora_weights.safetensors"], None),
    ],
)
def test_a_parts_files_are_found_in_every_variant(names: list[str], variant: str | None) -> None:
    assert variant_of(names) == variant


def test_self_attention_that_would_reach_no_site_is_raised_or_warned_of(sd32: Any) -> None:
    """As SDXL at 1024², whose attention begins at 32×32: here the smallest level is 20×20."""
    run = generate(sd32, CAT, seed=SEED, steps=STEPS, size=(80, 80))
    plain = edit(run, DOG, [Replace(self_attention=(0, 0))])
    with pytest.warns(UserWarning, match="self_pixels=400 is taken in place of 256"):
        taken = edit(run, DOG, [Replace(self_attention=(0, 1))])
    assert taken.plan is not None and taken.plan.self_pixels == 400
    assert not torch.equal(taken.pixels, plain.pixels)
    with pytest.warns(UserWarning, match="self_pixels=400 is taken in place of 256"):
        again = edit(run, DOG, [Replace(self_attention=(0, 1), self_pixels=256)])
    assert torch.equal(again.pixels, taken.pixels)
    with pytest.warns(UserWarning, match="takes no self-attention.*Use self_pixels=400"):
        edit(run, DOG, [Replace(self_attention=(0, 1), self_pixels=100)])


def test_an_edits_explanation_lists_the_layers_that_it_changes(sd32: Any) -> None:
    run = generate(sd32, CAT, seed=SEED, steps=STEPS)
    said = edit(run, DOG, [Replace(self_attention=(0, 1), self_pixels=64)]).explain()
    assert "text layers changed: 7 of 7 (8×8, 16×16)" in said
    assert "image layers: 4 of 7 (8×8)" in said
    none = edit(run, DOG, [Replace(self_attention=(0, 0))]).explain()
    assert "image layers: none of 7" in none
    with pytest.raises(ValueError, match="is no edit"):
        run.explain()


KINDS: dict[str, tuple[str, ...]] = {  # LDM's own pipeline does not scale what Euler is given
    "sdxl": ("ddim", "euler", "dpm++"),
    "ldm": ("ddim", "dpm++"),
    "pixart-sigma": ("ddim", "euler", "dpm++"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", KINDS)
def test_whatever_scheduler_was_saved_with_other_families_the_picture_is_their_own(
    key: str, tmp_path: Path
) -> None:
    """Each saved class is tried with one of the samplers in turn."""
    family = FAMILIES[key]
    family.save(tmp_path)
    place = tmp_path / "scheduler"
    model: Any = load(tmp_path, "cpu")
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipe.register_modules(**{part: getattr(model, name) for part, name in family.parts.items()})
    pipe.set_progress_bar_config(disable=True)
    shape, scale = (1, *model.latent_shape((model.defaults.height,) * 2)), family.scale
    for i, name in enumerate(sorted(filter(importable, BETAS))):
        sampler = KINDS[key][i % len(KINDS[key])]
        config = saved_scheduler(name, place)
        model.scheduler_config = noise_settings(config, "latents")
        kind, options = THEIRS[sampler]
        saved = getattr(diffusers, name).from_pretrained(place).config
        if sampler == "ddim":  # what is saved holds; what the saved class lacks is decided
            options = {"clip_sample": saved.get("clip_sample", False)}
        pipe.scheduler = getattr(diffusers, kind).from_config(saved, **options)
        theirs = pipe(
            CAT,
            latents=noise_of(SEED, shape),
            num_inference_steps=2,
            guidance_scale=scale,
            output_type="pt" if key == "sdxl" else "np",
            **family.options,
        ).images
        found = torch.as_tensor(theirs[0])
        found = found if found.shape[0] == 3 else found.permute(2, 0, 1)
        settings: Any = {"seed": SEED, "steps": 2, "guidance_scale": scale, "record": "none"}
        mine = generate(model, CAT, sampler=sampler, **settings).pixels  # type: ignore[arg-type]
        assert found.std() > 0.01 and torch.allclose(mine, found, atol=2e-4), (name, sampler)


VARIANTS = {
    "sharded fp16": {"variant": "fp16", "max_shard_size": "40KB"},
    "bf16 alone": {"variant": "bf16"},
    "non_ema alone": {"variant": "non_ema"},
    "sharded": {"max_shard_size": "40KB"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", VARIANTS)
def test_folders_of_every_variant_are_opened_and_draw_what_diffusers_draws(
    kind: str, dtype: torch.dtype, sd_folder: Path, tmp_path: Path
) -> None:
    how: dict[str, Any] = VARIANTS[kind]
    precision = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(str(how.get("variant")))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder, local_files_only=True)
    pipe.to(precision or torch.float32).save_pretrained(tmp_path, **how)
    names = [path.name for path in (tmp_path / "unet").glob("*.safetensors")]
    assert all(("-of-" in name) == ("sharded" in kind) for name in names) and names
    again = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path, variant=how.get("variant"), torch_dtype=dtype, local_files_only=True
    )
    again.set_progress_bar_config(disable=True)
    again.scheduler = diffusers.DDIMScheduler.from_config(again.scheduler.config)
    model = load(tmp_path, "cpu", dtype)
    near = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(ours(model), drawn(again), atol=near)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_newer_pipelines_are_refused_with_the_reason_before_anything_is_opened(
    kind: str, folder: Path
) -> None:
    assert importable(kind), "diffusers has no such pipeline"
    change(folder / "model_index.json", _class_name=kind)
    shutil.rmtree(folder / "unet")
    with pytest.raises(ModelError, match=f"holds a {kind}, which is not supported: its? .*Support"):
        load(folder, "cpu")
    page = Path(__file__).parent.parent / "docs" / "backbones.md"
    assert UNSUPPORTED[kind] in " ".join(page.read_text(encoding="utf-8").split())


def test_an_image_attention_without_softmax_is_what_sana_has() -> None:
    import inspect

    from diffusers.models.transformers import sana_transformer

    text = inspect.getsource(sana_transformer.SanaTransformerBlock)
    assert "SanaLinearAttnProcessor2_0" in text
