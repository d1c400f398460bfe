"""Make MOVi records: the published keys, encodings and value ranges."""

import struct
import zlib

import numpy as np
from jaxtyping import Float

from torchslots.data.formats.example import encode_example
from torchslots.sim.camera import (
    FIELD_OF_VIEW,
    FOCAL_LENGTH,
    SENSOR_WIDTH,
    Camera,
    quaternions_of,
    rotation_matrices,
)
from torchslots.sim.layers import Layers, boxes, measure
from torchslots.sim.physics import Motion, simulate
from torchslots.sim.raycast import PlacedBody
from torchslots.sim.render import render_video
from torchslots.sim.scene import SUBSTANCES, Scene, Variant, sample_scene
from torchslots.sim.solids import SOLIDS

Features = dict[str, bytes | list[bytes] | np.ndarray]
_BACKGROUND = 65535
_PNG_KINDS = {(1, 1): (8, 0), (3, 1): (8, 2), (1, 2): (16, 0), (3, 2): (16, 2)}


def make_record(
    variant: Variant,
    rng: np.random.Generator,
    name: str,
    counts: tuple[int, int],
    size: int,
    frames: int,
    samples: int,
) -> bytes:
    """Sample, simulate, render and serialize one video.

    Raises:
        UserError: the objects do not fit into the view.
    """
    scene = sample_scene(variant, counts, frames, rng)
    motion = simulate(scene.bodies, frames)
    rotations = rotation_matrices(motion.quaternions)
    placed = tuple(PlacedBody(body, motion.positions[i], rotations[i]) for i, body in enumerate(scene.bodies))
    layers = measure(placed, scene.camera, size)
    video = render_video(scene, placed, size, samples)
    features = {"video": encode_pngs(video), **_pixel_features(layers), **_camera_features(scene)}
    features |= _instance_features(scene, motion, placed, layers) | _look_features(variant, scene, layers)
    features |= _collision_features(scene, motion, layers)
    numbers = {"width": size, "height": size, "num_frames": frames, "num_instances": len(placed)}
    features |= {f"metadata/{key}": np.array([value]) for key, value in numbers.items()}
    features["metadata/video_name"] = name.encode()
    return encode_example(features)


def encode_pngs(images: np.ndarray) -> list[bytes]:
    """PNG files of uint8 or uint16 images [T, H, W, 1 or 3], rows stored as differences to the row above."""
    frames, height, width, channels = images.shape
    depth, color = _PNG_KINDS[channels, images.itemsize]
    rows = np.ascontiguousarray(images, images.dtype.newbyteorder(">"))
    rows = rows.view(np.uint8).reshape(frames, height, -1)
    filtered = np.empty((frames, height, rows.shape[2] + 1), np.uint8)
    filtered[:, :, 0] = 2
    filtered[:, 0, 1:] = rows[:, 0]
    np.subtract(rows[:, 1:], rows[:, :-1], out=filtered[:, 1:, 1:])
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    start, end = b"\x89PNG\r\n\x1a\n" + header, _chunk(b"IEND", b"")
    return [start + _chunk(b"IDAT", zlib.compress(frame.tobytes(), 1)) + end for frame in filtered]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _to_range(values: Float[np.ndarray, "*any"]) -> tuple[np.ndarray, np.ndarray]:
    """Values mapped to uint16 by their own range, and that range; at least 1e-3 wide."""
    low, high = np.float32(values.min()), np.float32(values.max())
    high = max(high, np.float32(low + 1e-3))
    scaled = np.rint((values - low) * (65535 / (high - low))).clip(0, 65535)
    return scaled.astype(np.uint16), np.array([low, high])


def _pixel_features(layers: Layers) -> Features:
    features: Features = {"segmentations": encode_pngs(layers.segmentation[..., None])}
    depth, features["metadata/depth_range"] = _to_range(layers.depth)
    features["depth"] = encode_pngs(depth[..., None])
    for key, flow in (("forward_flow", layers.forward_flow), ("backward_flow", layers.backward_flow)):
        features[key], features[f"metadata/{key}_range"] = _to_range(flow)
    features["normal"] = encode_pngs(((layers.normal + 1) * 32767.5).clip(0, 65535).astype(np.uint16))
    features["object_coordinates"] = encode_pngs(np.rint(layers.object_coordinates * 65535).astype(np.uint16))
    return features


def _camera_features(scene: Scene) -> Features:
    return {
        "camera/focal_length": np.array([FOCAL_LENGTH]),
        "camera/sensor_width": np.array([SENSOR_WIDTH]),
        "camera/field_of_view": np.array([FIELD_OF_VIEW]),
        "camera/positions": scene.camera.positions,
        "camera/quaternions": quaternions_of(scene.camera.rotations),
    }


def _instance_features(
    scene: Scene, motion: Motion, placed: tuple[PlacedBody, ...], layers: Layers
) -> Features:
    order = layers.order
    bodies = [scene.bodies[i] for i in order]
    visible = boxes(layers.segmentation, len(order))
    lengths = np.array([len(frames) for frames, _ in visible])
    values = {
        "mass": np.array([body.mass for body in bodies]),
        "friction": np.array([body.substance.friction for body in bodies]),
        "restitution": np.array([body.substance.restitution for body in bodies]),
        "positions": motion.positions[order],
        "quaternions": motion.quaternions[order],
        "velocities": motion.velocities[order],
        "angular_velocities": motion.angular_velocities[order],
        "bboxes_3d": np.stack([placed[i].box_corners for i in order]),
        "image_positions": scene.camera.project(motion.positions[order])[0],
        "visibility": layers.visibility,
        "bboxes/ragged_flat_values": np.concatenate([corners for _, corners in visible]),
        "bboxes/ragged_row_lengths_0": lengths,
        "bbox_frames/ragged_flat_values": np.concatenate([frames for frames, _ in visible]),
        "bbox_frames/ragged_row_lengths_0": lengths,
    }
    return {f"instances/{key}": value for key, value in values.items()}


def _look_features(variant: Variant, scene: Scene, layers: Layers) -> Features:
    """Features of the objects' looks, in MOVi-A or in MOVi-C and E."""
    bodies = [scene.bodies[i] for i in layers.order]
    if variant == "a":
        return {
            "instances/shape_label": np.array([SOLIDS.index(body.solid) for body in bodies]),
            "instances/size_label": np.array([body.size_label for body in bodies]),
            "instances/material_label": np.array([SUBSTANCES.index(body.substance) for body in bodies]),
            "instances/color_label": np.array([body.color_label for body in bodies]),
            "instances/color": np.array([body.color for body in bodies]),
        }
    features: Features = {
        "background": scene.backdrop.name.encode(),
        "instances/asset_id": [body.asset_id.encode() for body in bodies],
        "instances/category": np.array([body.category for body in bodies]),
        "instances/scale": np.array([body.scale for body in bodies]),
    }
    if variant == "e":
        features["instances/is_dynamic"] = np.array([body.is_dynamic for body in bodies])
    return features


def _collision_features(scene: Scene, motion: Motion, layers: Layers) -> Features:
    """Collisions, with bodies numbered as the instances; the floor is 65535."""
    hits = motion.collisions
    rank = np.append(np.argsort(layers.order), _BACKGROUND)
    camera = Camera(scene.camera.positions[hits.frame], scene.camera.rotations[hits.frame])
    return {
        "events/collisions/instances": rank[hits.bodies],
        "events/collisions/frame": hits.frame,
        "events/collisions/force": hits.force,
        "events/collisions/position": hits.position,
        "events/collisions/image_position": camera.project(hits.position)[0],
        "events/collisions/contact_normal": hits.normal,
    }
