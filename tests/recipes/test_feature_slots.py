"""Slots on frozen features as recipes: sizes, initial weights, what has a gradient, what is saved and refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.layers.blocks import GRUCell
from torchslots.models.model import ObjectCentricModel, rollout
from torchslots.recipes import catalog
from torchslots.recipes.backbones import TINY_VIT, BackboneConfig, build_backbone
from torchslots.recipes.config import to_json, with_changes
from torchslots.recipes.feature_slots import (
    FeatureSlotsConfig,
    LossConfig,
    MixerConfig,
    PerceptronConfig,
    build,
)
from torchslots.recipes.slotcontrast import SlotContrastConfig
from torchslots.recipes.videosaur import VideosaurConfig, VideosaurImagesConfig

NAMES = [name for name in catalog.RECIPES if isinstance(catalog.recipe(name).model, FeatureSlotsConfig)]
VIT = BackboneConfig("dino", 24, 2, 2, 4, 4)


def shrunk(config: FeatureSlotsConfig) -> FeatureSlotsConfig:
    """The same architecture at tiny size."""
    vit = VIT if config.backbone.kind == "dino" else TINY_VIT
    narrow = (20,) * len(config.decoder.hidden)
    return replace(
        config,
        resolution=(16, 16),
        backbone=vit,
        token_hidden=30,
        num_slots=3,
        slot_size=12,
        corrector_mlp=None if config.corrector_mlp is None else 14,
        predictor_heads=None if config.predictor_heads is None else 2,
        predictor_mlp=18,
        decoder=replace(config.decoder, hidden=narrow, num_heads=2)
        if isinstance(config.decoder, MixerConfig)
        else replace(config.decoder, hidden=narrow),
    )


def batch(frames: int, size: tuple[int, int] = (16, 16)) -> dict[str, torch.Tensor]:
    return {"video": torch.rand(2, frames, 3, *size, generator=torch.Generator().manual_seed(0))}


def fresh(config: FeatureSlotsConfig) -> ObjectCentricModel:
    torch.manual_seed(0)
    return build(config)


def test_every_published_configuration_has_a_recipe() -> None:
    published = {f"videosaur_{name}" for name in ("movi_c", "movi_e", "ytvis", "ytvis_dinov2")}
    published |= {f"slotcontrast_{name}" for name in ("movi_c", "movi_e", "ytvis")} | {"dinosaur_coco_dinov2"}
    assert set(NAMES) == published | {"videosaur_demo", "slotcontrast_demo"}
    assert published <= set(catalog.PUBLISHED)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_has_a_gradient_wherever_something_is_trained(name: str) -> None:
    recipe = catalog.recipe(name)
    assert isinstance(recipe.model, FeatureSlotsConfig)
    model = fresh(shrunk(recipe.model))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = model.loss(batch(recipe.data.num_frames))
    torch.stack(list(losses.values())).sum().backward()
    for key, value in model.named_parameters():
        if key.startswith("slot_encoder.encoder.backbone."):
            assert value.grad is None and not value.requires_grad
        else:
            assert value.grad is not None and value.grad.isfinite().all(), key
            assert value.grad.any() or key.endswith("key.bias"), key  # a softmax cancels those of keys
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_recipes_fit_their_data_and_are_saved(name: str, tmp_path) -> None:
    recipe = catalog.recipe(name)
    model, data = recipe.model, recipe.data
    assert isinstance(model, FeatureSlotsConfig)
    assert model.resolution == (data.resolution, data.resolution)
    assert (data.num_frames == 1) == (model.predictor_heads is None) == (data.dataset == "coco")
    assert data.interpolation == "bicubic" and "segmentations" in data.keys
    assert recipe.evaluation.num_background == (data.dataset not in ("coco", "youtube_vis_2021"))
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert catalog.read_recipe(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_demo")])
def test_the_published_optimiser(name: str) -> None:
    optim, batch_size = catalog.recipe(name).optim, catalog.recipe(name).train.batch_size
    images = name.startswith("dinosaur")
    peak = {"slotcontrast_ytvis": 8e-4, "videosaur_ytvis_dinov2": 2e-4}.get(name, 4e-4)
    assert optim.learning_rate == peak and optim.schedule == "exponential_after_warmup"
    assert optim.warmup_steps == (10_000 if images else 2500) and optim.decay_rate == 0.5
    halved = {"slotcontrast_movi_e": 300_000}.get(name, 100_000)
    assert optim.warmup_steps + optim.decay_steps == halved
    assert optim.num_steps == (500_000 if images else halved)
    assert optim.max_grad_norm == (1.0 if images else 0.05)
    assert batch_size == (128 if name in ("videosaur_movi_c", "videosaur_movi_e", "videosaur_ytvis") else 64)


def test_initial_weights() -> None:
    """Those of the original's code (its initialisation is read, not recorded)."""
    mixer = fresh(replace(shrunk(catalog.recipe("videosaur_ytvis").model), slot_size=64, token_hidden=128))
    slots = mixer.slot_encoder.initializer
    assert torch.equal(slots.mean, torch.zeros(64))
    torch.testing.assert_close(slots.log_sigma, torch.full((64,), math.log(64**-0.5)))
    transform = mixer.slot_encoder.encoder.transform
    assert not transform[1].bias.any() and not transform[3].bias.any()
    assert transform[1].weight.abs().max() <= 1 / math.sqrt(24) and transform[
        1
    ].weight.std() > 0.5 / math.sqrt(3 * 24)
    gru = next(part for part in mixer.modules() if isinstance(part, GRUCell))
    assert 0.9 / 8 < gru.weight_hh.abs().max() <= 1 / 8 and gru.bias_hh.any()
    bound = math.sqrt(6 / 128)
    for attention in (part for part in mixer.modules() if isinstance(part, MultiHeadAttention)):
        for layer in (attention.query, attention.key, attention.value, attention.out):
            assert 0.9 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
    renderer = mixer.decoder.renderer
    assert not any(layer.bias.any() for layer in renderer.mlp if isinstance(layer, nn.Linear))
    assert renderer.positions.table.std().item() == pytest.approx(64**-0.5, rel=0.2)
    assert mixer.slot_encoder.predictor.block.mlp[0].bias.any()
    learned = fresh(replace(shrunk(catalog.recipe("slotcontrast_movi_c").model), slot_size=64))
    assert learned.slot_encoder.initializer.slots.std().item() == pytest.approx(64**-0.5, rel=0.2)
    assert not learned.slot_encoder.corrector.mlp[1].bias.any()
    assert not learned.decoder.renderer.last.bias.any() and not learned.decoder.renderer.first.bias.any()


@pytest.mark.parametrize("config", [VideosaurConfig(), SlotContrastConfig(), VideosaurImagesConfig()])
def test_saved_and_loaded(config: FeatureSlotsConfig, tmp_path) -> None:
    model = fresh(shrunk(config)).eval()
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config and type(again.config) is type(config)
    given = batch(2) | {"noise": torch.randn(2, 3, 12)}
    torch.testing.assert_close(again.predict(given).masks, model.predict(given).masks, rtol=0, atol=0)


def test_frames_of_another_shape_are_segmented_on_their_own_grid() -> None:
    model = fresh(shrunk(VideosaurConfig())).eval()
    found = model.predict(batch(2, (16, 28)))
    assert found.masks.shape == (2, 2, 3, 4, 7)
    torch.testing.assert_close(found.masks.sum(2), torch.ones(2, 2, 4, 7))
    with pytest.raises(UserError, match="do not divide into patches"):
        model.predict(batch(2, (16, 18)))


def test_another_number_of_slots() -> None:
    video = batch(2)
    assert fresh(shrunk(VideosaurConfig())).predict(video | {"num_slots": 5}).masks.shape[2] == 5
    with pytest.raises(UserError, match="3 learned slots"):
        fresh(shrunk(SlotContrastConfig(initializer="learned"))).predict(video | {"num_slots": 5})


@pytest.mark.parametrize("losses", [LossConfig(similarity=0.1), LossConfig(contrast=0.5)])
def test_images_have_no_loss_between_frames(losses: LossConfig) -> None:
    model = fresh(replace(shrunk(VideosaurConfig()), losses=losses))
    with pytest.raises(UserError, match="at least 2"):
        model.loss(batch(1))


def test_similarity_needs_the_models_own_grid_and_keys() -> None:
    model = fresh(replace(shrunk(VideosaurConfig()), losses=LossConfig(similarity=0.1)))
    with pytest.raises(UserError, match="each of 16 patches goes, and the frames have 28"):
        model.loss(batch(2, (16, 28)))
    with pytest.raises(UserError, match="keys"):
        model.loss({"features": torch.rand(2, 2, 16, 24)})


def test_weights_of_losses() -> None:
    video = batch(3) | {"noise": torch.randn(2, 3, 12)}
    whole = replace(shrunk(VideosaurConfig()), losses=LossConfig(features=2.0, similarity=0.1, contrast=0.5))
    model = fresh(whole)
    explained = model.decoder.explained(model.encode(video), video)
    found = model.loss(video)
    assert set(found) == {"features", "similarity", "contrast"}
    for name, weight in {"features": 2.0, "similarity": 0.1, "contrast": 0.5}.items():
        torch.testing.assert_close(found[name], weight * model.decoder.losses[name].loss(explained))
    without = replace(whole, losses=LossConfig(features=0.0, similarity=0.1))
    assert set(fresh(without).loss(video)) == {"similarity"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resolution": (16, 18)}, "do not divide into patches"),
        ({"losses": LossConfig(features=0.0)}, "nothing to decode"),
        ({"losses": LossConfig(features=0.0, contrast=1.0)}, "nothing to decode"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        replace(shrunk(VideosaurConfig()), **changes)


def test_registers_are_of_dinov2_alone() -> None:
    with pytest.raises(UserError, match="no registers"):
        build_backbone(replace(VIT, num_registers=4))


def test_a_perceptron_and_a_mixer_have_the_same_encoder() -> None:
    """The two decoders differ in nothing else: slots of the same weights are the same."""
    mixer, perceptron = (
        fresh(replace(shrunk(VideosaurConfig()), decoder=decoder))
        for decoder in (MixerConfig(hidden=(20,), num_heads=2), PerceptronConfig(hidden=(20, 20)))
    )
    perceptron.slot_encoder.load_state_dict(mixer.slot_encoder.state_dict())
    given = batch(2) | {"noise": torch.randn(2, 3, 12)}
    assert torch.equal(mixer.predict(given).slots, perceptron.predict(given).slots)
    assert not torch.equal(mixer.predict(given).masks, perceptron.predict(given).masks)


def test_prediction_computes_no_keys():
    model = fresh(shrunk(catalog.recipe("videosaur_ytvis").model)).eval()
    encoder = model.feature_encoder
    assert encoder is not None and encoder.backbone.keys
    asked, keys_of = [], encoder.backbone.keys_of
    encoder.backbone.keys_of = lambda block, x: asked.append(x) or keys_of(block, x)
    seen = batch(3)
    model.predict({**seen, "noise": torch.zeros(2, 3, 12)})
    rollout(model, seen, 2, 1)
    model.slot_encoder.tokens(seen["video"])
    assert not asked
    assert model.loss(seen)["similarity"] > 0 and len(asked) == 1


@pytest.mark.parametrize("part", ["predictor_heads", "backbone.num_heads", "decoder.num_heads"])
def test_heads_that_do_not_divide_a_width_are_refused_in_one_sentence(part: str) -> None:
    config = with_changes(shrunk(catalog.recipe("videosaur_ytvis").model), **{part: 5})
    with pytest.raises(UserError, match=r"of width (12|24) does not divide into 5 heads"):
        catalog.build(config)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 3, 16, 25), "should be 24 wide.* got .*25"),
        ((1, 3, 12, 24), "features of 16 patches, got those of 12"),
    ],
)
def test_stored_features_that_do_not_fit_are_refused(shape: tuple[int, ...], says: str) -> None:
    model = fresh(shrunk(catalog.recipe("slotcontrast_movi_c").model))
    with pytest.raises(UserError, match=says):
        model.loss({"features": torch.rand(shape)})
