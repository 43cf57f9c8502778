"""Gymnasium's robots after something about them changed: motors, sensors, timing or physics."""

import json
import math
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from mier_adapt_envs import ant, half_cheetah, walker2d
from mier_adapt_envs.robot import compile_file, instabilities, simulation
from mier_adapt_envs.task_env import as_actions
from mier_adapt_envs.tasks import foreign

ROBOTS = ("HalfCheetah", "Ant", "Hopper", "Walker2d")

_AXES = {"motor_matrix": 2, "motor_offset": 1, "sensor_gain": 1, "sensor_offset": 1}
_FACTORS = ("mass", "damping", "friction", "gravity")


@dataclass(frozen=True)
class RobotChange:
    r"""What is different about a robot, as plain numbers. By default, nothing.

    Of a commanded action $a$, within [-1, 1], the motors execute

    $$\operatorname{clip}(W a + b, -1, 1),$$

    ``delay`` steps later; of a true observation $o$, gain times $o$ plus offset is observed. Two
    changes are equal when kind and numbers are; the label is for people.

    Example:
        >>> weak = RobotChange("motor weak", motor_matrix=((1, 0, 0), (0, 0.5, 0), (0, 0, 1)))
        >>> RobotChange.from_json(weak.to_json()) == weak
        True
    """

    kind: str
    """What changed, in a word or two, e.g. ``"motor reversed"``; what results are grouped by."""
    label: str = field(default="", compare=False)
    """Short description for tables and plots, e.g. ``"bthigh reversed"``."""
    _: KW_ONLY
    motor_matrix: tuple[tuple[float, ...], ...] | None = None
    """The matrix $W$, row by row: a row for each motor, an entry for each action. None is 1."""
    motor_offset: tuple[float, ...] | None = None
    """The vector $b$, an entry for each motor. None is 0."""
    sensor_gain: tuple[float, ...] | None = None
    """What each dimension of the observation is multiplied by. None is 1."""
    sensor_offset: tuple[float, ...] | None = None
    """What is then added to it, in its unit. None is 0."""
    delay: int = 0
    """Environment steps after which an action is executed. Until then actions are zero."""
    mass: float = 1.0
    """Factor of all masses and moments of inertia, > 0."""
    damping: float = 1.0
    """Factor of the damping of all joints, >= 0."""
    friction: float = 1.0
    """Factor of the friction coefficients of all geoms, >= 0."""
    gravity: float = 1.0
    """Factor of gravity, >= 0."""

    def __post_init__(self) -> None:
        if {type(self.kind), type(self.label)} != {str} or not self.kind:
            raise ValueError(
                f"kind must be a non-empty string and label a string, got {self.kind!r:.80} and "
                f"{self.label!r:.80}."
            )
        for name, axes in _AXES.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _frozen(name, getattr(self, name), axes))
        for name in ("delay", *_FACTORS):
            number = getattr(self, name)
            if isinstance(number, np.number):
                number = number.item()
            kinds, wanted = ((int,), "an int") if name == "delay" else ((int, float), "finite")
            least = math.ulp(0.0) if name == "mass" else 0
            # NaN compares false, and an int too large for a float is above every float.
            if type(number) not in kinds or not least <= number <= sys.float_info.max:
                raise ValueError(
                    f"{name} must be {wanted} and {'> 0' if name == 'mass' else '>= 0'}, got "
                    f"{number!r:.80}."
                )
            object.__setattr__(self, name, number if name == "delay" else float(number))

    def __str__(self) -> str:
        return self.label or self.kind

    def to_dict(self) -> dict[str, Any]:
        """Return the change as plain strings, numbers, lists and None, ready for JSON."""
        values = asdict(self)
        for name in _AXES:
            values[name] = None if values[name] is None else np.array(values[name]).tolist()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RobotChange":
        """Read a change from the form that ``to_dict`` writes; only the kind has to be there.

        Raises:
            ValueError: If ``values`` is no mapping, has no kind, or has an entry that is none.
        """
        known = [each.name for each in fields(cls)]
        entries = set(values) if isinstance(values, Mapping) else set()
        if not {"kind"} <= entries <= set(known):
            raise ValueError(
                "change must be a RobotChange or its dict form, with the entry 'kind' and any of "
                f"{', '.join(known[1:])}, got {values!r:.80}."
            )
        return cls(**values)

    def to_json(self) -> str:
        """Return the change as JSON. Floats keep every bit."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "RobotChange":
        """Read a change from the form that ``to_json`` writes.

        Raises:
            ValueError: If the text is of another form.
        """
        with foreign("a robot's change"):
            return cls.from_dict(json.loads(text))

    def scale_physics(self, model: mujoco.MjModel) -> None:
        """Multiply masses, damping, friction and gravity of a compiled model by the factors.

        Args:
            model: Of any robot. It is changed; motors, sensors and delay are no matter of it.

        Raises:
            TypeError: If it is no ``mujoco.MjModel``.
        """
        if not isinstance(model, mujoco.MjModel):
            raise TypeError(
                "RobotChange.scale_physics expected model to be a mujoco.MjModel, got "
                f"{type(model).__name__}. A MuJoCo environment has one: env.unwrapped.model."
            )
        model.body_mass[:] *= self.mass
        model.body_inertia[:] *= self.mass
        model.dof_damping[:] *= self.damping
        model.geom_friction[:] *= self.friction
        model.opt.gravity[2] *= self.gravity
        # What MuJoCo derives from masses: those of subtrees, inverse weights and so on.
        mujoco.mj_setConst(model, mujoco.MjData(model))
        # The unit of the solver's tolerance, which it sets only where it compiles a file.
        model.stat.meaninertia = sum(model.dof_M0.tolist()) / model.nv


def _frozen(name: str, values: Any, axes: int) -> tuple[Any, ...]:
    """Return numbers as a tuple, or as a tuple of rows."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim != axes or not np.isfinite(array).all() or len({*array.shape}) > 1:
        wanted = "a flat sequence" if axes == 1 else "a square matrix, row by row,"
        raise ValueError(
            f"{name} must be None or {wanted} of finite numbers, got {values!r:.80}. Give an entry "
            "also for what does not change."
        )
    return tuple(map(tuple, array.tolist())) if axes == 2 else tuple(array.tolist())


class ChangedRobotEnv(MujocoEnv, EzPickle):
    r"""Go on although the robot is not the one that was trained.

    ## Description
    Gymnasium's HalfCheetah-v5, Ant-v5 (without contact forces in its observation), Hopper-v5 and
    Walker2d-v5, each with something changed that a policy of the intact robot then meets. The
    change is a :class:`~mier_adapt_envs.RobotChange`; without one, and with actions within the box,
    episodes are gymnasium's own, bit for bit.

    ## Action Space
    `Box(-1, 1, (A,), float32)`, as gymnasium's. Actions $a$ are clipped to the box. What the
    motors execute is $\operatorname{clip}(W a + b, -1, 1)$, after `delay` steps: until then they
    execute zeros.

    ## Observation Space
    `Box(-inf, inf, (O,), float64)`, as gymnasium's. What is observed is gain times the true
    observation plus offset, at reset and after every step.

    ## Rewards
    Gymnasium's, of the true state. The control cost is charged on what the motors execute, not on
    what was commanded: a dead motor costs nothing.

    ## Starting State
    Gymnasium's, also where masses or gravity changed.

    ## Episode End
    Terminates where gymnasium's environment does, by the true state; truncated after 200 steps.
    `termination_fn` is that rule for a batch of true observations. Gymnasium clips the velocities
    that Hopper observes, so that one beyond ±100 ends an episode but cannot be seen there.

    Should the simulation become unstable, the episode is truncated, `info["unstable"]` is MuJoCo's
    name of the reason, the observation stays as it was, and the reward and all else in `info` is 0.

    ## Arguments
    `change`, a :class:`~mier_adapt_envs.RobotChange`, its dict form, or None for the intact robot;
    `render_mode`, `width`, `height`, `camera_id` and `camera_name` as in gymnasium's environments.

    ## Version History
    * v0: First release.
    """

    stock_arguments: ClassVar[Mapping[str, Any]] = {}
    """Arguments of gymnasium's environment that differ from its defaults."""

    def __init__(
        self,
        change: RobotChange | Mapping[str, Any] | None = None,
        *,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | None = None,
        camera_name: str | None = None,
    ) -> None:
        rendering: dict[str, Any] = {
            "render_mode": render_mode,
            "width": width,
            "height": height,
            "camera_id": camera_id,
            "camera_name": camera_name,
        }
        if change is None:
            change = RobotChange("none")
        self._change = change if isinstance(change, RobotChange) else RobotChange.from_dict(change)
        self._obs_O: NDArray[np.float64] | None = None
        super().__init__(**{**self.stock_arguments, **rendering})
        # Anew, after gymnasium's environment: a copy is made with these arguments, not with its.
        EzPickle.__init__(self, self._change, **rendering)
        self._commands: deque[NDArray[np.float64]] = deque()
        act_dim, obs_dim = self.model.nu, len(self.observation_space.low)  # type: ignore[attr-defined]
        self._matrix_AA = self._numbers("motor_matrix", (act_dim, act_dim))
        self._offset_A = self._numbers("motor_offset", (act_dim,))
        self._gain_O = self._numbers("sensor_gain", (obs_dim,))
        self._offset_O = self._numbers("sensor_offset", (obs_dim,))

    def _numbers(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """Return an entry of the change as an array, once it is known to fit the robot."""
        values = getattr(self._change, name)
        if values is not None and np.shape(values) != shape:
            raise ValueError(
                f"{name} of a change to {type(self).__name__} must have shape {shape}, got "
                f"{np.shape(values)}. Was the change made for another robot?"
            )
        return None if values is None else np.array(values)

    @property
    def change(self) -> RobotChange:
        """What is different about this robot."""
        return self._change

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode, with no action on its way to the motors."""
        self._commands.clear()
        obs_O, info = super().reset(seed=seed, options=options)
        self._obs_O = self._observed(obs_O)
        return self._obs_O.copy(), info

    def step(  # type: ignore[override]  # gymnasium's annotations of rewards and info
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Command ``action``, clipped to [-1, 1], for one environment step.

        Raises:
            ValueError: If ``action`` has another shape than the action space or is not finite.
            gymnasium.error.ResetNeeded: If no episode was started.
        """
        if self._obs_O is None:
            raise gymnasium.error.ResetNeeded("step expected a started episode; call reset first.")
        # In the precision of what was commanded, in which gymnasium charges for it.
        executed_A: NDArray[Any] = self._executed(as_actions(action, (self.model.nu,))).astype(
            np.result_type(np.asarray(action), np.float32)
        )
        obs_O, rew, terminated, truncated, info = super().step(executed_A)
        reasons_1 = instabilities(self.data.warning.number[None])
        if reasons_1 is not None:
            nothing = dict.fromkeys(info, 0.0)
            return self._obs_O.copy(), 0.0, False, True, {**nothing, "unstable": reasons_1[0]}
        self._obs_O = self._observed(obs_O)
        return self._obs_O.copy(), rew, terminated, truncated, info

    def _executed(self, act_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what the motors execute in this step, in which ``act_A`` is commanded."""
        if self._matrix_AA is not None:
            act_A = self._matrix_AA @ act_A
        if self._offset_A is not None:
            act_A = act_A + self._offset_A
        self._commands.append(act_A.clip(-1.0, 1.0))
        late = len(self._commands) > self._change.delay
        return self._commands.popleft() if late else np.zeros_like(act_A)

    def _observed(self, obs_O: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what the sensors show of a true observation."""
        if self._gain_O is not None:
            obs_O = self._gain_O * obs_O
        return obs_O if self._offset_O is None else obs_O + self._offset_O

    # Hook of gymnasium's MujocoEnv
    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = compile_file(self.fullpath)
        self._change.scale_physics(model)
        return simulation(model, width=self.width, height=self.height)


class ChangedHalfCheetahEnv(ChangedRobotEnv, HalfCheetahEnv):
    """A changed HalfCheetah-v5; 6 actions, 17 observations, no termination."""

    termination_fn = staticmethod(half_cheetah.HalfCheetahEnv.termination_fn)


class ChangedAntEnv(ChangedRobotEnv, AntEnv):
    """A changed Ant-v5 that observes no contact forces; 8 actions, 27 observations.

    Legs are numbered 1 front left, 2 front right, 3 back left, 4 back right.
    """

    stock_arguments: ClassVar[Mapping[str, Any]] = {"include_cfrc_ext_in_observation": False}
    termination_fn = staticmethod(ant.RunningAntEnv.termination_fn)


class ChangedHopperEnv(ChangedRobotEnv, HopperEnv):
    """A changed Hopper-v5; 3 actions, 11 observations."""

    @staticmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """End unless z > 0.7 m, |pitch| < 0.2 rad and all else is within ±100."""
        z_B, pitch_B = obs_next_BO[:, 0], obs_next_BO[:, 1]
        within_B = (np.abs(obs_next_BO[:, 1:]) < 100.0).all(axis=1)
        healthy_B: NDArray[np.bool_] = (z_B > 0.7) & (np.abs(pitch_B) < 0.2) & within_B
        return ~healthy_B


class ChangedWalker2dEnv(ChangedRobotEnv, Walker2dEnv):
    """A changed Walker2d-v5; 6 actions, 17 observations."""

    termination_fn = staticmethod(walker2d.Walker2dRandParamsEnv.termination_fn)


for _robot in ROBOTS:
    gymnasium.register(
        f"MIER/Changed{_robot}-v0",
        entry_point=f"{__name__}:Changed{_robot}Env",
        max_episode_steps=200,
    )
