"""Other numbers of slots and rounds with the same weights, and who refuses them."""

from dataclasses import replace

import pytest
import torch

from tiny_models import TINY, batch, tiny
from torchslots.io.errors import UserError
from torchslots.models.adjust import decoding_in_parts, with_counts
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.invariant import InvariantSlotAttention
from torchslots.recipes import isa, savi, statm
from torchslots.recipes.savi import CnnConfig


def rounds_of(model: ObjectCentricModel) -> int:
    corrector = model.slot_encoder.corrector
    assert isinstance(corrector, InvariantSlotAttention)
    return corrector.core.num_iterations


@pytest.mark.parametrize("conditioning", ["gaussian", "learned_gaussian"])
def test_drawn_slots_of_videos_may_be_more(conditioning):
    model = tiny(conditioning)
    other = with_counts(model, num_slots=9, num_iterations=2)
    found = other.predict({"video": batch()["video"]})
    assert found.masks.shape[2] == 9 and other.config == replace(model.config, num_slots=9, num_iterations=2)
    assert model.predict({"video": batch()["video"]}).masks.shape[2] == TINY.num_slots
    stored, ours = dict(model.named_parameters()), dict(other.named_parameters())
    assert stored.keys() == ours.keys() and all(stored[name] is ours[name] for name in stored)
    rebuilt = savi.build(other.config)
    rebuilt.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("conditioning", "says"),
    [("boxes", "hints"), ("centers", "hints"), ("masks", "hints"), ("learned", "fix their number")],
)
def test_slots_that_are_fixed_are_refused(conditioning, says):
    with pytest.raises(UserError, match=says):
        with_counts(tiny(conditioning), num_slots=9)


def test_decoding_in_parts_changes_no_number():
    model, data = tiny(), batch()
    other = decoding_in_parts(model, 2)
    assert (other.decoder.chunk, model.decoder.chunk) == (2, None)
    torch.testing.assert_close(other.predict(data).masks, model.predict(data).masks)
    assert decoding_in_parts(other, 3) is other


def test_rounds_of_any_model_may_change():
    model, data = tiny(), batch()
    more = with_counts(model, num_iterations=3)
    assert not torch.allclose(more.predict(data).slots, model.predict(data).slots)
    remembers = statm.build(statm.StatmConfig(TINY))
    assert with_counts(remembers, num_iterations=2).config.savi.num_iterations == 2


def test_frames_of_reference_are_fitted_in_more_rounds_too():
    config = isa.IsaConfig(
        resolution=(8, 8),
        encoder=CnnConfig((6,), (1,)),
        num_slots=3,
        slot_size=8,
        decoder=isa.PixelDecoderConfig(grid=(8, 8), channels=(8,)),
    )
    torch.manual_seed(0)
    model = isa.build(config)
    more = with_counts(model, num_iterations=5)
    assert rounds_of(more) == 5 and rounds_of(model) == 3
    with pytest.raises(UserError, match="fix their number"):
        with_counts(model, num_slots=4)


def test_nothing_asked_is_nothing_done():
    model = tiny()
    assert with_counts(model) is model
