"""The textbook form that benchmarks compare with computes what the library computes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from torchslots.cli.bench.sizes import random_batch, scale
from torchslots.recipes import catalog


def plain() -> ModuleType:
    file = Path(__file__).parents[3] / "benchmarks" / "plain.py"
    spec = importlib.util.spec_from_file_location("plain", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_sides_have_the_same_loss_and_gradients() -> None:
    torch.manual_seed(0)
    recipe = scale(catalog.recipe("savi_small"), 1, 2, 3, 64, False)
    ours, module = catalog.build(recipe.model), plain()
    with torch.no_grad():
        for value in ours.parameters():
            value.add_(0.02 * torch.randn_like(value))
    theirs, batch = module.PlainSavi(64, torch.channels_last), random_batch(recipe, 1, 2)
    module.load(theirs, ours)
    losses = [theirs.loss(batch), ours.loss(batch)["recon_flow"]]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for loss in losses:
        loss.backward()
    one, other = theirs.decoder[0].conv.weight.grad, ours.decoder.backbone[0].weight.grad
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
