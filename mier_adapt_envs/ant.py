"""Ant families: a direction, a goal position, or joints that push the wrong way."""

import functools
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.directions import along, direction_tasks
from mier_adapt_envs.negated_joints import check_mask, mask_task, masked_control
from mier_adapt_envs.robot import Robot, State
from mier_adapt_envs.task_env import TaskEnv
from mier_adapt_envs.tasks import Task, TaskSet, freeze

ACTUATORS = ("hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3")

ROBOT = Robot(
    xml_file="ant.xml",
    timestep=0.01,
    frame_skip=5,
    reads=("qpos", "qvel", "xpos", "cfrc_ext"),
    contact_forces=True,
    reset_noise=0.1,
    camera={"distance": 4.0},
)
TORSO = 1  # body index


def velocity(before: State, after: State) -> NDArray[np.float64]:
    """Return the torso's mean velocity ``(B, 3)`` over a batch of steps, in m/s."""
    velocity_BX: NDArray[np.float64] = (after["xpos"][:, TORSO] - before["xpos"][:, TORSO]) / (
        ROBOT.dt
    )
    return velocity_BX


def contact_cost(after: State) -> NDArray[np.float64]:
    """Return the charge ``(B,)`` for contact forces, each clipped to ±1."""
    forces_BF = np.clip(after["cfrc_ext"], -1.0, 1.0).reshape(len(after["cfrc_ext"]), -1)
    cost_B: NDArray[np.float64] = 0.5e-3 * np.square(forces_BF).sum(axis=1)
    return cost_B


class RunningAntEnv(TaskEnv):
    """What AntDir and AntNegatedJoints share: robot, observation, termination."""

    robot = ROBOT

    @staticmethod
    def observe(state: State) -> NDArray[np.float64]:
        """Positions without x and y, velocities."""
        return np.concatenate([state["qpos"][:, 2:], state["qvel"]], axis=1)

    @staticmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """End when the torso leaves 0.2 m ≤ z ≤ 1 m, or the state is not finite."""
        z_B = obs_next_BO[:, 0]
        finite_B: NDArray[np.bool_] = np.isfinite(obs_next_BO).all(axis=1)
        return ~(finite_B & (z_B >= 0.2) & (z_B <= 1.0))


class AntDirEnv(RunningAntEnv):
    r"""Run in a direction.

    ## Description
    Gymnasium's Ant, a quadruped of a torso and four legs with two joints each, is to run as fast
    as it can in the direction $\psi$ that the task names. Dynamics are the same in all tasks.
    With direction 0 this is Ant-v5, up to the differences below.

    ## Action Space
    `Box(-1, 1, (8,), float32)`. Actions are clipped to the box before they are applied or charged.

    | Num | Action                         | Min | Max | Name in the XML | Joint | Type (unit)  |
    | --- | ------------------------------ | --- | --- | --------------- | ----- | ------------ |
    | 0   | Torque on the back right hip   | -1  | 1   | hip_4           | hinge | torque (N m) |
    | 1   | Torque on the back right knee  | -1  | 1   | ankle_4         | hinge | torque (N m) |
    | 2   | Torque on the front left hip   | -1  | 1   | hip_1           | hinge | torque (N m) |
    | 3   | Torque on the front left knee  | -1  | 1   | ankle_1         | hinge | torque (N m) |
    | 4   | Torque on the front right hip  | -1  | 1   | hip_2           | hinge | torque (N m) |
    | 5   | Torque on the front right knee | -1  | 1   | ankle_2         | hinge | torque (N m) |
    | 6   | Torque on the back left hip    | -1  | 1   | hip_3           | hinge | torque (N m) |
    | 7   | Torque on the back left knee   | -1  | 1   | ankle_3         | hinge | torque (N m) |

    ## Observation Space
    `Box(-inf, inf, (27,), float32)`. The torso's x and y are excluded.

    | Num   | Observation                                           | Joints          | Unit  |
    | ----- | ----------------------------------------------------- | --------------- | ----- |
    | 0     | height of the torso                                   | root            | m     |
    | 1-4   | orientation of the torso, a quaternion w, x, y, z     | root            |       |
    | 5-12  | joint angles: front left hip, knee; front right; back | hip_1 … ankle_4 | rad   |
    |       | left; back right                                      |                 |       |
    | 13-15 | velocity of the torso, x, y, z                        | root            | m/s   |
    | 16-18 | angular velocity of the torso, x, y, z                | root            | rad/s |
    | 19-26 | angular velocities of the joints, ordered as 5-12     | hip_1 … ankle_4 | rad/s |

    ## Rewards
    *reward = reward_forward + reward_ctrl + reward_contact + reward_survive*, in `info` under
    these names:

    - *reward_forward*: $v \cdot (\cos\psi, \sin\psi)$, where $v$ is the change of the torso's
      position in x and y over $dt$ = 0.05 s.
    - *reward_ctrl*: $-0.5 \|a\|^2$.
    - *reward_contact*: $-0.5 \cdot 10^{-3}$ times the sum of squares of the contact forces
      (`cfrc_ext`), each clipped to ±1.
    - *reward_survive*: 1 on every step, the last one included.

    `info` also carries `x_position`, `y_position` (m), `x_velocity`, `y_velocity` (m/s) and `task`.

    ## Starting State
    Positions uniform in ±0.1 around standing, the quaternion's entries likewise; velocities 0.1
    times a standard normal draw.

    ## Episode End
    Terminates unless the torso's height is within 0.2 m to 1 m and the state is finite; truncated
    after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has one parameter, `direction` (rad,
    counter-clockwise from the x-axis). Task sets:

    - `forward_backward` (2 / 2): 0 and π in both splits.
    - `ood` (100 / 10): meta-training uniform in [0, 1.5π], meta-test evenly spaced from 1.5π to
      2π.
    - `fig5` (100 / 10): the tasks of `ood`, which are also the paper's difficulty sweep.

    ## Differences from the paper
    Directions are those of the released code, bit for bit. From Ant-v5: 200 instead of 1000 steps,
    no contact forces in the observation, and the survival reward also on the step that terminates.

    ## Version History
    * v0: First release.
    """

    family = "AntDir"
    env_id = "MIER/AntDir-v0"
    varies = "reward"
    parameter_names = ("direction",)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        velocity_BX = velocity(before, after)
        return {
            "reward_forward": along(velocity_BX, parameters_BP[:, 0]),
            "reward_ctrl": -0.5 * np.square(act_BA).sum(axis=1),
            "reward_contact": -contact_cost(after),
            "reward_survive": np.ones(len(act_BA)),
            "x_position": after["qpos"][:, 0],
            "y_position": after["qpos"][:, 1],
            "x_velocity": velocity_BX[:, 0],
            "y_velocity": velocity_BX[:, 1],
        }

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the sets `forward_backward`, `ood` and `fig5`."""
        opposite = direction_tasks(cls.family, (0.0, np.pi))
        # The released code's generator.
        meta_train = np.random.RandomState(42).uniform(0.0, 1.5 * np.pi, size=100)
        trained = direction_tasks(cls.family, meta_train)
        unseen = direction_tasks(cls.family, np.linspace(1.5 * np.pi, 2.0 * np.pi, 10))
        return {
            "forward_backward": TaskSet(
                cls.family, "forward_backward", cls.env_id, opposite, opposite
            ),
            "ood": TaskSet(cls.family, "ood", cls.env_id, trained, unseen),
            "fig5": TaskSet(cls.family, "fig5", cls.env_id, trained, unseen),
        }


class AntNegatedJointsEnv(RunningAntEnv):
    r"""Run forwards although some joints push the wrong way.

    ## Description
    Gymnasium's Ant, a quadruped of a torso and four legs with two joints each, is to run along the
    x-axis as fast as it can. The task multiplies each action by the entry +1 or -1 of a mask $m$
    before it reaches the actuators, so that dynamics (and, through them, rewards) differ between
    tasks. With a mask of ones this is Ant-v5, up to the differences below.

    ## Action Space
    `Box(-1, 1, (8,), float32)`: the joint torques of :class:`~mier_adapt_envs.ant.AntDirEnv`
    before masking, clipped to the box before they are applied or charged.

    ## Observation Space
    `Box(-inf, inf, (27,), float32)`: as in :class:`~mier_adapt_envs.ant.AntDirEnv`.

    ## Rewards
    *reward = reward_forward + reward_ctrl + reward_contact + reward_survive*, in `info` under
    these names:

    - *reward_forward*: the change of the torso's x over $dt$ = 0.05 s, divided by $dt$.
    - *reward_ctrl*: $-0.5 \|m \circ a\|^2$.
    - *reward_contact*: $-0.5 \cdot 10^{-3}$ times the sum of squares of the contact forces
      (`cfrc_ext`), each clipped to ±1.
    - *reward_survive*: 1 on every step, the last one included.

    `info` also carries `x_position`, `y_position` (m), `x_velocity`, `y_velocity` (m/s) and `task`.

    ## Starting State
    Positions uniform in ±0.1 around standing, the quaternion's entries likewise; velocities 0.1
    times a standard normal draw.

    ## Episode End
    Terminates unless the torso's height is within 0.2 m to 1 m and the state is finite; truncated
    after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has eight parameters, the mask's entries
    in action order, each +1 or -1. Task sets:

    - `standard` (35 / 35): meta-training negates every choice of four of the first seven joints,
      in lexicographic order; meta-test every choice of three of the first seven, and the eighth.
    - `released` (35 / 15): the same with the first fifteen meta-test tasks, as the released code.

    ## Differences from the paper
    The paper's Table 1 gives 10 / 10 tasks. From Ant-v5: as :class:`~mier_adapt_envs.ant.AntDirEnv`
    differs.

    ## Version History
    * v0: First release.
    """

    family = "AntNegatedJoints"
    env_id = "MIER/AntNegatedJoints-v0"
    varies = "reward_and_dynamics"
    parameter_names = ACTUATORS

    control = staticmethod(masked_control)
    check_parameters = staticmethod(check_mask)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        velocity_BX = velocity(before, after)
        return {
            "reward_forward": velocity_BX[:, 0],
            "reward_ctrl": -0.5 * np.square(masked_control(act_BA, parameters_BP)).sum(axis=1),
            "reward_contact": -contact_cost(after),
            "reward_survive": np.ones(len(act_BA)),
            "x_position": after["qpos"][:, 0],
            "y_position": after["qpos"][:, 1],
            "x_velocity": velocity_BX[:, 0],
            "y_velocity": velocity_BX[:, 1],
        }

    @staticmethod
    def reward_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.floating]:
        """The reward of all tasks, but for what observations do not hold.

        The mean of the velocities before and after stands for that over the step; contact forces
        are left out. Under random actions this differs from the reward by 0.08 (root mean square),
        which itself varies by 0.8.
        """
        cost_B = 0.5 * np.square(act_BA).sum(axis=1)
        rew_B: NDArray[np.floating] = 1.0 + (obs_BO[:, 13] + obs_next_BO[:, 13]) / 2 - cost_B
        return rew_B

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the sets `standard` and `released`."""
        meta_train = tuple(
            mask_task(cls.family, 8, negated) for negated in combinations(range(7), 4)
        )
        meta_test = tuple(
            mask_task(cls.family, 8, (*negated, 7)) for negated in combinations(range(7), 3)
        )
        return {
            "standard": TaskSet(cls.family, "standard", cls.env_id, meta_train, meta_test),
            "released": TaskSet(cls.family, "released", cls.env_id, meta_train, meta_test[:15]),
        }


class AntGoalEnv(TaskEnv):
    r"""Walk to a goal.

    ## Description
    Gymnasium's Ant, a quadruped of a torso and four legs with two joints each, is to reach the
    position $g$ that the task names, and stay there. Dynamics are the same in all tasks. The goal
    is not observed. A benchmark of PEARL (Rakelly et al. 2019, arXiv:1903.08254).

    ## Action Space
    `Box(-1, 1, (8,), float32)`: the joint torques of :class:`~mier_adapt_envs.ant.AntDirEnv`,
    clipped to the box before they are applied or charged.

    ## Observation Space
    `Box(-inf, inf, (113,), float32)`.

    | Num    | Observation                                                        | Unit       |
    | ------ | ------------------------------------------------------------------ | ---------- |
    | 0-1    | position of the torso, x and y                                     | m          |
    | 2-28   | the observation of :class:`~mier_adapt_envs.ant.AntDirEnv`         |            |
    | 29-112 | contact forces `cfrc_ext` of the 14 bodies (the world's zeros are  | N m and N, |
    |        | first): torque x, y, z and force x, y, z of each, clipped to ±1    | clipped    |

    ## Rewards
    *reward = reward_goal + reward_ctrl + reward_contact*, in `info` under these names:

    - *reward_goal*: $-|x - g_x| - |y - g_y|$ of the torso's position (`xpos`) as MuJoCo leaves it
      after the simulation.
    - *reward_ctrl*: $-0.1 \|a\|^2$.
    - *reward_contact*: $-0.5 \cdot 10^{-3}$ times the sum of squares of the contact forces
      (`cfrc_ext`), each clipped to ±1.

    `info` also carries `x_position`, `y_position` (m) and `task`.

    ## Starting State
    Positions uniform in ±0.1 around standing, the quaternion's entries likewise; velocities 0.1
    times a standard normal draw.

    ## Episode End
    Never terminates; truncated after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has two parameters, `goal_x` and
    `goal_y` (m). Task set:

    - `standard` (150 / 30): uniform over the disc of radius 3 m.

    ## Differences from the released code
    No seed is known of the released goals; these are drawn with seed 1337, all angles before all
    radii, and rounded to 9 decimals.

    ## Version History
    * v0: First release.
    """

    family = "AntGoal"
    env_id = "MIER/AntGoal-v0"
    varies = "reward"
    parameter_names = ("goal_x", "goal_y")
    robot = ROBOT

    @staticmethod
    def observe(state: State) -> NDArray[np.float64]:
        """Positions, velocities, clipped contact forces."""
        forces_BF = np.clip(state["cfrc_ext"], -1.0, 1.0).reshape(len(state["cfrc_ext"]), -1)
        return np.concatenate([state["qpos"], state["qvel"], forces_BF], axis=1)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        miss_BX = np.abs(after["xpos"][:, TORSO, :2] - parameters_BP)
        return {
            "reward_goal": -miss_BX[:, 0] - miss_BX[:, 1],
            "reward_ctrl": -0.1 * np.square(act_BA).sum(axis=1),
            "reward_contact": -contact_cost(after),
            "x_position": after["qpos"][:, 0],
            "y_position": after["qpos"][:, 1],
        }

    @staticmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Never ends an episode."""
        return np.zeros(len(obs_next_BO), dtype=np.bool_)

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the set `standard`."""
        random = np.random.RandomState(1337)
        angles = 2.0 * np.pi * random.uniform(size=180)
        radii = 3.0 * np.sqrt(random.uniform(size=180))
        goals_TX = freeze(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))
        goals = tuple(
            Task(cls.family, (x, y), label=f"goal ({x:.2f}, {y:.2f})") for x, y in goals_TX
        )
        standard = TaskSet(cls.family, "standard", cls.env_id, goals[:150], goals[150:])
        return {standard.name: standard}
