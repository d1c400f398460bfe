"""Exported graphs compute what the model does, for other batches and lengths; what cannot be exported is told."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_models import batch, tiny
from torchslots.cli import main
from torchslots.inference import export
from torchslots.inference.export import ExportOptions, export_model
from torchslots.io.errors import UserError
from torchslots.models.adjust import bound_memory
from torchslots.models.graphs import exportable, graphs_of
from torchslots.recipes import catalog

HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
SYSTEMS = (
    "isa_demo slot_attention_demo videosaur_demo slotcontrast_demo ftdinosaur_small_224 steve_demo slotdiffusion_demo "
    "set_prediction_demo slots_sim"
).split()


def demo(name: str):
    model: Any = catalog.recipe(name).model
    if name.startswith("ftdinosaur"):
        backbone = replace(model.backbone, size=12, depth=1, num_heads=2, grid_size=2)
        decoder = replace(model.decoder, hidden=(8,), top_k=2)
        sizes = {"resolution": (28, 28), "slot_size": 8, "token_hidden": 8}
        model = replace(model, backbone=backbone, decoder=decoder, **sizes)
    return catalog.build_seeded(model, 0).eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["boxes", "masks", "learned", "gaussian"])
def test_first_frame_and_steps_are_the_model(kind: str) -> None:
    model, data = tiny(kind), batch(3)
    start, step = graphs_of(exportable(model), ["start", "step"])
    hints = {
        "boxes": [data["boxes"][:, 0]],
        "masks": [data["segmentations"][:, 0]],
        "gaussian": [torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))],
        "learned": [],
    }[kind]
    assert [each.name for each in start.inputs[1:]] == {
        "boxes": ["boxes"],
        "masks": ["segmentations"],
        "gaussian": ["noise"],
        "learned": [],
    }[kind]
    wanted = model.predict({**data, **({"noise": hints[0]} if kind == "gaussian" else {})})
    state = [*hints]
    for frame in range(3):
        graph = (start if frame == 0 else step).module
        slots, masks, segmentation, *state = graph(data["video"][:, frame], *state)
        torch.testing.assert_close(slots, wanted.slots[:, frame])
        torch.testing.assert_close(masks, wanted.masks[:, frame])
        on_top = masks.gather(1, segmentation[:, None].long())[:, 0]  # of equal slots any may be
        torch.testing.assert_close(on_top, wanted.masks[:, frame].amax(1))


def test_what_cannot_be_exported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = demo("statm_demo")
    with pytest.raises(UserError, match=r"state grows from frame to frame.*--graphs start step"):
        export_model(memory, tmp_path / "out", format="torch-export", graphs=("clip",))
    assert bound_memory(memory, 3)
    with pytest.raises(UserError, match="remembers at most 3 frames"):
        export_model(memory, tmp_path / "out", format="torch-export")
    with pytest.raises(UserError, match="no format `tflite`"):
        ExportOptions(format="tflite")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="no graph `loop`"):
        ExportOptions(graphs=("loop",))
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxscript.*pip install 'torchslots\[export\]'"):
        export_model(tiny("learned"), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds something that is no export"):
        export_model(tiny("learned"), tmp_path / "mine", format="torch-export")
    with pytest.raises(UserError, match=r"letter\.txt"):
        export_model(tiny("learned"), tmp_path / "mine" / "letter.txt" / "out", format="torch-export")
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "letter.txt"]


def test_what_onnx_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("No function for it\nand a report of many lines")

    monkeypatch.setattr(export, "find_spec", lambda name: name)
    monkeypatch.setattr(export, "_program", lambda name, graph: None)
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"as ONNX: No function for it. Update torch") as told:
        export_model(tiny("learned"), tmp_path / "out", graphs=("start",))
    assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_a_graph_that_runs_at_one_size_alone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(inputs: object) -> list[torch.Tensor]:
        raise AssertionError("Guard failed: frame.size()[0] == 2\nand more")

    monkeypatch.setattr(export, "_program", lambda name, graph: None)
    monkeypatch.setattr(export, "_WRITERS", {"torch-export": lambda program, graph, file: None})
    monkeypatch.setattr(export, "_READERS", {"torch-export": lambda file: run})
    with pytest.raises(
        UserError, match=r"`start` does not run on a batch of another size: Guard failed.*--graphs"
    ):
        export_model(tiny("learned"), tmp_path / "out", format="torch-export")
    assert not list(tmp_path.iterdir())


def test_tokenizers_are_refused_on_the_command_line(tmp_path: Path, capsys) -> None:
    demo("vqvae_demo").save_pretrained(tmp_path / "code")
    assert main(["export", str(tmp_path / "code"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("a tokenizer, without slots" in said or "needs onnx" in said)


@pytest.mark.slow
def test_a_program_is_written_by_the_command_and_runs_alone(tmp_path: Path, capsys) -> None:
    model, data = tiny("boxes"), batch(4)
    model.save_pretrained(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--format", "torch-export"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("Written to") == 3
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["clip"]["inputs"][0] == {
        "name": "video",
        "dtype": "float32",
        "shape": ["batch", "frames", 3, 16, 24],
    }
    one = {key: value[:1] for key, value in data.items()}
    wanted = model.predict(one)
    program = torch.export.load(tmp_path / "out" / "clip.pt2").module()
    slots, masks, _, state = program(one["video"], one["boxes"][:, 0])
    torch.testing.assert_close(slots, wanted.slots)
    torch.testing.assert_close(masks, wanted.masks)
    torch.testing.assert_close(state, wanted.state.slots)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_other_systems_export_as_programs(name: str, tmp_path: Path) -> None:
    """`export_model` itself compares each graph with the model on a larger, longer batch."""
    (file,) = export_model(demo(name), tmp_path / "out", format="torch-export", graphs=("clip",))
    assert file.is_file()


@pytest.mark.slow
def test_a_growing_memory_is_passed_on_by_steps(tmp_path: Path) -> None:
    files = export_model(demo("statm_demo"), tmp_path / "out", format="torch-export")
    assert [file.stem for file in files] == ["start", "step"]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
@pytest.mark.parametrize("kind", ["boxes", "gaussian"])
def test_onnx_runtime_computes_the_same(kind: str, tmp_path: Path) -> None:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    model, data = tiny(kind), batch(5)
    noise = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))
    hint = {"boxes": data["boxes"][:, 0]} if kind == "boxes" else {"noise": noise}
    wanted = model.predict({**data, "noise": noise} if kind == "gaussian" else data)
    export_model(model, tmp_path / "out")

    def run(graph: str, **inputs: object) -> list[np.ndarray]:
        given = {name: np.asarray(value) for name, value in inputs.items()}
        session = onnxruntime.InferenceSession(tmp_path / "out" / f"{graph}.onnx")
        return session.run(None, given)

    slots, masks, segmentation, _ = run("clip", video=data["video"], **hint)
    np.testing.assert_allclose(slots, wanted.slots.numpy(), atol=1e-4)
    np.testing.assert_allclose(masks, wanted.masks.numpy(), atol=1e-4)
    on_top = np.take_along_axis(masks, segmentation[:, :, None].astype(np.int64), 2)[:, :, 0]
    np.testing.assert_allclose(on_top, wanted.masks.numpy().max(2), atol=1e-4)
    *_, state = run("start", frame=data["video"][:, 0], **hint)
    for frame in range(1, 5):
        slots, _, _, state = run("step", frame=data["video"][:, frame], state_slots=state)
    np.testing.assert_allclose(slots, wanted.slots[:, -1].numpy(), atol=1e-4)
