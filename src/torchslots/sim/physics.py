"""Rigid-body motion of a scene with MuJoCo (simulation only).

Friction and restitution of a pair are the products of the two bodies', as in the engine behind the published
sets.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int64

from torchslots.sim.camera import rotation_matrices
from torchslots.sim.scene import FLOOR_FRICTION, FLOOR_RESTITUTION, Body

FLOOR = -1
"""The floor's number among the collision partners."""
_STEPS_PER_SECOND = 960
_CONTACT_SECONDS = 0.014
_EPISODE_GAP = 24


@dataclass(frozen=True)
class Collisions:
    """One row per collision: bodies, frame, peak force in newtons, position, contact normal."""

    bodies: Int64[np.ndarray, "M 2"]
    frame: Int64[np.ndarray, "M"]
    force: Float[np.ndarray, "M"]
    position: Float[np.ndarray, "M 3"]
    normal: Float[np.ndarray, "M 3"]


@dataclass(frozen=True)
class Motion:
    """State of each body in each frame: metres, quaternions wxyz, metres and radians per second in world axes."""

    positions: Float[np.ndarray, "N T 3"]
    quaternions: Float[np.ndarray, "N T 4"]
    velocities: Float[np.ndarray, "N T 3"]
    angular_velocities: Float[np.ndarray, "N T 3"]
    collisions: Collisions


def simulate(bodies: tuple[Body, ...], num_frames: int, frame_rate: int = 12) -> Motion:
    """Simulate the bodies for `num_frames` frames; the first frame is the initial state."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(_model_xml(bodies))  # pyright: ignore[reportAttributeAccessIssue]
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    for index, body in enumerate(bodies):
        data.qpos[7 * index : 7 * index + 7] = [*body.position, *body.quaternion]
        data.qvel[6 * index : 6 * index + 3] = body.velocity
    per_frame = _STEPS_PER_SECOND // frame_rate
    states, contacts = [], []
    for step in range((num_frames - 1) * per_frame + 1):
        if step % per_frame == 0:
            states.append((data.qpos.copy(), data.qvel.copy()))
        mujoco.mj_step(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        if data.ncon:
            contacts.append((step, *_contacts_now(data)))
    return _motion(states, _collisions(_contact_rows(contacts), per_frame, num_frames))


def _model_xml(bodies: tuple[Body, ...]) -> str:
    parts = [_body_xml(index, body) for index, body in enumerate(bodies)]
    surfaces = [
        (f"g{i}", body.substance.friction, body.substance.restitution) for i, body in enumerate(bodies)
    ]
    floor = ("floor", FLOOR_FRICTION, FLOOR_RESTITUTION)
    touching = [*((floor, surface) for surface in surfaces), *combinations(surfaces, 2)]
    pairs = [_pair_xml(one[0], two[0], one[1] * two[1], one[2] * two[2]) for one, two in touching]
    return (
        f'<mujoco><option timestep="{1 / _STEPS_PER_SECOND}" gravity="0 0 -9.81" cone="elliptic" impratio="5"/>'
        f'<worldbody><geom name="floor" type="plane" size="0 0 1"/>{"".join(parts)}</worldbody>'
        f"<contact>{''.join(pairs)}</contact></mujoco>"
    )


def _body_xml(index: int, body: Body) -> str:
    size = " ".join(f"{value:.9g}" for value in body.solid.mujoco_size(body.half))
    return (
        f'<body><freejoint/><geom name="g{index}" type="{body.solid.mujoco_type}" size="{size}" mass="{body.mass:.9g}" '
        'contype="0" conaffinity="0"/></body>'
    )


def _pair_xml(one: str, two: str, friction: float, restitution: float) -> str:
    """A contact as a damped spring: the damping ratio gives the bounce, the frequency the contact time."""
    damping = _damping_for(restitution)
    frequency = math.pi / _CONTACT_SECONDS
    friction_text = f"{friction:.6g} {friction:.6g} 0.005 0.0001 0.0001"
    return (
        f'<pair geom1="{one}" geom2="{two}" condim="3" friction="{friction_text}" '
        f'solref="{1 / (damping * frequency):.9g} {damping:.9g}" solimp="0.95 0.99 0.001"/>'
    )


def _damping_for(restitution: float) -> float:
    """Damping ratio of a spring that pushes but never pulls (Schwager and Pöschel 2007, eq. 21).

    Without overdamping the least restitution is exp(-2) = 0.135, which metal against metal (0.09) gets.
    """
    ratios = np.linspace(0.999, 0.001, 1000)
    root = np.sqrt(1 - ratios * ratios)
    bounces = np.exp(-ratios / root * (math.pi - np.arctan2(2 * ratios * root, 1 - 2 * ratios * ratios)))
    return float(np.interp(restitution, bounces, ratios))


def _contacts_now(data) -> tuple[np.ndarray, ...]:
    """Copies of the contacts' geoms, positions, frames and places among the forces, and of the forces."""
    contact = data.contact
    parts = contact.geom, contact.pos, contact.frame, contact.efc_address, data.efc_force
    return tuple(part.copy() for part in parts)


def _contact_rows(contacts: list[tuple]) -> np.ndarray:
    """Rows of (step, geom, geom, force, position, normal) of the contacts with a force; geom 0 is the floor."""
    if not contacts:
        return np.zeros((0, 10))
    steps, geoms, places, frames, addresses, forces = zip(*contacts)
    counts, lengths = ([len(part) for part in parts] for parts in (addresses, forces))
    start = np.repeat(np.cumsum([0, *lengths[:-1]]), counts)
    address = np.concatenate(addresses)
    force = np.append(np.concatenate(forces), 0.0).take(start + np.maximum(address, 0))
    force[address < 0] = 0
    geom, place, normal = np.concatenate(geoms), np.concatenate(places), np.concatenate(frames)[:, :3]
    return np.column_stack([np.repeat(steps, counts), geom, force, place, normal])[force > 0]


def _collisions(rows: np.ndarray, per_frame: int, num_frames: int) -> Collisions:
    """Join contacts of a pair that are at most _EPISODE_GAP steps apart into one event."""
    rows = rows[np.lexsort((rows[:, 0], rows[:, 2], rows[:, 1]))]
    changes = (np.diff(rows[:, 1:3], axis=0) != 0).any(1) | (np.diff(rows[:, 0]) > _EPISODE_GAP)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1]) if len(rows) else np.zeros(0, np.int64)
    peak = np.maximum.reduceat(rows[:, 3], starts) if len(rows) else np.zeros(0)
    order = np.argsort(rows[starts, 0], kind="stable")
    first = rows[starts[order]]
    frame = np.minimum(first[:, 0].astype(np.int64) // per_frame, num_frames - 1)
    return Collisions(first[:, 1:3].astype(np.int64) - 1, frame, peak[order], first[:, 4:7], first[:, 7:10])


def _motion(states: list[tuple[np.ndarray, np.ndarray]], collisions: Collisions) -> Motion:
    places = np.stack([place for place, _ in states]).reshape(len(states), -1, 7).swapaxes(0, 1)
    speeds = np.stack([speed for _, speed in states]).reshape(len(states), -1, 6).swapaxes(0, 1)
    quaternions = places[..., 3:] / np.linalg.norm(places[..., 3:], axis=-1, keepdims=True)
    turning = np.einsum("ntij,ntj->nti", rotation_matrices(quaternions), speeds[..., 3:])
    return Motion(places[..., :3], quaternions, speeds[..., :3], turning, collisions)
