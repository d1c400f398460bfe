"""One optimiser step, run by accelerate: forward, backward over micro batches, clip, check, update.

All random numbers of a step depend on (seed, step), so that neither an interruption nor an evaluation in between
changes them. Slots and diffusion noise are sampled for the global batch, of which each process takes its part; so are
dropout and the noise of sampled codes on the CPU, unless a step is compiled.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from torchslots.data.batch import cut_clips
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import to_device
from torchslots.models.slots.seeding import Share, leave_generators_uncompiled
from torchslots.models.types import Batch
from torchslots.models.weights import check_fit, shapes
from torchslots.recipes.config import OptimConfig, TrainConfig
from torchslots.training import optim
from torchslots.training.accelerator import check_split, seed_step, start_accelerator, torch_seed
from torchslots.training.parts import differences
from torchslots.training.shared_noise import SharedNoise


class Trainable(Protocol):
    """A model, as training uses it besides being an `nn.Module`."""

    @property
    def monitor(self) -> str:
        """The default metric whose highest value marks the best model of a run."""
        ...

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars, each a mean over the clips; the run minimises their sum.

        `batch["step"]` is the number of finished updates, for schedules.
        """
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        ...


class StepReport(NamedTuple):
    """Losses, gradient norm and learning rates of a step; tensors are on the device, and reading them waits for it."""

    losses: dict[str, Tensor]
    grad_norm: Tensor
    learning_rate: float
    rates: dict[str, float]
    """`lr`, and for parts with another rate `lr_decoder`, `lr_tokenizer`."""


class NonFinite(Exception):
    """A loss or the gradient is not finite; the weights are those before the step."""

    def __init__(self, step: int, culprits: dict[str, float], learning_rate: float, batch: Batch):
        super().__init__(f"step {step}: {culprits}")
        self.step, self.culprits, self.learning_rate, self.batch = step, culprits, learning_rate, batch


class _Pending(NamedTuple):
    """A step whose flags are not yet read from the device."""

    step: int
    report: StepReport
    flags: Tensor
    arrived: "torch.cuda.Event | None"
    batch: Batch


class Losses(nn.Module):
    """`model.loss` as the forward pass, for DDP, autocast and compile, which wrap forward."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The model's named losses."""
        return cast(Trainable, self.model).loss(batch)


class TrainStep:
    """A model, its optimiser and its averaged weights; each call is one update.

    A step whose loss or gradient is not finite does not change the weights and raises `NonFinite`. On CUDA the device
    itself skips the update and the exception comes one step later, so that no step waits for the device.

    Args:
        device: see `io.devices.choose_device`.
        shortest: frames of the shortest clips; in clips of one frame the predictor gets no gradient.

    Raises:
        UserError: a device that does not exist, a precision that it lacks, or a batch that cannot be split evenly.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimConfig,
        train: TrainConfig,
        device: str | None = None,
        shortest: int = 2,
    ):
        self.accelerator = start_accelerator(train, device, shortest < 2 and _predicts(model))
        check_split(train, self.accelerator.num_processes)
        self.model = model.to(self.accelerator.device)
        self.average: AveragedModel | None = optim.average_weights(self.model, config.ema_decay)
        self.optimizer = optim.adam(self.model, config)
        self.stopped = False
        """Whether a process was asked to stop, which all processes know."""
        self._config, self._train = config, train
        self._parameters = list(optim.trainable(self.model).values())
        self._update = self.accelerator.prepare_optimizer(self.optimizer)
        self._losses, self._compiled = Losses(self.model), False
        if train.compile:
            self.compile()
        self._forward = self.accelerator.prepare_model(self._losses)
        self._delayed: bool = self.accelerator.device.type == "cuda" and self.accelerator.scaler is None
        self._fixed = train.compile or self.accelerator.device.type == "cuda"
        self._pending: _Pending | None = None
        self._generator, self._seed = torch.Generator(self.accelerator.device), 0

    def __call__(self, step: int, batch: Batch, stop: bool = False) -> StepReport:
        """Update once.

        Args:
            step: updates done before this one, from 0.
            batch: this process's part of the global batch, on the CPU.
            stop: this process was asked to stop; `stopped` follows in all processes.

        Raises:
            NonFinite: the loss or gradient of this step; on CUDA, of the step before.
        """
        seed_step(self._train.seed, step, self.accelerator.process_index)
        self._seed = torch_seed(self._train.seed, step, 0)
        rate = optim.prepare_update(self.optimizer, self._config, step)
        if self._train.short_clip is not None and step < self._train.short_steps:
            batch = cut_clips(batch, self._train.short_clip)
        losses = self._backward(batch, step)
        report = StepReport(losses, self._clip(), rate, optim.rates(self.optimizer))
        earlier, self._pending = self._pending, self._flag(step, report, batch, stop)
        self._settle(earlier)
        if not self._delayed:
            self.drain()
        self._update.step()
        self._update.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return report

    def compile(self) -> None:
        """Compile all further steps; the first of them takes a minute or more."""
        leave_generators_uncompiled()
        self._losses.compile()
        self._compiled = True
        self._fixed = True

    def differences(self) -> list[str]:
        """What is not as on one process, in sentences."""
        processes = self.accelerator.num_processes
        return differences(self.model, processes, self._train.accumulation, self._own_noise())

    def trial(self, batches: Sequence[Batch]) -> float:
        """Median seconds of a step's forward and backward passes over these batches; changes only the random state.

        A pass before them, which allocates memory and chooses algorithms, is not measured. Buffers that change in
        training are restored.
        """
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        seconds = [self._pass(batch) for batch in (batches[0], *batches)][1:]
        for name, buffer in self.model.named_buffers():
            buffer.copy_(before[name])
        return statistics.median(seconds)

    def _pass(self, batch: Batch) -> float:
        """Seconds of one pass forward and backward, whose gradients are thrown away."""
        start = time.perf_counter()
        losses = self._backward(batch, 0)
        torch.stack(list(losses.values())).sum().item()
        self._update.zero_grad()
        return time.perf_counter() - start

    def repeat(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Losses and gradients of a step as `__call__` computes them, without its update.

        Args:
            batch: as `NonFinite` has it.
        """
        seed_step(self._train.seed, step, self.accelerator.process_index)
        self._seed = torch_seed(self._train.seed, step, 0)
        return self._backward(batch, step)

    def drain(self) -> None:
        """Wait for the check of the last step. All processes must call this, or none.

        Raises:
            NonFinite: the last step's loss or gradient.
        """
        pending, self._pending = self._pending, None
        self._settle(pending)

    def evaluated_model(self) -> nn.Module:
        """The model to evaluate and to save: the averaged one if the recipe has an average."""
        return self.model if self.average is None else self.average.module

    def training_tensors(self) -> dict[str, Tensor]:
        """Optimiser state and averaged weights by their names in a checkpoint."""
        parts = {"optim": optim.optimizer_tensors(self.model, self.optimizer)}
        parts |= {} if self.average is None else {"average": self.average.state_dict()}
        return {f"{part}/{key}": value for part, tensors in parts.items() for key, value in tensors.items()}

    def load(
        self, model: dict[str, Tensor], training: dict[str, Tensor], scale: dict[str, float], where: str
    ) -> None:
        """Continue from a checkpoint's tensors.

        Raises:
            UserError: they belong to another model; `where` names the source.
        """
        load_weights(self.model, model, where)
        optim.load_optimizer(self.model, self.optimizer, _below("optim/", training), where)
        if self.average is not None:
            load_weights(self.average, _below("average/", training), where)
        if self.accelerator.scaler is not None and scale:
            self.accelerator.scaler.load_state_dict(scale)

    def loss_scale(self) -> dict[str, Any]:
        """State of fp16's loss scaler; empty in other precisions."""
        return {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()

    def _backward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Gradients of the mean over the global batch; returns this process's mean losses."""
        sums: dict[str, Tensor] = {}
        parts = self._train.accumulation
        for index, part in enumerate(self._parts(batch)):
            last = index == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self._forward):
                with self._noise(part):
                    losses = self._forward({**part, "step": step})
                self.accelerator.backward(torch.stack(list(losses.values())).sum())
            sums = {name: sums.get(name, 0.0) + loss.detach() / parts for name, loss in losses.items()}
        return sums

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch's tensors in equal parts on the device, with fixed shapes for compiled code and on CUDA."""
        count = self._train.accumulation
        tensors = {key: value.chunk(count) for key, value in batch.items() if isinstance(value, Tensor)}
        for index in range(count):
            part: Batch = {key: pieces[index] for key, pieces in tensors.items()} | self._share(index)
            if self._fixed and isinstance(self.model, ObjectCentricModel):
                part = self.model.fixed_shapes(part)
            yield to_device(part, self.accelerator.device)

    def _share(self, index: int) -> Batch:
        """The source of random numbers of one of several parts of the global batch; of a whole one torch's own."""
        parts = self._train.accumulation
        count = parts * self.accelerator.num_processes
        if count == 1:
            return {}
        generator = self._generator.manual_seed(self._seed)
        return {"generator": Share(generator, self.accelerator.process_index * parts + index, count)}

    def _noise(self, part: Batch) -> AbstractContextManager[Any]:
        """Dropout of a part of the batch as of the whole; GPUs and compiled code have their own for each part."""
        share = part.get("generator")
        if isinstance(share, Share) and not self._own_noise():
            return SharedNoise(share)
        return nullcontext()

    def _own_noise(self) -> bool:
        return self._compiled or self.accelerator.device.type != "cpu"

    def _clip(self) -> Tensor:
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients()
        config = self._config
        return optim.clip_gradients(
            self._parameters, config.max_grad_norm, config.clip_norm, config.clip_epsilon
        )

    def _flag(self, step: int, report: StepReport, batch: Batch, stop: bool) -> _Pending:
        """Start copying to the CPU whether any process found a non-finite number or was asked to stop."""
        good = torch.isfinite(torch.stack(list(report.losses.values()))).all()
        if self.accelerator.scaler is None:  # fp16's scaler skips infinite gradients, which it expects
            good = good & torch.isfinite(report.grad_norm)
        flags = torch.stack([~good, torch.full_like(good, stop)]).float()
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        if not self._delayed:
            return _Pending(step, report, flags, None, batch)
        self._hold_back(flags[0])
        copied = flags.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event() if flags.is_cuda else None
        if arrived is not None:
            arrived.record()
        return _Pending(step, report, copied, arrived, batch)

    def _hold_back(self, bad: Tensor) -> None:
        """Make the fused kernel skip all updates from the first bad step on, without waiting for the device."""
        earlier = self.optimizer.__dict__.get("found_inf")
        self.optimizer.__dict__["found_inf"] = bad if earlier is None else torch.maximum(earlier, bad)

    def _settle(self, pending: _Pending | None) -> None:
        if pending is None:
            return
        if pending.arrived is not None:
            pending.arrived.synchronize()
        bad, stop = pending.flags.tolist()
        self.stopped = self.stopped or bool(stop)
        if bad:
            found = {**pending.report.losses, "gradient norm": pending.report.grad_norm}
            values = {name: float(value) for name, value in found.items()}
            culprits = {name: value for name, value in values.items() if not math.isfinite(value)}
            raise NonFinite(pending.step, culprits, pending.report.learning_rate, pending.batch)


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load all weights of a model, and no others.

    Raises:
        UserError: names or shapes differ; `where` names the source.
    """
    what = f"{where}: the weights belong to another model"
    remedy = "Resume with the recipe that wrote them, or start in a new run folder."
    check_fit(shapes(tensors), shapes(model.state_dict()), what, remedy)
    model.load_state_dict(tensors)


def _predicts(model: nn.Module) -> bool:
    """Whether a model has a trained predictor, which is idle in clips of one frame."""
    return isinstance(model, ObjectCentricModel) and any(
        parameter.requires_grad for parameter in model.slot_encoder.predictor.parameters()
    )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
