"""`model.predict` checks what it is given, once, with what to do."""

import numpy as np
import pytest
import torch

from tiny_models import batch, tiny
from torchslots.io.errors import UserError

GIVEN = {key: value for key, value in batch().items() if key in ("video", "boxes")}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"video": 255 * GIVEN["video"]}, r"`video` should be in \[0, 1\], got .* to 25\d.*: divide by 255"),
        ({"video": (255 * GIVEN["video"]).byte()}, r"got torch.uint8: use video.float\(\) / 255"),
        ({"video": GIVEN["video"].double()}, r"should be float32, got torch.float64: use video.float\(\)"),
        ({"video": 2 * GIVEN["video"] - 1}, r"got -\d.* to .*: undo its normalization"),
        ({"video": GIVEN["video"].numpy()}, r"`video` should be a tensor, got ndarray: use torch.as_tensor"),
        ({"video": GIVEN["video"].movedim(2, -1)}, r"should be \[B, T, 3, H, W\], got \[2, 6, 16, 24, 3\]"),
        ({"video": GIVEN["video"].where(GIVEN["video"] > 0.1, torch.nan)}, r"`video` has values .*NaN"),
        (
            {"boxes": 64 * GIVEN["boxes"]},
            r"`boxes` should be in \[0, 1\], .*: divide by the height and width",
        ),
        ({"boxes": GIVEN["boxes"].numpy().tolist()}, r"`boxes` should be a tensor, got list"),
        (
            {"segmentations": torch.rand(2, 6, 16, 24)},
            r"`segmentations` should be integer ids, got torch.float32",
        ),
        ({"video": GIVEN["video"][:, :0]}, r"`video` is empty, \[2, 0, 3, 16, 24\]: give at least one clip"),
        (
            {"video": GIVEN["video"].half()},
            r"should be torch.float32 as the model's weights, got torch.float16",
        ),
        (
            {"boxes": GIVEN["boxes"][:, 0]},
            r"`boxes` should be \[B, T, n, 4\] .*, got \[2, 4, 4\]: add dimensions",
        ),
        ({"boxes": GIVEN["boxes"][..., :3]}, r"`boxes` should be \[B, T, n, 4\] .*, got \[2, 6, 4, 3\]"),
        ({"boxes": GIVEN["boxes"][:1]}, r"2 of `video` and 1 of `boxes`: give a hint for each clip"),
        (
            {"segmentations": torch.zeros(2, 16, 24, dtype=torch.int32)},
            r"`segmentations` should be \[B, T, H, W\], got \[2, 16, 24\]: add dimensions",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(changes, said):
    with pytest.raises(UserError, match=said):
        tiny().predict({**GIVEN, **changes})


def test_everything_is_said_at_once():
    wrong = {"video": 255 * GIVEN["video"], "boxes": np.zeros((2, 6, 4, 4))}
    with pytest.raises(UserError, match=r"`video` .* divide by 255. `boxes` should be a tensor"):
        tiny().predict(wrong)


@pytest.mark.parametrize("given", [{}, {"frames": GIVEN["video"]}, GIVEN["video"], np.zeros((2, 8, 8, 3))])
def test_a_batch_has_frames(given):
    with pytest.raises(UserError, match=r"a dictionary with `video` .*predict_frames"):
        tiny().predict(given)


def test_bicubic_frames_are_taken_as_they_are():
    video = GIVEN["video"].clone()
    video[0, 0, 0, 0, 0], video[0, 0, 0, 0, 1] = -0.2, 1.25
    model = tiny()
    with torch.no_grad():
        clip = model.encode({**GIVEN, "video": video})
    assert torch.equal(model.predict({**GIVEN, "video": video}).slots, clip.slots)


def test_a_missing_hint_is_said():
    with pytest.raises(UserError, match="starts from boxes"):
        tiny().predict({"video": GIVEN["video"]})
