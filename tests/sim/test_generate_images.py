import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchslots.data.formats.example import decode_bytes, decode_floats, scan_example
from torchslots.data.objects import LABELS
from torchslots.data.sets.clevrtex import ClevrTexFolder, find_clevrtex
from torchslots.io.errors import UserError
from torchslots.sim.clevr import OBJECTS, sample_clevr
from torchslots.sim.generate_images import generate_images
from torchslots.sim.rooms import FLOOR, LEFT_WALL, RIGHT_WALL, SKY, sample_room
from torchslots.sim.sprites import ELLIPSE, HEART, SQUARE, sample_sprites
from torchslots.sim.tetrominoes import CELL, COLORS, SHAPES, sample_tetrominoes

SCHEMAS = {
    "tetrominoes": {
        "image": (1, 35 * 35 * 3),
        "mask": (1, 4 * 35 * 35),
        "color": (2, 12),
        **dict.fromkeys(("x", "y", "shape", "visibility"), (2, 4)),
    },
    "objects_room": {"image": (1, 64 * 64 * 3), "mask": (1, 7 * 64 * 64)},
    "multi_dsprites": {
        "image": (1, 64 * 64 * 3),
        "mask": (1, 6 * 64 * 64),
        "color": (2, 18),
        **dict.fromkeys(("x", "y", "shape", "visibility", "orientation", "scale"), (2, 6)),
    },
    "clevr_with_masks": {
        "image": (1, 48 * 64 * 3),
        "mask": (1, 11 * 48 * 64),
        "pixel_coords": (2, 33),
        **dict.fromkeys(("x", "y", "z", "rotation", "visibility"), (2, 11)),
        **dict.fromkeys(("color", "material", "shape", "size"), (1, 11)),
    },
}
"""Names, list kinds and lengths of the published sets' features (CLEVR's at the tests' size)."""


def _generate(out: Path, kind: str, count: int, seed: int = 0, workers: int = 1) -> Path:
    size = {"clevr_with_masks": (48, 64), "clevr": (48, 72), "clevrtex": (48, 64)}.get(kind)
    return generate_images(out, kind=kind, count=count, resolution=size, seed=seed, workers=workers)  # type: ignore[arg-type]


def _records(folder: Path) -> list[dict[str, np.ndarray]]:
    """All records as arrays, read with nothing but gzip and the Example parser."""
    data, position, found = gzip.decompress(next(folder.glob("*.tfrecords")).read_bytes()), 0, []
    while position < len(data):
        length = struct.unpack_from("<Q", data, position)[0]
        raw = scan_example(data[position + 12 : position + 12 + length])
        found.append({name: _array(value) for name, value in raw.items()})
        position += length + 16
    return found


def _array(raw) -> np.ndarray:
    return decode_floats(raw) if raw.kind == 2 else np.frombuffer(b"".join(decode_bytes(raw)), np.uint8)


@pytest.mark.parametrize("kind", list(SCHEMAS))
def test_records_have_the_published_schema_and_masks_make_up_the_picture(tmp_path: Path, kind: str):
    folder = _generate(tmp_path, kind, 3)
    variant = "colored_on_grayscale" if kind == "multi_dsprites" else "train"
    assert folder == tmp_path / kind and (folder / f"{kind}_{variant}.tfrecords").exists()
    records = _records(folder)
    assert len(records) == 3
    for record in records:
        found = {name: (1 if array.dtype == np.uint8 else 2, array.size) for name, array in record.items()}
        assert found == SCHEMAS[kind]
        entities = SCHEMAS[kind]["mask"][1] * 3 // record["image"].size
        masks = record["mask"].reshape((entities, -1) if kind != "multi_dsprites" else (-1, entities))
        masks = masks.T if kind == "multi_dsprites" else masks
        assert set(np.unique(masks)) == {0, 255} and ((masks > 0).sum(0) == 1).all()
    images = {record["image"].tobytes() for record in records}
    assert len(images) == 3


@pytest.mark.parametrize("kind", ["tetrominoes", "clevr", pytest.param("clevrtex", marks=pytest.mark.slow)])
def test_bytes_depend_on_the_seed_alone(tmp_path: Path, kind: str):
    def contents(name: str, seed: int, workers: int) -> dict[str, bytes]:
        folder = _generate(tmp_path / name, kind, 5, seed, workers)
        return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}

    one, other = contents("one", 3, 1), contents("other", 4, 1)
    assert one == contents("two", 3, 2)
    assert one.keys() == other.keys() and all(one[name] != other[name] for name in one)


def test_tetrominoes_are_three_whole_pieces_with_their_properties():
    assert len(SHAPES) == 19 and all(cells.sum() == 4 for cells in SHAPES)
    pictures = sample_tetrominoes(300, np.random.default_rng(0))
    for image, mask, x, y, shape, color, visible in zip(*pictures):
        assert (visible == 1).all() and (image[mask[0, ..., 0] > 0] == 0).all()
        assert (np.array([x[0], y[0], shape[0], *color[0]]) == 0).all()
        for piece in range(1, 4):
            cells = np.kron(SHAPES[int(shape[piece])], np.ones((CELL, CELL), bool))
            expected = np.zeros((35, 35), bool)
            top, left = int(y[piece]), int(x[piece])
            expected[top : top + cells.shape[0], left : left + cells.shape[1]] = cells
            assert (expected == (mask[piece, ..., 0] > 0)).all()
            assert (image[expected] == color[piece] * 255).all() and tuple(color[piece] * 255) in COLORS
    assert set(np.unique(pictures.shape[:, 1:])) == set(range(19))


def test_rooms_have_sky_above_walls_above_floor_and_every_object_seen():
    rng = np.random.default_rng(1)
    counts = set()
    for _ in range(40):
        image, mask = sample_room(rng)
        sky, wall, floor = (
            mask[entities, ..., 0].max(0) > 0 for entities in ([SKY], [LEFT_WALL, RIGHT_WALL], [FLOOR])
        )
        rows = np.arange(64)[:, None]
        assert (np.where(sky, rows, -1).max(0) < np.where(wall | floor, rows, 64).min(0)).all()
        assert (np.where(wall, rows, -1).max(0) < np.where(floor, rows, 64).min(0)).all()
        assert mask[LEFT_WALL, :, 32:].sum() == 0 and mask[RIGHT_WALL, :, :32].sum() == 0
        seen = [(entity > 0).sum() for entity in mask[4:]]
        number = sum(pixels > 0 for pixels in seen)
        assert all(pixels >= 12 for pixels in seen[:number]) and not any(seen[number:])
        inside = mask[SKY, ..., 0] > 0
        assert np.ptp(image[inside][:, 2].astype(int)) < 140 and image[0, 0, 2] > image[0, 0, 0]
        counts.add(number)
    assert counts == {1, 2, 3}


def test_clevr_pictures_show_what_their_properties_say():
    rng = np.random.default_rng(2)
    hues, spread = 0, 0
    for _ in range(12):
        picture = sample_clevr(rng, (96, 144))
        assert OBJECTS[0] <= len(picture.objects) == len(picture.masks) == len(picture.pixel_coords)
        for thing, mask, (column, row, depth) in zip(picture.objects, picture.masks, picture.pixel_coords):
            rows, columns = np.nonzero(mask)
            assert mask.sum() >= 200 / (320 * 480) * mask.size and 5 < depth < 18
            assert abs(np.median(rows) - row) < 25 and abs(np.median(columns) - column) < 25
            assert max(map(abs, thing.position[:2])) <= 3
            strongest = picture.image[mask].mean(0).argmax()
            expected = {"red": 0, "brown": 0, "green": 1, "blue": 2, "purple": 2}.get(thing.color)
            spread += expected is not None and thing.material == "rubber"
            hues += expected == strongest and thing.material == "rubber"
    assert spread > 10 and hues > 0.8 * spread


def test_pictures_of_few_objects_are_made_on_request():
    rng = np.random.default_rng(3)
    numbers = {len(sample_clevr(rng, (32, 48), most=4).objects) for _ in range(12)}
    assert numbers == {3, 4}


def test_codes_of_masked_clevr_count_from_one_in_the_labels_order(tmp_path: Path):
    for record in _records(_generate(tmp_path, "clevr_with_masks", 4)):
        number = int(record["visibility"].sum())
        for name, labels in LABELS.items():
            codes = record[name]
            assert codes[0] == 0 and not codes[number:].any()
            assert codes[1:number].min() >= 1 and codes[1:number].max() <= len(labels)
        large = record["z"][1:number] > 0.4
        np.testing.assert_array_equal(large, record["size"][1:number] == 1 + LABELS["size"].index("large"))
        masks = np.any(record["mask"].reshape(11, -1), axis=1)
        assert masks.sum() == number and masks[:number].all()


def test_clevr_folder_is_laid_out_as_the_original(tmp_path: Path):
    folder = _generate(tmp_path, "clevr", 11)
    assert folder == tmp_path / "CLEVR_v1.0"
    for split, count in (("train", 11), ("val", 1)):
        scenes = json.loads((folder / "scenes" / f"CLEVR_{split}_scenes.json").read_text())["scenes"]
        assert [scene["image_index"] for scene in scenes] == list(range(count))
        for scene in scenes:
            with Image.open(folder / "images" / split / scene["image_filename"]) as image:
                assert image.mode == "RGBA" and image.size == (72, 48)
            for thing in scene["objects"]:
                assert all(thing[name] in labels for name, labels in LABELS.items())
                assert len(thing["3d_coords"]) == len(thing["pixel_coords"]) == 3


def test_clevrtex_folder_is_laid_out_as_the_original(tmp_path: Path):
    folder = _generate(tmp_path, "clevrtex", 5)
    assert folder == tmp_path / "clevrtex_full"
    images = find_clevrtex(tmp_path, "full")
    assert isinstance(images, ClevrTexFolder) and len(images) == 5
    for index in range(5):
        scene, stored = images.scene(index), images.open(index, None).read(0, 1)
        assert stored["video"].std() > 5
        assert [thing["index"] for thing in scene["objects"]] == np.unique(stored["segmentations"])[
            1:
        ].tolist()
        assert scene["image_index"] == index and scene["num_objects"] == images.num_objects(index)


def test_sprites_are_of_one_colour_where_their_properties_say():
    shown = sample_sprites(60, np.random.default_rng(3))
    counts = set()
    for image, mask, x, y, shape, color, visible, _, scale in zip(*shown):
        number = int(visible[1:].sum())
        counts.add(number)
        assert visible[: number + 1].all() and not shape[number + 1 :].any() and not color[number + 1 :].any()
        for entity in range(number + 1):
            inside = mask[..., entity, 0] > 0
            assert np.abs(image[inside] - color[entity] * 255).max() <= 1
        for entity in range(1, number + 1):
            rows, columns = np.nonzero(mask[..., entity, 0])
            assert len(rows) >= 16 and 0.5 <= scale[entity] <= 1 and shape[entity] in (SQUARE, ELLIPSE, HEART)
            assert abs(columns.mean() / 64 - x[entity]) < 0.2 and abs(rows.mean() / 64 - y[entity]) < 0.2
        assert np.ptp(color[0]) == 0
    assert counts == {2, 3, 4, 5}


def test_the_same_call_again_changes_nothing_and_another_is_refused(tmp_path: Path):
    file = _generate(tmp_path, "tetrominoes", 3) / "tetrominoes_train.tfrecords"
    before = file.stat().st_mtime_ns
    _generate(tmp_path, "tetrominoes", 3)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="'count': 3"):
        _generate(tmp_path, "tetrominoes", 4)


def test_a_downloaded_set_is_never_written_over(tmp_path: Path):
    file = tmp_path / "tetrominoes" / "tetrominoes_train.tfrecords"
    file.parent.mkdir()
    file.write_bytes(b"published")
    with pytest.raises(UserError, match="was not generated"):
        _generate(tmp_path, "tetrominoes", 3)
    assert file.read_bytes() == b"published" and len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"kind": "tetromino"}, "Did you mean tetrominoes"),
        ({"count": 0}, "at least one image"),
        ({"seed": -1}, "seed"),
        ({"resolution": (64, 64)}, "35 x 35"),
        ({"kind": "clevr", "resolution": (64, 48)}, "no higher than wide"),
        ({"kind": "clevr", "resolution": (8, 8)}, "at least 32"),
        ({"kind": "clevr", "max_objects": 2}, "at most 3 to 10 objects"),
        ({"kind": "tetrominoes", "max_objects": 3}, "as many as were published"),
    ],
)
def test_settings_that_cannot_be_met(tmp_path: Path, wanted: dict, message: str):
    with pytest.raises(UserError, match=message):
        generate_images(tmp_path, **wanted)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_stopped_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchslots.sim.generate_images.scene_entry", stop)
        with pytest.raises(KeyboardInterrupt):
            _generate(tmp_path, "clevr", 5)
    assert not list(tmp_path.rglob("CLEVR_val_scenes.json")) and not list(tmp_path.rglob("*.part"))
    (tmp_path / "CLEVR_v1.0" / ".left by a killed run.part").touch()
    _generate(tmp_path, "clevr", 5)
    assert not list(tmp_path.rglob("*.part"))
    assert len(list((tmp_path / "CLEVR_v1.0" / "images" / "train").iterdir())) == 5
