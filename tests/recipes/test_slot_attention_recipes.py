"""Slot Attention as recipes: sizes, what may change at evaluation, Keras' numerics, and the optimiser's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchslots import hub
from torchslots.io.errors import UserError
from torchslots.models.adjust import with_counts
from torchslots.models.layers.conv import ConvTranspose, pad_same
from torchslots.models.layers.position import soft_grid
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.slot_attention import (
    ImageDecoderConfig,
    SetPredictionConfig,
    SlotAttentionConfig,
    build,
    slot_attention_clevr6,
    slot_attention_set_prediction,
)
from torchslots.training import optim

TINY = SlotAttentionConfig(
    resolution=(16, 24),
    channels=(8, 8),
    strides=(1, 1),
    token_hidden=8,
    token_size=8,
    slot_size=8,
    mlp_size=12,
    num_slots=4,
    decoder=ImageDecoderConfig(grid=(4, 6), channels=(8, 8, 8), strides=(2, 2, 1)),
)
TINY_SET = replace(TINY, strides=(1, 2), decoder=SetPredictionConfig(hidden=8))
NAMES = [name for name in catalog.RECIPES if name.startswith("slot_attention_")]


def batch(seed: int = 0, images: int = 3) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        "video": torch.rand(images, 1, 3, 16, 24, generator=random),
        "properties": torch.rand(images, 1, 5, 19, generator=random),
        "noise": torch.randn(images, 4, 8, generator=random),
    }


@pytest.fixture(params=[TINY, TINY_SET], ids=["discovery", "set"])
def model(request):
    torch.manual_seed(0)
    return build(request.param)


def test_published_sizes():
    sizes = {
        recipe: sum(p.numel() for p in build(recipe().model).parameters())
        for recipe in (slot_attention_clevr6, slot_attention_set_prediction)
    }
    assert list(sizes.values()) == [890_308, 380_755]


@pytest.mark.parametrize("name", NAMES)
def test_recipes_come_back_from_their_numbers(name, tmp_path):
    recipe = catalog.recipe(name)
    assert recipe.name == name
    made = build(recipe.model)
    save_pretrained(made, recipe.model, tmp_path)
    assert hub.load_model(tmp_path).config == recipe.model


def test_every_weight_learns(model):
    sum(model.loss(batch()).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_loss_is_the_mean_error_of_pictures_from_minus_one_to_one():
    torch.manual_seed(0)
    made, data = build(TINY), batch()
    drawn = made.predict(data).recon["video"]
    expected = F.mse_loss(to_signed(drawn), to_signed(data["video"]))
    torch.testing.assert_close(made.loss(data)["recon_video"], expected)
    torch.testing.assert_close(from_signed(to_signed(data["video"])), data["video"])


def test_slot_pictures_blend_to_the_reconstruction():
    torch.manual_seed(0)
    found = build(TINY).predict(batch(), slot_recon=True)
    assert found.slot_recon is not None
    blended = (found.slot_recon["video"] * found.masks[:, :, :, None]).sum(2)
    torch.testing.assert_close(blended, found.recon["video"])


def test_slots_and_rounds_change_at_evaluation(model):
    data = {**batch(), "num_slots": 7}
    data.pop("noise")
    assert model.predict(data).masks.shape[2] == 7
    other = with_counts(model, num_slots=6, num_iterations=5)
    data.pop("num_slots")
    assert other.predict(data).slots.shape[2] == 6
    assert other.config.num_iterations == 5 and model.config.num_iterations == 3
    shared = dict(other.named_parameters())
    assert all(shared[name].data_ptr() == weight.data_ptr() for name, weight in model.named_parameters())
    with pytest.raises(UserError, match="at least 1"):
        with_counts(model, num_slots=0)


def test_more_rounds_are_the_same_rounds_continued(model):
    data = batch()
    twice = with_counts(model, num_iterations=6).predict(data).slots
    state = model.predict(data).state
    torch.testing.assert_close(model.predict(data, state).slots, twice)


def test_draws_can_be_repeated(model):
    data = batch()
    data.pop("noise")
    draw = [
        model.predict({**data, "generator": torch.Generator().manual_seed(seed)}).slots for seed in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.allclose(draw[0], draw[2])


def test_slots_follow_a_permutation_of_the_noise(model):
    data, order = batch(), torch.tensor([2, 0, 3, 1])
    found = model.predict(data)
    moved = model.predict({**data, "noise": data["noise"][:, order]})
    torch.testing.assert_close(moved.slots, found.slots[:, :, order])
    torch.testing.assert_close(moved.masks, found.masks[:, :, order])


def test_a_decoder_that_draws_another_size_is_refused():
    with pytest.raises(UserError, match=r"images of \(128, 128\).*\(64, 64\)"):
        SlotAttentionConfig(resolution=(64, 64))


def test_soft_grid_counts_from_every_border():
    grid = soft_grid(3, 5)
    torch.testing.assert_close(grid[0, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(grid[2, 1], torch.tensor([1.0, 0.25, 0.0, 0.75]))
    assert "slot_encoder.encoder.position.grid" not in build(TINY).state_dict()


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (3, 1), (5, 1), (3, 2), (4, 2), (5, 3)])
def test_transposed_convolution_is_keras_gradient_of_a_same_convolution(kernel, stride):
    """Keras crops where the convolution it is the gradient of had padded; JAX's rule gives the same."""
    torch.manual_seed(0)
    layer, small = ConvTranspose(3, 4, kernel, stride, bias=False), torch.randn(1, 3, 5, 6)
    large = torch.zeros(1, 4, 5 * stride, 6 * stride, requires_grad=True)
    F.conv2d(pad_same(large, kernel, stride), layer.weight, stride=stride).backward(small)
    torch.testing.assert_close(layer(small), large.grad)


def test_fresh_weights_are_spread_as_keras_spreads_them():
    torch.manual_seed(0)
    made = build(SlotAttentionConfig())
    conv, gru = made.slot_encoder.encoder.backbone[3], made.slot_encoder.corrector.gru
    bound = (6 / (2 * 64 * 25)) ** 0.5
    assert 0.98 * bound < conv.weight.abs().max() <= bound
    assert (6 / (4 * 64)) ** 0.5 >= gru.weight_ih.abs().max() > 0.98 * (6 / (4 * 64)) ** 0.5
    torch.testing.assert_close(gru.weight_hh.T @ gru.weight_hh, torch.eye(64), atol=1e-5, rtol=0)
    heads = torch.cat([made.decoder.mask_head.weight, made.decoder.heads["video"].weight])
    assert heads.abs().max() <= (6 / (68 * 9)) ** 0.5
    assert all(
        p.abs().sum() == 0
        for name, p in made.named_parameters()
        if name.endswith("bias") and "norm" not in name
    )


def test_exponential_schedule_decays_from_the_first_step():
    rate = optim.schedule(slot_attention_clevr6().optim)
    assert rate(0) == 0
    assert rate(5_000) == pytest.approx(4e-4 * 0.5 * 0.5**0.05)
    assert rate(100_000) == pytest.approx(2e-4)
    assert rate(250_000) == pytest.approx(4e-4 * 0.5**2.5)


@pytest.mark.parametrize("epsilon_hat", [True, False])
def test_epsilon_is_added_where_the_recipe_says(epsilon_hat):
    """Gradients near epsilon, where the two forms of Adam part."""
    layer = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, schedule="exponential", epsilon_hat=epsilon_hat)
    optimizer, weight = optim.adam(layer), layer.weight.detach().numpy().copy()
    first, second = np.zeros(4), np.zeros(4)
    for step in range(4):
        gradient = np.array([1e-9, 3e-8, 1e-6, 1.0]) * (step + 1)
        layer.weight.grad = torch.from_numpy(gradient)[None]
        rate = optim.prepare_update(optimizer, config, step)
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        correction = np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        epsilon = 1e-8 if epsilon_hat else 1e-8 * np.sqrt(1 - 0.999 ** (step + 1))
        weight = weight - rate * correction * first / (np.sqrt(second) + epsilon)
        np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-9)


def test_half_precision_trains(model):
    with torch.autocast("cpu", torch.bfloat16):
        (half,) = model.loss(batch()).values()
    (full,) = model.loss(batch()).values()
    half.backward()
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.01)
