"""Attention as masks: enlarged, shared, and where nobody looked."""

import torch

from torchslots.models.decoders.base import attention_masks


def attention(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).mul(3).softmax(2)


def test_each_cell_is_enlarged_about_its_place():
    attn = torch.zeros(1, 1, 2, 6)
    attn[..., 0, 4], attn[..., 1, [0, 1, 2, 3, 5]] = 1.0, 1.0
    masks, logits = attention_masks(attn, (2, 3), (8, 12))
    assert masks.shape == (1, 1, 2, 8, 12)
    torch.testing.assert_close(masks.sum(2), torch.ones(1, 1, 8, 12))
    torch.testing.assert_close(logits.exp(), masks)
    assert (masks[0, 0, 0, 5:, 5:7] > 0.5).all()
    masks[0, 0, 0, 4:, 4:8] = 0
    assert masks[0, 0, 0].max() < 0.5


def test_without_a_slot_the_others_share_its_pixels():
    attn = attention(2, 3, 4, 24)
    whole, _ = attention_masks(attn, (4, 6), (8, 12))
    masks, logits = attention_masks(attn[:, :, 1:], (4, 6), (8, 12))
    torch.testing.assert_close(masks, whole[:, :, 1:] / whole[:, :, 1:].sum(2, keepdim=True))
    assert torch.equal(logits.argmax(2), whole[:, :, 1:].argmax(2))


def test_frames_that_nobody_saw_belong_to_all():
    for attn in (torch.zeros(1, 2, 5, 0), torch.zeros(1, 2, 5, 24)):
        masks, logits = attention_masks(attn, (4, 6), (8, 12))
        torch.testing.assert_close(masks, torch.full((1, 2, 5, 8, 12), 0.2))
        assert logits.isfinite().all()
