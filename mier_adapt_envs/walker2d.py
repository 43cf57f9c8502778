"""Walker2d with other masses, inertias, dampings and frictions in every task."""

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.robot import Robot, State
from mier_adapt_envs.task_env import TaskEnv
from mier_adapt_envs.tasks import Task, TaskSet, freeze

ROBOT = Robot(
    xml_file="walker2d.xml",
    timestep=0.004,
    frame_skip=4,
    reset_noise=5e-3,
    velocity_noise="uniform",
    camera={
        "trackbodyid": 2,
        "distance": 4.0,
        "lookat": np.array((0.0, 0.0, 1.15)),
        "elevation": -20.0,
    },
)

# The model fields that a task multiplies, in drawing order: shape, and base of the multipliers.
FIELDS: dict[str, tuple[tuple[int, ...], float]] = {
    "body_mass": ((8,), 1.5),
    "body_inertia": ((8, 3), 1.5),
    "dof_damping": ((9,), 1.3),
    "geom_friction": ((8, 3), 1.5),
}


def draw_multipliers(random: np.random.RandomState) -> NDArray[np.float64]:
    """Return one task's multipliers ``(P,)``, each the base to a power uniform in ±3."""
    return freeze(
        np.concatenate(
            [base ** random.uniform(-3, 3, size=shape).ravel() for shape, base in FIELDS.values()]
        )
    )


def rand_params_tasks(family: str, label: str, multipliers_TP: NDArray[Any]) -> tuple[Task, ...]:
    """Return one task per row of multipliers, labelled with its number."""
    return tuple(
        Task(family, tuple(multipliers_P), label=f"{label} {number}")
        for number, multipliers_P in enumerate(multipliers_TP)
    )


class Walker2dRandParamsEnv(TaskEnv):
    r"""Walk forwards on a body of other masses, inertias, dampings and frictions.

    ## Description
    Gymnasium's Walker2d, a planar biped of seven bodies, is to walk forwards as fast as it can.
    The task multiplies every body's mass and principal moments of inertia, every degree of
    freedom's damping, and every geom's friction coefficients, each by a number of its own. With
    all multipliers 1 this is Walker2d-v5 on `walker2d.xml` (feet of friction 0.9 and 1.9) at a
    simulation step of 0.004 s.

    ## Action Space
    `Box(-1, 1, (6,), float32)`. Actions are clipped to the box before they are applied or charged.

    | Num | Action                    | Min | Max | Name in the XML  | Joint | Type (unit)  |
    | --- | ------------------------- | --- | --- | ---------------- | ----- | ------------ |
    | 0   | Torque on the right thigh | -1  | 1   | thigh_joint      | hinge | torque (N m) |
    | 1   | Torque on the right leg   | -1  | 1   | leg_joint        | hinge | torque (N m) |
    | 2   | Torque on the right foot  | -1  | 1   | foot_joint       | hinge | torque (N m) |
    | 3   | Torque on the left thigh  | -1  | 1   | thigh_left_joint | hinge | torque (N m) |
    | 4   | Torque on the left leg    | -1  | 1   | leg_left_joint   | hinge | torque (N m) |
    | 5   | Torque on the left foot   | -1  | 1   | foot_left_joint  | hinge | torque (N m) |

    ## Observation Space
    `Box(-inf, inf, (17,), float32)`. The torso's x is excluded; velocities are clipped to ±10.

    | Num   | Observation                                  | Joints                | Unit  |
    | ----- | -------------------------------------------- | --------------------- | ----- |
    | 0     | height of the torso                          | rootz                 | m     |
    | 1     | pitch of the torso                           | rooty                 | rad   |
    | 2-7   | angles of the actuated joints, action order  | thigh … foot_left     | rad   |
    | 8-9   | velocity of the torso, x and z               | rootx, rootz          | m/s   |
    | 10    | angular velocity of the torso                | rooty                 | rad/s |
    | 11-16 | angular velocities of the actuated joints    | thigh … foot_left     | rad/s |

    ## Rewards
    *reward = reward_forward + reward_survive + reward_ctrl*, in `info` under these names:

    - *reward_forward*: $v = (x_{after} - x_{before}) / dt$, $dt$ = 0.016 s.
    - *reward_survive*: 1 on every step, the last one included.
    - *reward_ctrl*: $-10^{-3} \|a\|^2$.

    `info` also carries `x_position` (m), `x_velocity` (m/s) and `task`.

    ## Starting State
    Positions and velocities uniform in ±0.005 around standing still.

    ## Episode End
    Terminates unless the torso's height is within 0.8 m to 2 m and its pitch within ±1 rad;
    truncated after 200 steps.

    ## Arguments
    See :class:`~mier_adapt_envs.task_env.TaskEnv`. A task has 65 parameters, the multipliers of
    `body_mass`, `body_inertia`, `dof_damping` and `geom_friction` in MuJoCo's order, world body
    and floor included, all positive. Task sets:

    - `standard` (40 / 10): each multiplier $1.5^U$ ($1.3^U$ for damping), $U$ uniform in ±3.
    - `ood` (40 / 20): the same meta-training tasks; each multiplier of a meta-test task is
      $|N(\mu + 5\sigma, \sigma)|$ with mean and standard deviation of that multiplier over the
      meta-training tasks.

    ## Differences from the released code
    Quantities that MuJoCo derives from masses and inertias are derived anew for each task
    (`mj_setConst`). `standard` uses seed 42 as `ood` does, and goes on drawing for its meta-test
    tasks, so that one meta-trained agent serves both sets. Multipliers are rounded to 9 decimals.
    From Walker2d-v5: 200 instead of 1000 steps, and the survival reward also on the step that
    terminates.

    ## Version History
    * v0: First release.
    """

    family = "Walker2dRandParams"
    env_id = "MIER/Walker2dRandParams-v0"
    varies = "reward_and_dynamics"
    parameter_names = tuple(
        f"{name}[{index}]"
        for name, (shape, _) in FIELDS.items()
        for index in range(math.prod(shape))
    )
    robot = ROBOT
    per_task_physics = True

    @staticmethod
    def observe(state: State) -> NDArray[np.float64]:
        """Positions without x, velocities clipped to ±10."""
        return np.concatenate([state["qpos"][:, 1:], np.clip(state["qvel"], -10.0, 10.0)], axis=1)

    @staticmethod
    def measure(
        before: State, after: State, act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """See Rewards in the class documentation."""
        x_velocity_B = (after["qpos"][:, 0] - before["qpos"][:, 0]) / ROBOT.dt
        return {
            "reward_forward": x_velocity_B,
            "reward_survive": np.ones(len(act_BA)),
            "reward_ctrl": -1e-3 * np.square(act_BA).sum(axis=1),
            "x_position": after["qpos"][:, 0],
            "x_velocity": x_velocity_B,
        }

    @staticmethod
    def termination_fn(
        obs_BO: NDArray[Any], act_BA: NDArray[Any], obs_next_BO: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """End unless 0.8 m < z < 2 m and |pitch| < 1 rad."""
        z_B, pitch_B = obs_next_BO[:, 0], obs_next_BO[:, 1]
        healthy_B: NDArray[np.bool_] = (z_B > 0.8) & (z_B < 2.0) & (np.abs(pitch_B) < 1.0)
        return ~healthy_B

    @staticmethod
    def set_physics(
        model: mujoco.MjModel, reference: mujoco.MjModel, parameters_P: NDArray[np.float64]
    ) -> None:
        """Multiply the reference's parameters, and derive what depends on them."""
        ends = np.cumsum([math.prod(shape) for shape, _ in FIELDS.values()])
        parts = np.split(parameters_P, ends[:-1])
        for (name, (shape, _)), multipliers in zip(FIELDS.items(), parts, strict=True):
            getattr(model, name)[:] = getattr(reference, name) * multipliers.reshape(shape)
        mujoco.mj_setConst(model, mujoco.MjData(model))

    @staticmethod
    def check_parameters(parameters: tuple[float, ...]) -> None:
        """Accept positive multipliers; otherwise raise a ValueError."""
        if min(parameters) <= 0.0:
            raise ValueError(
                f"task.parameters of Walker2dRandParams must be positive, got {min(parameters)}."
            )

    @classmethod
    @functools.cache
    def task_sets(cls) -> Mapping[str, TaskSet]:
        """Return the sets `standard` and `ood`."""
        random = np.random.RandomState(42)
        meta_train_TP = np.array([draw_multipliers(random) for _ in range(40)])
        mean_P, std_P = meta_train_TP.mean(axis=0), meta_train_TP.std(axis=0)
        beyond = copy.deepcopy(random)  # both sets' meta-test draws follow the meta-training ones
        meta_test_TP = np.array([draw_multipliers(random) for _ in range(10)])
        ood_TP = freeze(np.abs(beyond.normal(mean_P + 5 * std_P, std_P, size=(20, len(mean_P)))))
        meta_train = rand_params_tasks(cls.family, "rand params", meta_train_TP)
        meta_test = rand_params_tasks(cls.family, "new rand params", meta_test_TP)
        ood = rand_params_tasks(cls.family, "ood params", ood_TP)
        return {
            "standard": TaskSet(cls.family, "standard", cls.env_id, meta_train, meta_test),
            "ood": TaskSet(cls.family, "ood", cls.env_id, meta_train, ood),
        }
