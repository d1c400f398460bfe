"""Random starts: one source for a batch, or one for each clip."""

import torch

from torchslots.models.model import conditioning
from torchslots.models.slots.initializers import Gaussian
from torchslots.models.slots.poses import SampledPoses
from torchslots.models.slots.seeding import sample_noise, seeded
from torchslots.models.types import Conditioning
from torchslots.recipes import isa
from torchslots.recipes.savi import CnnConfig


def hint(size: int, **given) -> Conditioning:
    return Conditioning(size, torch.device("cpu"), **given)


def named(*names: str, seed: int = 0) -> dict:
    return seeded({"video": torch.zeros(len(names), 1, 3, 4, 4), "name": list(names)}, seed)


def test_one_generator_draws_for_all_clips_as_torch_does():
    drawn = sample_noise(hint(2, generator=torch.Generator().manual_seed(3)), (2, 4, 5))
    assert torch.equal(drawn, torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3)))
    torch.manual_seed(1)
    free = sample_noise(hint(2), (2, 4, 5), torch.rand)
    torch.manual_seed(1)
    assert torch.equal(free, torch.rand(2, 4, 5))


def test_a_clip_draws_the_same_in_any_company():
    initializers = [Gaussian(3, 6), SampledPoses("rotation"), SampledPoses("scale", scales="correlated")]
    for initializer in initializers:
        found = []
        for names in (("a", "b"), ("b", "c", "a"), ("a",)):
            start = conditioning(named(*names))
            given = initializer(start) if isinstance(initializer, Gaussian) else initializer(start, 3)
            place = names.index("a")
            found.append([part[place] for part in given if isinstance(part, torch.Tensor)])
        for other in found[1:]:
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0], other))


def test_seeds_and_names_tell_clips_apart():
    def first(**given) -> torch.Tensor:
        return sample_noise(conditioning(named("a", "b", **given)), (2, 3))

    assert not torch.equal(first()[0], first()[1]) and not torch.equal(first(), first(seed=1))
    unnamed = seeded({"video": torch.zeros(2, 1, 3, 4, 4)}, 0, first=7)
    assert not torch.equal(*sample_noise(conditioning(unnamed), (2, 3)))


def test_a_source_that_the_batch_brings_is_kept():
    own = torch.Generator().manual_seed(0)
    assert seeded({"video": torch.zeros(1, 1, 3, 4, 4), "generator": own}, 5)["generator"] is own


def test_frames_of_reference_can_be_brought():
    config = isa.IsaConfig(
        resolution=(16, 16), encoder=CnnConfig((6,), (1,)), decoder=isa.CnnDecoderConfig((8, 8), (6,), (2,))
    )
    model = isa.build(config).eval()
    start = model.slot_encoder.initializer(conditioning(named("a"))).pose
    batch = {"video": torch.rand(1, 1, 3, 16, 16), "pose": start}
    assert torch.equal(model.predict(batch).masks, model.predict(batch).masks)
    assert not torch.equal(model.predict({"video": batch["video"]}).masks, model.predict(batch).masks)
