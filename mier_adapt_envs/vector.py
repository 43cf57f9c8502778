"""The batched engine: many simulations, real threads, a different task in every slot."""

import functools
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mier_adapt_envs.families import env_class, families
from mier_adapt_envs.robot import Robot, instabilities
from mier_adapt_envs.simulations import Simulations
from mier_adapt_envs.task_env import (
    as_actions,
    as_options,
    as_task,
    default_task,
    require_open,
    spaces,
    transition,
)
from mier_adapt_envs.tasks import Task
from mier_adapt_envs.thread_simulations import ThreadSimulations


class TaskVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """A family's environments stepped together, each slot with a task of its own.

    A slot behaves exactly as the single environment with the same task and seed, whatever the
    number of threads; outputs and infos are those of gymnasium's ``SyncVectorEnv``. Threads step
    the simulations in parallel; observations, rewards and terminations are computed for all slots
    at once.

    Example:
        >>> import gymnasium, mier_adapt_envs
        >>> tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints").meta_train
        >>> envs = gymnasium.make_vec(
        ...     "MIER/HalfCheetahNegatedJoints-v0",
        ...     num_envs=10,
        ...     vectorization_mode="vector_entry_point",
        ...     tasks=tasks,
        ... )
        >>> obs, infos = envs.reset(seed=0)
        >>> obs.shape, str(infos["task"][9])
        ((10, 20), 'negated joints 3,4,5')
        >>> envs.close()

    Args:
        family: Name of the family.
        num_envs: Number of slots.
        tasks: One task per slot, as Task or dict; or one for all slots. Without it, every slot
            runs the first meta-training task of the family's default task set.
        num_threads: Threads that step simulations, the caller's included. By default one per
            usable core, and no more than slots.
        autoreset_mode: When ended slots start anew: ``"NextStep"``, ``"SameStep"``, or
            ``"Disabled"``, where the caller resets them with ``options={"reset_mask": ...}``.
        max_episode_steps: Steps after which a slot is truncated; by default the registered number.
        render_mode: ``"rgb_array"``, or None.
        width: Width of rendered frames, in pixels.
        height: Height of rendered frames, in pixels.
        camera_id: Camera to render from.
        camera_name: The same by name; give one of the two.

    Raises:
        ValueError: If an argument makes no sense; the message names it.
    """

    def __init__(
        self,
        family: str,
        num_envs: int = 1,
        *,
        tasks: Task | Mapping[str, Any] | Sequence[Task | Mapping[str, Any]] | None = None,
        num_threads: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | None = None,
        camera_name: str | None = None,
    ) -> None:
        self._env_class = env_class(family)
        self._robot = self._env_class.robot
        counts = {"num_threads": num_threads, "max_episode_steps": max_episode_steps}
        counts = {name: value for name, value in counts.items() if value is not None}
        for name, value in {"num_envs": num_envs, **counts}.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be at least 1 and whole, got {value!r}.")
        num_envs = int(num_envs)
        num_threads, max_episode_steps = (
            None if value is None else int(value) for value in (num_threads, max_episode_steps)
        )
        self._arguments: dict[str, Any] = {
            "family": family,
            "num_envs": num_envs,
            "num_threads": num_threads,
            "autoreset_mode": autoreset_mode,
            "max_episode_steps": max_episode_steps,
            "render_mode": render_mode,
            "width": width,
            "height": height,
            "camera_id": camera_id,
            "camera_name": camera_name,
        }
        if render_mode is not None and str(render_mode) != "rgb_array":
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}.")
        self.num_envs = num_envs
        self.render_mode = render_mode
        try:
            self._autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            modes = [mode.value for mode in AutoresetMode]
            raise ValueError(
                f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}."
            ) from error
        self.metadata = {**self._env_class.metadata, "autoreset_mode": self._autoreset_mode}
        registered = gymnasium.spec(self._env_class.env_id).max_episode_steps
        self._max_episode_steps = max_episode_steps or registered or np.inf
        self._renderers: list[Any] = []

        new_tasks = self._as_tasks(default_task(self._env_class) if tasks is None else tasks)
        self._reference = self._robot.compile()
        # One model for all slots, unless tasks differ in physics.
        self._simulations: Simulations = _kind_of_simulations(self._robot)(
            self._robot,
            [
                self._robot.compile() if self._env_class.per_task_physics else self._reference
                for _ in range(num_envs)
            ],
            num_threads=min(num_threads or _usable_cores(), num_envs),
        )
        self._generators: dict[int, tuple[np.random.Generator, int]] = {}  # and their seeds
        self._elapsed_B = np.zeros(num_envs, dtype=np.int64)
        self._started_B = np.zeros(num_envs, dtype=np.bool_)
        self._ended_B = np.zeros(num_envs, dtype=np.bool_)

        self.single_observation_space, self.single_action_space = spaces(
            self._env_class, self._reference
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._obs_BO = np.zeros(self.observation_space.shape or (), dtype=np.float32)
        self._tasks = np.full(num_envs, None, dtype=object)
        self._parameters_BP = np.zeros((num_envs, len(self._env_class.parameter_names)))
        self._assign_tasks(new_tasks, np.ones(num_envs, dtype=np.bool_))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # as SyncVectorEnv's
        """What each slot's generator was last seeded with."""
        return tuple(seed for _, seed in self._all_generators())

    @property  # type: ignore[misc]  # which cannot be set
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each slot's generator."""
        return tuple(generator for generator, _ in self._all_generators())

    def _all_generators(self) -> list[tuple[np.random.Generator, int]]:
        generators = self._seeded_generators(None)  # new ones of slots that were never reset
        self._generators = dict(enumerate(generators))
        return generators

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The current task of each slot."""
        return tuple(self._tasks)

    def set_tasks(
        self, tasks: Task | Mapping[str, Any] | Sequence[Task | Mapping[str, Any]]
    ) -> None:
        """Switch slots to other tasks, one per slot or one for all, from the next step on.

        Raises:
            ValueError: If ``tasks`` has another length than there are slots, or one of them does
                not fit the family. No slot is switched then.
        """
        require_open(self.closed, "set_tasks")
        self._assign_tasks(self._as_tasks(tasks), np.ones(self.num_envs, dtype=np.bool_))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every slot, or in those of ``options["reset_mask"]``.

        Args:
            seed: A seed for the first slot, one more for each further slot; or one seed per slot.
                Slots whose seed is None go on with their generators.
            options: ``"tasks"`` switches the slots that are reset, as in ``set_tasks``;
                ``"reset_mask"`` is a boolean array ``(num_envs,)`` of the slots to reset.

        Returns:
            Observations ``(num_envs, O)``, for other slots those of their last step, and infos.

        Raises:
            ValueError: If an argument does not fit. Nothing has changed then.
        """
        require_open(self.closed, "reset")
        options = as_options(options, "tasks", "reset_mask")
        mask_B = self._as_mask(options.get("reset_mask"))
        new_tasks = self._as_tasks(options["tasks"]) if "tasks" in options else None
        generators = self._seeded_generators(seed)

        if new_tasks is not None:
            self._assign_tasks(new_tasks, mask_B)
        self._generators |= {slot: generators[slot] for slot in np.flatnonzero(mask_B).tolist()}
        self._restart(mask_B)
        infos: dict[str, Any] = {}
        self._add_tasks(infos, mask_B)
        return self._obs_BO.copy(), infos

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Step every slot with its row of ``actions``, clipped to [-1, 1].

        Returns:
            Observations, rewards, terminations, truncations and infos, as ``SyncVectorEnv``
            gives them. Under ``"NextStep"`` a slot that had ended starts its next episode instead,
            with reward 0; under ``"SameStep"`` it has done so already, and ``infos["final_obs"]``
            and ``infos["final_info"]`` hold the end. A slot whose simulation becomes unstable is
            truncated, as in the single environment, and its info ``"unstable"`` is the reason.

        Raises:
            ValueError: If ``actions`` has another shape than the action space or is not finite.
            gymnasium.error.ResetNeeded: If a slot was never reset, or has ended while autoreset
                is disabled.
            gymnasium.error.ClosedEnvironmentError: After ``close``.
        """
        require_open(self.closed, "step")
        act_BA = as_actions(actions, (self.num_envs, self._reference.nu))
        self._check_running()
        next_step = self._autoreset_mode is AutoresetMode.NEXT_STEP
        starting_B = self._ended_B if next_step else np.zeros(self.num_envs, dtype=np.bool_)
        stepping_B = ~starting_B

        before = self._simulations.state
        self._simulations.step(
            self._env_class.control(act_BA, self._parameters_BP), self._generators_of(starting_B)
        )
        reasons_B = instabilities(self._simulations.warnings)
        unstable_B = None
        if reasons_B is not None:
            unstable_B = np.array([reason is not None for reason in reasons_B])
        outcome = transition(
            self._env_class,
            before,
            self._simulations.state,
            self._obs_BO,
            act_BA,
            self._parameters_BP,
            unstable_B,
        )
        self._obs_BO = outcome.obs_next_BO
        rew_B = np.where(stepping_B, outcome.rew_B, 0.0)
        terminated_B = outcome.terminated_B & stepping_B
        self._elapsed_B = np.where(stepping_B, self._elapsed_B + 1, 0)
        truncated_B = self._elapsed_B >= self._max_episode_steps
        if unstable_B is not None:
            truncated_B |= unstable_B
        self._ended_B = terminated_B | truncated_B

        infos: dict[str, Any] = {}
        if self._autoreset_mode is AutoresetMode.SAME_STEP and self._ended_B.any():
            ended_B = self._ended_B
            stepping_B = ~ended_B
            final_obs = np.full(self.num_envs, None, dtype=object)
            for slot in np.flatnonzero(ended_B):
                final_obs[slot] = self._obs_BO[slot].copy()
            final_info: dict[str, Any] = {}
            self._add_tasks(final_info, ended_B)
            _add(final_info, outcome.measured, ended_B)
            _add_reasons(final_info, reasons_B)
            infos |= {
                "final_obs": final_obs,
                "_final_obs": ended_B.copy(),
                "final_info": final_info,
                "_final_info": ended_B.copy(),
            }
            self._restart(ended_B)
        self._add_tasks(infos, np.ones(self.num_envs, dtype=np.bool_))
        _add(infos, outcome.measured, stepping_B)
        if self._autoreset_mode is not AutoresetMode.SAME_STEP:
            _add_reasons(infos, reasons_B)
        return self._obs_BO.copy(), rew_B, terminated_B, truncated_B, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one frame per slot, or None without a render mode."""
        require_open(self.closed, "render")
        if self.render_mode is None:
            return None
        if not self._renderers:
            # Imported here: it loads the window libraries, which stepping does not need.
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            for slot, model in enumerate(self._simulations.models):
                for side in ("width", "height"):
                    buffer = f"off{side}"
                    size = max(getattr(model.vis.global_, buffer), self._arguments[side])
                    setattr(model.vis.global_, buffer, size)
                self._renderers.append(
                    MujocoRenderer(
                        model,
                        self._simulations.data(slot),
                        dict(self._robot.camera),
                        width=self._arguments["width"],
                        height=self._arguments["height"],
                        camera_id=self._arguments["camera_id"],
                        camera_name=self._arguments["camera_name"],
                    )
                )
        for slot in range(self.num_envs):
            self._simulations.data(slot)  # bring up to date what the renderers look at
        return tuple(renderer.render("rgb_array") for renderer in self._renderers)

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads and free the renderers."""
        for renderer in self._renderers:
            renderer.close()
        self._simulations.close()

    def _restart(self, mask_B: NDArray[np.bool_]) -> None:
        """Start an episode in the slots of ``mask_B`` and observe it."""
        self._simulations.reset(self._generators_of(mask_B))
        obs_BO = self._env_class.observe(self._simulations.state).astype(np.float32)
        self._obs_BO[mask_B] = obs_BO[mask_B]
        self._elapsed_B[mask_B] = 0
        self._started_B |= mask_B
        self._ended_B = self._ended_B & ~mask_B

    def _generators_of(self, mask_B: NDArray[np.bool_]) -> dict[int, np.random.Generator]:
        return {slot: self._generators[slot][0] for slot in np.flatnonzero(mask_B).tolist()}

    # Tasks and infos ------------------------------------------------------------------------

    def _assign_tasks(self, tasks: list[Task], mask_B: NDArray[np.bool_]) -> None:
        slots = np.flatnonzero(mask_B)
        if self._env_class.per_task_physics:
            # Deriving a model from its parameters is slow, so skip it where nothing changes.
            changed = [slot for slot in slots if tasks[slot] != self._tasks[slot]]
            for slot in changed:
                self._env_class.set_physics(
                    self._simulations.models[slot],
                    self._reference,
                    np.array(tasks[slot].parameters),
                )
            if changed:
                self._simulations.update_models()
        for slot in slots:
            self._tasks[slot] = tasks[slot]
            self._parameters_BP[slot] = tasks[slot].parameters

    def _add_tasks(self, infos: dict[str, Any], mask_B: NDArray[np.bool_]) -> None:
        infos["task"] = np.where(mask_B, self._tasks, np.array(None))
        infos["_task"] = mask_B.copy()

    def _seeded_generators(
        self, seed: int | Sequence[int | None] | None
    ) -> list[tuple[np.random.Generator, int]]:
        """Return every slot's generator after a reset with ``seed``, and what seeded it."""
        try:
            if seed is None or not isinstance(seed, Sequence | np.ndarray):
                first = None if seed is None else operator.index(seed)
                seeds = [None if first is None else first + slot for slot in range(self.num_envs)]
            else:
                seeds = [None if one is None else operator.index(one) for one in seed]
        except TypeError as error:
            raise ValueError(f"seed expected integers, got {seed!r}.") from error
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed expected one int or a list of {self.num_envs}, got {len(seeds)} seeds."
            )
        return [
            self._generators[slot]
            if one is None and slot in self._generators
            else seeding.np_random(one)
            for slot, one in enumerate(seeds)
        ]

    # Checks ---------------------------------------------------------------------------------

    def _as_tasks(self, tasks: Any) -> list[Task]:
        if isinstance(tasks, Task | Mapping):
            tasks = [tasks] * self.num_envs
        several = isinstance(tasks, Sequence) or getattr(tasks, "ndim", 0) == 1
        if not several or len(tasks) != self.num_envs:
            count = f"{len(tasks)} of them" if several else f"{tasks!r:.80}"
            raise ValueError(
                f"tasks expected one task or one for each of {self.num_envs} slots, got {count}."
            )
        return [as_task(self._env_class, task) for task in tasks]

    def _as_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        boolean = isinstance(mask, np.ndarray) and mask.dtype == np.bool_
        if not boolean or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset_mask must be a boolean array of shape ({self.num_envs},) with a True "
                f"entry, got {mask!r:.80}."
            )
        return np.array(mask, dtype=np.bool_)

    def _check_running(self) -> None:
        if not self._started_B.all():
            raise gymnasium.error.ResetNeeded(
                "step expected a started episode in every slot; call reset first."
            )
        if self._autoreset_mode is AutoresetMode.DISABLED and self._ended_B.any():
            raise gymnasium.error.ResetNeeded(
                f"step expected running episodes, but slots {np.flatnonzero(self._ended_B)} have "
                "ended and autoreset is disabled. Reset them with "
                "reset(options={'reset_mask': terminations | truncations})."
            )

    # A copy is a fresh engine with the same arguments and current tasks, and needs a reset.
    def __getstate__(self) -> dict[str, Any]:
        return {**self._arguments, "tasks": self.tasks}

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]


def _add(
    infos: dict[str, Any], measured: Mapping[str, NDArray[np.float64]], mask_B: NDArray[np.bool_]
) -> None:
    """Add measurements of the slots of ``mask_B`` in gymnasium's form: values and a mask."""
    if mask_B.any():
        for name, values_B in measured.items():
            infos[name] = np.where(mask_B, values_B, 0.0)
            infos[f"_{name}"] = mask_B.copy()


def _kind_of_simulations(robot: Robot) -> type[Simulations]:
    """Return the fastest simulations that can do what the robot needs. Results are the same."""
    if robot.contact_forces:
        return ThreadSimulations
    try:
        from mier_adapt_envs.batch_simulations import BatchSimulations
    except ImportError:  # MuJoCo before 4.0
        return ThreadSimulations
    return BatchSimulations


def _add_reasons(infos: dict[str, Any], reasons_B: NDArray[np.object_] | None) -> None:
    """Add why slots are unstable, where any is, in gymnasium's form."""
    if reasons_B is not None:
        infos["unstable"] = reasons_B
        infos["_unstable"] = np.array([reason is not None for reason in reasons_B])


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def __getattr__(name: str) -> Any:
    """Resolve ``mier_adapt_envs.vector:<Family>``, the vector entry point of each family.

    Gymnasium tells an entry point neither the ID nor the family, and specs allow only strings.
    """
    if name in families():
        return functools.partial(TaskVectorEnv, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
