"""STEVE of its authors: figures of their own program at weights that follow from their names, and its checkpoints.

There are no recordings of that program (singhgautam/steve, branch master). The figures are from one run of it: weights
`hash_weights(..., salt=77)`, inputs and draws as `batch` makes them, evaluation mode, temperature 0.7, float32, CPU.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from fidelity.hash_weights import hash_weights
from torchslots.convert import systems
from torchslots.convert.convert import convert
from torchslots.convert.layouts import Arrays, to_theirs
from torchslots.convert.originals import steve_joint as steve_joint_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.steve_joint import SteveJointConfig, build

ARGUMENTS = {
    "image_size": 32,
    "num_iterations": 2,
    "num_slots": 3,
    "cnn_hidden_size": 4,
    "slot_size": 8,
    "mlp_hidden_size": 12,
    "num_predictor_blocks": 2,
    "num_predictor_heads": 4,
    "vocab_size": 11,
    "num_decoder_blocks": 2,
    "num_decoder_heads": 4,
    "d_model": 16,
    "dropout": 0.1,
    "tau_start": 0.7,
    "tau_final": 0.7,
}
STEVE = next(program for program in systems.PROGRAMS if program.title == "STEVE of its authors")
CODES, FIRST, PLACES = "steve_decoder.dict.dictionary.weight", "steve_decoder.bos", "steve_decoder.pos.pe"
GRADIENTS = {
    "dvae.encoder.0.m.bias": 0.06782277606588656,
    "steve_encoder.pos.projection.weight": 11.438510757550537,
    "steve_encoder.savi.slot_mu": 1.969296443874608,
    "steve_encoder.savi.predictor.blocks.0.attn.proj_o.weight": 1.8191080721753332,
}
TABLE = (5.760804248633734**2 + 21.600534638845122**2) ** 0.5
"""Norm of the gradients of the codes' embeddings and of what stands before the first."""


def numbers(**changes: int) -> SteveJointConfig:
    return steve_joint_torch.from_reference({**ARGUMENTS, **changes})


def state_dict(config: SteveJointConfig) -> Arrays:
    """A checkpoint's arrays by the original's names: weights by their names, masks and places as they are."""
    model = build(config)
    shapes = {
        name: list(a.shape)
        for name, a in to_theirs(steve_joint_torch.leaves(config), dict(model.state_dict())).items()
    }
    codes, size = shapes.pop("steve_decoder.dict_and_bos")
    shapes[PLACES][1] += 1
    weights = hash_weights({**shapes, CODES: [codes - 1, size], FIRST: [1, 1, size]}, salt=77)
    return weights | steve_joint_torch._constants(config)  # pyright: ignore[reportPrivateUsage]


def write(path: Path, config: SteveJointConfig, **changes: np.ndarray) -> Path:
    state = {name: torch.from_numpy(np.array(a)) for name, a in (state_dict(config) | changes).items()}
    whole = {"epoch": 3, "best_val_loss": 1.5, "best_epoch": 2, "model": state, "optimizer": {}}
    torch.save(whole if path.name.endswith(".tar") else state, path)
    return path


def batch() -> dict[str, torch.Tensor]:
    random = np.random.RandomState(5)
    drawn = [random.rand(2, 2, 3, 32, 32), random.standard_normal((2, 3, 8))]
    drawn += [np.stack([random.standard_exponential((4, 11, 8, 8)) for _ in range(2)])]
    names = ("video", "noise", "exponential")
    return {name: torch.from_numpy(a.astype(np.float32)) for name, a in zip(names, drawn)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ObjectCentricModel:
    read = torch_checkpoint.read(write(tmp_path_factory.mktemp("joint") / "best_model.pt", numbers()))
    model = build(numbers()).eval()
    model.load_state_dict(systems.weights(STEVE, read, numbers()))
    return model


def test_slots_losses_and_pictures(model: ObjectCentricModel) -> None:
    with torch.no_grad():
        slots = model.encode(batch()).slots
        losses = model.loss(batch())
    expected = torch.tensor([-0.9035143, -0.2304153, 0.4823287])
    torch.testing.assert_close(slots[1, 1, 2, :3], expected, atol=2e-6, rtol=1e-5)
    assert slots.double().norm().item() == pytest.approx(7.080530115941091, rel=1e-5)
    assert losses["tokens"].item() == pytest.approx(181.411376953125, rel=1e-5)
    assert losses["tokenizer"].item() == pytest.approx(1386.77294921875, rel=1e-5)
    assert isinstance(model.decoder, AutoregressiveDecoder)
    pictures = model.decoder.generate(slots.flatten(0, 1)).clamp(0, 1)
    assert pictures.double().norm().item() == pytest.approx(9.559480665316839, rel=1e-5)


def test_gradients(model: ObjectCentricModel) -> None:
    torch.stack(list(model.loss(batch()).values())).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    norms = {
        name: float(np.linalg.norm(a))
        for name, a in to_theirs(steve_joint_torch.leaves(numbers()), found).items()
    }
    assert {name: norms[name] for name in GRADIENTS} == pytest.approx(GRADIENTS, rel=1e-3)
    assert norms["steve_decoder.dict_and_bos"] == pytest.approx(TABLE, rel=1e-3)


@pytest.mark.parametrize("name", ["best_model.pt", "checkpoint.pt.tar"])
def test_conversion_by_names_alone(name: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path / name, numbers())
    convert(checkpoint, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert isinstance(loaded, ObjectCentricModel)
    config = loaded.config
    assert (config.resolution, config.tokenizer.vocabulary, config.transformer.num_layers) == (
        (32, 32),
        11,
        2,
    )
    assert (config.channels, config.slot_size, config.mlp_size) == ((4, 4, 4), 8, 12)
    assert (config.predictor_layers, config.num_slots, config.tokenizer.norm) == (2, 15, False)
    with torch.no_grad():
        slots = loaded.eval().encode(batch()).slots
    assert slots.double().norm().item() == pytest.approx(7.080530115941091, rel=1e-5)


def test_one_round_leaves_the_perceptron_out(tmp_path: Path) -> None:
    unused = {"steve_encoder.savi.mlp.0.weight": np.zeros((12, 8), np.float32)}
    read = torch_checkpoint.read(write(tmp_path / "best_model.pt", numbers(num_iterations=1), **unused))
    build(numbers(num_iterations=1)).load_state_dict(systems.weights(STEVE, read, numbers(num_iterations=1)))


@pytest.mark.parametrize(
    "name", ["steve_encoder.pos.pe", "steve_decoder.tf.blocks.1.self_attn_mask", PLACES, CODES]
)
def test_what_is_of_another_size_is_refused(name: str, tmp_path: Path) -> None:
    changed = {name: np.zeros((1, 2, 3), np.float32)} if name != PLACES else {}
    arrays = state_dict(numbers()) | changed
    if name in (PLACES, CODES):
        del arrays[name]
    torch.save({key: torch.from_numpy(np.array(a)) for key, a in arrays.items()}, tmp_path / "best_model.pt")
    read = torch_checkpoint.read(tmp_path / "best_model.pt")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        systems.weights(STEVE, read, numbers())


def test_arguments_that_lack_a_number() -> None:
    with pytest.raises(UserError, match="d_model"):
        steve_joint_torch.from_reference({k: v for k, v in ARGUMENTS.items() if k != "d_model"})
