"""Sizes that configurations compute and check."""

import pytest

from torchslots.io.errors import UserError
from torchslots.recipes.sizes import decoded_size, reduced, require_decoded, require_heads, require_same_size


def test_maps_are_rounded_up_and_images_are_multiples():
    assert reduced((65, 128), 2) == (33, 64)
    assert decoded_size((8, 6), (2, 2, 1)) == (32, 24)


def test_what_does_not_fit_is_refused():
    require_decoded((32, 24), (32, 24))
    require_same_size((32, 24), (32, 24))
    require_heads("slot_size", 32, 4)
    with pytest.raises(
        UserError, match=r"images of \(32, 24\), but the frames are \(24, 32\)\. Change decoder\.x"
    ):
        require_decoded((32, 24), (24, 32), "decoder.x")
    with pytest.raises(UserError, match=r"frames of \(32, 24\), the tokenizer for \(24, 32\)"):
        require_same_size((32, 24), (24, 32))
    for heads in (0, 3):
        with pytest.raises(UserError, match=f"slot_size 32 cannot be shared out among {heads} heads"):
            require_heads("slot_size", 32, heads)
