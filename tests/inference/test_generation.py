"""How models draw is chosen after they were trained, and what a model draws does not hang on chunks."""

import pytest
import torch

from inference.small_sets import Videos, painter
from tiny_models import tiny
from torchslots.inference.generation import SamplingOptions, decode_frames, require_frames, with_sampling
from torchslots.io.errors import UserError
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.diffusion.samplers import NamedSampler
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip
from torchslots.recipes import catalog
from training.two_steps import SIDE


@torch.no_grad()
def clip(model: ObjectCentricModel, videos: int = 2, frames: int = 3) -> Clip:
    draw = torch.Generator().manual_seed(0)
    return model.encode({"video": torch.rand(videos, frames, 3, SIDE, SIDE, generator=draw)})


def diffusion(options: SamplingOptions) -> DiffusionDecoder:
    decoder = with_sampling(painter("slotdiffusion"), options).decoder
    assert isinstance(decoder, DiffusionDecoder)
    return decoder


def steps_of(decoder: DiffusionDecoder, slots: torch.Tensor) -> int:
    """Evaluations of the U-Net in one picture."""
    calls = []
    decoder.unet.register_forward_hook(lambda *_: calls.append(1))
    decoder.generate(slots)
    return len(calls)


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        (SamplingOptions(), 2),
        (SamplingOptions(steps=5), 5),
        (SamplingOptions(sampler="dpm_solver"), 2),
        (SamplingOptions(sampler="ddim", steps=4), 4),
    ],
    ids=["built", "steps", "same", "ddim"],
)
def test_samplers_and_steps(options, evaluations):
    slots = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    assert steps_of(diffusion(options), slots) == evaluations


def test_another_sampler_makes_its_own_number_of_steps():
    sampler = diffusion(SamplingOptions(sampler="ddim")).sampler
    assert sampler == NamedSampler("ddim", num_steps=200)


def test_noise_and_codebook_are_chosen():
    decoder = diffusion(SamplingOptions(snap=False, one_noise=False, seed=7))
    assert not decoder.snap and not decoder.one_noise and decoder.seed == 7
    slots = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1)).expand(2, -1, -1)
    apart = decoder.generate(slots)
    assert not torch.equal(apart[0], apart[1])
    together = diffusion(SamplingOptions()).generate(slots)
    assert torch.equal(together[0], together[1])


def test_codes_are_drawn_from_a_seed():
    model = painter("steve")
    given = clip(model)
    first, again, other = (
        decode_frames(with_sampling(model, SamplingOptions(temperature=5.0, seed=seed)), given)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    sharp = decode_frames(with_sampling(model, SamplingOptions(temperature=1.0, top_k=1)), given)
    assert torch.equal(sharp, decode_frames(model, given))


def test_the_model_handed_in_stays_as_it_is():
    model = painter("steve")
    assert isinstance(model.decoder, AutoregressiveDecoder)
    before = model.decoder.choose
    other = with_sampling(model, SamplingOptions(temperature=1.0))
    assert model.decoder.choose is before and other is not model
    assert next(iter(other.parameters())) is next(iter(model.parameters()))
    assert with_sampling(model, SamplingOptions()) is model


@pytest.mark.parametrize("name", ["slotdiffusion", "steve"])
def test_chunks_do_not_change_pictures(name):
    model = painter(name)
    given = clip(model)
    whole = decode_frames(model, given, 100)
    assert whole.shape == (2, 3, 3, SIDE, SIDE) and whole.dtype == torch.uint8
    difference = (decode_frames(model, given, 1).int() - whole.int()).abs()
    assert difference.max() <= 1 and len(whole.unique()) > 10


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "slotdiffusion",
            SamplingOptions(temperature=1.0),
            "samples by diffusion: `temperature` means nothing",
        ),
        ("steve", SamplingOptions(steps=3), "decodes codes one by one: `steps` means nothing"),
        ("steve", SamplingOptions(top_k=3), "give a temperature too"),
    ],
    ids=["temperature", "steps", "top_k"],
)
def test_what_means_nothing_is_refused(name, options, says):
    with pytest.raises(UserError, match=says):
        with_sampling(painter(name), options)


def test_models_that_paint_slots_have_no_choice():
    with pytest.raises(UserError, match="decodes each slot at once"):
        with_sampling(tiny(), SamplingOptions(seed=1))


@pytest.mark.parametrize("name", ["steps", "temperature", "top_k"])
def test_numbers_are_positive(name):
    with pytest.raises(UserError, match=f"{name} should be more than 0"):
        SamplingOptions(**{name: 0})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["slotdiffusion", "steve"])
def test_other_slots_make_other_pictures(name):
    model, videos = painter(name), Videos()
    pictures = [videos.sample(index, None)["video"][None, :1] for index in range(5)]
    with torch.no_grad():
        painted = [decode_frames(model, model.encode({"video": picture})) for picture in pictures]
    assert len({picture.numpy().tobytes() for picture in painted}) >= 3


def test_ancestral_sampling_takes_every_step():
    with pytest.raises(UserError, match="takes all steps of the schedule"):
        SamplingOptions(sampler="ddpm", steps=10)
    assert diffusion(SamplingOptions(sampler="ddpm")).sampler is not diffusion(SamplingOptions()).sampler


def test_who_paints_frames():
    for name in ("slotdiffusion", "steve"):
        require_frames(painter(name))
    with pytest.raises(UserError, match="decodes flow, not frames"):
        require_frames(tiny())
    sets = catalog.build_seeded(catalog.recipe("set_prediction_demo").model, 0)
    assert isinstance(sets, ObjectCentricModel)
    with pytest.raises(UserError, match="This model decodes no frames. Give"):
        require_frames(sets)
