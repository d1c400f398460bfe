"""SlotDiffusion's slot encoder and its SAVi as recipes: sizes, what is refused, what is saved, what has a gradient."""

from dataclasses import replace

import pytest
import torch

from torchslots import hub
from torchslots.io.errors import UserError
from torchslots.models.types import Conditioning
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig, SaviPytorchDecoderConfig, build
from torchslots.recipes.slotdiffusion_encoder import (
    SLOTS,
    CnnEncoderConfig,
    MlpPredictorConfig,
    ResNetEncoderConfig,
    SlotsConfig,
    TransformerPredictorConfig,
    build_slot_encoder,
    steps,
)

SLOTS_TINY = SlotsConfig(
    resolution=(16, 24),
    encoder=CnnEncoderConfig(channels=(6, 8), kernel=3),
    token_size=10,
    num_slots=4,
    slot_size=12,
    mlp_size=14,
    predictor=TransformerPredictorConfig(num_layers=2, num_heads=2, mlp_size=16),
)
TINY = SaviPytorchConfig(SLOTS_TINY, SaviPytorchDecoderConfig(grid=(4, 6), channels=(8, 8, 6)))
VARIANTS = {
    "transformer": SLOTS_TINY,
    "perceptron": replace(SLOTS_TINY, predictor=MlpPredictorConfig(16, norm_first=False)),
    "recurrent": replace(SLOTS_TINY, recurrent_size=9, truncate_every=3),
    "still": replace(SLOTS_TINY, predictor=None),
    "residual": replace(SLOTS_TINY, encoder=ResNetEncoderConfig((1, 1, 1), 32)),
    "batch norm": replace(SLOTS_TINY, encoder=CnnEncoderConfig((6, 8), 3, "batch")),
    "coarse": replace(SLOTS_TINY, encoder=CnnEncoderConfig((6, 8), 3, stride=2)),
}
NAMES = [name for name in catalog.RECIPES if name.startswith("savi_pytorch_")]


def batch(frames: int = 4) -> dict[str, torch.Tensor]:
    return {"video": torch.rand(2, frames, 3, 16, 24, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(params=VARIANTS)
def config(request) -> SaviPytorchConfig:
    return replace(TINY, slots=VARIANTS[request.param])


def test_every_data_set_has_a_recipe():
    assert {name.removeprefix("savi_pytorch_") for name in NAMES} == set(SLOTS)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_fit_their_data(name, tmp_path):
    recipe = catalog.recipe(name)
    model = recipe.model
    assert isinstance(model, SaviPytorchConfig) and model.resolution == (128, 128)
    assert recipe.data.resolution == 128 and model.strides() == (2, 2, 2, 2)
    assert recipe.data.num_frames == (1 if name.endswith("clevrtex") else 3)
    assert (model.slots.predictor is None) == name.endswith("clevrtex")
    assert recipe.optim.min_learning_rate == recipe.optim.learning_rate / 100
    assert recipe.optim.warmup_steps == pytest.approx(0.025 * recipe.optim.num_steps)
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert catalog.read_recipe(tmp_path / "recipe.json") == recipe


def test_an_epoch_is_every_clip_once_in_full_batches():
    assert steps("movi_e", 1, 32, num_frames=3) == 9749 * 22 // 32
    assert steps("movi_e", 50, 64) == 50 * (9749 * 24 // 64)
    assert steps("clevrtex", 2, 64) == 2 * (40_000 // 64)


def test_plain_convolutions_halve_tall_frames_alone():
    tall = replace(SLOTS_TINY, resolution=(66, 24))
    assert (SLOTS_TINY.token_grid(), tall.token_grid()) == ((16, 24), (33, 12))
    assert SlotsConfig().token_grid() == (32, 32)
    found = build_slot_encoder(tall)(torch.rand(1, 2, 3, 66, 24), Conditioning(1, torch.device("cpu")))
    assert found.attn.shape == (1, 2, 4, 33 * 12)


def test_strides_double_until_the_frame_is_reached():
    assert TINY.strides() == (2, 2, 1)
    with pytest.raises(UserError, match=r"decoder\.grid"):
        SaviPytorchConfig(SLOTS_TINY, SaviPytorchDecoderConfig(grid=(4, 6), channels=(8,)))
    with pytest.raises(UserError, match=r"decoder\.grid"):
        SaviPytorchConfig(SLOTS_TINY, SaviPytorchDecoderConfig(grid=(6, 6), channels=(8, 8)))


def test_saved_models_are_the_same(config, tmp_path):
    torch.manual_seed(0)
    model = build(config).eval()
    save_pretrained(model, config, tmp_path)
    loaded = hub.load_model(tmp_path).eval()
    assert loaded.config == config
    torch.testing.assert_close(loaded.predict(batch()).masks, model.predict(batch()).masks)


def test_every_weight_has_a_gradient(config):
    torch.manual_seed(0)
    model = build(config)
    (loss,) = model.loss(batch()).values()
    loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_slices_of_a_clip_give_what_the_whole_gives(config):
    torch.manual_seed(0)
    model, clip = build(config).eval(), batch()
    whole = model.predict(clip)
    first = model.predict({"video": clip["video"][:, :3]})
    second = model.predict({"video": clip["video"][:, 3:]}, first.state)
    torch.testing.assert_close(torch.cat([first.slots, second.slots], 1), whole.slots)
    torch.testing.assert_close(torch.cat([first.masks, second.masks], 1), whole.masks)


def test_attention_is_shared_among_slots(config):
    torch.manual_seed(0)
    found = build(config).eval().predict(batch())
    tokens = config.slots.token_grid()
    assert found.attn.shape == (2, 4, 4, tokens[0] * tokens[1])
    torch.testing.assert_close(found.attn.sum(2), torch.ones(2, 4, tokens[0] * tokens[1]))
    torch.testing.assert_close(found.masks.sum(2), torch.ones(2, 4, 16, 24))


def test_the_loss_is_the_mean_over_frames_in_minus_one_to_one():
    torch.manual_seed(0)
    model, clip = build(TINY).eval(), batch()
    recon = model.predict(clip).recon["video"]
    expected = (2 * recon - 2 * clip["video"]).square().mean()
    torch.testing.assert_close(model.loss(clip)["recon_video"], expected)


def test_the_number_of_slots_is_learned():
    model = build(TINY)
    with pytest.raises(UserError, match="4 learned slots"):
        model.encode({**batch(), "num_slots": 3})


def test_all_layers_of_a_fresh_transformer_are_alike():
    encoder = build_slot_encoder(SLOTS_TINY)
    weights = dict(encoder.predictor.named_parameters())
    assert torch.equal(weights["block.layers.0.linear1.weight"], weights["block.layers.1.linear1.weight"])


@torch.no_grad()
def test_a_spread_start_lets_content_weigh_as_much_as_position():
    video = torch.rand(1, 4, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    shares = {}
    for spread in (False, True):
        numbers = replace(SLOTS_TINY, encoder=CnnEncoderConfig((32, 32, 32), spread_start=spread))
        torch.manual_seed(0)
        frames = build_slot_encoder(numbers).encoder
        content = frames.backbone(video.flatten(0, 1))
        content = (content - content.mean((0, 2, 3), keepdim=True)).std()
        shares[spread] = float(content / frames.position.project(frames.position.grid).std())
    assert shares[True] > 0.5 and shares[True] > 5 * shares[False]


def test_a_stride_of_nothing_is_refused():
    with pytest.raises(UserError, match="stride"):
        CnnEncoderConfig(stride=0)
