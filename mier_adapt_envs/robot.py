"""A MuJoCo robot as all its families share it: model file, timing, starting noise, read-out."""

import copy
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import expand_model_path
from numpy.typing import NDArray

State = Mapping[str, NDArray[np.float64]]
"""What was read from a batch of simulations: MjData field name -> ``(B, *field shape)``."""

VelocityNoise = Literal["normal", "uniform"]

_INSTABILITIES = {
    int(mujoco.mjtWarning.mjWARN_BADQPOS): "mjWARN_BADQPOS",
    int(mujoco.mjtWarning.mjWARN_BADQVEL): "mjWARN_BADQVEL",
    int(mujoco.mjtWarning.mjWARN_BADQACC): "mjWARN_BADQACC",
    int(mujoco.mjtWarning.mjWARN_BADCTRL): "mjWARN_BADCTRL",
}


def instabilities(warnings_BW: NDArray[Any]) -> NDArray[np.object_] | None:
    """Return why each simulation is unstable, by MuJoCo's name for it; None where it is not.

    At these warnings MuJoCo resets a simulation to its defaults, in the middle of a step.

    Args:
        warnings_BW: How often each simulation was warned since its reset, for every warning.

    Returns:
        Names or None, ``(B,)``; or None alone if all simulations are stable.
    """
    if not warnings_BW.any() or not warnings_BW[:, list(_INSTABILITIES)].any():
        return None
    reasons_B = np.full(len(warnings_BW), None, dtype=object)
    for index, name in _INSTABILITIES.items():
        reasons_B[warnings_BW[:, index] > 0] = name
    return reasons_B


@dataclass(frozen=True, kw_only=True)
class Robot:
    """How a robot is simulated, started and read.

    One simulation and many take timing, noise and fields from here, so that both give the same
    numbers.
    """

    xml_file: str
    """MuJoCo model: a file name among gymnasium's assets, or a path."""
    timestep: float
    """Seconds of one simulation step; replaces the model file's own value."""
    frame_skip: int
    """Simulation steps per environment step."""
    reads: tuple[str, ...] = ("qpos", "qvel")
    """MjData fields that observations, rewards and terminations depend on."""
    contact_forces: bool = False
    """Call ``mj_rnePostConstraint`` after each environment step, without which MuJoCo leaves
    ``cfrc_ext`` at zero."""
    reset_noise: float = 0.0
    """Half-width of the uniform noise on the initial positions, and scale of that on velocities."""
    velocity_noise: VelocityNoise = "normal"
    """Distribution of the initial velocities."""
    camera: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """MuJoCo camera settings for rendering."""

    def __post_init__(self) -> None:
        for number in ("timestep", "frame_skip", "reset_noise"):
            if isinstance(getattr(self, number), np.number):
                object.__setattr__(self, number, getattr(self, number).item())

        def within(value: Any, least: float) -> bool:
            return type(value) in (int, float) and least <= value < math.inf

        fields = isinstance(self.reads, tuple) and all(
            hasattr(mujoco.MjData, str(each)) for each in self.reads
        )
        whole = type(self.frame_skip) is int
        noises = get_args(VelocityNoise)
        for name, fits, wanted in (
            ("xml_file", isinstance(self.xml_file, str), "a string"),
            ("timestep", within(self.timestep, math.ulp(0.0)), "finite and > 0"),
            ("frame_skip", whole and self.frame_skip >= 1, "an int >= 1"),
            ("reads", fields, "a tuple of fields of MjData"),
            ("contact_forces", isinstance(self.contact_forces, bool), "a bool"),
            ("reset_noise", within(self.reset_noise, 0.0), "finite and >= 0"),
            ("velocity_noise", str(self.velocity_noise) in noises, f"one of {noises}"),
            ("camera", isinstance(self.camera, Mapping), "a mapping"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r:.80}.")

    @property
    def dt(self) -> float:
        """Seconds of one environment step."""
        return self.timestep * self.frame_skip

    @property
    def path(self) -> str:
        """Where the model file lies."""
        return str(expand_model_path(self.xml_file))

    def compile(self) -> mujoco.MjModel:
        """Return a model of one's own. The file is parsed once per process."""
        model = compile_file(self.path)
        model.opt.timestep = self.timestep
        return model

    def draw_start(
        self, model: mujoco.MjModel, np_random: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw the positions and velocities of an initial state."""
        noise = self.reset_noise
        qpos = model.qpos0 + np_random.uniform(-noise, noise, size=model.nq)
        if self.velocity_noise == "normal":
            return qpos, noise * np_random.standard_normal(model.nv)
        return qpos, np_random.uniform(-noise, noise, size=model.nv)

    def reset(
        self, model: mujoco.MjModel, data: mujoco.MjData, np_random: np.random.Generator
    ) -> None:
        """Put ``data`` into an initial state drawn from ``np_random``."""
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = self.draw_start(model, np_random)
        mujoco.mj_forward(model, data)

    def step(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Advance ``data`` by one environment step under its ``ctrl``."""
        mujoco.mj_step(model, data, self.frame_skip)
        if self.contact_forces:
            mujoco.mj_rnePostConstraint(model, data)


def compile_file(path: str) -> mujoco.MjModel:
    """Return a model file's model, as one's own. The file is parsed once per process."""
    return copy.copy(_compile(path))


def simulation(
    model: mujoco.MjModel, *, width: int, height: int
) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Return a model that frames of this size, in pixels, can be drawn of, and its data."""
    # As MujocoEnv does it: grow the off-screen buffer to the frame, never shrink it.
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    return model, mujoco.MjData(model)


@functools.cache
def _compile(path: str) -> mujoco.MjModel:
    # MuJoCo 4 announces the deprecated `settotalmass` from C, on stderr and in a MUJOCO_LOG.TXT in
    # the working directory. Its replacement, called after compilation, gives the same model.
    spec = mujoco.MjSpec.from_file(path)
    total_mass = getattr(spec.compiler, "settotalmass", -1.0)
    if total_mass > 0:
        spec.compiler.settotalmass = -1.0
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
