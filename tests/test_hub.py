"""Models in folders: what is saved comes back, and what is wrong is said in a sentence."""

import dataclasses
import json
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import torchslots
from torchslots import hub
from torchslots.io.cache import hub_cache
from torchslots.io.errors import UserError
from torchslots.models import weights
from torchslots.models.model import ObjectCentricModel
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog, savi
from torchslots.recipes.config import ModelConfig, from_dict


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    family: ClassVar[str] = "tiny"
    width: int = 4
    channels: tuple[int, ...] = (2, 3)


class TinyModel(ObjectCentricModel):
    """Two layers and none of the parts."""

    def __init__(self, config: TinyConfig):
        nn.Module.__init__(self)
        self.layer = nn.Linear(config.width, config.width)
        self.convolution = nn.Conv2d(*config.channels, 3)


@pytest.fixture
def tiny_catalog(monkeypatch):
    def build_family(family, values, where):
        if family != "tiny":
            raise UserError(f"No family is called {family!r}; there is: tiny.")
        config = from_dict(TinyConfig, values, where)
        return config, TinyModel(config)

    monkeypatch.setattr(catalog, "build_family", build_family)


@pytest.fixture
def model(tiny_catalog):
    return TinyModel(TinyConfig())


@pytest.fixture
def folder(model, tmp_path):
    return save_pretrained(model, TinyConfig(), tmp_path / "saved")


def edit_config(folder: Path, **changes) -> None:
    file = folder / hub.CONFIG_NAME
    values = json.loads(file.read_text()) | changes
    del values["crc32c"]
    file.write_text(json.dumps(values))


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / hub.WEIGHTS_NAME)
    change(tensors)
    save_file(tensors, folder / hub.WEIGHTS_NAME)


def test_what_was_saved_comes_back_bit_for_bit_in_eval_mode_with_its_config(model, folder):
    loaded = torchslots.load_model(folder)
    assert loaded.config == TinyConfig()
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["savi_small", "savi_plus_plus"])
def test_a_recipe_survives_config_json(tmp_path, name):
    config = catalog.recipe(name).model
    file = tmp_path / hub.CONFIG_NAME
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    family = config.family
    file.write_text(json.dumps({"torchslots": torchslots.__version__, "family": family, "model": values}))
    read_family, read_values = hub._read_config(file)
    assert from_dict(catalog.FAMILIES[read_family].config, read_values, name) == config


def test_a_model_of_a_recipe_predicts_the_same_after_loading(tmp_path):
    config = dataclasses.replace(
        catalog.recipe("savi_small").model, conditioning="learned", num_slots=3, resolution=(16, 16),
        decoder=savi.DecoderConfig(grid=(4, 4), channels=(8, 8), strides=(2, 2)),
    )  # fmt: skip
    model = catalog.build(config).eval()
    model.save_pretrained(tmp_path)
    batch = {"video": torch.rand(1, 2, 3, 16, 16)}
    assert torch.equal(hub.load_model(tmp_path).predict(batch).masks, model.predict(batch).masks)


def test_other_numbers_build_another_model(tmp_path, tiny_catalog):
    config = TinyConfig(width=7, channels=(3, 5))
    save_pretrained(TinyModel(config), config, tmp_path)
    assert hub.load_model(tmp_path).layer.weight.shape == (7, 7)


def test_channels_last_and_tied_weights_are_saved(tmp_path, tiny_catalog):
    model = TinyModel(TinyConfig()).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.layer.bias = nn.Parameter(model.layer.weight[0].detach())
    save_pretrained(model, TinyConfig(), tmp_path)
    assert torch.equal(hub.load_model(tmp_path).layer.bias, model.layer.bias)


@pytest.mark.parametrize("name", [name for name in catalog.RECIPES if name.endswith("_demo")])
def test_what_is_built_to_be_loaded_differs_only_in_what_is_loaded(name):
    """Parameters have no memory; buffers that no file holds, and which weights are trained, must be the same."""
    config = catalog.recipe(name).model
    drawn = catalog.build_seeded(config, 0)
    with weights.without_weights():
        empty = catalog.build_seeded(config, 0)
    assert all(parameter.is_meta for parameter in empty.parameters())
    weights.fill(empty, drawn.state_dict())
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(model, kind)()) for model in (empty, drawn))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        assert all(value.requires_grad == theirs[key].requires_grad for key, value in ours.items())
        assert all(value.data_ptr() != theirs[key].data_ptr() for key, value in ours.items() if value.numel())


class Sharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_parameters_that_modules_share_are_shared_when_filled():
    with weights.without_weights():
        model = Sharing()
    weights.fill(model, Sharing().state_dict())
    assert model.second.weight is model.first.weight
    assert len(list(model.parameters())) == 3 and not model.first.weight.is_meta


def test_a_stored_type_becomes_the_models(folder, model):
    stored = {name: value.half() for name, value in model.state_dict().items()}
    save_file(stored, folder / hub.WEIGHTS_NAME, metadata={"format": "pt"})
    loaded = hub.load_model(folder)
    assert loaded.layer.weight.dtype == torch.float32
    assert torch.equal(loaded.layer.weight, model.layer.weight.half().float())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused(folder, model, dtype):
    stored = model.state_dict() | {"layer.bias": torch.ones(4, dtype=dtype)}
    save_file(stored, folder / hub.WEIGHTS_NAME, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"layer.bias holds {str(dtype)[6:]}, wanted is float32"):
        hub.load_model(folder)


def test_numbers_of_one_byte_are_read(folder, model):
    stored = {name: value.to(torch.float8_e4m3fn) for name, value in model.state_dict().items()}
    save_file(stored, folder / hub.WEIGHTS_NAME, metadata={"format": "pt"})
    assert torch.equal(hub.load_model(folder).layer.weight, stored["layer.weight"].float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_finite_weights(value):
    tensors = {"first": torch.zeros(0), "second": torch.arange(5), "third": torch.tensor([1e38, -1e38])}
    weights.check_finite(tensors, "here")
    with pytest.raises(UserError, match="in 1 tensors"):
        weights.check_finite(tensors | {"fourth": torch.tensor([0.0, value, 1.0])}, "here")


def test_loading_leaves_the_random_state_alone(folder):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    hub.load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_gives_its_final_model_before_its_best(model, tmp_path):
    save_pretrained(model, TinyConfig(), tmp_path / "best")
    assert torch.equal(hub.load_model(tmp_path).layer.weight, model.layer.weight)
    final = TinyModel(TinyConfig())
    save_pretrained(final, TinyConfig(), tmp_path / "model")
    assert torch.equal(hub.load_model(tmp_path).layer.weight, final.layer.weight)


def test_the_weights_file_stands_for_its_folder(model, folder):
    assert torch.equal(hub.load_model(folder / hub.WEIGHTS_NAME).layer.weight, model.layer.weight)


def test_the_card_says_what_was_given_and_another_hand_is_respected(model, tmp_path):
    save_pretrained(model, TinyConfig(), tmp_path, card={"data_set": "movi_a"})
    save_pretrained(model, TinyConfig(), tmp_path, card={"data_set": "movi_b"})
    assert "- data set: movi_b" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(model, TinyConfig(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_tensors_that_do_not_fit_are_counted_and_named(folder):
    def change(tensors):
        tensors["layer.weight"] = torch.zeros(2, 4)
        del tensors["convolution.bias"]
        for extra in "abcd":
            tensors[f"extra.{extra}"] = torch.zeros(1)

    edit_weights(folder, change)
    with pytest.raises(UserError) as failure:
        hub.load_model(folder)
    said = str(failure.value)
    assert "1 missing (convolution.bias)" in said
    assert "4 unexpected (extra.a; extra.b; extra.c; ...)" in said
    assert "layer.weight: [2, 4] stored, [4, 4] wanted" in said


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_named(folder, kept):
    file = folder / hub.WEIGHTS_NAME
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        UserError,
        match=rf"model\.safetensors is {'truncated or' if kept else 'empty,'} not a safetensors file",
    ):
        hub.load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    tensors = load_file(folder / hub.WEIGHTS_NAME)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / hub.WEIGHTS_NAME)
    with pytest.raises(
        UserError, match=rf"model\.safetensors has weights .* not finite, in 1 tensors \({name}\)"
    ):
        hub.load_model(folder)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("suffix", hub.PICKLE_SUFFIXES)
def test_a_pickle_is_refused_and_never_executed(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("BOMB", str(tmp_path / "went_off"))
    file = tmp_path / f"pytorch_model{suffix}"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"pickle.*torchslots convert"):
        hub.load_model(file)
    with pytest.raises(UserError, match=r"pickle.*torchslots convert"):
        hub.load_model(tmp_path)
    assert not (tmp_path / "went_off").exists()


def test_a_pickle_in_disguise_is_not_executed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "went_off"))
    (folder / hub.WEIGHTS_NAME).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="not a safetensors file"):
        hub.load_model(folder)
    assert not (tmp_path / "went_off").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torchslots": "99.0.0"}, "written by torchslots 99.0.0, this is"),
        ({"torchslots": "soon"}, "should be a version"),
        ({"family": "nobody"}, r"config\.json: No family is called 'nobody'"),
        ({"model": {"depth": 3}}, "has no field `depth`"),
        ({"model": {"width": "wide"}}, "should be int"),
        ({"model": {"width": -1}}, "no tiny model can be built"),
        ({"model": [1]}, "`model` missing or of the wrong kind"),
        ({"family": None}, "`family` missing or of the wrong kind"),
        ({"model": {"width": 5}}, r"2 of another shape \(layer.weight"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(folder, changes, said):
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=said):
        hub.load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff"])
def test_a_config_that_is_not_ours_is_named(folder, text):
    (folder / hub.CONFIG_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.json"):
        hub.load_model(folder)


def test_missing_files_are_named(folder, tmp_path):
    (folder / hub.CONFIG_NAME).unlink()
    with pytest.raises(UserError, match=r"has model\.safetensors but no config\.json"):
        hub.load_model(folder)
    with pytest.raises(UserError, match=r"no config\.json beside it"):
        hub.load_model(folder / hub.WEIGHTS_NAME)
    (folder / hub.WEIGHTS_NAME).unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        hub.load_model(folder)
    with pytest.raises(UserError, match="does not exist"):
        hub.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a model of torchslots"):
        hub.load_model(folder / "README.md")


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(UserError, match="should be cpu, cuda, cuda:N or mps, got 'nonsense'"):
        hub.load_model(folder, device="nonsense")


def test_a_hub_id_is_downloaded_without_pickles(folder, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, **settings):
        asked.update(settings, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "no_connection", lambda: None)
    assert hub.load_model("somebody/model", revision="v1").config == TinyConfig()
    assert asked == {
        "repo_id": "somebody/model",
        "revision": "v1",
        "allow_patterns": ["*.json", "*.safetensors"],
        "local_files_only": False,
        "cache_dir": hub_cache(),
    }


def test_an_unreachable_hub_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not a folder and could not be fetched"):
        hub.load_model("nobody/such-model")


def test_without_a_network_the_hub_is_asked_once_and_its_cache_alone_is_read(monkeypatch, tmp_path, folder):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"could not be fetched .* no connection \(.*refused"):
        hub.load_model("nobody/such-model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, local_files_only, **__: folder)
    assert hub.load_model("somebody/model").config == TinyConfig()


def test_publishing_uploads_exactly_the_model(model, monkeypatch):
    uploaded = {}

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            uploaded["private"] = private
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            uploaded["files"] = sorted(path.name for path in Path(folder_path).iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert weights.push_to_hub(model, TinyConfig(), "me/model", private=True) == "https://hub/me/model"
    assert uploaded == {"private": True, "files": ["README.md", "config.json", "model.safetensors"]}
    with pytest.raises(UserError, match="owner/name"):
        weights.push_to_hub(model, TinyConfig(), "model")


def test_a_refused_upload_is_said(model, monkeypatch):
    class Api:
        def create_repo(self, *arguments, **settings):
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(UserError, match="could not be published: no route"):
        weights.push_to_hub(model, TinyConfig(), "me/model")


def test_a_folder_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken.* cannot be written"):
        save_pretrained(model, TinyConfig(), tmp_path / "taken")


def test_a_full_disk_leaves_the_model_that_was_there(model, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_pretrained(TinyModel(TinyConfig()), dataclasses.replace(TinyConfig(), width=4), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_loaded_convolutions_lie_in_memory_as_built_ones(tmp_path):
    model = catalog.build_seeded(catalog.recipe("savi_demo").model, 0)
    model.save_pretrained(tmp_path)
    loaded = hub.load_model(tmp_path)
    strides = {name: value.stride() for name, value in model.state_dict().items()}
    assert {name: value.stride() for name, value in loaded.state_dict().items()} == strides
    assert any(
        value.ndim == 4
        and value.is_contiguous(memory_format=torch.channels_last)
        and not value.is_contiguous()
        for value in loaded.state_dict().values()
    )
