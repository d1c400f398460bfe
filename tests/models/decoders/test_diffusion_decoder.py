"""SlotDiffusion's decoder: what is trained, what its pictures depend on, and what they do not."""

import warnings
from dataclasses import replace

import pytest
import torch

from torchslots import load_model
from torchslots.io.errors import UserError
from torchslots.models import edits as editing
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.layers.unet import ConditionedUNet
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.slotdiffusion import (
    DiffusionConfig,
    SamplingConfig,
    SlotDiffusionConfig,
    UNetConfig,
    build,
)
from torchslots.recipes.slotdiffusion_encoder import CnnEncoderConfig, SlotsConfig, TransformerPredictorConfig
from torchslots.recipes.tokenizers import VqvaeConfig

TINY = SlotDiffusionConfig(
    SlotsConfig(
        resolution=(16, 24),
        encoder=CnnEncoderConfig(channels=(8, 8)),
        token_size=16,
        num_slots=3,
        slot_size=16,
        mlp_size=24,
        predictor=TransformerPredictorConfig(num_layers=1, num_heads=2, mlp_size=24),
    ),
    VqvaeConfig(
        resolution=(16, 24), channels=8, multipliers=(1, 1, 1), num_blocks=1, num_groups=4, num_codes=16
    ),
    UNetConfig(channels=(32, 64), attention=(False, True), blocks_per_level=1, head_size=16),
    sampling=SamplingConfig(num_steps=4),
)


def tiny(config: SlotDiffusionConfig = TINY) -> ObjectCentricModel:
    """With weights in the layers that start at zero, so that slots have a say."""
    torch.manual_seed(0)
    model = build(config).eval()
    for parameter in model.decoder.get_submodule("unet").parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def decoder_of(model: ObjectCentricModel) -> DiffusionDecoder:
    assert isinstance(model.decoder, DiffusionDecoder)
    return model.decoder


def video(frames: int = 4, clips: int = 2) -> torch.Tensor:
    return torch.rand(clips, frames, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_gradients_reach_everything_but_the_image_code() -> None:
    model = tiny().train()
    model.loss({"video": video()})["denoise"].backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith("decoder.tokenizer.")
        assert parameter.requires_grad != frozen and (parameter.grad is None) == frozen, name
        assert frozen or (parameter.grad is not None and bool(parameter.grad.any())), name


def test_the_image_code_stays_in_evaluation() -> None:
    model = tiny(replace(TINY, tokenizer=replace(TINY.tokenizer, dropout=0.5)))
    assert model.train().training and not decoder_of(model).tokenizer.training
    assert not any(module.training for module in decoder_of(model).tokenizer.modules())
    assert decoder_of(model).unet.training


def test_the_loss_is_that_of_the_draws_it_is_given() -> None:
    model, batch = tiny(), {"video": video()}
    torch.manual_seed(5)
    drawn = model.loss(batch)["denoise"]
    torch.manual_seed(5)
    timesteps = torch.randint(0, 1000, (8,))
    noise = torch.randn(8, 3, 4, 6)
    given = model.loss({**batch, "timesteps": timesteps, "latent_noise": noise})["denoise"]
    assert torch.equal(drawn, given)
    other = model.loss({**batch, "timesteps": timesteps, "latent_noise": -noise})["denoise"]
    assert not torch.allclose(given, other)


def test_a_fresh_unet_predicts_nothing() -> None:
    torch.manual_seed(0)
    decoder = decoder_of(build(TINY).eval())
    output = decoder.unet(torch.randn(1, 3, 4, 6), torch.tensor([3.5]), torch.randn(1, 3, 16))
    assert not output.any()


def test_the_unet_sees_a_set_of_slots() -> None:
    decoder, draw = decoder_of(tiny()), torch.Generator().manual_seed(2)
    noised, slots = torch.randn(2, 3, 4, 6, generator=draw), torch.randn(2, 3, 16, generator=draw)
    timesteps = torch.tensor([10.25, 700.0])
    with torch.no_grad():
        first = decoder.unet(noised, timesteps, slots)
        shuffled = decoder.unet(noised, timesteps, slots[:, [2, 0, 1]])
        others = decoder.unet(noised, timesteps, slots + 1)
    torch.testing.assert_close(first, shuffled)
    assert not torch.allclose(first, others, atol=1e-3)


@pytest.mark.parametrize("sampler", ["dpm_solver", "ddim", "ddpm"])
def test_same_seed_same_pictures_however_the_video_is_cut(sampler) -> None:
    sampling = SamplingConfig(sampler, num_steps=4)
    model = tiny(replace(TINY, sampling=sampling, diffusion=DiffusionConfig(num_steps=20)))
    whole = model.predict({"video": video()})
    first = model.predict({"video": video()[:, :3]})
    second = model.predict({"video": video()[:, 3:]}, first.state)
    parts = torch.cat([first.recon["video"], second.recon["video"]], 1)
    torch.testing.assert_close(parts, whole.recon["video"], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.predict({"video": video()}).recon["video"], whole.recon["video"])


def test_another_seed_makes_other_pictures_and_frames_can_start_apart() -> None:
    slots = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(3))[:1].expand(2, -1, -1)
    pictures = {}
    for name, sampling in {
        "one": SamplingConfig(num_steps=4),
        "other": SamplingConfig(num_steps=4, seed=1),
        "apart": SamplingConfig(num_steps=4, one_noise=False),
    }.items():
        pictures[name] = decoder_of(tiny(replace(TINY, sampling=sampling))).generate(slots)
    assert torch.allclose(pictures["one"][0], pictures["one"][1], atol=1e-5)
    assert not torch.allclose(pictures["one"], pictures["other"], atol=1e-2)
    assert not torch.allclose(pictures["apart"][0], pictures["apart"][1], atol=1e-2)


def test_masks_alone_ask_neither_unet_nor_image_code(monkeypatch) -> None:
    model = tiny()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("not needed for masks")

    monkeypatch.setattr(decoder_of(model), "generate", never)
    prediction = model.predict({"video": video()}, recon=False)
    assert prediction.recon == {} and prediction.slot_recon is None
    torch.testing.assert_close(prediction.masks.sum(2), torch.ones(2, 4, 16, 24))
    assert prediction.masks.shape == (2, 4, 3, 16, 24)


def test_edited_and_predicted_slots_are_drawn_again() -> None:
    model = tiny()
    with torch.no_grad():
        clip = model.encode({"video": video()})
        removed, ahead = editing.remove(clip, [1]), model.slot_encoder.roll_on(clip.state, 2)
        whole, fewer, later = (decoder_of(model).decode(each) for each in (clip, removed, ahead))
    assert fewer.masks.shape[2] == 2 and later.masks.shape == (2, 2, 3, 16, 24)
    assert later.recon["video"].isfinite().all()
    assert not torch.allclose(fewer.recon["video"], whole.recon["video"], atol=1e-3)


def test_latents_are_scaled_there_and_back() -> None:
    plain = decoder_of(tiny())
    scaled = decoder_of(tiny(replace(TINY, diffusion=DiffusionConfig(latent_scale=2.0))))
    torch.testing.assert_close(plain.latents(video()), 2 * scaled.latents(video()))


def test_snapping_is_a_choice() -> None:
    slots = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(3))
    estimates = {}
    for snap in (True, False):
        decoder = decoder_of(tiny(replace(TINY, sampling=SamplingConfig(snap=snap))))
        with torch.no_grad():
            estimate = decoder.estimator(slots)(torch.ones(1, 3, 4, 6), decoder.diffusion.step(500))
        codes = decoder.tokenizer.quantize(estimate.latent).latent
        estimates[snap] = torch.allclose(codes, estimate.latent, atol=1e-6)
    assert estimates == {True: True, False: False}


def test_saved_and_loaded_it_draws_the_same(tmp_path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(tmp_path / "model").eval()
    ours, theirs = (each.predict({"video": video()}).recon["video"] for each in (model, loaded))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: replace(TINY, slots=replace(TINY.slots, resolution=(16, 16))), "tokenizer.resolution"),
        (lambda: replace(TINY, unet=UNetConfig()), "multiples of 8"),
        (lambda: DiffusionConfig(prediction_type="picture"), "'picture'"),  # pyright: ignore[reportArgumentType]
        (lambda: DiffusionConfig(schedule="flat"), "'flat'"),  # pyright: ignore[reportArgumentType]
        (lambda: SamplingConfig("euler"), "'euler'"),  # pyright: ignore[reportArgumentType]
    ],
    ids=["resolution", "levels", "prediction", "schedule", "sampler"],
)
def test_numbers_that_fit_nothing_are_refused(change, message) -> None:
    with pytest.raises(UserError, match=message):
        change()


@pytest.mark.parametrize(
    "channels, attention, message",
    [((32, 48), (True, True), "got 48"), ((32,), (True, False), "1 widths and 2"), ((), (), "0 widths")],
    ids=["width", "answers", "none"],
)
def test_impossible_unets_are_refused(channels, attention, message) -> None:
    with pytest.raises(UserError, match=message):
        ConditionedUNet(3, channels, attention, blocks_per_level=1, head_size=16, context_size=16)
