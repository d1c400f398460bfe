"""STATM against recordings of the original program, its parts and its two generations of checkpoints."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fidelity import savi as savi_golden
from fidelity import statm as statm_golden
from fidelity.cases import read_case
from fidelity.systems import verify
from torchslots.convert import layouts
from torchslots.convert.convert import convert
from torchslots.convert.originals import savi as savi_flax
from torchslots.convert.originals import statm as statm_flax
from torchslots.convert.readers import flax as flax_checkpoint
from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.slots.initializers import Gaussian
from torchslots.models.slots.temporal import Fusion, Memory, remembering
from torchslots.models.types import Conditioning
from torchslots.models.weights import shapes
from torchslots.recipes import catalog
from torchslots.recipes.savi import SaviConfig
from torchslots.recipes.statm import StatmConfig, build, fusion_class

CLASSES = [f"TimeSpaceTransformerBlock{number}" for number in ("", 2, 3, 4, 5)]


@pytest.mark.parametrize("name", ["statm_savi_small_mini", "statm_savi_plus_plus_mini"])
def test_recorded_case(golden: Path, name: str) -> None:
    result = verify([golden / name])[0]
    assert result.passed, [check for check in result.checks if not check.passed]
    names = {check.name for check in result.checks}
    assert {
        "states",
        "states_pred",
        "sliced/states",
        "carried/states",
        "predictor_attn/7",
        "loss/total",
    } <= names
    assert sum(name.startswith("grad_norm/") for name in names) > 70
    assert ("corrector_attn/it1" in names) == ("plus_plus" in name)


def test_a_kept_memory_is_not_a_restarted_one(golden: Path) -> None:
    """The recorded slices, which forget, differ from the whole clip from the second slice's second frame on."""
    outputs = read_case(golden / "statm_savi_small_mini").outputs
    size = int(outputs["sliced/slice_size"])
    difference = np.abs(outputs["states"] - outputs["sliced/states"]).max((0, 2, 3))
    assert difference[: size + 1].max() < 1e-5 < 1e-2 < difference[size + 1 :].min()


@pytest.mark.parametrize("module", CLASSES)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_recorded_fusion(golden: Path, module: str, norm: str) -> None:
    case = dict(np.load(golden / "savi_units" / f"statm_{module}_{norm}.npz"))
    config = unit_config(case, module, pre_norm=norm == "pre")
    fusion = unit_fusion(case, config)
    slots, memory = torch.from_numpy(case["in/0"]).requires_grad_(), unit_memory(fusion, case["in/1"])
    with torch.no_grad(), statm_golden.recorded_attention(fusion) as maps:
        near(fusion(slots, memory), case["out"])
    recorded = [case[name] for name in sorted(case) if name.startswith("intermediates/")]
    assert len(recorded) == 2
    for ours, theirs in zip(maps, recorded):
        near(torch.from_numpy(ours), theirs)
    (fusion(slots, memory) * torch.from_numpy(case["grad_proj"])).sum().backward()
    assert slots.grad is not None
    near(slots.grad, case["grad_input"])
    for path, gradient in unit_gradients(fusion, config).items():
        if f"grad_params/{path}" in case:
            near(torch.from_numpy(gradient), case[f"grad_params/{path}"])


def near(ours: Tensor, recorded: np.ndarray) -> None:
    assert ours.shape == recorded.shape
    assert torch.allclose(ours, torch.from_numpy(recorded), atol=2e-5, rtol=1e-4)


def unit_config(case: dict[str, np.ndarray], module: str, pre_norm: bool) -> StatmConfig:
    heads, width = case["params/MultiHeadDotProductAttention_0/key/bias"].shape
    savi = SaviConfig(
        slot_size=case["in/0"].shape[-1],
        predictor_heads=heads,
        predictor_qkv=heads * width,
        predictor_mlp=len(case["params/MLP_0/dense_mlp_0/bias"]),
    )
    return StatmConfig(savi, fusion=statm_flax.fusion_of(module, pre_norm), pre_norm=pre_norm)


def unit_fusion(case: dict[str, np.ndarray], config: StatmConfig) -> Fusion:
    savi = config.savi
    fusion = fusion_class(config)(
        savi.slot_size,
        num_heads=savi.predictor_heads,
        qkv_size=savi.predictor_qkv,
        mlp_size=savi.predictor_mlp,
        pre_norm=config.pre_norm,
    )
    theirs = {
        f"block/{name.removeprefix('params/')}": value
        for name, value in case.items()
        if "params/" in name[:7]
    }
    ours = layouts.to_ours(statm_flax.fusion_leaves(config, "block", "fusion"), theirs, "unit")
    fusion.load_state_dict({name.removeprefix("fusion."): value for name, value in ours.items()})
    return fusion


def unit_memory(fusion: Fusion, buffer: np.ndarray) -> Memory:
    memory = None
    for frame in torch.from_numpy(buffer).unbind(1):
        memory = remembering(memory, fusion.time.entry(frame))
    assert memory is not None
    return memory


def unit_gradients(fusion: Fusion, config: StatmConfig) -> layouts.Arrays:
    tensors = {
        f"fusion.{name}": value.grad for name, value in fusion.named_parameters() if value.grad is not None
    }
    theirs = layouts.to_theirs(statm_flax.fusion_leaves(config, "block", "fusion"), tensors)
    return {path.removeprefix("block/"): value for path, value in theirs.items()}


def test_recorded_samples_with_a_learned_mean(golden: Path) -> None:
    case = dict(np.load(golden / "savi_units" / "statm_NoHintsEncoderStateInit_uses_rng.npz"))
    slots = Gaussian(case["out"].shape[1], case["out"].shape[2])
    config = SaviConfig(conditioning="learned_gaussian")
    leaves = [leaf for leaf in savi_flax.leaves(config) if leaf.path.startswith("NoHints")]
    theirs = {
        f"NoHintsEncoderStateInit_0/{part}": case[f"params/{part}"]
        for part in ("slots_mu", "slots_log_sigma")
    }
    ours = layouts.to_ours(leaves, theirs, "unit")
    prefix = "slot_encoder.initializer."
    slots.load_state_dict({name.removeprefix(prefix): value for name, value in ours.items()})
    noise = (torch.from_numpy(case["out"]) - slots.mean.detach()) / slots.log_sigma.detach().exp()
    hint = Conditioning(len(noise), noise.device, noise=noise)
    (slots(hint).slots * torch.from_numpy(case["grad_proj"])).sum().backward()
    tensors = {
        f"{prefix}{name}": value.grad for name, value in slots.named_parameters() if value.grad is not None
    }
    for path, gradient in layouts.to_theirs(leaves, tensors).items():
        near(torch.from_numpy(gradient), case[f"grad_params/{path.split('/')[1]}"])


def test_both_generations_of_checkpoints_are_one_model(golden: Path) -> None:
    """flax 0.3.5 keeps group norms as (1, 1, 1, C), 0.5.1 as (C,)."""
    case = read_case(golden / "statm_savi_plus_plus_mini")
    loaded = savi_golden.load(case)
    new, leaves = loaded.read.params, loaded.leaves
    norms = [path for path in new if "ResNet_0" in path and path.endswith(("scale", "bias"))]
    assert len(norms) > 10 and all(new[path].ndim == 1 for path in norms)
    old = {path: array[None, None, None] if path in norms else array for path, array in new.items()}
    one, other = (layouts.to_ours(leaves, weights, "here") for weights in (new, old))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {leaf.path: tuple(leaf.write(leaf.read(new[leaf.path])).shape) for leaf in leaves} == {
        path: array.shape for path, array in new.items()
    }


def published(name: str) -> dict[str, np.ndarray]:
    config = catalog.recipe(name).model
    with torch.device("meta"):
        state = catalog.build(config).state_dict()
    assert isinstance(config, StatmConfig)
    return layouts.to_theirs(
        statm_flax.leaves(config), {key: torch.zeros(v.shape) for key, v in state.items()}
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [("statm_savi_small", 961_572), ("statm_savi", 23_264_389), ("statm_savi_plus_plus", 23_264_389)],
)
def test_published_sizes(name: str, count: int) -> None:
    assert sum(array.size for array in published(name).values()) == count


def test_small_is_recognised_and_rounds_must_be_named() -> None:
    assert (
        statm_flax.from_shapes(shapes(published("statm_savi_small")))
        == catalog.recipe("statm_savi_small").model
    )
    weights = published("statm_savi")
    with pytest.raises(UserError, match=r"statm_savi \(1\) and statm_savi_plus_plus \(2\).*--recipe"):
        statm_flax.from_shapes(shapes(weights))
    for name in ("statm_savi", "statm_savi_plus_plus"):
        config = catalog.recipe(name).model
        assert statm_flax.like(config, shapes(weights)) == config


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("fusion", ["sum", "time_then_space", "shared_residual", "all_slots"])
def test_fusions_are_recognised(fusion: statm_flax.FusionName, pre_norm: bool) -> None:
    small = catalog.recipe("statm_savi_small").model
    assert isinstance(small, StatmConfig)
    wanted = "all_slots_as_released" if fusion == "all_slots" and pre_norm else fusion
    config = StatmConfig(small.savi, fusion=wanted, pre_norm=pre_norm)
    zeros = {name: torch.zeros(value.shape) for name, value in build(config).state_dict().items()}
    assert statm_flax.like(small, shapes(layouts.to_theirs(statm_flax.leaves(config), zeros))) == config


def test_convert_by_the_original_configuration(golden: Path, tmp_path: Path) -> None:
    case = golden / "statm_savi_small_mini"
    found = convert(case / "checkpoints-0", out=tmp_path / "model", config=case / "config.json")
    assert "statm" in str(found)
    model = savi_golden.load(read_case(case)).model
    loaded = load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("source", ["", "checkpoints-0", "checkpoints-0/ckpt-1", "checkpoints-0/ckpt-1.flax"])
def test_the_empty_checkpoint_beside_a_flax_file_is_passed_over(
    golden: Path, tmp_path: Path, source: str
) -> None:
    """Trainers in flax write ckpt-N.index and ckpt-N.data with a counter, and the weights into ckpt-N.flax."""
    case = golden / "statm_savi_small_mini"
    folder = Path(shutil.copytree(case, tmp_path / "case"))
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001", "checkpoint"):
        (folder / "checkpoints-0" / name).write_bytes(b"a counter")
    found = convert(folder / source, out=tmp_path / "model", config=case / "config.json")
    assert found.source.name == "ckpt-1.flax" and found.num_weights == 28_552


@pytest.mark.parametrize(
    ("case", "recipe", "says"),
    [
        ("statm_savi_small_mini", "savi_small", "checkpoint of STATM.*choose one of statm_savi_small"),
        ("savi_small_mini", "statm_savi_small", "checkpoint of SAVi.*choose one of savi_small"),
        ("savi_small_mini", "isa_clevrtex_cnn_transl", "checkpoint of SAVi"),
        ("statm_savi_small_mini", None, "sizes that were not published"),
    ],
)
def test_a_wrong_system_is_refused_by_name(
    golden: Path, tmp_path: Path, case: str, recipe: str | None, says: str
) -> None:
    with pytest.raises(UserError, match=re.compile(says, re.DOTALL)):
        convert(golden / case, out=tmp_path, recipe=recipe)


def test_a_foreign_configuration_is_refused(golden: Path, tmp_path: Path) -> None:
    config = json.loads((golden / "statm_savi_small_mini" / "config.json").read_text())
    config["config"]["model"]["predictor"]["module"] = "statm.modules.Identity"
    (tmp_path / "config.json").write_text(json.dumps(config))
    case = golden / "statm_savi_small_mini"
    with pytest.raises(UserError, match="Identity"):
        convert(case, out=tmp_path / "o", config=tmp_path / "config.json")
    with pytest.raises(UserError, match="checkpoint of SAVi that the configuration given does not fit"):
        (tmp_path / "isa.json").write_text(json.dumps({"config": {"model": {}}, "model": "isa"}))
        convert(golden / "savi_small_mini", out=tmp_path / "o", config=tmp_path / "isa.json")


def test_unknown_flax_trees_are_refused(golden: Path, tmp_path: Path) -> None:
    import msgpack

    data = flax_checkpoint.read(golden / "statm_savi_small_mini")
    kernel = next(array for path, array in data.params.items() if path.endswith("kernel"))
    packed = msgpack.ExtType(1, msgpack.packb((kernel.shape, "float32", kernel.tobytes())))
    (tmp_path / "ckpt-1.flax").write_bytes(msgpack.packb({"params": {"Unet_0": {"kernel": packed}}}) or b"")
    with pytest.raises(UserError, match="Unet_0: not a checkpoint of STATM, Invariant Slot Attention, SAVi"):
        convert(tmp_path / "ckpt-1.flax", out=tmp_path / "o")
