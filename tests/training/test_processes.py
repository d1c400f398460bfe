"""Every kind of model trains on two processes as on one: clips of one frame, slots and noise sampled at random."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounter

from torchslots.models.slots.seeding import Share, sample_rows
from training.one_step import CASES, update
from training.processes import launch_file

PROGRAM = Path(__file__).with_name("one_step.py")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    for ended in launch_file(request.param, PROGRAM, str(folder)):
        assert ended.code == 0, ended.err
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=list(CASES))
def test_several_processes_update_as_one(several: Path, tmp_path: Path, number: int) -> None:
    name = list(CASES)[number]
    losses = update(name, tmp_path / "one")
    assert json.loads((several / "losses.json").read_text())[name] == pytest.approx(losses, rel=1e-5)
    weights = load_file(several / f"{number}.safetensors")
    for key, weight in load_file(tmp_path / "one").items():
        torch.testing.assert_close(weights[key], weight, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["savi, gaussian slots", "slotdiffusion", "steve", "dvae, gumbel noise"])
def test_accumulation_samples_as_a_whole_batch(tmp_path: Path, name: str) -> None:
    losses = update(name, tmp_path / "one")
    assert update(name, tmp_path / "parts", 4) == pytest.approx(losses, rel=1e-5)


def test_shares_are_the_rows_of_a_whole_batch() -> None:
    torch.manual_seed(5)
    whole = torch.randn(6, 3, 2), torch.rand(6, 4)
    for index in range(3):
        share = Share(torch.Generator().manual_seed(5), index, 3)
        for sample, shape, rows in zip((torch.randn, torch.rand), ((2, 3, 2), (2, 4)), whole):
            found = sample_rows(share, shape, torch.device("cpu"), sample)
            assert torch.equal(found, rows[2 * index : 2 * index + 2])


def test_compiled_code_is_not_compiled_again_for_each_share() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    generator = torch.Generator()

    @torch.compile(backend=counter)
    def noisy(batch: dict) -> torch.Tensor:
        return sample_rows(batch["generator"], (2, 3), torch.device("cpu"), torch.randn) + batch["video"]

    for step in range(12):
        generator.manual_seed(step)
        batch = {"video": torch.zeros(2, 3), "generator": Share(generator, step % 2, 2)}
        generator.manual_seed(step)
        wanted = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))[2 * (step % 2) :][:2]
        assert torch.equal(noisy(batch), wanted)
    assert counter.frame_count <= 2
