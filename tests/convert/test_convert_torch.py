"""`torchslots convert` on `.pth` files: each system is known by its names, and training goes on with Adam's moments."""

import json

import pytest
import torch

import torchslots
from fidelity.cases import read_case
from fidelity.hash_init import state_dict, with_model
from fidelity.vqvae import load, to_batch
from torchslots.convert import systems
from torchslots.convert.convert import convert
from torchslots.convert.originals import vqvae
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.io.errors import UserError
from torchslots.training import checkpoint, optim

FAMILIES = {
    "vqvae_mini": "vqvae",
    "dvae_mini": "dvae",
    "savi_torch_mini": "savi_pytorch",
    "savi_torch_rnn_mini": "savi_pytorch",
    "steve_mini": "steve",
    "savi_ldm_mini": "slotdiffusion",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_system_is_known_by_its_names(golden, tmp_path, name):
    folder = with_model(golden / name, tmp_path)
    done = convert(folder / "model.pth", tmp_path / "out", config=folder / "config.json")
    assert done.config.family == FAMILIES[name] and done.step is None
    again = convert(folder, tmp_path / "by_names")
    assert again.config.family == FAMILIES[name] and again.num_weights == done.num_weights
    load_saved = torchslots.load_tokenizer if name in ("vqvae_mini", "dvae_mini") else torchslots.load_model
    assert load_saved(tmp_path / "out").config == done.config


def test_lpips_is_left_out(golden, tmp_path):
    state = state_dict(golden / "vqvae_mini")
    torch.save(
        {**state, "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 4, 1, 1)}, tmp_path / "a.pth"
    )
    done = convert(tmp_path / "a.pth", tmp_path / "out", config=golden / "vqvae_mini" / "config.json")
    assert done.num_arrays == len(state) + 1
    assert len(torchslots.load_tokenizer(tmp_path / "out").state_dict()) == len(state)
    assert convert(tmp_path / "a.pth", tmp_path / "out").config.perceptual


@pytest.mark.parametrize("name", ["vqvae_mini", "dvae_mini"])
@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused(golden, tmp_path, name, spoil):
    state = state_dict(golden / name)
    last = list(state)[-1]
    if spoil == "missing":
        del state[last]
    elif spoil == "unknown":
        state["more.weight"] = torch.ones(2)
    else:
        state[last] = torch.ones(17)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth"):
        convert(tmp_path / "model.pth", tmp_path / "out", config=golden / name / "config.json")
    assert not (tmp_path / "out").exists()


def test_other_systems_files_and_recipes_are_refused(golden, tmp_path):
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a checkpoint of SlotDiffusion, STEVE"):
        convert(tmp_path / "other.pth", tmp_path / "out")
    folder = with_model(golden / "dvae_mini", tmp_path)
    with pytest.raises(UserError, match=r"is a checkpoint of STEVE's discrete VAE.*dvae_movi_d"):
        convert(folder / "model.pth", tmp_path / "out", recipe="vqvae_movi_e")
    with pytest.raises(UserError, match="of another shape"):
        convert(folder / "model.pth", tmp_path / "out", recipe="dvae_movi_e")
    with pytest.raises(UserError, match=r"discrete VAE, .* configures VQ-VAE"):
        convert(folder / "model.pth", tmp_path / "out", config=golden / "vqvae_mini" / "config.json")
    assert not (tmp_path / "out").exists()


def test_training_goes_on_with_the_original_s_moments(golden, tmp_path):
    """Their program: three steps of torch's Adam over their parameters in their order; ours from its file: the rest."""
    case = read_case(with_model(golden / "vqvae_mini", tmp_path))
    rates = [step[0] for step in case.config["train"]["train_lrs"]]
    losses = case.config["train"]["train_losses"]
    model = load(case).model
    theirs = _train(model, torch.optim.Adam(_in_their_order(model, case)), case, rates[:3])
    file = _save_as_they_do(theirs, model, case, tmp_path / "model_3.pth")
    done = convert(
        file,
        tmp_path / "out",
        recipe="vqvae_movi_e",
        config=case.folder / "config.json",
        run=tmp_path / "run",
    )
    saved = checkpoint.latest(tmp_path / "run", print)
    assert done.step == 3 and saved is not None and saved.state.step == 3
    ours = torchslots.load_tokenizer(tmp_path / "out")
    optimizer = optim.adam(ours)
    memory = {key[6:]: value for key, value in saved.training.items() if key.startswith("optim/")}
    optim.load_optimizer(ours, optimizer, memory, "here")
    found = []
    for rate in rates[3:]:
        optimizer.param_groups[0]["lr"] = rate
        loss = sum(ours.loss(to_batch(case.inputs)).values())
        loss.backward()
        found.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert found == pytest.approx(losses[3:], rel=1e-4)


def _in_their_order(model, case):
    names = {leaf.path: leaf.name for leaf in vqvae.leaves(model.config)}
    return [model.get_parameter(names[name]) for name in state_dict(case.folder)]


def _train(model, optimizer, case, rates):
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        sum(model.loss(to_batch(case.inputs)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def _save_as_they_do(optimizer, model, case, path):
    leaves = {leaf.path: leaf for leaf in vqvae.leaves(model.config)}
    shapes = state_dict(case.folder)
    weights = {
        name: model.get_parameter(leaves[name].name).detach().view(shapes[name].shape) for name in shapes
    }
    state = optimizer.state_dict()
    for index, name in enumerate(shapes):
        for what in ("exp_avg", "exp_avg_sq"):
            state["state"][index][what] = state["state"][index][what].view(shapes[name].shape)
    torch.save({"state_dict": weights, "opt_state_dict": state, "it": 3, "epoch": 1}, path)
    return path


def test_the_optimiser_s_groups_are_the_original_s(golden):
    """The rest first, then all of the decoder, frozen parts and masks among it; buffers are no parameters."""
    names = {
        name: list(state_dict(golden / name)) for name in ("steve_mini", "savi_ldm_mini", "savi_torch_mini")
    }
    groups = {
        name: systems.program_of(
            torch_checkpoint.TorchCheckpoint(golden, dict.fromkeys(found)), systems.TORCH
        ).groups(found)
        for name, found in names.items()
    }
    rest, decoder = groups["steve_mini"]
    assert not any(name.startswith(("dvae.", "trans_decoder.")) for name in rest) and "init_latents" in rest
    assert decoder == [name for name in names["steve_mini"] if name.startswith("trans_decoder.")]
    assert any(name.endswith("self_attn_mask") for name in decoder)
    rest, decoder = groups["savi_ldm_mini"]
    assert "dm_decoder.betas" not in decoder and "encoder_pos_embedding.grid" not in rest
    assert any(name.startswith("dm_decoder.vae.") for name in decoder)
    recorded = json.loads((golden / "savi_torch_mini" / "grads.json").read_text())["grad_norm"]
    assert groups["savi_torch_mini"] == [[name for name in names["savi_torch_mini"] if name in recorded]]


def test_a_folder_is_looked_into_one_level_down(golden, tmp_path):
    inner = tmp_path / "trained" / "checkpoint"
    inner.mkdir(parents=True)
    (with_model(golden / "dvae_mini", tmp_path) / "model.pth").rename(inner / "model.pth")
    (tmp_path / "trained" / "logs").mkdir()
    done = convert(tmp_path / "trained", tmp_path / "out")
    assert done.config.family == "dvae" and done.source == inner / "model.pth"
    (tmp_path / "trained" / "other").mkdir()
    (tmp_path / "trained" / "other" / "model.pth").write_bytes((inner / "model.pth").read_bytes())
    with pytest.raises(UserError, match=r"holds 2 checkpoints. Give one: .*checkpoint, .*other\."):
        convert(tmp_path / "trained", tmp_path / "again")
