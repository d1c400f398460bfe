"""A tokenizer, then slots over it: both stop and go on as if nothing had happened."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchslots.hub import load_model, load_tokenizer
from torchslots.io.run_log import read_log
from torchslots.training.stops import Interrupted
from torchslots.training.warm_start import frozen_tokenizer
from training.tiny_run import same, send
from training.two_steps import Clips, stored, train

BEFORE = {"slotdiffusion": "vqvae", "steve": "dvae"}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs."""
    runs = {name: tmp_path_factory.mktemp(name) / "run" for name in ("vqvae", "dvae")}
    for name, run in runs.items():
        train(name, run)
    return runs


@pytest.mark.parametrize("name", ["vqvae", "dvae", "slotdiffusion", "steve"])
def test_a_stopped_step_ends_as_an_unstopped_one(
    name: str, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    given = tokenizers.get(BEFORE.get(name, ""))
    train(name, tmp_path / "whole", given)
    with pytest.raises(Interrupted):
        train(name, tmp_path / "parts", given, Clips({5: send(signal.SIGTERM)}))
    train(name, tmp_path / "parts")  # the checkpoint holds the tokenizer
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "parts"))


@pytest.mark.parametrize("name", ["slotdiffusion", "steve"])
def test_the_tokenizer_stays_as_it_was_trained(
    name: str, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    given = tokenizers[BEFORE[name]]
    train(name, tmp_path, given, ema_decay=0.5)
    averaged = load_model(tmp_path)
    own = averaged.decoder.get_submodule("tokenizer")
    assert frozen_tokenizer(averaged) is own
    assert same(load_tokenizer(given).state_dict(), own.state_dict())
    kept = stored(tmp_path)
    assert not [key for key in kept if key.startswith("optim/") and "decoder.tokenizer." in key]
    moved = [key for key in kept if key.startswith("optim/exp_avg/")]
    assert any("slot_encoder" in key for key in moved) and any("decoder." in key for key in moved)


def test_each_part_has_its_rate(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    train("slotdiffusion", tmp_path, tokenizers["vqvae"])
    records = read_log(tmp_path)
    assert records[0]["train/lr"] == records[0]["train/lr_decoder"] == 0.0
    assert all(record["train/lr_decoder"] == pytest.approx(2 * record["train/lr"]) for record in records)
    assert records[1]["train/lr"] == pytest.approx(1e-3 / 1.5)


def test_the_best_tokenizer_is_that_of_the_highest_ratio(tokenizers: dict[str, Path]) -> None:
    records = [record for record in read_log(tokenizers["vqvae"]) if "eval/psnr" in record]
    assert [record["step"] for record in records] == [3, 6] and "eval/mse" in records[0]
    best = max(records, key=lambda record: record["eval/psnr"])
    state = json.loads((tokenizers["vqvae"] / "checkpoints" / "step_0000006" / "state.json").read_text())
    assert state["state"]["best_step"] == best["step"]
    assert state["state"]["compiled"] is False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vqvae", "slotdiffusion"])
def test_a_killed_step_ends_as_an_unkilled_one(
    name: str, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    given = tokenizers.get(BEFORE.get(name, ""))
    train(name, tmp_path / "whole", given)
    said = {"name": name, "run": str(tmp_path / "parts"), "pause": 0.5, "tokenizer": given and str(given)}
    program = Path(__file__).with_name("two_steps.py")
    running = subprocess.Popen([sys.executable, str(program), json.dumps(said)], stderr=subprocess.PIPE)
    first = tmp_path / "parts" / "checkpoints" / "step_0000002" / "state.json"
    deadline = time.monotonic() + 300
    while not first.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.communicate()[0] is None and running.returncode == -signal.SIGKILL
    train(name, tmp_path / "parts", given)
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "parts"))


def test_frozen_parts_do_not_wake_up_with_the_model(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    train("slotdiffusion", tmp_path, tokenizers["vqvae"], num_steps=1)
    model = load_model(tmp_path)
    own = frozen_tokenizer(model.train())
    assert own is not None and model.decoder.training and not own.training
    assert not any(weight.requires_grad for weight in own.parameters())
