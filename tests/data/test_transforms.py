"""SAVi's preprocessing against recordings of the original operations, and the parts that are drawn at random."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from recorded import GOLDEN
from torchslots.data import transforms
from torchslots.data.transforms import Crop, Sample


def _recorded() -> dict[str, np.ndarray]:
    """All recorded arrays; of those that are equal the file holds one, and says under which names it belongs."""
    with np.load(GOLDEN / "savi_preprocess" / "preprocess.npz") as table:
        stored = {name: table[name] for name in table.files}
    return stored | {name: stored[other] for name, other in stored["same"]}


RECORDED = _recorded()
SPECS = {key.split("/")[0]: str(RECORDED[key]) for key in RECORDED if key.endswith("/_spec")}
IMAGES = ("video", "flow", "depth")
"""Of operations that treat each frame alone these are recorded for the first, the middle and the last one."""


def _loaded(letter: str, max_instances: int) -> Sample:
    raw = {
        key: RECORDED[f"raw{letter}/{key}"] for key in ("video", "segmentations", "backward_flow", "depth")
    }
    flow = transforms.decode_range(raw["backward_flow"], RECORDED[f"raw{letter}/backward_flow_range"])
    depth = transforms.decode_range(raw["depth"], RECORDED[f"raw{letter}/depth_range"])
    tracks = [RECORDED[f"raw{letter}/{key}"] for key in ("boxes_values", "frames_values", "row_lengths")]
    sample = {
        "video": torch.from_numpy(raw["video"]).permute(0, 3, 1, 2),
        "segmentations": torch.from_numpy(raw["segmentations"][..., 0]),
        "flow": torch.from_numpy(flow).permute(0, 3, 1, 2),
        "depth": torch.from_numpy(depth).permute(0, 3, 1, 2),
        "padding_mask": torch.ones(depth.shape[:3], dtype=torch.bool),
        "boxes": transforms.dense_boxes(*tracks, len(depth), max_instances),
    }
    ids = sample["segmentations"]  # the reference keeps as many ids as it has rows of boxes
    return {**sample, "segmentations": torch.where(ids > max_instances, 0, ids)}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(?<![\d.])\d+(?![\d.])", text)]


def _windows(sample: Sample, length: int, step: int, last: int) -> list[Sample]:
    return [transforms.take_window(sample, start, length) for start in range(0, last, step)]


def _central_crop(sample: Sample, height: int, width: int) -> Sample:
    full = transforms.frame_size(sample)
    return transforms.crop(sample, Crop((full[0] - height) // 2, (full[1] - width) // 2, height, width))


def _crop_or_pad(sample: Sample, height: int, width: int) -> Sample:
    """The top left corner; what is missing below and to the right is zero."""
    full, area = transforms.frame_size(sample), Crop(0, 0, height, width)
    fitted = {
        key: transforms.crop_boxes(value, area, *full)
        if key == "boxes"
        else transforms.fit_length(transforms.fit_length(value, -2, height), -1, width)
        for key, value in sample.items()
    }
    return fitted


def _crops(sample: Sample, height: int, width: int) -> list[Sample]:
    full = transforms.frame_size(sample)
    corners = [(y, x) for y in range(full[0] - height + 1) for x in range(full[1] - width + 1)]
    return [transforms.crop(sample, Crop(y, x, height, width)) for y, x in corners]


def _resized_crop(sample: Sample, name: str, words: str) -> Sample:
    height, width = (int(re.findall(rf"{side}=(\d+)", words)[0]) for side in ("height", "width"))
    least = re.findall(r"threshold=([\d.]+)", words)
    area = Crop(*RECORDED[f"{name}/crop_y_x_h_w"].tolist())
    return transforms.random_resized_crop(sample, area, height, width, float(least[0]) if least else 0.0)


def _outcomes(name: str, words: str, sample: Sample) -> list[Sample]:
    """Result of one recorded operation; of a random one all that it can give, where the draw is not recorded."""
    operation, numbers, frames = words.split("(")[0], _numbers(words), len(sample["video"])
    one: dict[str, Callable[[], Sample]] = {
        "resize_small": lambda: transforms.resize_small(sample, *numbers),
        "flow_to_rgb": lambda: transforms.flow_to_rgb(sample),
        "transform_depth": lambda: transforms.transform_depth(sample, words.split("'")[1]),  # type: ignore[arg-type]
        "temporal_crop_or_pad": lambda: transforms.take_window(sample, 0, numbers[0]),
        "drop_frames": lambda: {key: value[:: numbers[0]] for key, value in sample.items()},
        "central_crop": lambda: _central_crop(sample, numbers[0], numbers[-1]),
        "crop_or_pad": lambda: _crop_or_pad(sample, *numbers),
        "random_resized_crop": lambda: _resized_crop(sample, name, words),
    }
    many: dict[str, Callable[[], list[Sample]]] = {
        "temporal_random_strided_window": lambda: _windows(sample, numbers[0], numbers[0], frames),
        "temporal_random_window": lambda: _windows(sample, numbers[0], 1, frames - numbers[0] + 1),
        "random_crop": lambda: _crops(sample, *numbers),
    }
    return [one[operation]()] if operation in one else many[operation]()


def _differences(name: str, sample: Sample) -> list[str]:
    sample = transforms.masks_to_int(transforms.video_to_float(sample))
    wrong = []
    for key in ("video", "segmentations", "padding_mask", "flow", "depth", "boxes"):
        expected, found = RECORDED[f"{name}/{key}"], sample[key].numpy()
        if key in IMAGES:
            found = np.moveaxis(found, 1, -1)[RECORDED.get(f"{name}/_frames", slice(None))]
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0) if key in ("flow", "depth") else 1.0
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=4e-6 * scale):
            wrong.append(key)
    return wrong


@pytest.mark.parametrize("name", SPECS)
def test_recorded_chain_of_operations(name: str):
    operations = SPECS[name].split("|")
    samples = [_loaded(name[0], _numbers(operations[1])[0])]
    for words in operations[2:]:
        samples = [outcome for sample in samples for outcome in _outcomes(name, words, sample)]
    assert min((_differences(name, sample) for sample in samples), key=len) == []


def test_recorded_sizes_boxes_and_flow_pictures():
    for given, expected in zip(RECORDED["small_shape/in_h_w_size"], RECORDED["small_shape/out_h_w"]):
        assert transforms.small_size(*map(int, given)) == tuple(expected)
    *area, height, width = RECORDED["crop_boxes/args_top_left_h_w_H_W"].tolist()
    boxes = transforms.crop_boxes(torch.from_numpy(RECORDED["crop_boxes/in"]), Crop(*area), height, width)
    np.testing.assert_allclose(boxes, RECORDED["crop_boxes/out"], rtol=0, atol=1e-6)
    flow = torch.from_numpy(RECORDED["flow_rgb_raw/in"]).permute(0, 3, 1, 2)
    picture = transforms.flow_image(flow).permute(0, 2, 3, 1).numpy()
    assert (picture != RECORDED["flow_rgb_raw/out_uint8"]).mean() < 1e-4


def test_nearest_takes_the_pixel_under_the_centre():
    ids = torch.arange(8)[None, None].expand(1, 8, 8)
    assert transforms.resize_nearest(ids, 4, 4)[0, 0].tolist() == [1, 3, 5, 7]
    expected = torch.nn.functional.interpolate(ids[:, None].float(), (5, 11), mode="nearest-exact")[:, 0]
    assert torch.equal(transforms.resize_nearest(ids, 5, 11).float(), expected)


def test_bytes_and_floats_resize_alike():
    video = torch.randint(256, (2, 3, 12, 20), dtype=torch.uint8)
    mask = torch.ones(2, 12, 20, dtype=torch.bool)
    late = transforms.video_to_float(transforms.resize({"video": video, "padding_mask": mask}, 7, 9))
    early = transforms.resize(transforms.video_to_float({"video": video, "padding_mask": mask}), 7, 9)
    torch.testing.assert_close(late["video"], early["video"], rtol=0, atol=1e-6)


def test_strided_windows_are_all_equally_likely_and_window_anywhere():
    rng = np.random.default_rng(0)
    counts = np.bincount([transforms.strided_window_start(20, 6, rng) for _ in range(4000)], minlength=20)
    assert np.flatnonzero(counts).tolist() == [0, 6, 12, 18] and counts[counts > 0].min() > 850
    starts = {transforms.window_start(10, 4, rng) for _ in range(300)}
    assert starts == set(range(7)) and transforms.window_start(3, 4, rng) == 0


def test_drawn_crops_obey_their_bounds():
    rng = np.random.default_rng(0)
    drawn = [transforms.sample_crop(120, 160, 0.3, rng) for _ in range(2000)]
    parts = np.array([area.height * area.width / (120 * 160) for area in drawn])
    aspects = np.array([area.width / area.height for area in drawn])
    assert parts.min() >= 0.3 and 0.74 < aspects.min() < 0.78 and 1.3 < aspects.max() < 1.35
    assert all(a.top >= 0 and a.top + a.height <= 120 and a.left + a.width <= 160 for a in drawn)
    assert parts.max() > 0.9 and len({area.top for area in drawn}) > 20


def test_drawn_crops_are_distributed_as_the_recipe_expects():
    """128 x 128 and 75 %, against the same draw without pixels: a uniform aspect ratio, then a uniform height."""
    rng = np.random.default_rng(0)
    drawn = np.array([transforms.sample_crop(128, 128, 0.75, rng) for _ in range(4000)])
    part = drawn[:, 2] * drawn[:, 3] / 128**2
    aspect = rng.uniform(3 / 4, 4 / 3, 400_000)
    height = rng.uniform(np.sqrt(0.08 / aspect), np.minimum(1, 1 / aspect))
    kept = height**2 * aspect >= 0.75
    expected = (height**2 * aspect)[kept]
    assert part.min() >= 0.75 and abs(part.mean() - expected.mean()) < 0.006
    assert abs((drawn[:, 3] / drawn[:, 2]).mean() - aspect[kept].mean()) < 0.01
    deciles = np.arange(0.1, 1, 0.1)
    np.testing.assert_allclose(np.quantile(part, deciles), np.quantile(expected, deciles), atol=0.012)
    whole = transforms.sample_crop(20, 200, 0.9, rng)
    assert whole == Crop(0, 0, 20, 200), "no rectangle of these proportions covers so much"
