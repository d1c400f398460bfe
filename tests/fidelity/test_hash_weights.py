"""Weights that follow from names: which rule a name and a shape call for."""

import json

import numpy as np
import pytest

from fidelity.hash_init import state_dict
from fidelity.hash_weights import gain_of, hash_weights, normal


def one(name: str, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    return hash_weights({name: shape}, 7, gain)[name]


def test_the_recorded_gains():
    assert [gain_of(system) for system in ("SAVi", "SAViDiffusion", "STEVE")] == [1.6, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "shape", "deviation"),
    [
        ("init_latents", (1, 50, 60), 1.0),
        ("dm_decoder.vae.vqvae.quantize.embedding.weight", (500, 6), 1.0),
        ("trans_decoder.tok_emb.weight", (50, 60), 0.5),
        ("trans_decoder.pos_emb.pe", (1, 50, 60), 0.5),
        ("encoder.0.0.weight", (40, 10, 3, 3), 2 / np.sqrt(90)),
        ("decoder.0.0.weight", (40, 10, 3, 3), 2 / np.sqrt(360)),
        ("decoder.up.0.block.0.conv1.weight", (40, 10, 3, 3), 2 / np.sqrt(90)),
        ("predictor.rnn.bias_ih_l0", (4000,), 0.1),
    ],
)
def test_scale_of_each_kind(name, shape, deviation):
    found = one(name, shape, gain=2.0)
    assert found.shape == shape and found.dtype == np.float32
    assert found.std() == pytest.approx(deviation, rel=0.05) and abs(found.mean()) < 0.1 * deviation


def test_scales_of_norms_are_near_one():
    assert one("mlp.0.weight", (4000,)).mean() == pytest.approx(1.0, abs=0.01)


def test_names_and_salts_decide_the_values():
    base = hash_weights({"a": (3,), "b": (3,)}, 7)
    assert not np.array_equal(base["a"], base["b"])
    assert not np.array_equal(base["a"], hash_weights({"a": (3,)}, 8)["a"])
    np.testing.assert_array_equal(base["a"], hash_weights({"a": (3,)}, 7, gain=3.0)["a"])
    np.testing.assert_array_equal(normal(2**31 + 5, (4,)), normal(5, (4,)))


def test_a_case_s_state_dict_has_its_names_in_order(golden):
    for name in ("vqvae_mini", "dvae_mini"):
        listed = json.loads((golden / name / "state_dict.json").read_text())
        found = state_dict(golden / name)
        assert {key: list(value.shape) for key, value in found.items()} == {
            key: s for key, (s, _) in listed.items()
        }
        assert list(found) == list(listed)
