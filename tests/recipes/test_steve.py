"""Both STEVEs' recipes: the published numbers, numbers that survive being written, and what tells the two apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchslots.hub import load_model
from torchslots.io.errors import UserError
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder, sampled_codes
from torchslots.models.layers.position import cell_grid
from torchslots.models.model import ObjectCentricModel, conditioning
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.predictors import ModulePredictor
from torchslots.models.tokenizers.dvae import gumbel_softmax
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog, steve, steve_joint
from torchslots.recipes.config import to_json
from torchslots.recipes.slotdiffusion_encoder import (
    CnnEncoderConfig,
    ResNetEncoderConfig,
    SlotsConfig,
    TransformerPredictorConfig,
)
from torchslots.recipes.steve import CodeTransformerConfig, SteveConfig
from torchslots.recipes.steve_joint import SteveJointConfig
from torchslots.recipes.tokenizers import DvaeConfig
from torchslots.training import optim
from torchslots.training.step import TrainStep

TOKENIZER = DvaeConfig(resolution=(16, 24), vocabulary=13, channels=8, temperature_steps=10)
WRITER = CodeTransformerConfig(size=16, num_layers=2, num_heads=4, mlp_size=24)
TINY = SteveConfig(
    SlotsConfig(
        resolution=(16, 24),
        encoder=CnnEncoderConfig(channels=(8, 8)),
        token_size=12,
        num_slots=3,
        slot_size=16,
        mlp_size=20,
        predictor=TransformerPredictorConfig(num_layers=1, num_heads=4, mlp_size=24),
    ),
    TOKENIZER,
    WRITER,
)
TINY_JOINT = SteveJointConfig(
    TOKENIZER,
    replace(WRITER, xavier_start=True),
    channels=(8, 8),
    token_size=12,
    num_slots=3,
    slot_size=16,
    mlp_size=20,
    predictor_mlp=24,
)
TINIES = {"two_steps": TINY, "joint": TINY_JOINT}
VIDEO = ("movi_d", "movi_e", "movi_solid", "movi_tex")
NAMES = [*(f"steve_{part}" for part in (*VIDEO, "clevrtex")), *(f"steve_joint_{part}" for part in VIDEO)]


def batch(frames: int = 2) -> dict[str, torch.Tensor]:
    return {"video": torch.rand(2, frames, 3, 16, 24, generator=torch.Generator().manual_seed(0))}


def built(config: SteveConfig | SteveJointConfig) -> ObjectCentricModel:
    model = catalog.build_seeded(config, 0)
    assert isinstance(model, ObjectCentricModel)
    return model


# ------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("part", VIDEO)
def test_published_numbers_of_videos(part: str) -> None:
    found = catalog.recipe(f"steve_{part}")
    model, rates = found.model, found.optim
    assert isinstance(model, SteveConfig)
    solid = part in ("movi_solid", "movi_tex")
    assert model.slots.num_slots == (12 if solid else 15)
    assert isinstance(model.slots.encoder, CnnEncoderConfig if solid else ResNetEncoderConfig)
    assert (model.slots.num_iterations, model.slots.slot_size, model.slots.mlp_size) == (2, 192, 384)
    assert model.slots.predictor == TransformerPredictorConfig(2, 4, 768, 0.1)
    assert model.transformer == CodeTransformerConfig(
        size=192, num_layers=8, num_heads=4, mlp_size=768, dropout=0.1
    )
    assert (rates.learning_rate, rates.decoder_learning_rate, rates.min_learning_rate) == (1e-4, 3e-4, 0)
    assert (rates.max_grad_norm, rates.clip_norm, rates.schedule) == (0.05, "l2", "cosine")
    assert rates.warmup_steps == pytest.approx(0.05 * rates.num_steps)
    assert rates.num_steps == 30 * (9749 * 22 // 32)
    assert (found.data.dataset, found.data.num_frames, found.train.batch_size) == (part, 3, 32)
    assert found.evaluation.split == ("test" if solid else "validation")


def test_published_numbers_of_images() -> None:
    found = catalog.recipe("steve_clevrtex")
    model = found.model
    assert isinstance(model, SteveConfig) and model.slots.predictor is None
    assert (model.slots.num_slots, model.slots.num_iterations) == (11, 3)
    assert (found.data.num_frames, found.train.batch_size, found.optim.max_grad_norm) == (1, 64, 1.0)
    assert found.optim.num_steps == 200 * (40_000 // 64)


@pytest.mark.parametrize("part", VIDEO)
def test_published_numbers_of_the_original(part: str) -> None:
    found = catalog.recipe(f"steve_joint_{part}")
    model, rates = found.model, found.optim
    assert isinstance(model, SteveJointConfig)
    assert (model.num_slots, model.num_iterations, model.slot_size, model.mlp_size) == (15, 2, 192, 192)
    assert (model.tokenizer.vocabulary, model.transformer.num_layers, model.predictor_layers) == (4096, 8, 1)
    assert (rates.clip_norm, rates.max_grad_norm, rates.schedule) == ("inf", 0.05, "exponential")
    assert (rates.warmup_steps, rates.decay_steps, rates.decay_rate) == (30_000, 250_000, 0.5)
    assert (found.data.dataset, found.data.num_frames, found.train.batch_size) == (part, 3, 24)
    slots, writer, tokenizer = (
        optim.schedule(rates, name) for name in ("", "decoder.", "decoder.tokenizer.")
    )
    assert slots(250_000) == pytest.approx(0.5e-4) and writer(15_000) == pytest.approx(1.5e-4, rel=0.05)
    assert tokenizer(0) == tokenizer(250_000) == 3e-4


@pytest.mark.parametrize("name", [*NAMES, "steve_demo"])
def test_written_and_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(to_json(catalog.recipe(name)))
    assert catalog.read_recipe(tmp_path / "recipe.json") == catalog.recipe(name)


def test_the_demonstration_writes_the_code_that_its_tokenizer_learns() -> None:
    demo = catalog.recipe("steve_demo")
    assert isinstance(demo.model, SteveConfig)
    assert demo.model.tokenizer == catalog.recipe("dvae_demo").model
    assert demo.data.resolution == demo.model.resolution[0] == 32


def test_slots_and_tokenizer_see_the_same_frames() -> None:
    with pytest.raises(UserError, match=r"frames of \(16, 24\), the tokenizer for \(128, 128\)"):
        SteveConfig(TINY.slots)


# -------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("kind", TINIES)
def test_every_trainable_weight_has_a_gradient_and_no_other(kind: str) -> None:
    model = built(TINIES[kind])
    torch.manual_seed(0)
    torch.stack(list(model.loss({**batch(), "step": 0}).values())).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert without == frozen
    tokenizer = {name for name, _ in model.named_parameters() if name.startswith("decoder.tokenizer.")}
    assert frozen == (tokenizer if kind == "two_steps" else set())


@pytest.mark.parametrize("kind", TINIES)
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    model = built(TINIES[kind]).eval()
    save_pretrained(model, TINIES[kind], tmp_path)
    other = load_model(tmp_path).eval()
    assert other.config == TINIES[kind]
    given = {**batch(), "noise": torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))}
    first, second = model.predict(given), other.predict(given)
    assert torch.equal(first.recon["video"], second.recon["video"])
    assert torch.equal(first.segmentation, second.segmentation)


@pytest.mark.parametrize("kind", TINIES)
def test_a_clip_in_slices_is_the_clip(kind: str) -> None:
    model = built(TINIES[kind]).eval()
    given = {**batch(4), "noise": torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))}
    whole = model.predict(given)
    first = model.predict({**given, "video": given["video"][:, :1]})
    second = model.predict({**given, "video": given["video"][:, 1:]}, first.state)
    torch.testing.assert_close(torch.cat([first.slots, second.slots], 1), whole.slots)
    parts = torch.cat([first.recon["video"], second.recon["video"]], 1)
    torch.testing.assert_close(parts, whole.recon["video"])


@pytest.mark.parametrize("kind", TINIES)
def test_learning_one_batch(kind: str) -> None:
    """The loss of a batch falls; the tokenizer of the two steps stays as it was."""
    model = built(TINIES[kind])
    demo = catalog.recipe("steve_demo")
    numbers = replace(demo.optim, learning_rate=1e-3, decoder_learning_rate=3e-3, warmup_steps=1)
    before = {
        name: value.clone() for name, value in model.decoder.state_dict().items() if "tokenizer" in name
    }
    step = TrainStep(model, numbers, replace(demo.train, batch_size=2, compile=False), "cpu")
    losses = [step(index, batch()).losses["tokens"].item() for index in range(40)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    same = all(torch.equal(model.decoder.state_dict()[name], value) for name, value in before.items())
    assert same == (kind == "two_steps")


def test_the_tokenizer_learns_in_the_same_steps() -> None:
    model = built(TINY_JOINT)
    decoder = model.decoder
    assert (
        isinstance(decoder, AutoregressiveDecoder)
        and decoder.target_codes is sampled_codes
        and not decoder.frozen
    )
    assert set(model.loss({**batch(), "step": 0})) == {"tokens", "tokenizer"}


def test_sums_over_a_picture_in_its_own_range() -> None:
    """Both losses of the original are sums: of codes, and of squared errors in [0, 1]."""
    model = built(TINY_JOINT).eval()
    decoder = model.decoder
    assert isinstance(decoder, AutoregressiveDecoder)
    given = {**batch(), "noise": torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))}
    torch.manual_seed(0)
    losses = model.loss(given)
    assert losses["tokens"].item() == pytest.approx(24 * torch.tensor(13.0).log().item(), rel=0.3)
    pictures = batch()["video"].flatten(0, 1)
    torch.manual_seed(0)
    scores = decoder.tokenizer.logits(pictures)
    painted = decoder.tokenizer.decode(gumbel_softmax(scores, 0.1))
    torch.testing.assert_close(losses["tokenizer"], (painted - pictures).square().sum() / 4)


def test_the_perceptron_rests_in_the_last_round() -> None:
    model = built(TINY_JOINT).eval()
    corrector = model.slot_encoder.corrector
    assert isinstance(corrector, SlotAttention)
    given = {**batch(1), "noise": torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))}
    inputs = corrector.project(model.slot_encoder.tokens(given["video"])[:, 0])
    slots = model.slot_encoder.initializer(conditioning(given)).slots
    gathered, _ = corrector.attend(slots, inputs)
    slots = corrector.update(slots, gathered)
    gathered, _ = corrector.attend(slots, inputs)
    torch.testing.assert_close(model.encode(given).slots[:, 0], corrector.gru(gathered, slots))


def test_other_draws_start_other_slots() -> None:
    model = built(TINY_JOINT).eval()
    torch.manual_seed(0)
    first, second = model.encode(batch()).slots, model.encode(batch()).slots
    assert not torch.allclose(first, second, atol=1e-3)
    assert model.encode({**batch(), "num_slots": 5}).slots.shape[2] == 5


def test_the_predictor_adds_to_what_it_normalised() -> None:
    predictor = built(TINY_JOINT).eval().slot_encoder.predictor
    assert isinstance(predictor, ModulePredictor) and isinstance(predictor.block, torch.nn.Sequential)
    block, norm = predictor.block
    for layer in (block.attention.out, block.mlp[-1]):
        torch.nn.init.zeros_(layer.weight)
    assert all(part.bias is None for part in (block.attention.query, block.attention.out))
    slots = 4 * torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)) + 1
    torch.testing.assert_close(predictor.block(slots), norm(block.norm_attention(slots)))


def test_cells_lie_between_the_edges() -> None:
    grid = cell_grid(2, 4)
    torch.testing.assert_close(grid[1, 0], torch.tensor([0.75, 0.125, 0.25, 0.875]))
    torch.testing.assert_close(grid.mean((0, 1)), torch.full((4,), 0.5))


def test_tokens_have_the_place_of_their_cells() -> None:
    """Frames of 64 rows are not halved, all others are."""
    large = replace(TINY_JOINT, tokenizer=replace(TOKENIZER, resolution=(72, 80)))
    whole = replace(TINY_JOINT, tokenizer=replace(TOKENIZER, resolution=(64, 64)))
    assert TINY_JOINT.token_grid() == (8, 12) and large.token_grid() == (36, 40)
    assert whole.token_grid() == (64, 64)
    model = built(large)
    clip = model.encode({"video": torch.rand(1, 1, 3, 72, 80)})
    assert clip.attn.shape[-1] == 36 * 40
    assert steve_joint.build(large).config == large and steve.build(TINY).config == TINY
