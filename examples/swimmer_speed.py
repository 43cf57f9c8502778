"""A family of one's own, from this file to a policy that acts, by the command alone.

A swimmer is asked for forward speeds. From the directory of this file:

    mier-adapt meta-train --import swimmer_speed --family SwimmerSpeed --updates 10000 --out swim
    mier-adapt adapt swim --import swimmer_speed --task 8
    mier-adapt play swim/adapt/task-8-seed-0.policy.safetensors --import swimmer_speed
"""

import numpy as np

from mier_adapt_envs import Robot, Task, TaskEnv, TaskSet, register


class SwimmerSpeedEnv(TaskEnv):
    """Swim at a target speed."""

    family = "SwimmerSpeed"
    env_id = "SwimmerSpeed-v0"
    varies = "reward"
    parameter_names = ("speed",)
    robot = Robot(xml_file="swimmer.xml", timestep=0.01, frame_skip=4, reset_noise=0.1)

    @staticmethod
    def observe(state):
        return np.concatenate([state["qpos"][:, 2:], state["qvel"]], axis=1)

    @staticmethod
    def measure(before, after, act_BA, parameters_BP):
        speed_B = (after["qpos"][:, 0] - before["qpos"][:, 0]) / SwimmerSpeedEnv.robot.dt
        return {
            "reward_speed": -np.abs(speed_B - parameters_BP[:, 0]),
            "reward_ctrl": -1e-4 * np.square(act_BA).sum(axis=1),
            "speed": speed_B,
        }

    @staticmethod
    def termination_fn(obs_BO, act_BA, obs_next_BO):
        return np.zeros(len(obs_BO), dtype=bool)

    @classmethod
    def task_sets(cls):
        tasks = tuple(Task(cls.family, (speed,)) for speed in np.linspace(-0.1, 0.1, 11))
        return {"standard": TaskSet(cls.family, "standard", cls.env_id, tasks[:8], tasks[8:])}


register(SwimmerSpeedEnv)
