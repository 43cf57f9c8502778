"""What every family shares: one MuJoCo robot, one task at a time, and one definition of each step.

A family is a subclass of :class:`TaskEnv` that fills in the pure functions ``observe``,
``measure`` and ``termination_fn``. They work on a batch, so the same definitions serve a single
environment (a batch of one) and the batched engine.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, final

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from numpy.typing import NDArray

from mier_adapt_envs.robot import Robot, State, instabilities, simulation
from mier_adapt_envs.tasks import Task, TaskSet


class TaskEnv(MujocoEnv):
    """A MuJoCo robot with a task. Subclass it to define a family of tasks.

    A subclass sets the class attributes below, implements the abstract functions, and is made
    known with :func:`mier_adapt_envs.register`. ``docs/custom_family.md`` shows a whole one.

    Arguments:
        task: Task to run, or its dict form. Without one, the first meta-training task of the
            family's default task set.
        render_mode: ``"human"``, ``"rgb_array"``, ``"depth_array"`` or ``"rgbd_tuple"``.
        width: Width of rendered frames, in pixels.
        height: Height of rendered frames, in pixels.
        camera_id: Camera to render from.
        camera_name: The same by name; give one of the two.
    """

    family: ClassVar[str]
    """Name of the family."""
    env_id: ClassVar[str]
    """Its Gymnasium ID."""
    varies: ClassVar[Literal["reward", "reward_and_dynamics"]]
    """What differs between the family's tasks."""
    parameter_names: ClassVar[tuple[str, ...]]
    """Meaning of each entry of ``Task.parameters``."""
    robot: ClassVar[Robot]
    """The robot of all tasks."""
    per_task_physics: ClassVar[bool] = False
    """Whether ``set_physics`` changes the MuJoCo model from task to task."""
    reward_fn: ClassVar[Any] = None
    """The reward ``(B,)`` as a function of ``(obs (B, O), act (B, A), obs_next (B, O))``, for who
    plans with a model. Only where all tasks share it and observations tell it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "robot"):
            cls.metadata = {
                "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
                "render_fps": round(1.0 / cls.robot.dt),  # real time
            }

    # What a family is -----------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the family's task sets by name, the default one first."""

    @staticmethod
    @abstractmethod
    def observe(state: State) -> NDArray[np.float64]:
        """Return the observations ``(B, O)`` of a batch of states."""

    @staticmethod
    @abstractmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Measure a batch of steps; every entry has shape ``(B,)``.

        Entries named ``reward_*`` are the reward's terms and add up to it, in their order. All
        entries go into ``info``.

        Args:
            before: States before the steps.
            after: States after them.
            act_BA: Actions, already clipped to [-1, 1].
            parameters_BP: Each row's ``Task.parameters``.
        """

    @staticmethod
    @abstractmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Return which transitions of a batch end the episode, as a boolean array ``(B,)``.

        The environment itself decides with this function, so that synthetic transitions end
        exactly where real ones would.
        """

    @staticmethod
    def control(
        act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the MuJoCo controls for clipped actions; by default the actions themselves."""
        return act_BA

    @staticmethod
    def set_physics(
        model: mujoco.MjModel, reference: mujoco.MjModel, parameters_P: NDArray[np.float64]
    ) -> None:
        """Write a task's physics into ``model``, given the unchanged ``reference``."""

    @staticmethod
    def check_parameters(parameters: tuple[float, ...]) -> None:
        """Raise a ValueError for parameters of the right number that make no task."""

    # What all families share ----------------------------------------------------------------

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        *,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | None = None,
        camera_name: str | None = None,
    ) -> None:
        self._arguments = {
            "render_mode": render_mode,
            "width": width,
            "height": height,
            "camera_id": camera_id,
            "camera_name": camera_name,
        }
        self._started = False
        self._closed = False
        # Checked before MuJoCo allocates anything.
        task = default_task(type(self)) if task is None else as_task(type(self), task)
        super().__init__(
            self.robot.path,
            self.robot.frame_skip,
            observation_space=None,
            render_mode=render_mode,
            width=width,
            height=height,
            camera_id=camera_id,
            camera_name=camera_name,
            default_camera_config=dict(self.robot.camera),
        )
        self.observation_space, self.action_space = spaces(type(self), self.model)
        self.set_task(task)

    @property
    def task(self) -> Task:
        """The current task. Only ``set_task`` and ``reset(options={"task": ...})`` change it."""
        return self._task

    @final
    def set_task(self, task: Task | Mapping[str, Any]) -> None:
        """Switch to another task of the family, from the next step on.

        A switch within an episode is allowed: the robot then changes under the policy's feet.

        Raises:
            ValueError: If ``task`` is of another family or its parameters make no task.
        """
        self._task = as_task(type(self), task)
        self._parameters_1P = np.array([self._task.parameters])
        if self.per_task_physics:
            self.set_physics(self.model, self.robot.compile(), self._parameters_1P[0])

    @final
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode of the current task, or of ``options["task"]``.

        Raises:
            ValueError: If ``options`` holds anything but a task of this family.
        """
        require_open(self._closed, "reset")
        options = as_options(options, "task")
        if "task" in options:
            self.set_task(options["task"])
        gymnasium.Env.reset(self, seed=int(seed) if isinstance(seed, np.integer) else seed)
        self.robot.reset(self.model, self.data, self.np_random)
        self._started = True
        self._obs_1O = self.observe(self._read()).astype(np.float32)
        if self.render_mode == "human":
            self.render()
        return self._obs_1O[0].copy(), {"task": self._task}

    @final
    def step(  # type: ignore[override]  # gymnasium's narrower float64 annotations
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply ``action``, clipped to [-1, 1], for one environment step.

        It begins where the simulation is, also after gymnasium's ``set_state``.

        Should the simulation become unstable, the episode is truncated, ``info["unstable"]`` is
        MuJoCo's name of the reason (``"mjWARN_BADQACC"``, say), the observation stays as it was
        and the reward is 0.

        Raises:
            ValueError: If ``action`` has another shape than the action space or is not finite.
            gymnasium.error.ResetNeeded: If no episode was started.
            gymnasium.error.ClosedEnvironmentError: After ``close``.
        """
        require_open(self._closed, "step")
        if not self._started:
            raise gymnasium.error.ResetNeeded("step expected a started episode; call reset first.")
        act_1A = as_actions(action, (self.model.nu,))[None]
        before = self._read()
        self.data.ctrl[:] = self.control(act_1A, self._parameters_1P)[0]
        self.robot.step(self.model, self.data)
        reasons_1 = instabilities(self.data.warning.number[None])
        outcome = transition(
            type(self),
            before,
            self._read(),
            self.observe(before).astype(np.float32) if reasons_1 is None else self._obs_1O,
            act_1A,
            self._parameters_1P,
            None if reasons_1 is None else np.ones(1, dtype=np.bool_),
        )
        self._obs_1O = outcome.obs_next_BO
        if self.render_mode == "human":
            self.render()
        info = {"task": self._task, **{key: float(v[0]) for key, v in outcome.measured.items()}}
        if reasons_1 is not None:
            info["unstable"] = reasons_1[0]
        return (
            self._obs_1O[0].copy(),
            float(outcome.rew_B[0]),
            bool(outcome.terminated_B[0]),
            reasons_1 is not None,  # beyond that, gymnasium's TimeLimit truncates
            info,
        )

    def render(self) -> Any:
        """Return a frame of the current state, or show it, according to ``render_mode``.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After ``close``.
        """
        require_open(self._closed, "render")
        return super().render()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the render windows. The environment cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            super().close()  # type: ignore[no-untyped-call]

    def _read(self) -> State:
        return {name: getattr(self.data, name)[None].copy() for name in self.robot.reads}

    # MuJoCo objects and GL contexts cannot be pickled: a copy is a fresh environment, made with
    # the same arguments and the current task, and needs a reset.
    def __getstate__(self) -> dict[str, Any]:
        return {"task": self._task, **self._arguments}

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]

    # Hooks of gymnasium's MujocoEnv
    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return simulation(self.robot.compile(), width=self.width, height=self.height)


class Transition(NamedTuple):
    """The outcome of a batch of steps."""

    obs_next_BO: NDArray[np.float32]
    """Next observations."""
    rew_B: NDArray[np.float64]
    """Rewards."""
    terminated_B: NDArray[np.bool_]
    """Which steps ended their episode."""
    measured: dict[str, NDArray[np.float64]]
    """Reward terms and other measurements by name, each ``(B,)``."""


def transition(
    env_class: type[TaskEnv],
    before: State,
    after: State,
    obs_BO: NDArray[np.float32],
    act_BA: NDArray[np.float64],
    parameters_BP: NDArray[np.float64],
    unstable_B: NDArray[np.bool_] | None = None,
) -> Transition:
    """Evaluate a batch of simulated steps under a family's definitions.

    Of an unstable simulation nothing is real after the step: its observation stays as it was,
    and everything measured is 0.

    Args:
        env_class: The family.
        before: States before the steps.
        after: States after them.
        obs_BO: Observations before the steps.
        act_BA: Actions, clipped to [-1, 1].
        parameters_BP: Each row's ``Task.parameters``.
        unstable_B: Where a simulation became unstable; nowhere if None.

    Raises:
        ValueError: If the family measures anything in another shape than ``(B,)``.
    """
    obs_next_BO = env_class.observe(after).astype(np.float32)
    measured = env_class.measure(before, after, act_BA, parameters_BP)
    for name, values in measured.items():
        _require_rows(env_class, f"measure: {name!r}", values, len(act_BA))
    if unstable_B is not None:
        obs_next_BO = np.where(unstable_B[:, None], obs_BO, obs_next_BO)
        measured = {name: np.where(unstable_B, 0.0, v) for name, v in measured.items()}
    terms = [values for name, values in measured.items() if name.startswith("reward_")]
    # Python's sum adds in order for any B; NumPy's associates differently for B = 1.
    rew_B: NDArray[np.float64] = sum(terms, start=np.zeros(len(act_BA)))
    terminated_B = env_class.termination_fn(obs_BO, act_BA, obs_next_BO)
    _require_rows(env_class, "termination_fn", terminated_B, len(act_BA))
    if unstable_B is not None:
        terminated_B = terminated_B & ~unstable_B
    return Transition(obs_next_BO, rew_B, terminated_B, measured)


def _require_rows(env_class: type[TaskEnv], name: str, values: Any, count: int) -> None:
    """Check that a family's definition gives a number for each row: others would broadcast."""
    if np.shape(values) != (count,):
        raise ValueError(
            f"{env_class.family} expected an array of shape ({count},), a value for each row, from "
            f"its {name}, got one of shape {np.shape(values)}."
        )


def as_task(env_class: type[TaskEnv], task: Task | Mapping[str, Any]) -> Task:
    """Return ``task``, given as a Task or in its dict form, once it is known to fit the family.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(task, Task):
        task = Task.from_dict(task)
    family, names = env_class.family, env_class.parameter_names
    if task.family != family:
        raise ValueError(
            f"task must be of the family {family}, got one of {task.family} ({task}). "
            f"Tasks of {family} are listed by mier_adapt_envs.task_sets({family!r})."
        )
    if len(task.parameters) != len(names):
        raise ValueError(
            f"task.parameters of {family} must be the {len(names)} values "
            f"({', '.join(names[:8])}{', …' if len(names) > 8 else ''}), "
            f"got {len(task.parameters)}."
        )
    env_class.check_parameters(task.parameters)
    return task


def require_open(closed: bool, method: str) -> None:
    """Check that an environment was not closed.

    Raises:
        ClosedEnvironmentError: If it was.
    """
    if closed:
        raise gymnasium.error.ClosedEnvironmentError(
            f"{method} was called after close; make a new environment."
        )


def as_options(options: Any, *known: str) -> dict[str, Any]:
    """Return the options of a reset as a dictionary.

    Raises:
        ValueError: If they are none, or hold anything else than what is known.
    """
    if not isinstance(options, Mapping | None) or not set(options or {}) <= set(known):
        raise ValueError(f"options must be None or a dict of {list(known)}, got {options!r:.80}.")
    return dict(options or {})


def default_task(env_class: type[TaskEnv]) -> Task:
    """Return the task that an environment made without one runs."""
    return next(iter(env_class.task_sets().values())).meta_train[0]


def as_actions(actions: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return finite actions of the expected shape, clipped to [-1, 1], as float64.

    Raises:
        ValueError: If they are neither.
    """
    try:
        act = np.asarray(actions)
    except ValueError:  # a list of rows of different lengths
        act = np.array(None)
    if act.dtype.kind not in "biuf":
        raise ValueError(f"action must be an array of real numbers, got {actions!r:.80}.")
    act = act.astype(np.float64, copy=False)
    if act.shape != shape:
        raise ValueError(f"action expected shape {shape}, got {act.shape}.")
    if not np.isfinite(act).all():
        raise ValueError(
            f"action must be finite, got {act}. Look for a policy or optimizer that diverged."
        )
    return act.clip(-1.0, 1.0)


def spaces(env_class: type[TaskEnv], model: mujoco.MjModel) -> tuple[Box, Box]:
    """Return a family's observation and action space."""
    data = mujoco.MjData(model)
    state = {name: getattr(data, name)[None].copy() for name in env_class.robot.reads}
    obs_dim = env_class.observe(state).shape[1]
    return (
        Box(-np.inf, np.inf, shape=(obs_dim,), dtype=np.float32),
        Box(-1.0, 1.0, shape=(model.nu,), dtype=np.float32),
    )
