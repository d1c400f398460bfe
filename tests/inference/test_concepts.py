"""Concepts: clusters of slots, the library on the disk, images decoded from one slot of each concept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_edit import isa_model

from inference.small_sets import Videos, painter
from tiny_models import tiny
from torchslots.inference.concept_library import Library, cluster, load_library
from torchslots.inference.concepts import ConceptOptions, concepts
from torchslots.inference.generation import decode_frames
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.recipes.config import EvalConfig

SETTINGS = EvalConfig(num_frames=3, slice_size=2, batch_size=2)


def groups(spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Points around four corners of a cube, in no order, and the corner of each."""
    rng = np.random.default_rng(0)
    corner = rng.permutation(np.repeat(np.arange(4), [5, 20, 40, 15]))
    centers = np.eye(4, dtype=np.float32)[:, :3] * 5
    return (centers[corner] + spread * rng.standard_normal((80, 3))).astype(np.float32), corner


def test_clusters_are_found_and_stay_the_same():
    points, corner = groups()
    found = cluster(points, 4, seed=0)
    pairs = {(int(a), int(b)) for a, b in zip(found.labels, corner)}
    assert len(pairs) == 4
    expected = np.linalg.norm(points - found.centers[found.labels], axis=1)
    assert found.distances == pytest.approx(expected, rel=1e-4, abs=1e-5)
    again = cluster(points, 4, seed=0)
    assert np.array_equal(again.labels, found.labels) and np.array_equal(again.centers, found.centers)


def test_no_cluster_is_empty():
    points = np.repeat(np.eye(3, dtype=np.float32), 10, 0)
    assert np.bincount(cluster(points, 3, seed=1).labels).tolist() == [10, 10, 10]
    with pytest.raises(UserError, match="3 different slots cannot make 4 concepts"):
        cluster(points, 4, seed=0)


def library() -> Library:
    points, _ = groups()
    found = cluster(points, 4, 0)
    origin = torch.stack([torch.arange(80) // 8, torch.arange(80) // 4 % 2, torch.arange(80) % 4], 1)
    return Library(
        torch.from_numpy(points),
        torch.from_numpy(found.labels),
        torch.from_numpy(found.distances),
        torch.from_numpy(found.centers),
        origin,
        tuple(f"video {i}" for i in range(10)),
        {"seed": 0},
    )


def test_samples_take_one_slot_of_each_concept():
    chosen = library().sample(500, seed=2)
    labels = library().labels
    assert chosen.shape == (500, 4) and torch.equal(labels[chosen], torch.arange(4).expand(500, -1))
    for concept in range(4):  # every member is sampled sooner or later
        assert set(chosen[:, concept].tolist()) == set(torch.nonzero(labels == concept)[:, 0].tolist())
    assert torch.equal(chosen, library().sample(500, seed=2))
    assert not torch.equal(chosen, library().sample(500, seed=3))


def test_the_nearest_come_from_different_frames_first():
    made = library()
    for concept in range(4):
        members = torch.nonzero(made.labels == concept)[:, 0].tolist()
        nearest = made.nearest(concept, 3)
        frames = {tuple(made.origin[member, :2].tolist()) for member in nearest}
        assert len(frames) == 3 and set(nearest) <= set(members)
        assert nearest[0] == min(members, key=lambda member: made.distances[member])
        assert sorted(made.nearest(concept, 100)) == sorted(members)


def test_libraries_are_kept(tmp_path):
    library().save(tmp_path)
    again = load_library(tmp_path)
    for name in ("slots", "labels", "distances", "centers", "origin"):
        assert torch.equal(getattr(again, name), getattr(library(), name))
    assert again.names == library().names and again.about == {"seed": 0} and again.pose is None
    assert sum(json.loads((tmp_path / "library.json").read_text())["sizes"]) == 80


@pytest.mark.parametrize("fault", ["missing", "truncated", "not json", "other"])
def test_damaged_libraries_are_told(fault, tmp_path):
    library().save(tmp_path)
    if fault == "missing":
        (tmp_path / "library.json").unlink()
    elif fault == "truncated":
        file = tmp_path / "library.safetensors"
        file.write_bytes(file.read_bytes()[:100])
    else:
        (tmp_path / "library.json").write_text("{" if fault == "not json" else "{}")
    with pytest.raises(UserError, match="holds no library of concepts"):
        load_library(tmp_path)


@pytest.mark.parametrize("name", ["steve", "slotdiffusion"])
def test_a_data_set_becomes_a_library_and_pictures(name, tmp_path):
    model = painter(name)
    options = ConceptOptions(samples=3, every=2, nearest=4, seed=5)
    found, files = concepts(model, Videos(), SETTINGS, tmp_path, options)
    assert found.num_concepts == 3 and len(found.slots) == 5 * 2 * 3
    for member in (0, 7, 29):
        index, time, slot = found.origin[member].tolist()
        with torch.no_grad():
            own = model.encode({"video": Videos().sample(index, None)["video"][None]}).slots
        assert torch.allclose(found.slots[member], own[0, time, slot], atol=1e-5) and time in (0, 2)
    assert all(file.is_file() for file in files)
    expected = decode_frames(model, found.clip(found.sample(3, 5)))[:, 0]
    for number in range(3):
        made = video.read_image(tmp_path / "samples" / f"{number:05d}.png").astype(int)
        assert np.abs(made - expected[number].permute(1, 2, 0).numpy()).max() <= 1
    sheets = [video.read_image(tmp_path / f"{what}.png").shape for what in ("concepts", "samples")]
    assert sheets[0][1] == sheets[1][1]  # four slots; a sample and three concepts
    again, _ = concepts(model, Videos(), replace(SETTINGS, batch_size=5), tmp_path / "again", options)
    assert torch.equal(again.labels, found.labels)


def test_padding_is_no_frame(tmp_path):
    options = ConceptOptions(samples=0, every=1)
    found, _ = concepts(painter("steve"), Videos(lengths={1: 1}), SETTINGS, tmp_path, options)
    assert len(found.slots) == (4 * 3 + 1) * 3
    assert not (tmp_path / "samples").exists()


def test_slots_bring_their_frames_of_reference(tmp_path):
    model, options = isa_model(), ConceptOptions(samples=2, num_concepts=2)
    found, _ = concepts(model, Videos(frames=1), replace(SETTINGS, num_frames=1), tmp_path, options)
    again = load_library(tmp_path)
    assert found.pose is not None and again.pose is not None and found.pose.rotation is not None
    assert torch.equal(found.pose.rotation, again.pose.rotation)  # pyright: ignore[reportArgumentType]
    members = found.sample(2, 0)
    made = found.clip(members)
    assert made.pose is not None and torch.equal(
        made.pose.position[1, 0, 1], found.pose.position[members[1, 1]]
    )


def test_what_cannot_be_is_told(tmp_path):
    with pytest.raises(UserError, match="decodes flow, not frames"):
        concepts(tiny("learned"), Videos(), SETTINGS, tmp_path)
    with pytest.raises(UserError, match="30 different slots cannot make 99 concepts"):
        options = ConceptOptions(num_concepts=99, every=2, samples=0)
        concepts(painter("steve"), Videos(), SETTINGS, tmp_path, options)
    for name in ("num_concepts", "every", "nearest", "chunk"):
        with pytest.raises(UserError, match=f"{name} should be at least 1"):
            ConceptOptions(**{name: 0})
