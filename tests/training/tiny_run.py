"""A model, a data set and an evaluation of a few hundred numbers, to train in milliseconds; also a program to kill."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors.torch import save_file
from torch import Tensor, nn

from torchslots.evaluation import evaluate as passes
from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.report import EvalReport
from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.models.types import Batch, Prediction, State
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.training import loop
from torchslots.training.stops import Interrupted

TIMES = {"time", "train/seconds_per_step", "train/seconds_waiting_for_data"}


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    """Numbers of the tiny model."""

    width: int = 8


class TinyModel(nn.Module):
    """Guesses a frame's mean colour from a noisy one: enough to need every part of training."""

    monitor = "fg_ari"

    def __init__(self, noise: float = 0.1, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.noise = noise
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        for parameter in self.net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        color = batch["video"].mean((1, 3, 4))
        guess = self.net(color + self.noise * torch.randn_like(color))
        return {
            "recon": (guess - color).square().sum(-1).mean(),
            "size": 0.01 * guess.square().sum(-1).mean(),
        }

    @torch.no_grad()
    def predict(
        self,
        batch: Batch,
        state: State | None = None,
        slot_recon: bool = False,
        recon: bool = True,
        attn: bool = True,
    ) -> Prediction:
        """Three slots, one for each colour of the pixels after the net has changed it."""
        assert not self.training
        logits = self.net(batch["video"].movedim(2, -1)).movedim(-1, 2)
        slots = logits.mean((3, 4)).unsqueeze(-1)
        return Prediction(
            segmentation=logits.argmax(2),
            masks=logits.softmax(2),
            slots=slots,
            attn=logits.flatten(3).softmax(2),
            recon={"video": batch["video"]},
            slot_recon=None,
            state=State(slots[:, -1]),
        )

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.clone() for name, tensor in self.state_dict().items()}, folder / "model.safetensors"
        )
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text("A tiny model.\n")


@dataclass
class TinyClips:
    """Random clips; `events` maps an item of the stream (counted here) to something that happens when it is read."""

    size: int = 10
    events: dict[int, Any] = field(default_factory=dict)
    read: int = 0

    def __len__(self) -> int:
        return self.size

    def name(self, index: int) -> str:
        return f"clip {index}"

    def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
        video = np.random.default_rng(index).random((2, 3, 4, 4), np.float32)
        if rng is not None:
            video = video * rng.random(dtype=np.float32)
            event = self.events.get(self.read)
            self.read += 1
            video = video if event is None else event(video)
        padding_mask = torch.ones(2, 4, 4, dtype=torch.bool)
        ids = torch.from_numpy(np.random.default_rng(index).integers(0, 3, (2, 4, 4), np.int32))
        sample = {"video": torch.from_numpy(video), "segmentations": ids}
        return {**sample, "padding_mask": padding_mask, "name": self.name(index)}


@dataclass(frozen=True)
class TinyReport:
    """What an evaluation returns."""

    metrics: dict[str, float]
    panels: list["TinyPanel"]


@dataclass(frozen=True)
class TinyPanel:
    """A plotted video of 6 x `width` pixels."""

    grey: int
    width: int = 8

    def panel(self) -> np.ndarray:
        return np.full((2, 6, self.width, 3), self.grey, np.uint8)


def tiny_evaluate(
    model: nn.Module,
    batches: Iterator[Batch],
    config: EvalConfig,
    *,
    device: Any,
    precision: str,
    num_plots: int,
    observers: Any = (),
) -> TinyReport:
    """A number that follows from the weights, and pictures."""
    videos = sum(len(batch["video"]) for batch in batches)
    size = float(sum(parameter.detach().double().square().sum() for parameter in model.parameters()))
    panels = [TinyPanel(100 + i, 8 - i) for i in range(num_plots)]
    return TinyReport({"fg_ari": 1 / size, "videos": float(videos)}, panels)


def tiny_recipe(steps: int = 12, *, ema: float | None = None, **train: Any) -> Recipe:
    """A recipe of few steps; keyword arguments replace fields of `TrainConfig`."""
    settings = {"batch_size": 4, "num_workers": 0, "log_every": 1, "eval_every": 0, "checkpoint_every": 4}
    return Recipe(
        "tiny",
        TinyConfig(),
        DataConfig(),
        OptimConfig(learning_rate=0.05, warmup_steps=2, num_steps=steps, max_grad_norm=1.0, ema_decay=ema),
        replace(TrainConfig(), **{**settings, **train}),
        EvalConfig(batch_size=3),
    )


def weights(run: Path) -> dict[str, Tensor]:
    """What a finished run ships."""
    from safetensors.torch import load_file

    return load_file(run / "model" / "model.safetensors")


def train(recipe: Recipe, run: Path, clips: TinyClips | None = None, **keywords: Any) -> loop.RunResult:
    """`loop.train` on the CPU with a tiny model and data set."""
    keywords = {"eval_set": None, "model": TinyModel(), **keywords}
    model, eval_set = keywords.pop("model"), keywords.pop("eval_set")
    return loop.train(recipe, model, clips or TinyClips(), eval_set, run, device="cpu", **keywords)


def send(number: int) -> Any:
    """A data set's event: the process gets a signal while it reads this item."""

    def event(video: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), number)
        return video

    return event


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(run: Path) -> list[dict[str, Any]]:
    """A run's log without what a clock says."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in read_log(run)]


def fit(steps: int, run: Path, **keywords: Any) -> dict[str, Tensor]:
    """Weights of a new run."""
    train(tiny_recipe(steps), run, **keywords)
    return weights(run)


def _events(arguments: dict[str, Any]) -> dict[int, Any]:
    """What happens when items are read: a pause at each, a bad or a stopping one in the process asked for."""

    def pause(video: np.ndarray) -> np.ndarray:
        time.sleep(arguments.get("sleep", 0.0))
        return video

    events: dict[int, Any] = dict.fromkeys(range(10**4), pause)
    if int(os.environ.get("RANK", 0)) == arguments.get("bad_rank"):
        events[arguments.get("bad_item", -1)] = lambda video: video * np.nan
        events[arguments.get("stop_item", -1)] = send(signal.SIGTERM)
    return events


def counted_evaluate(*arguments: Any, **keywords: Any) -> EvalReport:
    """The real evaluation, with the number of videos among its figures."""
    report = evaluate(*arguments, **keywords)
    return replace(report, metrics={**report.metrics, "videos": float(report.num_videos)})


def run_one(arguments: dict[str, Any]) -> tuple[int, str]:
    """Train once, from a handful of arguments (see the tests for which); exit code and message."""
    evaluate_every = arguments.get("evaluate", 0)
    every = {"checkpoint_every": arguments.get("checkpoint_every", 4), "eval_every": evaluate_every}
    model, clips = TinyModel(arguments.get("noise", 0.1)), TinyClips(events=_events(arguments))
    eval_set = TinyClips(7) if evaluate_every else None
    try:
        recipe = tiny_recipe(arguments["steps"], num_workers=arguments.get("workers", 0), **every)
        loop.train(recipe, model, clips, eval_set, Path(arguments["run"]), device="cpu")
    except Interrupted as stop:
        return stop.exit_code, str(stop)
    except UserError as error:
        return 2, str(error)
    return 0, ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    passes.evaluate = counted_evaluate
    print(json.dumps([run_one(arguments) for arguments in json.loads(sys.argv[1])]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
