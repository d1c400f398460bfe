"""Renderers of patches' features: which slots they decode, what masks they give, what gradients flow."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from torchslots.io.errors import UserError
from torchslots.models.decoders.features import FeatureDecoder, Weighted, feature_error
from torchslots.models.decoders.renderers import (
    AutoregressiveRenderer,
    MixerRenderer,
    PerceptronRenderer,
    Rendered,
    Renderer,
    Seen,
)
from torchslots.models.types import Clip, Features, State

GRID, K, D, C = (2, 3), 5, 8, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perceptron(top_k: int | None) -> PerceptronRenderer:
    torch.manual_seed(0)
    return PerceptronRenderer(GRID, D, [7, 9], C, top_k=top_k)


def by_hand(renderer: PerceptronRenderer, slots: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Masks and output from every slot at every patch, those that are not `chosen` [n, K, N] left out."""
    x = slots[:, :, None] + renderer.positions()
    first, second, last = renderer.first, renderer.middle[1], renderer.last
    y = last(torch.relu(second(torch.relu(first(x)))))
    masks = y[..., -1].masked_fill(~chosen, -torch.inf).softmax(1)
    return masks, (masks[..., None] * y[..., :-1]).sum(1)


@pytest.mark.parametrize("top_k", [None, 0, 1, 3, K])
@pytest.mark.parametrize("num_slots", [K, K + 2])
def test_a_perceptron_decodes_the_slots_of_the_largest_attention(top_k: int | None, num_slots: int) -> None:
    slots, attn = draw(2, num_slots, D, seed=1), draw(2, num_slots, 6, seed=2).softmax(1)
    found = perceptron(top_k)(slots, Seen(attn))
    chosen = torch.ones_like(attn, dtype=torch.bool)
    if top_k:
        least = attn.sort(dim=1, descending=True).values[:, top_k - 1 : top_k]
        chosen = attn >= least
    masks, output = by_hand(perceptron(top_k), slots, chosen)
    torch.testing.assert_close(found.masks, masks)
    torch.testing.assert_close(found.output, output)
    assert torch.equal(found.masks == 0, ~chosen)
    torch.testing.assert_close(found.masks.sum(1), torch.ones(2, 6))


def test_no_gradient_goes_through_the_choice_and_none_to_slots_never_chosen() -> None:
    slots, attn = draw(1, K, D).requires_grad_(), draw(1, K, 6, seed=3).softmax(1)
    attn[:, 4] = -1.0
    attn.requires_grad_()
    renderer = perceptron(2)
    rendered = renderer(slots, Seen(attn))
    assert rendered.output is not None
    (rendered.output.square().sum() + rendered.masks.square().sum()).backward()
    assert attn.grad is None and slots.grad is not None
    assert torch.equal(slots.grad[:, 4], torch.zeros(1, D)) and slots.grad[:, :4].abs().sum() > 0


class Largest(TorchDispatchMode):
    """Remember the most numbers that an operation returned in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor):  # of an expanded tensor what it holds, not what it shows
                self.numel = max(self.numel, value.untyped_storage().nbytes() // value.element_size())
        return found


@pytest.mark.parametrize("top_k", [1, 3, None])
def test_slots_that_are_not_decoded_never_take_memory(top_k: int | None) -> None:
    """Neither in training nor in prediction: 7 slots at 50 patches, 64 channels, weights are smaller than that."""
    torch.manual_seed(0)
    renderer = PerceptronRenderer((5, 10), 16, [64, 64], 20, top_k=top_k)
    slots, attn = draw(2, 7, 16).requires_grad_(), draw(2, 7, 50, seed=2).softmax(1)
    with Largest() as training:
        found = renderer(slots, Seen(attn))
        (found.output.square().sum() + found.masks.square().sum()).backward()
    with Largest() as prediction, torch.no_grad():
        renderer(slots, Seen(attn), output=False)
    assert training.numel == 2 * (top_k or 7) * 50 * 64
    assert prediction.numel <= max(training.numel, 64 * 64)


def spoil(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.fill_(torch.nan)


@pytest.mark.parametrize("kind", ["perceptron", "mixer", "autoregressive"])
def test_masks_alone_take_no_layer_that_only_the_output_needs(kind: str) -> None:
    """Those layers are broken, and masks are as before."""
    torch.manual_seed(0)
    slots, attn, features = draw(2, K, D), draw(2, K, 6, seed=2).softmax(1), draw(2, 6, C, seed=3)
    renderers: dict[str, Renderer] = {
        "perceptron": perceptron(3),
        "mixer": MixerRenderer(GRID, D, [7], C),
        "autoregressive": AutoregressiveRenderer(GRID, D, C, num_layers=2, num_heads=2, mlp_size=9),
    }
    renderer, seen = renderers[kind], Seen(attn, features)
    with torch.no_grad():
        before = renderer(slots, seen)
        if isinstance(renderer, PerceptronRenderer):
            renderer.last.weight[:-1], renderer.last.bias[:-1] = torch.nan, torch.nan
        elif isinstance(renderer, MixerRenderer):
            spoil(renderer.mlp)
        elif isinstance(renderer, AutoregressiveRenderer):
            spoil(renderer.last.mlp)
            spoil(renderer.last.cross_attention.value)
            spoil(renderer.last.cross_attention.out)
        alone = renderer(slots, seen, output=False)
        assert alone.output is None and before.output is not None
        torch.testing.assert_close(alone.masks, before.masks)
        assert renderer(slots, seen).output.isnan().any()


def test_fewer_slots_than_are_decoded_or_no_attention_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"the 3 slots of the largest attention, got 2 slots\. Use at least 3"
    ):
        perceptron(3)(draw(1, 2, D), Seen(draw(1, 2, 6)))
    with pytest.raises(UserError, match="come without any"):
        perceptron(3)(draw(1, K, D), Seen(draw(1, K, 0)))


def autoregressive(own_masks: bool = True, num_layers: int = 2) -> AutoregressiveRenderer:
    torch.manual_seed(0)
    return AutoregressiveRenderer(
        GRID, D, C, num_layers=num_layers, num_heads=2, mlp_size=11, own_masks=own_masks
    )


def torchs_own(renderer: AutoregressiveRenderer) -> nn.TransformerDecoder:
    """torch's transformer with the same weights."""
    layer = nn.TransformerDecoderLayer(C, 2, 11, 0.0, batch_first=True, norm_first=True)
    stack = nn.TransformerDecoder(layer, len(renderer.blocks) + 1)
    for theirs, ours in zip(stack.layers, [*renderer.blocks, renderer.last]):
        for name, part in (
            ("self_attn", ours.self_attention),
            ("multihead_attn", ours.cross_attention),
        ):
            attention = getattr(theirs, name)
            parts = (part.query, part.key, part.value)
            attention.in_proj_weight.data = torch.cat([one.weight for one in parts])
            attention.in_proj_bias.data = torch.cat([one.bias for one in parts])
            attention.out_proj.load_state_dict(part.out.state_dict())
        theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
        theirs.linear2.load_state_dict(ours.mlp[2].state_dict())
        for index, norm in enumerate((ours.norm_self, ours.norm_cross, ours.norm_mlp), 1):
            getattr(theirs, f"norm{index}").load_state_dict(norm.state_dict())
    return stack.eval()


@torch.no_grad()
def test_the_autoregressive_renderer_is_torchs_transformer_decoder() -> None:
    renderer = autoregressive()
    for weight in renderer.parameters():
        weight.add_(0.1 * draw(*weight.shape, seed=weight.numel()))
    slots, features = draw(2, K, D), draw(2, 6, C, seed=1)
    found = renderer(slots, Seen(None, features))
    inputs = torch.cat([renderer.first.expand(2, 1, -1), features[:, :-1]], 1)
    memory, x = renderer.read_slots(slots), renderer.read_features(inputs)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    stack = torchs_own(renderer)
    torch.testing.assert_close(found.output, stack(x, memory, tgt_mask=causal))
    for layer in stack.layers[:-1]:
        x = layer(x, memory, tgt_mask=causal)
    last = stack.layers[-1]
    normed = last.norm1(x)
    x = x + last.self_attn(normed, normed, normed, attn_mask=causal)[0]
    weights = last.multihead_attn(last.norm2(x), memory, memory)[1]
    torch.testing.assert_close(found.masks, weights.transpose(1, 2))
    torch.testing.assert_close(renderer(slots, Seen(None, features), output=False).masks, found.masks)


def test_a_patch_is_predicted_from_those_before_it_without_a_gradient_to_them() -> None:
    renderer, slots = autoregressive(), draw(1, K, D)
    features = draw(1, 6, C, seed=1).requires_grad_()
    changed = features.detach().clone()
    changed[:, 3] += 1
    first, second = (renderer(slots, Seen(None, one)).output for one in (features, changed))
    same = (first == second).all(-1)[0].tolist()
    assert same == [True, True, True, True, False, False]
    first.sum().backward()
    assert features.grad is None


def test_masks_may_be_slot_attentions() -> None:
    renderer, attn = autoregressive(own_masks=False), draw(1, K, 6).softmax(1)
    assert renderer.needs_attn and not autoregressive().needs_attn
    found = renderer(draw(1, K, D), Seen(attn, draw(1, 6, C)))
    assert torch.equal(found.masks, attn) and found.output is not None
    assert renderer(draw(1, K, D), Seen(attn), output=False) == Rendered(attn, None)
    with pytest.raises(UserError, match=r"set decoder\.masks to cross_attention"):
        renderer(draw(1, K, D), Seen(draw(1, K, 0), draw(1, 6, C)))


# ------------------------------------------------------------------------------------------------- teachers


class _Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, frames: Tensor) -> Features:
        return Features(F.avg_pool2d(self.weight * frames, 2).flatten(2).transpose(1, 2))


def taught() -> FeatureDecoder:
    torch.manual_seed(0)
    renderer = PerceptronRenderer(GRID, D, [7], 3)
    return FeatureDecoder(renderer, {"features": Weighted(feature_error)}, feature_size=3, taught=True)


def clip() -> Clip:
    slots = draw(2, 1, K, D)
    return Clip(slots, slots, draw(2, 1, K, 6), None, State(slots[:, -1]))


def test_a_taught_decoder_learns_from_the_teachers_features_which_stay_as_they_are() -> None:
    decoder, video = taught(), draw(2, 1, 3, 4, 6)
    with pytest.raises(UserError, match="which saved models are without"):
        decoder.loss(clip(), {"video": video})
    decoder.learn_from(_Teacher())
    loss = decoder.loss(clip(), {"video": video})["features"]
    target = F.avg_pool2d(2 * video[:, 0], 2).flatten(2).transpose(1, 2)
    output = decoder.render(clip()).output
    torch.testing.assert_close(loss, F.mse_loss(output, target))
    loss.backward()
    frozen = [name for name, weight in decoder.named_parameters() if weight.grad is None]
    assert frozen == ["teacher.weight"]
    with pytest.raises(UserError, match="train it on `video`"):
        decoder.loss(clip(), {"features": target})


def test_a_decoder_of_its_encoders_features_takes_no_teacher() -> None:
    plain = FeatureDecoder(PerceptronRenderer(GRID, D, [7], 3), {}, feature_size=3)
    with pytest.raises(UserError, match="takes no teacher"):
        plain.learn_from(_Teacher())
    assert plain.training_only == () and taught().training_only == ("teacher.",)
