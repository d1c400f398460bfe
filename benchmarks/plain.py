"""Textbook PyTorch of SAVi-S, with which our own step is compared.

Transposed convolutions are `nn.ConvTranspose2d`, every slot of every frame is decoded even where it is a copy, nothing
is packed, folded or projected ahead, and the allocator has its default settings. `load` copies our weights in, so that
both sides compute the same loss.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, GRID, HEADS = 128, 8, 4


def _perceptron(*sizes: int) -> list[nn.Module]:
    layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
    return [part for layer in layers for part in (layer, nn.ReLU())][:-1]


class Position(nn.Module):
    def __init__(self, size: int, channels: int):
        super().__init__()
        axis = torch.linspace(-1, 1, size)
        self.register_buffer("grid", torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1))
        self.project = nn.Linear(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.grid).permute(2, 0, 1)


class Up(nn.Module):
    """5x5 at stride 2 with SAME padding."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(inside, outside, 5, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :-1, :-1]


class PlainSavi(nn.Module):
    """SAVi-S conditioned on boxes, with flow as target."""

    def __init__(self, resolution: int = 64, layout: torch.memory_format = torch.contiguous_format):
        super().__init__()
        self.layout = layout
        widths = (3, 32, 32, 32, 32)
        convs = [nn.Conv2d(a, b, 5, padding=2) for a, b in zip(widths, widths[1:])]
        self.cnn = nn.Sequential(*(part for conv in convs for part in (conv, nn.ReLU())))
        self.encoder_position = Position(resolution, 32)
        self.tokens = nn.Sequential(nn.LayerNorm(32, 1e-6), *_perceptron(32, 64, 32))
        self.start = nn.Sequential(*_perceptron(4, 256, WIDTH))
        self.norm_inputs, self.norm_slots = nn.LayerNorm(32, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key, self.value = (nn.Linear(32, WIDTH, bias=False) for _ in "kv")
        self.gru = nn.GRUCell(WIDTH, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.mlp = nn.Sequential(*_perceptron(WIDTH, 256, WIDTH))
        self.decoder_position = Position(GRID, WIDTH)
        ups = [Up(WIDTH, 64), Up(64, 64), Up(64, 64), nn.Conv2d(64, 64, 5, padding=2)]
        self.decoder = nn.Sequential(*(part for conv in ups for part in (conv, nn.ReLU())))
        self.read = nn.Linear(64, 4)
        self.to(memory_format=layout)

    def correct(self, slots: Tensor, frame: Tensor) -> Tensor:
        frame = self.norm_inputs(frame)
        logits = self.query(self.norm_slots(slots)) @ self.key(frame).transpose(1, 2) * WIDTH**-0.5
        attn = logits.softmax(1)
        weights = attn / (attn.sum(-1, keepdim=True) + 1e-8)
        return self.gru((weights @ self.value(frame)).flatten(0, 1), slots.flatten(0, 1)).view_as(slots)

    def predict_next(self, slots: Tensor) -> Tensor:
        slots = self.norm_attention(slots + self.attention(slots, slots, slots, need_weights=False)[0])
        return self.norm_mlp(slots + self.mlp(slots))

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Flow and masks of [B, T, K, D] slots."""
        tiled = slots.flatten(0, 2)[:, :, None, None].expand(-1, -1, GRID, GRID)
        features = self.decoder(self.decoder_position(tiled).contiguous(memory_format=self.layout))
        decoded = self.read(features.permute(0, 2, 3, 1)).unflatten(0, slots.shape[:3])
        masks = decoded[..., :1].softmax(2)
        return (masks * decoded[..., 1:]).sum(2).movedim(-1, 2), masks[..., 0]

    def forward(self, video: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.encoder_position(self.cnn(video.flatten(0, 1).to(memory_format=self.layout)))
        tokens = self.tokens(frames.flatten(2).transpose(1, 2)).unflatten(0, video.shape[:2])
        slots, found = self.start(F.pad(boxes, (0, 0, 1, 0))), []
        for t in range(video.shape[1]):
            found.append(self.correct(slots, tokens[:, t]))
            slots = self.predict_next(found[-1])
        return self.decode(torch.stack(found, 1))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        flow, _ = self(batch["video"], batch["boxes"][:, 0])
        return (flow - batch["flow"]).square().sum() / len(flow)


def load(plain: PlainSavi, ours: nn.Module) -> None:
    """Copy our weights; the two hidden biases that flax's recurrent unit lacks are zero."""
    given = dict(ours.state_dict())
    with torch.no_grad():
        for name, value in plain.named_parameters():
            value.copy_(_found(name, given))


def _found(name: str, given: dict[str, Tensor]) -> Tensor:
    """Our weight of a name in the plain model."""
    for theirs, own in _PLACES.items():
        if name.startswith(theirs + "."):
            rest = name[len(theirs) + 1 :].replace("conv.", "")
            return _joined(own, rest, given)
    raise KeyError(name)


def _joined(own: str, rest: str, given: dict[str, Tensor]) -> Tensor:
    if rest in ("weight", "bias") and own == "read":
        return torch.cat([given[f"decoder.{head}.{rest}"] for head in ("mask_head", "heads.flow")])
    if rest.startswith("in_proj_"):
        part = rest.removeprefix("in_proj_")
        return torch.cat([given[f"{own}.{which}.{part}"] for which in ("query", "key", "value")])
    if rest == "bias_hh":
        zeros = torch.zeros(2 * WIDTH)
        return torch.cat([zeros, given[f"{own}.bias_hh"]])
    return given[f"{own}.{rest.replace('out_proj', 'out')}"]


_CORRECTOR, _BLOCK = "slot_encoder.corrector", "slot_encoder.predictor.block"
_PLACES = {
    "cnn": "slot_encoder.encoder.backbone",
    "encoder_position": "slot_encoder.encoder.position",
    "tokens": "slot_encoder.encoder.transform.0",
    "start": "slot_encoder.initializer.mlp",
    **{
        name: f"{_CORRECTOR}.{name}" for name in ("norm_inputs", "norm_slots", "query", "key", "value", "gru")
    },
    **{name: f"{_BLOCK}.{name}" for name in ("attention", "norm_attention", "norm_mlp", "mlp")},
    "decoder_position": "decoder.position",
    "decoder": "decoder.backbone",
    "read": "read",
}
