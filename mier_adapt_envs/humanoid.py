"""Humanoid family: a direction."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.directions import along, direction_tasks
from mier_adapt_envs.robot import Robot, State
from mier_adapt_envs.task_env import TaskEnv
from mier_adapt_envs.tasks import TaskSet

ROBOT = Robot(
    xml_file="humanoid.xml",
    timestep=0.003,
    frame_skip=5,
    reads=(
        "qpos",
        "qvel",
        "cinert",
        "cvel",
        "qfrc_actuator",
        "cfrc_ext",
        "subtree_com",
    ),
    contact_forces=True,
    reset_noise=1e-2,
    velocity_noise="uniform",
    camera={
        "trackbodyid": 1,
        "distance": 4.0,
        "lookat": np.array((0.0, 0.0, 2.0)),
        "elevation": -20.0,
    },
)
WORLD = 0  # body index: its subtree is the whole robot


class HumanoidDirEnv(TaskEnv):
    r"""Run in a direction.

    ## Description
    Gymnasium's Humanoid, a robot of thirteen bodies with arms and legs, is to run as fast as it
    can in the direction $\psi$ that the task names. Dynamics are the same in all tasks.

    ## Action Space
    `Box(-1, 1, (17,), float32)`. Actions are clipped to the box, and MuJoCo's controls are
    $0.4 a$ (Humanoid-v5's box is ±0.4).

    | Num   | Action                                 | Min | Max | Joints in the XML               |
    | ----- | -------------------------------------- | --- | --- | ------------------------------- |
    | 0-2   | Torque on the abdomen, y, z, x         | -1  | 1   | abdomen_y, abdomen_z, abdomen_x |
    | 3-5   | Torque on the right hip, x, z, y       | -1  | 1   | right_hip_x, _z, _y             |
    | 6     | Torque on the right knee               | -1  | 1   | right_knee                      |
    | 7-9   | Torque on the left hip, x, z, y        | -1  | 1   | left_hip_x, _z, _y              |
    | 10    | Torque on the left knee                | -1  | 1   | left_knee                       |
    | 11-12 | Torque on the right shoulder           | -1  | 1   | right_shoulder1, 2              |
    | 13    | Torque on the right elbow              | -1  | 1   | right_elbow                     |
    | 14-15 | Torque on the left shoulder            | -1  | 1   | left_shoulder1, 2               |
    | 16    | Torque on the left elbow               | -1  | 1   | left_elbow                      |

    ## Observation Space
    `Box(-inf, inf, (376,), float32)`. The torso's x and y are excluded; the world body's rows are
    included, as in Humanoid-v4.

    | Num     | Observation                                                | Unit               |
    | ------- | ---------------------------------------------------------- | ------------------ |
    | 0       | height of the torso                                        | m                  |
    | 1-4     | orientation of the torso, a quaternion w, x, y, z          |                    |
    | 5-21    | angles of the 17 joints                                    | rad                |
    | 22-24   | velocity of the torso, x, y, z                             | m/s                |
    | 25-27   | angular velocity of the torso, x, y, z                     | rad/s              |
    | 28-44   | angular velocities of the 17 joints                        | rad/s              |
    | 45-184  | `cinert`: inertia, mass times offset, mass of the 14 bodies | kg m², kg m, kg   |
    | 185-268 | `cvel`: angular and linear velocities of the 14 bodies     | rad/s, m/s         |
    | 269-291 | `qfrc_actuator`: actuator forces on the 23 degrees of freedom | N, N m          |
    | 292-375 | `cfrc_ext`: contact torques and forces on the 14 bodies    | N m, N             |

    ## Rewards
    *reward = reward_forward + reward_ctrl + reward_contact + reward_survive*, in `info` under
    these names:

    - *reward_forward*: $1.25 \, v \cdot (\cos\psi, \sin\psi)$, where $v$ is the change of the
      centre of mass in x and y over $dt$ = 0.015 s. (The paper's released code writes it as 0.25
      times the change per simulation step of 0.003 s.)
    - *reward_ctrl*: $-0.1 \|0.4 a\|^2$.
    - *reward_contact*: $-0.5 \cdot 10^{-6}$ times the sum of squares of `cfrc_ext`, at least -10.
    - *reward_survive*: 5 on every step, the last one included.

    `info` also carries `x_position`, `y_position` (m), `x_velocity`, `y_velocity` (m/s, of the
    centre of mass) and `task`.

    ## Starting State
    Positions and velocities uniform in ±0.01 around standing still.

    ## Episode End
    Terminates unless the torso's height is within 1 m to 2 m; truncated after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has one parameter, `direction` (rad,
    counter-clockwise from the x-axis). Task set:

    - `standard` (100 / 30): uniform in [0, 2π].

    ## Differences from the released code
    No seed is known of the released directions; these are drawn with seed 1337.

    ## Version History
    * v0: First release.
    """

    family = "HumanoidDir"
    env_id = "MIER/HumanoidDir-v0"
    varies = "reward"
    parameter_names = ("direction",)
    robot = ROBOT

    @staticmethod
    def observe(state: State) -> NDArray[np.float64]:
        """Positions without x and y, then everything else that was read but the centres of mass."""
        parts = [state["qpos"][:, 2:]] + [
            state[name] for name in ("qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
        ]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    @staticmethod
    def control(
        act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Scale actions to the motors' range of ±0.4."""
        return 0.4 * act_BA

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        moved_BX = after["subtree_com"][:, WORLD] - before["subtree_com"][:, WORLD]
        velocity_BX = moved_BX / ROBOT.dt
        ctrl_BA = HumanoidDirEnv.control(act_BA, parameters_BP)
        forces_BF = after["cfrc_ext"].reshape(len(act_BA), -1)
        return {
            "reward_forward": 1.25 * along(velocity_BX, parameters_BP[:, 0]),
            "reward_ctrl": -0.1 * np.square(ctrl_BA).sum(axis=1),
            "reward_contact": -np.minimum(0.5e-6 * np.square(forces_BF).sum(axis=1), 10.0),
            "reward_survive": np.full(len(act_BA), 5.0),
            "x_position": after["qpos"][:, 0],
            "y_position": after["qpos"][:, 1],
            "x_velocity": velocity_BX[:, 0],
            "y_velocity": velocity_BX[:, 1],
        }

    @staticmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """End unless 1 m ≤ z ≤ 2 m."""
        z_B = obs_next_BO[:, 0]
        return ~((z_B >= 1.0) & (z_B <= 2.0))

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the set `standard`."""
        directions = np.random.RandomState(1337).uniform(0.0, 2.0 * np.pi, size=130)
        tasks = direction_tasks(cls.family, directions)
        standard = TaskSet(cls.family, "standard", cls.env_id, tasks[:100], tasks[100:])
        return {standard.name: standard}
