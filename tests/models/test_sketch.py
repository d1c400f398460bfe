"""Models without memory: the same names, types and shapes as built."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchslots.io.video import write_png
from torchslots.models.sketch import sketching
from torchslots.models.weights import without_weights
from torchslots.recipes import catalog


def described(model: nn.Module) -> dict[str, tuple]:
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: (value.shape, value.dtype, value.requires_grad) for name, value in found.items()}


@pytest.mark.parametrize(
    "name",
    ["savi_demo", "savi_sim", "isa_demo", "statm_demo", "steve_demo", "dvae_demo", "set_prediction_demo"],
)
def test_a_sketch_has_the_shapes_of_the_model(name):
    config = catalog.recipe(name).model
    with sketching():
        sketch = catalog.build(config)
    assert all(value.is_meta for value in [*sketch.parameters(), *sketch.buffers()])
    with without_weights():
        assert described(sketch) == described(catalog.build(config))


@pytest.mark.parametrize(
    "compute",
    [
        lambda: torch.cat([torch.zeros(2, 3), torch.zeros(2, 4)], dim=-1),
        lambda: torch.stack([torch.zeros(2, 3), torch.zeros(2, 3)], dim=-1),
        lambda: torch.stack([torch.zeros(2, 3), torch.zeros(2, 3)]),
        lambda: torch.meshgrid(torch.zeros(2), torch.zeros(3), indexing="ij")[1],
        lambda: torch.linspace(-1, 1, 5),
        lambda: torch.arange(0.5, 4),
        lambda: torch.arange(4),
        lambda: torch.arange(1, 4),
        lambda: torch.randn(2, 3),
        lambda: torch.randn((2, 3)),
        lambda: torch.zeros(2, 1) * torch.zeros(3) / 2 + 1,
        lambda: 1 - torch.zeros(2, 3),
        lambda: torch.zeros(2, 3).mean(1),
        lambda: torch.zeros(2, 3).mean(1, keepdim=True),
        lambda: torch.zeros(2, 3).sub_(torch.zeros(2, 1)).mul_(3),
        lambda: torch.zeros(2, 3).sin(),
        lambda: torch.ones_like(torch.zeros(2, 3)),
        lambda: nn.init.kaiming_normal_(torch.zeros(2, 3)),
        lambda: nn.init.normal_(torch.zeros(2, 3), std=0.1),
    ],
)
def test_computed_tensors_have_their_shape_and_type(compute):
    with sketching():
        found = compute()
    expected: Tensor = compute()
    assert found.is_meta and (found.shape, found.dtype) == (expected.shape, expected.dtype)


_SKETCHES = """
import sys
from torchslots.models.sketch import sketching
from torchslots.recipes import catalog
for name in catalog.RECIPES:
    config = catalog.recipe(name).model
    if not hasattr(config, "backbone"):
        try:
            with sketching():
                catalog.build(config)
        except ModuleNotFoundError as error:
            assert "diffusers" in str(error), error
        assert "sympy" not in sys.modules, name
"""


@pytest.mark.slow
def test_sketches_import_no_compiler():
    """Neither torch's own nor what it needs; transformers and diffusers import it themselves and are left out."""
    block = "import sys\nsys.modules['diffusers'] = None\n"
    subprocess.run([sys.executable, "-c", block + _SKETCHES], check=True)


@pytest.mark.slow
def test_a_prediction_of_one_image_imports_nothing_heavy(tmp_path):
    """What takes seconds: torch's compiler, metrics, transformers, scipy, matplotlib."""
    catalog.build(catalog.recipe("slot_attention_demo").model).save_pretrained(tmp_path / "model")
    write_png(tmp_path / "image.png", np.zeros((48, 64, 3), dtype=np.uint8))
    heavy = (
        "torch._dynamo sympy torchmetrics transformers diffusers scipy matplotlib huggingface_hub av".split()
    )
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "image.png"), "--out", str(tmp_path / "out")]
    look = f"print([name for name in {heavy} if name in sys.modules])"
    code = f"import sys; from torchslots.cli import main; main({words}); {look}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "out" / "image" / "tracks.json").exists()
