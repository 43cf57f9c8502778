"""HalfCheetah families: a target velocity, a direction, or joints that push the wrong way."""

import functools
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.negated_joints import check_mask, mask_task, masked_control
from mier_adapt_envs.robot import Robot, State
from mier_adapt_envs.task_env import TaskEnv
from mier_adapt_envs.tasks import Task, TaskSet

ACTUATORS = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")

ROBOT = Robot(
    xml_file="half_cheetah.xml",
    timestep=0.01,
    frame_skip=5,
    reads=("qpos", "qvel", "xpos"),
    reset_noise=0.1,
    camera={"distance": 4.0},
)
TORSO = 1  # body index


def velocity(before: State, after: State) -> NDArray[np.float64]:
    """Return the mean x-velocity ``(B,)`` over a batch of steps, in m/s."""
    velocity_B: NDArray[np.float64] = (after["qpos"][:, 0] - before["qpos"][:, 0]) / ROBOT.dt
    return velocity_B


def velocity_tasks(velocities: Iterable[float]) -> tuple[Task, ...]:
    """Return one HalfCheetahVel task per velocity, in m/s."""
    return tuple(
        Task(HalfCheetahVelEnv.family, (value,), label=f"velocity {value:.3f}")
        for value in velocities
    )


class HalfCheetahEnv(TaskEnv):
    """What the HalfCheetah families share: robot, observation, no termination."""

    robot = ROBOT

    @staticmethod
    def observe(state: State) -> NDArray[np.float64]:
        """Positions without x, velocities, torso position as the simulation left it."""
        return np.concatenate(
            [state["qpos"][:, 1:], state["qvel"], state["xpos"][:, TORSO]],
            axis=1,
        )

    @staticmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Never ends an episode."""
        return np.zeros(len(obs_next_BO), dtype=np.bool_)


class HalfCheetahVelEnv(HalfCheetahEnv):
    r"""Run at a target velocity.

    ## Description
    Gymnasium's HalfCheetah, a planar robot of nine bodies, is to run at the velocity $v^*$ that
    the task names. Dynamics are the same in all tasks.

    ## Action Space
    `Box(-1, 1, (6,), float32)`. Actions are clipped to the box before they are applied or charged.

    | Num | Action                    | Min | Max | Name in the XML | Joint | Type (unit)  |
    | --- | ------------------------- | --- | --- | --------------- | ----- | ------------ |
    | 0   | Torque on the back thigh  | -1  | 1   | bthigh          | hinge | torque (N m) |
    | 1   | Torque on the back shin   | -1  | 1   | bshin           | hinge | torque (N m) |
    | 2   | Torque on the back foot   | -1  | 1   | bfoot           | hinge | torque (N m) |
    | 3   | Torque on the front thigh | -1  | 1   | fthigh          | hinge | torque (N m) |
    | 4   | Torque on the front shin  | -1  | 1   | fshin           | hinge | torque (N m) |
    | 5   | Torque on the front foot  | -1  | 1   | ffoot           | hinge | torque (N m) |

    ## Observation Space
    `Box(-inf, inf, (20,), float32)`. The torso's x, excluded from the positions, does appear at
    the end, as in the released code.

    | Num   | Observation                                   | Joints         | Unit  |
    | ----- | --------------------------------------------- | -------------- | ----- |
    | 0     | height of the front tip                       | rootz          | m     |
    | 1     | pitch of the front tip                        | rooty          | rad   |
    | 2-7   | angles of the actuated joints, action order   | bthigh … ffoot | rad   |
    | 8-9   | velocity of the front tip, x and z            | rootx, rootz   | m/s   |
    | 10    | angular velocity of the front tip             | rooty          | rad/s |
    | 11-16 | angular velocities of the actuated joints     | bthigh … ffoot | rad/s |
    | 17-19 | torso position x, y, z (`xpos`), see below    |                | m     |

    `xpos` is read as MuJoCo leaves it after the simulation: it belongs to the start of the last
    simulation step, 0.01 s before the positions.

    ## Rewards
    *reward = reward_velocity + reward_ctrl*, in `info` under these names:

    - *reward_velocity*: $-|v - v^*|$ with $v = (x_{after} - x_{before}) / dt$, $dt$ = 0.05 s.
    - *reward_ctrl*: $-0.05 \|a\|^2$.

    `info` also carries `x_position` (m), `x_velocity` (m/s) and `task`.

    ## Starting State
    Positions uniform in ±0.1 around upright; velocities 0.1 times a standard normal draw.

    ## Episode End
    Never terminates; truncated after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has one parameter, `velocity` (m/s).
    Task sets, in brackets the ranges of meta-training and meta-test velocities:

    - `standard` (100 / 30): [0, 3] for both.
    - `medium` (100 / 30): [0, 2.5], [2.5, 3].
    - `hard` (100 / 30): [0, 1.5], [2.5, 3].
    - `fig5` (100 / 10): meta-training as `hard`; test 1.75 to 4.0 in steps of 0.25.

    ## Differences from the paper
    None known. Velocities are those of the released code, bit for bit.

    ## Version History
    * v0: First release.
    """

    family = "HalfCheetahVel"
    env_id = "MIER/HalfCheetahVel-v0"
    varies = "reward"
    parameter_names = ("velocity",)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        x_velocity_B = velocity(before, after)
        return {
            "reward_velocity": -np.abs(x_velocity_B - parameters_BP[:, 0]),
            "reward_ctrl": -0.05 * np.square(act_BA).sum(axis=1),
            "x_position": after["qpos"][:, 0],
            "x_velocity": x_velocity_B,
        }

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the sets `standard`, `medium`, `hard` and `fig5`."""

        def draw(meta_train_max: float, meta_test_min: float) -> list[float]:
            # The released code's generator, drawn from in its order.
            random = np.random.RandomState(1337)
            meta_train = random.uniform(0.0, meta_train_max, size=100)
            return [*meta_train, *random.uniform(meta_test_min, 3.0, size=30)]

        hard = draw(1.5, 2.5)
        sweep = np.arange(1.75, 4.01, 0.25)
        return {
            name: TaskSet(cls.family, name, cls.env_id, tasks[:100], tasks[100:])
            for name, tasks in {
                "standard": velocity_tasks(draw(3.0, 0.0)),
                "medium": velocity_tasks(draw(2.5, 2.5)),
                "hard": velocity_tasks(hard),
                "fig5": velocity_tasks([*hard[:100], *sweep]),
            }.items()
        }


class HalfCheetahDirEnv(HalfCheetahEnv):
    r"""Run forwards or backwards.

    ## Description
    Gymnasium's HalfCheetah, a planar robot of nine bodies, is to run as fast as it can in the
    direction $d$ that the task names. Dynamics are the same in both tasks.

    ## Action Space
    `Box(-1, 1, (6,), float32)`: the joint torques of
    :class:`~mier_adapt_envs.half_cheetah.HalfCheetahVelEnv`, clipped to the box before they are
    applied or charged.

    ## Observation Space
    `Box(-inf, inf, (20,), float32)`: as in
    :class:`~mier_adapt_envs.half_cheetah.HalfCheetahVelEnv`.

    ## Rewards
    *reward = reward_forward + reward_ctrl*, in `info` under these names:

    - *reward_forward*: $d v$ with $v = (x_{after} - x_{before}) / dt$, $dt$ = 0.05 s.
    - *reward_ctrl*: $-0.05 \|a\|^2$.

    `info` also carries `x_position` (m), `x_velocity` (m/s) and `task`.

    ## Starting State
    Positions uniform in ±0.1 around upright; velocities 0.1 times a standard normal draw.

    ## Episode End
    Never terminates; truncated after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has one parameter, `direction`, +1 or
    -1. Task set: `standard` (2 / 2), forwards and backwards in both splits.

    ## Differences from the paper
    None known.

    ## Version History
    * v0: First release.
    """

    family = "HalfCheetahDir"
    env_id = "MIER/HalfCheetahDir-v0"
    varies = "reward"
    parameter_names = ("direction",)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        x_velocity_B = velocity(before, after)
        return {
            "reward_forward": parameters_BP[:, 0] * x_velocity_B,
            "reward_ctrl": -0.05 * np.square(act_BA).sum(axis=1),
            "x_position": after["qpos"][:, 0],
            "x_velocity": x_velocity_B,
        }

    @staticmethod
    def check_parameters(parameters: tuple[float, ...]) -> None:
        """Accept the directions +1 and -1; otherwise raise a ValueError."""
        if parameters[0] not in (-1.0, 1.0):
            raise ValueError(f"direction of HalfCheetahDir must be +1 or -1, got {parameters[0]}.")

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the set `standard`."""
        tasks = (
            Task(cls.family, (1.0,), label="forwards"),
            Task(cls.family, (-1.0,), label="backwards"),
        )
        return {"standard": TaskSet(cls.family, "standard", cls.env_id, tasks, tasks)}


class HalfCheetahNegatedJointsEnv(HalfCheetahEnv):
    r"""Run forwards although some joints push the wrong way.

    ## Description
    Gymnasium's HalfCheetah, a planar robot of nine bodies, is to run forwards as fast as it can.
    The task multiplies each action by the entry +1 or -1 of a mask $m$ before it reaches the
    actuators, so that dynamics (and, through them, rewards) differ between tasks. With a mask of
    ones this is HalfCheetah-v5.

    ## Action Space
    `Box(-1, 1, (6,), float32)`: the joint torques of
    :class:`~mier_adapt_envs.half_cheetah.HalfCheetahVelEnv` before masking, clipped to the box
    before they are applied or charged.

    ## Observation Space
    `Box(-inf, inf, (20,), float32)`: as in
    :class:`~mier_adapt_envs.half_cheetah.HalfCheetahVelEnv`.

    ## Rewards
    *reward = reward_forward + reward_ctrl*, in `info` under these names:

    - *reward_forward*: $v = (x_{after} - x_{before}) / dt$, $dt$ = 0.05 s.
    - *reward_ctrl*: $-0.1 \|m \circ a\|^2$.

    `info` also carries `x_position` (m), `x_velocity` (m/s) and `task`.

    ## Starting State
    Positions uniform in ±0.1 around upright; velocities 0.1 times a standard normal draw.

    ## Episode End
    Never terminates; truncated after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has six parameters, the mask's entries
    in action order, each +1 or -1. Task sets:

    - `standard` (10 / 10): meta-training negates every choice of three of the first five joints,
      in lexicographic order; meta-test every choice of two of the first five, and the sixth.
    - `held_out_joint` (4 / 6): the meta-training tasks of `standard` alone, split the same way:
      meta-training negates three of the first four joints, meta-test two of them, and the fifth.
      For choosing an adaptation's options without a look at the tasks of `standard`'s meta-test.

    ## Differences from the paper
    `held_out_joint` is ours. The paper's out-of-distribution tasks are numbers 10 to 19 of
    `standard`.

    ## Version History
    * v0: First release.
    """

    family = "HalfCheetahNegatedJoints"
    env_id = "MIER/HalfCheetahNegatedJoints-v0"
    varies = "reward_and_dynamics"
    parameter_names = ACTUATORS

    control = staticmethod(masked_control)
    check_parameters = staticmethod(check_mask)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        x_velocity_B = velocity(before, after)
        return {
            "reward_forward": x_velocity_B,
            "reward_ctrl": -0.1 * np.square(masked_control(act_BA, parameters_BP)).sum(axis=1),
            "x_position": after["qpos"][:, 0],
            "x_velocity": x_velocity_B,
        }

    @staticmethod
    def reward_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.floating]:
        """The reward of all tasks, as no mask changes what an action costs.

        MuJoCo's last step moved x by its new velocity, so that `xpos` and that velocity give the
        position. Only an episode's first step differs, by 0.2 times the velocity that it starts
        with: `xpos` lags nothing after a reset.
        """
        x_B, x_next_B = (
            each[:, 17] + ROBOT.timestep * each[:, 8] for each in (obs_BO, obs_next_BO)
        )
        cost_B = 0.1 * np.square(act_BA).sum(axis=1)
        rew_B: NDArray[np.floating] = (x_next_B - x_B) / ROBOT.dt - cost_B
        return rew_B

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the sets `standard` and `held_out_joint`."""

        def split(name: str, held_out: int) -> TaskSet:
            meta_train = [
                mask_task(cls.family, 6, each) for each in combinations(range(held_out), 3)
            ]
            meta_test = [
                mask_task(cls.family, 6, (*each, held_out))
                for each in combinations(range(held_out), 2)
            ]
            return TaskSet(cls.family, name, cls.env_id, tuple(meta_train), tuple(meta_test))

        return {each.name: each for each in (split("standard", 5), split("held_out_joint", 4))}
