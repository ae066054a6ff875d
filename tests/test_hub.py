"""Laws of fetching from the model hub, on a fake one that holds a folder of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from p2p_lab.models import ModelError, load
from p2p_lab.sampling import generate
from tests.family_pipelines import FAMILIES

NAME = "owner/name"
NETWORKS = ("unet", "vae", "text_encoder")


class FakeHub:
    """A hub with one repository, and its cache on this machine.

    Attributes:
        repository: The folder that the repository consists of.
        cache: Where fetched files lie.
        online: Whether the hub answers.
    """

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache, self.online = repository, cache, True
        cache.mkdir()

    def model_info(self, name: str, *, files_metadata: bool) -> Any:
        """List the files with their sizes, as the hub does when it is asked for them."""
        if not self.online:
            raise ConnectionError("the hub does not answer")
        assert name == NAME and files_metadata
        return SimpleNamespace(
            siblings=[
                SimpleNamespace(rfilename=file, size=(self.repository / file).stat().st_size)
                for file in files_in(self.repository)
            ]
        )

    def hf_hub_download(self, name: str, file: str) -> str:
        """Fetch one file."""
        target = self.cache / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.repository / file, target)
        return str(target)

    def snapshot_download(
        self, name: str, allow_patterns: Any = None, local_files_only: bool = False
    ) -> str:
        """Fetch the files that fit the patterns, by the hub's own rule."""
        if local_files_only:
            if not files_in(self.cache):
                raise FileNotFoundError("no snapshot in the cache")
            return str(self.cache)
        wanted = filter_repo_objects(files_in(self.repository), allow_patterns=allow_patterns)
        for file in wanted:
            self.hf_hub_download(name, file)
        return str(self.cache)

    def try_to_load_from_cache(self, name: str, file: str) -> str | None:
        """Return where a fetched file lies."""
        return str(self.cache / file) if (self.cache / file).is_file() else None

    @property
    def fetched(self) -> list[str]:
        """Names of the files that were fetched."""
        return files_in(self.cache)


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], FakeHub]:
    """Makes a folder the repository of the fake hub."""

    def serve(repository: Path) -> FakeHub:
        fake = FakeHub(repository, tmp_path / "cache")
        api = SimpleNamespace(model_info=fake.model_info)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        for call in ("hf_hub_download", "snapshot_download", "try_to_load_from_cache"):
            monkeypatch.setattr(huggingface_hub, call, getattr(fake, call))
        return fake

    return serve


@pytest.fixture
def full(sd_folder: Path, tmp_path: Path) -> Path:
    """The tiny model as popular repositories hold it: many times over."""
    repository = Path(shutil.copytree(sd_folder, tmp_path / "full"))
    for part in NETWORKS:
        plain = next((repository / part).glob("*.safetensors"))
        stem = plain.name.removesuffix(".safetensors")
        shutil.copy(plain, plain.with_name(f"{stem}.fp16.safetensors"))
        shutil.copy(plain, plain.with_name(f"{stem}.non_ema.safetensors"))
        for other in (f"{stem}.bin", "flax_model.msgpack", "openvino_model.xml", "model.onnx"):
            shutil.copy(plain, plain.with_name(other))
    checker = repository / "safety_checker"
    checker.mkdir()
    (repository / "feature_extractor").mkdir()
    (repository / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    (checker / "config.json").write_text("{}")
    for file in ("tiny.safetensors", "tiny-pruned.safetensors", "tiny.ckpt", "README.md"):
        shutil.copy(next((repository / "unet").glob("*.safetensors")), repository / file)
    shutil.copy(repository / "tiny.ckpt", checker / "model.safetensors")
    index = json.loads((repository / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (repository / "model_index.json").write_text(json.dumps(index))
    return repository


@pytest.mark.parametrize(
    ("dtype", "variant"), [(torch.float32, ""), (torch.float16, ".fp16"), (torch.bfloat16, "")]
)
def test_of_a_repository_with_everything_only_what_is_opened_is_fetched(
    full: Path, hub: Any, dtype: torch.dtype, variant: str
) -> None:
    fake = hub(full)
    assert load(NAME, "cpu", dtype).name == NAME
    weights = {f for f in fake.fetched if not f.endswith((".json", ".txt"))}
    names = {"text_encoder": "model"}
    assert weights == {
        f"{part}/{names.get(part, 'diffusion_pytorch_model')}{variant}.safetensors"
        for part in NETWORKS
    }
    assert not any("safety" in f or "feature" in f for f in fake.fetched)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", ["sdxl", "if", "pixart-sigma", "sd3", "flux", "ldm"])
def test_what_is_fetched_of_each_family_is_what_a_folder_is_opened_from(
    label: str, hub: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    FAMILIES[label].save(folder)
    (folder / "single.safetensors").write_bytes(b"not needed")
    fake = hub(folder)
    fetched, opened = load(NAME, "cpu"), load(folder, "cpu")
    one, two = (generate(m, "a cat", seed=1, steps=1, record="none") for m in (fetched, opened))
    assert torch.equal(one.pixels, two.pixels)
    assert "single.safetensors" not in fake.fetched


def test_the_size_is_said_before_and_only_what_is_not_there_yet_counts(
    full: Path, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = hub(full)
    load(NAME, "cpu")
    size = sum((full / f).stat().st_size for f in fake.fetched) / 1e6
    index = (full / "model_index.json").stat().st_size / 1e6  # already read to choose the rest
    said = capsys.readouterr()
    assert f"Fetching {NAME} from the model hub: {size - index:.1f} MB" in said.err
    assert not said.out
    load(NAME, "cpu")
    assert "Fetching" not in capsys.readouterr().err


def test_what_was_fetched_once_is_opened_without_the_hub(full: Path, hub: Any) -> None:
    fake = hub(full)
    fake.online = False
    with pytest.raises(ModelError, match="could not be fetched: the hub does not answer"):
        load(NAME, "cpu")
    fake.online = True
    load(NAME, "cpu")
    fake.online = False
    assert load(NAME, "cpu").name == NAME


def test_a_bundled_kind_of_model_is_fetched_with_every_file_of_its_card(hub: Any) -> None:
    from p2p_lab.models.loading import WEIGHTS

    fake = hub(WEIGHTS / "scenes-128-v4")
    assert load(NAME, "cpu").card.vocabulary
    assert {"card.json", "vocabulary.json"} <= set(fake.fetched)


def test_what_cannot_be_opened_is_refused_before_anything_large_is_fetched(
    full: Path, hub: Any, tmp_path: Path
) -> None:
    fake = hub(full)
    for path in (full / "vae").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match="no .safetensors file of its part 'vae', so nothing"):
        load(NAME, "cpu")
    (full / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ModelError, match="hub's owner/name holds a KandinskyPipeline"):
        load(NAME, "cpu")
    (full / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"not a pipeline.*single file tiny-pruned.safetensors"):
        load(NAME, "cpu")
    assert fake.fetched == ["model_index.json"]
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    fake.repository = lora
    with pytest.raises(ModelError, match="is a LoRA.*load_lora_weights"):
        load(NAME, "cpu")
