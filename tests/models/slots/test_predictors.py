"""Properties of what slots do between frames."""

import pytest
import torch
from torch import Tensor, nn

from torchslots.models.slots.predictors import LSTMPredictor, ModulePredictor, Recurrence
from torchslots.models.types import Grouping, Pose, State

NUM_FRAMES, SIZE, HIDDEN = 6, 5, 7


def frames() -> Tensor:
    return torch.randn(NUM_FRAMES, 2, 3, SIZE, generator=torch.Generator().manual_seed(1))


def recur(truncate_every: int | None = None) -> LSTMPredictor:
    torch.manual_seed(0)
    return LSTMPredictor(nn.Linear(SIZE, SIZE), SIZE, HIDDEN, truncate_every=truncate_every)


def run(predictor: nn.Module, slots: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Predictions for all frames, and the state after them."""
    current = state or State(slots[0])
    found = []
    for frame in slots:
        current = predictor(Grouping(frame, frame.new_zeros(2, 3, 0)), current)
        found.append(current.slots)
    return torch.stack(found), current


def test_recur_is_torchs_lstm_with_every_slot_by_itself():
    predictor, slots = recur(), frames()
    reference = nn.LSTM(SIZE, HIDDEN)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    reference.load_state_dict({f"{name}_l0": getattr(predictor.cell, name) for name in names})
    hidden, _ = reference(predictor.block(slots).flatten(1, 2))
    expected = predictor.out(hidden).unflatten(1, (2, 3))
    torch.testing.assert_close(run(predictor, slots)[0], expected)


def test_memory_passes_from_slice_to_slice():
    predictor, slots = recur(truncate_every=2), frames()
    whole, _ = run(predictor, slots)
    first, state = run(predictor, slots[:3])
    second, state = run(predictor, slots[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert isinstance(state.memory, Recurrence) and state.memory.num_frames == NUM_FRAMES


def test_a_new_clip_starts_without_memory():
    predictor, slots = recur(), frames()
    once, _ = run(predictor, slots)
    again, _ = run(predictor, slots)
    torch.testing.assert_close(once, again)


@pytest.mark.parametrize("every", [None, 2, 3])
def test_gradients_end_where_they_are_cut(every):
    """The last prediction depends on the frames since the last cut, the cut one's own slots not among them."""
    slots = frames().requires_grad_()
    predicted, _ = run(recur(every), slots)
    predicted[-1].sum().backward()
    assert slots.grad is not None
    reached = [bool(frame.abs().sum() > 0) for frame in slots.grad]
    last_cut = -1 if every is None else (NUM_FRAMES - 1) // every * every
    assert reached == [frame > last_cut for frame in range(NUM_FRAMES)]


def test_cuts_leave_values_as_they_are():
    slots = frames()
    torch.testing.assert_close(run(recur(), slots)[0], run(recur(2), slots)[0])


def test_frames_of_reference_and_copies_are_handed_on():
    pose, source = Pose(torch.zeros(2, 3, 2)), torch.zeros(2, 3, dtype=torch.int64)
    slots = frames()[0]
    for predictor in (ModulePredictor(nn.Linear(SIZE, SIZE)), recur()):
        found = predictor(Grouping(slots, slots.new_zeros(2, 3, 0), pose), State(slots, source=source))
        assert found.pose is pose and found.source is source


def test_apply_is_its_block():
    block, slots = nn.Linear(SIZE, SIZE), frames()
    found, state = run(ModulePredictor(block), slots)
    torch.testing.assert_close(found, block(slots))
    assert state.memory is None
