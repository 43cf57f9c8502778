"""Sets of changes to gymnasium's robots: what to develop a method on, and what to test it on."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.changed_robots import ROBOTS, RobotChange
from mier_adapt_envs.tasks import at, canonical_hash, freeze

_FACTORS = {kind: kind for kind in ("damping", "friction", "gravity")} | {"masses": "mass"}
"""The field of a change that a kind of change is about."""


@dataclass(frozen=True)
class ChangeSet(Sequence[RobotChange]):
    """Changes to one robot, in a fixed order.

    Example:
        >>> changes = change_set("Hopper", "test")
        >>> changes.env_id, len(changes), str(changes[1])
        ('MIER/ChangedHopper-v0', 24, 'foot reversed')
    """

    robot: str
    """Robot that changes: ``"HalfCheetah"``, ``"Ant"``, ``"Hopper"`` or ``"Walker2d"``."""
    name: str
    """Name of the set, e.g. ``"test"``."""
    changes: tuple[RobotChange, ...]
    """What changes, one after the other."""

    def __post_init__(self) -> None:
        if {type(self.robot), type(self.name)} != {str} or self.robot not in ROBOTS:
            raise ValueError(
                f"robot must be one of {', '.join(ROBOTS)} and name a string, got "
                f"{self.robot!r:.80} and {self.name!r:.80}."
            )
        try:
            changes = tuple(self.changes)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"changes must be a sequence of RobotChange, got {self.changes!r:.80}."
            ) from error
        for position, change in enumerate(changes):
            if not isinstance(change, RobotChange):
                raise ValueError(
                    f"changes[{position}] must be a RobotChange, got {change!r:.80}. Read a dict "
                    "form with RobotChange.from_dict."
                )
        object.__setattr__(self, "changes", changes)

    def __len__(self) -> int:
        return len(self.changes)

    @overload
    def __getitem__(self, index: int) -> RobotChange: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RobotChange, ...]: ...
    def __getitem__(self, index: int | slice) -> RobotChange | tuple[RobotChange, ...]:
        return at(index, self.changes, f"The {self.name} set of {self.robot}")

    def __iter__(self) -> Iterator[RobotChange]:
        return iter(self.changes)

    @property
    def env_id(self) -> str:
        """Gymnasium ID of the environment that these changes are given to."""
        return f"MIER/Changed{self.robot}-v0"

    @property
    def hash(self) -> str:
        """SHA-256 over the environment's ID and every change's kind and numbers, in hexadecimal.

        Equal hashes mean bit-equal changes in the same order; names and labels do not count.
        """
        numbers = {
            "env_id": self.env_id,
            "changes": [replace(change, label="").to_dict() for change in self.changes],
        }
        return canonical_hash(numbers)


class _Parts(NamedTuple):
    """What can change about a robot, by its names in the model file."""

    seed: int
    """Seed of the robot's changes."""
    motors: tuple[str, ...]
    """Joints that motors drive, in the order of actions."""
    joints: tuple[str, ...]
    """The same joints in the order of observations."""
    first_angle: int
    """Dimension of the observation at which the angles of these joints begin."""
    first_velocity: int
    """Dimension at which their velocities begin; they are the observation's last."""

    @property
    def obs_dim(self) -> int:
        """Dimensions of an observation."""
        return self.first_velocity + len(self.joints)

    def named(self, motors: Iterable[int]) -> str:
        """What motors of these numbers are called."""
        return " and ".join(self.motors[motor] for motor in motors)

    def sensor(self, dimension: int) -> str:
        """What a dimension of the observation is called."""
        if dimension < self.first_velocity:
            return f"angle of {self.joints[dimension - self.first_angle]}"
        return f"velocity of {self.joints[dimension - self.first_velocity]}"


_CHEETAH = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
_WALKER = ("thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left")
_ANT = tuple(f"{part}_{leg}" for leg in (1, 2, 3, 4) for part in ("hip", "ankle"))
_PARTS = {
    "HalfCheetah": _Parts(101, _CHEETAH, _CHEETAH, 2, 11),
    "Ant": _Parts(102, (*_ANT[6:], *_ANT[:6]), _ANT, 5, 19),
    "Hopper": _Parts(103, _WALKER[:3], _WALKER[:3], 2, 8),
    "Walker2d": _Parts(104, _WALKER, _WALKER, 2, 11),
}


def change_set(robot: str, name: str) -> ChangeSet:
    """Return a robot's changes, ``"development"`` or ``"test"``.

    A method is chosen and tuned on the 12 changes of ``"development"``, and reported on the 24 (of
    Hopper) or 25 of ``"test"``, the first of which is the intact robot. No kind has a motor, a
    pair of motors, a sensor or a value in both sets, and friction, damping, gravity and delay
    change in the test alone.

    Both are drawn by NumPy's ``RandomState``, seeded with 101 for HalfCheetah, 102 for Ant, 103
    for Hopper and 104 for Walker2d, and rounded to 9 decimals.

    Example:
        >>> import gymnasium
        >>> changes = change_set("HalfCheetah", "development")
        >>> env = gymnasium.make(changes.env_id, change=changes[0])
        >>> env.unwrapped.change.kind
        'motor reversed'

    Raises:
        ValueError: If there is no such robot or set.
    """
    if not isinstance(robot, str) or robot not in ROBOTS:
        raise ValueError(f"robot must be one of {', '.join(ROBOTS)}, got {robot!r:.80}.")
    sets = _change_sets(robot)
    if not isinstance(name, str) or name not in sets:
        raise ValueError(
            f"name of a change_set must be one of {', '.join(sets)}, got {name!r:.80}."
        )
    return sets[name]


# What can change, from what was drawn ---------------------------------------------------------


def _rows(matrix_AA: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """Return a matrix as a change holds it, without negative zeros."""
    return tuple(map(tuple, (freeze(matrix_AA) + 0.0).tolist()))


def _numbers(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(freeze(values).tolist())


def _gains(parts: _Parts, kind: str, label: str, gains: Mapping[int, float]) -> RobotChange:
    """Motors that give other torques than they should, by their numbers."""
    gains_A = [gains.get(motor, 1.0) for motor in range(len(parts.motors))]
    return RobotChange(kind, label, motor_matrix=_rows(np.diag(gains_A)))


def _reversed(parts: _Parts, *motors: int) -> RobotChange:
    kind = "motor reversed" if len(motors) == 1 else "motors reversed"
    label = f"{parts.named(motors)} reversed"
    return _gains(parts, kind, label, dict.fromkeys(motors, -1.0))


def _weak(parts: _Parts, motor: int, gain: float) -> RobotChange:
    return _gains(parts, "motor weak", f"{parts.motors[motor]} at {gain:.0%}", {motor: gain})


def _dead(parts: _Parts, motor: int) -> RobotChange:
    return _gains(parts, "motor dead", f"{parts.motors[motor]} dead", {motor: 0.0})


def _all_weak(parts: _Parts, gain: float) -> RobotChange:
    gains = dict.fromkeys(range(len(parts.motors)), gain)
    return _gains(parts, "all motors weak", f"all motors at {gain:.0%}", gains)


def _swapped(parts: _Parts, pair: tuple[int, int]) -> RobotChange:
    order = np.arange(len(parts.motors))
    order[list(pair)] = pair[::-1]
    matrix_AA = np.eye(len(order))[order]
    label = f"{parts.named(pair)} swapped"
    return RobotChange("motors swapped", label, motor_matrix=_rows(matrix_AA))


def _mixed(parts: _Parts, pair: tuple[int, int], degrees: float) -> RobotChange:
    """Two motors' actions, rotated into each other."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    matrix_AA = np.eye(len(parts.motors))
    matrix_AA[np.ix_(pair, pair)] = ((cosine, -sine), (sine, cosine))
    label = f"{parts.named(pair)} mixed by {degrees:.0f}°"
    return RobotChange("motors mixed", label, motor_matrix=_rows(matrix_AA))


def _offset(values_A: NDArray[np.float64]) -> RobotChange:
    label = f"all motors offset, by {np.abs(values_A).mean():.2f} on average"
    return RobotChange("motor offset", label, motor_offset=_numbers(values_A))


def _sensor_reversed(parts: _Parts, sensor: int) -> RobotChange:
    gain_O = np.where(np.arange(parts.obs_dim) == sensor, -1.0, 1.0)
    label = f"{parts.sensor(sensor)} reversed"
    return RobotChange("sensor reversed", label, sensor_gain=_numbers(gain_O))


def _sensor_offset(parts: _Parts, sensor: int, value: float) -> RobotChange:
    offset_O = np.where(np.arange(parts.obs_dim) == sensor, value, 0.0)
    label = f"{parts.sensor(sensor)} off by {value:+.2f} rad"
    return RobotChange("sensor offset", label, sensor_offset=_numbers(offset_O))


def _both(one: RobotChange, other: RobotChange) -> RobotChange:
    """Two changes of motors at once; the other one acts on what the first makes of an action."""
    matrices = [np.array(each.motor_matrix) for each in (other, one) if each.motor_matrix]
    return RobotChange(
        "two changes",
        f"{one}, {other}",
        motor_matrix=_rows(functools.reduce(np.matmul, matrices)),
        motor_offset=other.motor_offset,
    )


def _physics(kind: str, label: str, factor: float) -> RobotChange:
    fields: dict[str, Any] = {_FACTORS[kind]: factor}
    return RobotChange(kind, label, **fields)


# The sets -------------------------------------------------------------------------------------


@functools.cache
def _change_sets(robot: str) -> dict[str, ChangeSet]:
    """Draw both sets of a robot.

    Of every kind, motors, pairs of motors and sensors are shuffled once. The test takes the first
    of these changes and development the last, so that the two have none in common.
    """
    parts = _PARTS[robot]
    random = np.random.RandomState(parts.seed)
    num_motors = len(parts.motors)
    every_pair = list(combinations(range(num_motors), 2))

    def motors() -> list[int]:
        shuffled: list[int] = random.permutation(num_motors).tolist()
        return shuffled

    def pairs() -> list[tuple[int, int]]:
        return [every_pair[index] for index in random.permutation(len(every_pair))]

    def offsets() -> NDArray[np.float64]:
        signs_A: NDArray[np.float64] = random.choice([-1.0, 1.0], num_motors)
        return random.uniform(0.1, 0.3, num_motors) * signs_A

    def off() -> float:
        return float(random.uniform(0.2, 0.5) * random.choice([-1.0, 1.0]))

    def factors(kind: str, text: str, least: float, most: float) -> list[RobotChange]:
        drawn = freeze(random.uniform(least, most, 2)).tolist()
        return [_physics(kind, f"{text} × {factor:.2f}", factor) for factor in drawn]

    angles, other_angles = ([parts.first_angle + joint for joint in motors()] for _ in range(2))
    velocity = parts.first_velocity + motors()[0]
    swaps = pairs()
    # Of each kind: changes, how many of them are for the test, how many for development.
    drawn: list[tuple[list[RobotChange], int, int]] = [
        ([RobotChange("none", "intact")], 1, 0),
        ([_reversed(parts, motor) for motor in motors()], min(3, num_motors - 1), 1),
        ([_reversed(parts, *pair) for pair in pairs()], 1, 1),
        ([_swapped(parts, pair) for pair in pairs()], 2, 1),
        ([_weak(parts, motor, random.uniform(0.3, 0.7)) for motor in motors()], 2, 1),
        ([_dead(parts, motor) for motor in motors()], 2, 1),
        ([_all_weak(parts, gain) for gain in random.uniform(0.5, 0.8, 2)], 1, 1),
        ([_offset(offsets()) for _ in range(2)], 1, 1),
        ([_mixed(parts, pair, random.uniform(30.0, 60.0)) for pair in pairs()], 1, 1),
        ([_sensor_reversed(parts, each) for each in (angles[0], velocity, angles[1])], 2, 1),
        ([_sensor_offset(parts, each, off()) for each in other_angles], 2, 1),
        (factors("masses", "masses", 1.5, 2.0), 1, 1),
        (factors("damping", "damping", 2.0, 3.0), 1, 0),
        (factors("friction", "friction", 0.3, 0.5), 1, 0),
        ([_physics("gravity", "gravity of 11 m/s²", round(11.0 / 9.81, 9))], 1, 0),
        ([RobotChange("delay", "one step late", delay=1)], 1, 0),
        (
            [
                _both(_reversed(parts, motors()[0]), _all_weak(parts, random.uniform(0.5, 0.8))),
                _both(_swapped(parts, swaps[0]), _offset(offsets())),
                _both(_swapped(parts, swaps[1]), _all_weak(parts, random.uniform(0.5, 0.8))),
            ],
            *(2, 1),
        ),
    ]
    development = [each for every, _, num in drawn for each in every[len(every) - num :]]
    test = [each for every, num, _ in drawn for each in every[:num]]
    return {
        "development": ChangeSet(robot, "development", tuple(development)),
        "test": ChangeSet(robot, "test", tuple(test)),
    }
