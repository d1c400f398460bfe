"""The released configurations of Invariant Slot Attention, and models built from such numbers."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from torchslots.io.errors import UserError
from torchslots.recipes import catalog, isa
from torchslots.recipes.config import from_dict, to_json
from torchslots.recipes.savi import CnnConfig, ResNetConfig
from torchslots.training import optim

TINY = isa.IsaConfig(
    resolution=(16, 24),
    encoder=CnnConfig((8, 10), (2, 2)),
    num_slots=3,
    slot_size=12,
    qkv_size=8,
    slot_hidden=14,
    grid_hidden=16,
    position_hidden=18,
    decoder=isa.CnnDecoderConfig(grid=(4, 6), channels=(8, 8), strides=(2, 2)),
)
VARIANTS: dict[str, isa.IsaConfig] = {
    "baseline": replace(TINY, invariance="none"),
    "transl": replace(TINY, invariance="translation"),
    "transl_scale": TINY,
    "transl_rot_scale": replace(TINY, invariance="rotation"),
    "v2": replace(TINY, relative_values=False),
    "missing_grid": replace(TINY, grid="missing_as_released"),
    "learned": replace(TINY, invariance="rotation", initial_pose="learned"),
    "correlated": replace(TINY, scale_sampling="correlated"),
    "told": replace(TINY, invariance="rotation", append_pose=True, rotation_limit=90, temperature=0.7),
    "started": replace(TINY, centered=True, fixed_scale=0.1),
    "pixels": replace(
        TINY, decoder=isa.PixelDecoderConfig(grid=(16, 24), channels=(8, 9)), invariance="translation"
    ),
    "resnet": replace(TINY, encoder=ResNetConfig((1, 1, 1), 32)),
    "chunked": replace(TINY, decoder=replace(TINY.decoder, chunk=2), recompute=True),
}


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "video": torch.rand(2, 1, 3, 16, 24, generator=generator),
        "generator": torch.Generator().manual_seed(1),
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_reaches_every_weight(name: str) -> None:
    torch.manual_seed(0)
    model = catalog.build(VARIANTS[name])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    loss = model.loss(_batch())["recon_video"]
    loss.backward()
    missing = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    assert missing == []


@pytest.mark.parametrize("name", VARIANTS)
def test_numbers_survive_json_and_the_model_predicts(name: str) -> None:
    config = VARIANTS[name]
    assert from_dict(isa.IsaConfig, json.loads(to_json(config)), "test") == config
    prediction = catalog.build(config).eval().predict(_batch())
    assert prediction.segmentation.shape == (2, 1, 16, 24)
    assert torch.allclose(prediction.masks.sum(2), torch.ones(2, 1, 16, 24), atol=1e-5)
    assert prediction.state.pose is None if name == "baseline" else prediction.state.pose is not None


def test_chunks_and_recomputing_change_nothing() -> None:
    losses, gradients = [], []
    for name in ("transl_scale", "chunked"):
        torch.manual_seed(0)
        model = catalog.build(VARIANTS[name])
        loss = model.loss(_batch())["recon_video"]
        loss.backward()
        losses.append(loss.detach())
        gradients.append(
            torch.cat(
                [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
            )
        )
    assert torch.allclose(*losses, rtol=1e-6)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4)


def test_a_few_steps_of_training_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = catalog.build(TINY)
    optimizer = optim.adam(model)
    optimizer.param_groups[0]["lr"] = 2e-3
    losses = []
    for _ in range(60):
        loss = model.loss(_batch())["recon_video"]
        loss.backward()
        optim.clip_gradients(model.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_draws_follow_the_seed_of_the_batch() -> None:
    torch.manual_seed(0)
    model = catalog.build(TINY).eval()
    one, other, third = (model.predict(_batch()).slots for _ in range(3))
    assert torch.equal(one, other) and torch.equal(one, third)
    other_seed = _batch() | {"generator": torch.Generator().manual_seed(2)}
    assert not torch.equal(one, model.predict(other_seed).slots)


def test_every_released_configuration_is_a_recipe() -> None:
    counts: dict[str, int] = {}
    for name, make in isa.RECIPES.items():
        dataset = make().data.dataset
        counts[dataset] = counts.get(dataset, 0) + 1
        assert catalog.recipe(name).name == name == make().name
        assert make.__doc__ and name in catalog.RECIPES
    assert counts == {
        "tetrominoes": 2,
        "objects_room": 4,
        "clevr_with_masks": 5,
        "multishapenet_easy": 5,
        "clevrtex": 9,
        "waymo_open": 5,
    }


@pytest.mark.parametrize(
    ("name", "resolution", "slots", "steps", "warmup", "every"),
    [
        ("isa_tetrominoes_transl", (35, 35), 4, 20_000, 5_000, 1_000),
        ("isa_objects_room_transl_rot_scale", (64, 64), 11, 500_000, 10_000, 5_000),
        ("isa_clevrtex_resnet_transl_scale", (128, 128), 11, 500_000, 10_000, 5_000),
        ("isa_waymo_open_baseline", (128, 192), 11, 500_000, 10_000, 5_000),
    ],
)
def test_numbers_of_the_released_configurations(
    name: str, resolution: tuple[int, int], slots: int, steps: int, warmup: int, every: int
) -> None:
    recipe = catalog.recipe(name)
    model = recipe.model
    assert isinstance(model, isa.IsaConfig)
    assert (model.resolution, model.num_slots, model.grid) == (resolution, slots, "appended")
    assert (recipe.optim.num_steps, recipe.optim.warmup_steps, recipe.optim.learning_rate) == (
        steps,
        warmup,
        4e-4,
    )
    assert (recipe.train.eval_every, recipe.train.batch_size, recipe.train.seed) == (every, 64, 42)
    assert recipe.optim.max_grad_norm == 0.05 and recipe.data.num_frames == recipe.evaluation.num_frames == 1


@pytest.mark.parametrize(
    ("name", "grid", "weights"),
    [
        ("isa_tetrominoes_transl", "appended", 735_208),
        ("isa_clevrtex_resnet_transl_scale", "missing_as_released", 22_054_720),
    ],
)
def test_number_of_weights_is_the_originals(name: str, grid: Any, weights: int) -> None:
    """Grids included, which the original counts; from the recorded parameter trees."""
    config = catalog.recipe(name).model
    assert isinstance(config, isa.IsaConfig)
    with torch.device("meta"):
        model = isa.build(replace(config, grid=grid))
    assert sum(value.numel() for value in model.state_dict().values()) == weights


def test_a_decoder_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"images of \(16, 24\), but the frames are \(16, 16\)"):
        replace(TINY, resolution=(16, 16))


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="Resize the frames"):
        catalog.build(TINY).predict({"video": torch.rand(1, 1, 3, 32, 32)})
