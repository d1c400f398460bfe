"""Figures of published evaluations of slots on frozen features: what their programs gave for the same masks."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

from recorded import GOLDEN
from torchslots.io.errors import UserError
from torchslots.metrics import jf
from torchslots.metrics.boundary import dilate, inner_boundary, outline
from torchslots.metrics.labels import masks_of_patches, one_hot_ids, patch_grid, segmentation_at
from torchslots.metrics.protocol import Protocol
from torchslots.metrics.scores import SegmentationScores

_FILE = np.load(GOLDEN / "features_metrics.npz")
_KEYS = sorted({key.removesuffix("/per_video") for key in _FILE.files if "/bg" in key})
_OUR_NAMES = {
    "video_ari": "fg_ari",
    "image_ari": "fg_ari_frame",
    "video_mbo": "mbo",
    "image_mbo": "mbo_frame",
    "video_miou": "fg_miou",
    "image_miou": "fg_miou_frame",
    "video_jandf": ("j_and_f", "j", "f"),
}
_OCLF = sorted(key for key in _FILE.files if key.startswith("oclf") and _FILE[key].ndim == 0)


def _tensor(key: str) -> torch.Tensor:
    return torch.from_numpy(_FILE[key])


def _figures(case: str, options: str, rows: slice) -> dict[str, float]:
    without_background, overlaps = "bg1" in options, "ignore" if "ov1" in options else "error"
    ids, ignore = one_hot_ids(_tensor(f"{case}/true")[rows], overlaps=overlaps, background=without_background)
    num_slots = int(_FILE[f"{case}/num_pred"])
    protocol = Protocol("left_out", boundaries="exact")
    found = SegmentationScores(3, num_background=int(without_background), protocol=protocol)
    for start in (0, 2):
        frames = slice(start, start + 2)
        predicted = _tensor(f"{case}/pred")[rows, frames]
        found.add(ids[:, frames], predicted, num_slots, start=start, ignore=ignore[:, frames])
    found.finish()
    return found.compute()[0]


def _told(figures: dict[str, float], name: str) -> np.ndarray | float:
    ours = _OUR_NAMES[name]
    if isinstance(ours, tuple):
        return np.array([figures.get(key, np.nan) for key in ours])
    return figures.get(ours, np.nan)


@pytest.mark.parametrize("key", _KEYS)
def test_video_and_image_figures_equal_recorded(key: str) -> None:
    case, name, options = key.split("/")
    np.testing.assert_allclose(
        _told(_figures(case, options, slice(None)), name), _FILE[key], rtol=0, atol=1e-12
    )
    for video, expected in enumerate(_FILE[f"{key}/per_video"]):
        told = _told(_figures(case, options, slice(video, video + 1)), name)
        np.testing.assert_allclose(np.ravel(told)[0], expected, rtol=0, atol=1e-12)


def test_every_recorded_figure_is_compared() -> None:
    assert len(_KEYS) == 49 and {key.split("/")[1] for key in _KEYS} == set(_OUR_NAMES)


@pytest.mark.parametrize("key", _OCLF)
def test_figures_of_images_with_class_coded_labels_equal_recorded(key: str) -> None:
    """An image without labels counts 1 in ARI and is left out of the rest; recall was summed in float32."""
    case, name, *ignored = key.split("/")
    with_background = "movi" in case
    true, soft = _tensor(f"{case}/true"), _tensor(f"{case}/pred")
    ids, ignore = one_hot_ids(true, overlaps="ignore", background=with_background)
    if ignored:
        ignore = ignore | (_tensor(f"{case}/ignore")[:, 0] != 0)
    predicted = soft.argmax(-3)
    if ids.ndim == 3:
        ids, predicted, ignore = ids[:, None], predicted[:, None], ignore[:, None]
    protocol = Protocol("one", ("corloc", "recall"))
    found = SegmentationScores(3, num_background=int(with_background), protocol=protocol)
    found.add(ids, predicted, soft.shape[-3], ignore=ignore)
    found.finish()
    ours = {"ari": "fg_ari", "miou": "fg_miou"}.get(name, name)
    atol = 1e-6 if name == "recall" else 1e-12
    np.testing.assert_allclose(found.compute()[0][ours], _FILE[key], rtol=0, atol=atol)


def test_exact_boundaries_equal_recorded() -> None:
    for masks, boundaries in (("masks", "boundaries"), ("big", "big_boundaries")):
        found = inner_boundary(_tensor(f"boundary/{masks}").flatten(0, -3) != 0)
        assert torch.equal(found, _tensor(f"boundary/{boundaries}").flatten(0, -3) != 0)


def test_masks_at_the_size_of_labels_equal_recorded() -> None:
    found = masks_of_patches(_tensor("resize/patch_masks"), (24, 24))
    torch.testing.assert_close(found, _tensor("resize/image_masks"), rtol=0, atol=1e-6)
    hard = segmentation_at(_tensor("resize/patch_masks").unflatten(-1, (6, 6)), (24, 24))
    assert torch.equal(hard, _tensor("resize/hard").long())
    wide = masks_of_patches(_tensor("resize/patch_masks_4x6"), (40, 60))
    torch.testing.assert_close(wide, _tensor("resize/image_masks_40x60"), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="25 patches make no grid for an image of 40 x 60"):
        patch_grid(25, (40, 60))


def test_the_first_of_equal_masks_wins_after_resizing() -> None:
    assert not segmentation_at(torch.full((1, 3, 2, 2), 1 / 3), (5, 5)).any()


def test_overlapping_masks_are_refused_unless_they_are_to_be_ignored() -> None:
    masks = torch.zeros(3, 2, 4, dtype=torch.uint8)
    masks[0, 0], masks[2, :, 2:] = 5, 18
    with pytest.raises(UserError, match="2 of 8 pixels belong to several objects"):
        one_hot_ids(masks)
    ids, ignore = one_hot_ids(masks, overlaps="ignore")
    assert ids.tolist() == [[1, 1, 0, 0], [0, 0, 3, 3]]
    assert ignore.tolist() == [[False, False, True, True], [False] * 4]
    assert one_hot_ids(masks[1:], background=True).ids.tolist() == [[0, 0, 1, 1]] * 2


# ------------------------------------------------------------------------------ J&F of DAVIS' official program


def _official_outline(mask: np.ndarray) -> np.ndarray:
    """Pixel by pixel: it differs from the one on its right, below, or both, as far as they are in the image."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            found[y, x] = any(b < height and c < width and mask[b, c] != mask[y, x] for b, c in others)
    return found


def _official_f(true: np.ndarray, found: np.ndarray, tolerance: int) -> float:
    lines, others = (np.argwhere(_official_outline(mask)) for mask in (true, found))
    if not len(lines) and not len(others):
        return 1.0
    if not len(lines) or not len(others):
        return 0.0
    apart = ((lines[:, None] - others) ** 2).sum(-1) <= tolerance**2
    recall, precision = apart.any(1).mean(), apart.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _official(true: np.ndarray, slots: np.ndarray, void: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F of each object that the video has."""
    tolerance = int(np.ceil(0.008 * np.hypot(*true.shape[1:])))
    objects = [i for i in np.unique(true[~void]) if i]
    found = [*np.unique(slots), *[-1] * len(objects)][: max(len(objects), len(np.unique(slots)))]
    j, f = np.zeros((2, len(objects), len(found)))
    for (g, i), (k, s), t in product(enumerate(objects), enumerate(found), range(len(true))):
        one, other = (true[t] == i) & ~void[t], (slots[t] == s) & ~void[t]
        union = (one | other).sum()
        j[g, k] += (one & other).sum() / union if union else 1
        f[g, k] += _official_f(one, other, tolerance)
    rows, columns = linear_sum_assignment(-(j + f))
    return j[rows, columns] / len(true), f[rows, columns] / len(true)


def _videos(seed: int, num_slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blobs that come and go, what a model might find, and void."""
    rng = np.random.default_rng(seed)
    true = np.zeros((2, 5, 20, 30), int)
    for video, t, i in product(range(2), range(5), range(1, 4)):
        if rng.random() < 0.7:
            y, x = rng.integers(0, 12), rng.integers(0, 20)
            true[video, t, y : y + rng.integers(2, 9), x : x + rng.integers(2, 11)] = 40 * i
    found = np.roll(true // 40 % num_slots, rng.integers(0, 3), 3)
    found = np.where(rng.random(true.shape) < 0.03, rng.integers(0, num_slots, true.shape), found)
    return true, found, rng.random(true.shape) < 0.05


@pytest.mark.parametrize(("seed", "num_slots"), [(0, 6), (1, 2), (2, 4), (3, 3)])
def test_tolerant_j_and_f_by_its_definition(seed: int, num_slots: int) -> None:
    """Objects of all videos weigh alike; slices and the order of frames between them change nothing."""
    true, found, void = _videos(seed, num_slots)
    j, f = (np.concatenate(part) for part in zip(*[_official(*video) for video in zip(true, found, void)]))
    scores = SegmentationScores(5, protocol=Protocol(boundaries="tolerant"))
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        maps = (torch.from_numpy(values[:, start:stop]) for values in (true, found, void))
        scores.add(next(maps), next(maps), num_slots, start=start, ignore=next(maps))
    scores.finish()
    figures = scores.compute()[0]
    assert figures["j"] == pytest.approx(j.mean(), abs=1e-12)
    assert figures["f"] == pytest.approx(f.mean(), abs=1e-12)
    assert figures["j_and_f"] == pytest.approx((j.mean() + f.mean()) / 2, abs=1e-12)
    assert jf(true, found, void) == pytest.approx(figures["j_and_f"], abs=1e-12)


def test_padded_frames_have_no_j_and_f() -> None:
    true, found, void = (torch.from_numpy(values) for values in _videos(0, 4))
    figures = []
    for count in (3, 5):
        real = torch.ones_like(void[:, :count])
        real[:, 3:] = False
        scores = SegmentationScores(5, protocol=Protocol(boundaries="tolerant"))
        scores.add(true[:, :count], found[:, :count], 4, padding_mask=real, ignore=void[:, :count])
        scores.finish()
        figures.append(scores.compute()[0])
    assert figures[0] == figures[1] and 0 < figures[0]["f"] < 1


def test_outlines_and_disks() -> None:
    masks = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(0)) < 0.1
    for mask, line in zip(masks, outline(masks)):
        assert (line.numpy() == _official_outline(mask.numpy())).all()
    for radius in (0, 1, 3, 8, 40):
        far = np.stack([distance_transform_edt(~mask.numpy()) for mask in masks])
        assert (dilate(masks, radius).numpy() == (far <= radius)).all()
