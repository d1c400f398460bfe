"""Write a model as graphs for other programs: ONNX, or programs of torch.export.

A folder holds `start` (a video's first frame and its hints), `step` (a frame and the state before it) and `clip` (all
frames at once), and export.json, which names inputs and outputs. Batch, time and boxes have any length. Frames are
float32 RGB in [0, 1] at the model's resolution. Images are not decoded: outputs are slots, masks and segmentation.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from torchslots._version import __version__
from torchslots.hub import load_model
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_folder
from torchslots.io.progress import progress
from torchslots.models.graphs import Graph, Named, exportable, graphs_of, grows
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import with_changes

Format = Literal["onnx", "torch-export"]
GRAPHS = ("start", "step", "clip")
_ABOUT = "export.json"
_SUFFIX: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
_INSTALL = "Install it: pip install 'torchslots[export]'."
_CLOSE = 1e-3
"""Largest difference from the model that is no fault, in units of the largest value where that exceeds 1."""


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and as what."""

    format: Format = "onnx"
    """onnx: for ONNX Runtime and others; torch-export: for torch.export.load."""
    graphs: tuple[str, ...] = ()
    """Which of start step clip; none: all that the model has."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise UserError(
                f"There is no format `{self.format}`. Choose from: {', '.join(get_args(Format))}."
            )
        unknown = set(self.graphs) - set(GRAPHS)
        if unknown:
            raise UserError(f"There is no graph `{unknown.pop()}`. Choose from: {', '.join(GRAPHS)}.")


def export_model(
    model: ObjectCentricModel | str | Path,
    out: Path | str,
    options: ExportOptions = ExportOptions(),
    **changes: Any,
) -> list[Path]:
    """Export a model to a folder; each graph is run again, on another batch, and compared with the model.

    Args:
        model: a model, a run or model folder, or owner/name on the Hugging Face hub.
        out: folder to write; an earlier export in it is replaced.
        options: what to export, and as what.
        changes: fields of `ExportOptions` by name, in place of those of `options`: `format="torch-export"`.

    Returns:
        The files of the graphs.

    Raises:
        UserError: a package is missing, the model cannot be exported, the folder holds something else or cannot be
            written, or a graph does not compute what the model does.
    """
    options, out = with_changes(options, **changes), Path(out)
    if options.format == "onnx":
        _require("onnx", "onnxscript")
    if out.exists() and not (out / _ABOUT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something that is no export. Choose another folder.")
    model = exportable(load_model(model) if isinstance(model, str | Path) else model)
    names = options.graphs or tuple(name for name in GRAPHS if name != "clip" or not grows(model))
    graphs = dict(zip(names, graphs_of(model, names)))
    others = dict(zip(names, graphs_of(model, names, batch_size=3, num_frames=5)))
    with progress("Exporting", len(names), "graphs") as advance, atomic_folder(out) as part:
        advance(0, names[0])
        for number, (name, graph) in enumerate(graphs.items(), 1):
            file = part / f"{name}{_SUFFIX[options.format]}"
            with _quiet():
                _WRITERS[options.format](_program(name, graph), graph, file)
                _compare(name, others[name], _READERS[options.format](file))
            advance(note="".join(names[number : number + 1]))
        (part / _ABOUT).write_text(json.dumps(_about(model, options, graphs), indent=2))
    return [out / f"{name}{_SUFFIX[options.format]}" for name in names]


def _require(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"Exporting to ONNX needs {' and '.join(missing)}. {_INSTALL}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def _plain_transformers() -> Iterator[None]:
    """torch's transformer layers as single operations, of which ONNX has each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _program(name: str, graph: Graph) -> Any:
    """The traced graph."""
    free = [dict.fromkeys(each.free, torch.export.Dim.DYNAMIC) for each in graph.inputs]
    shapes = (free[0], tuple(free[1:])) if free[1:] else (free[0],)
    try:
        with torch.no_grad(), _plain_transformers():
            inputs = tuple(each.example for each in graph.inputs)
            return torch.export.export(graph.module, inputs, dynamic_shapes=shapes, strict=True)
    except Exception as error:  # torch's exporter raises errors of many kinds
        raise UserError(
            f"torch {torch.__version__} cannot export the graph `{name}` of this model: {first_line(error)}. Update "
            "torch, or leave the graph out with --graphs."
        ) from error


def _write_onnx(program: Any, graph: Graph, file: Path) -> None:
    names = [[each.name for each in side] for side in (graph.inputs, graph.outputs)]
    try:
        torch.onnx.export(
            program,
            f=str(file),
            dynamo=True,
            input_names=names[0],
            output_names=names[1],
            external_data=False,
        )
    except Exception as error:  # torch's exporter raises errors of many kinds
        raise UserError(
            f"torch {torch.__version__} cannot write the graph `{file.stem}` of this model as ONNX: "
            f"{first_line(error.__cause__ or error)}. Update torch and onnxscript, or take --format torch-export."
        ) from error


def _write_program(program: Any, graph: Graph, file: Path) -> None:
    torch.export.save(program, str(file))


Run = Callable[[Sequence[Named]], list[Tensor]]


def _read_onnx(file: Path) -> Run | None:
    """A function that runs the file; None: ONNX Runtime is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Named]) -> list[Tensor]:
        given = {each.name: each.example.numpy() for each in inputs}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


def _read_program(file: Path) -> Run:
    module = torch.export.load(str(file)).module()
    return lambda inputs: module(*(each.example for each in inputs))


_WRITERS: dict[str, Callable[[Any, Graph, Path], None]] = {
    "onnx": _write_onnx,
    "torch-export": _write_program,
}
_READERS: dict[str, Callable[[Path], Run | None]] = {"onnx": _read_onnx, "torch-export": _read_program}


def _compare(name: str, graph: Graph, run: Run | None) -> None:
    """Check that a file computes what the model does.

    Raises:
        UserError: it does not.
    """
    if run is None:
        return
    try:
        outputs = run(graph.inputs)
    except Exception as error:  # exporters' runtimes raise errors of many kinds
        raise UserError(
            f"The exported graph `{name}` does not run on a batch of another size: {first_line(error)}. Nothing was "
            "written. Leave it out with --graphs."
        ) from error
    for wanted, found in zip(graph.outputs, outputs, strict=True):
        if wanted.name == "segmentation":  # which of two equal masks is on top may differ
            continue
        off = (
            float((wanted.example - found).abs().max()) if found.shape == wanted.example.shape else torch.inf
        )
        if off > _CLOSE * max(1.0, float(wanted.example.abs().max())):
            raise UserError(
                f"The exported graph `{name}` does not compute what the model does: `{wanted.name}` is off by "
                f"{off:.3g}. Nothing was written. Update torch and onnxruntime."
            )


def _about(model: ObjectCentricModel, options: ExportOptions, graphs: dict[str, Graph]) -> dict[str, Any]:
    about: dict[str, Any] = {"torchslots": __version__, "torch": torch.__version__, "format": options.format}
    about["resolution"] = list(model.config.resolution)
    for name, graph in graphs.items():
        sides = {"inputs": graph.inputs, "outputs": graph.outputs}
        about[name] = {"file": f"{name}{_SUFFIX[options.format]}"} | {
            side: [_signature(each) for each in found] for side, found in sides.items()
        }
    return about


def _signature(each: Named) -> dict[str, Any]:
    shape = [each.free.get(axis, size) for axis, size in enumerate(each.example.shape)]
    return {"name": each.name, "dtype": str(each.example.dtype).removeprefix("torch."), "shape": shape}
