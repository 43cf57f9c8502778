"""Task families for meta-reinforcement learning on gymnasium's MuJoCo robots.

Importing this package registers the environments ``MIER/<Family>-v0``:

>>> import gymnasium, mier_adapt_envs
>>> tasks = mier_adapt_envs.task_set("HalfCheetahVel", "hard")
>>> env = gymnasium.make("MIER/HalfCheetahVel-v0", task=tasks.meta_test[0])
>>> obs, info = env.reset(seed=0)
>>> str(info["task"])
'velocity 2.842'

and ``MIER/Changed<Robot>-v0``, gymnasium's robots after something about them changed:

>>> changes = mier_adapt_envs.change_set("Hopper", "test")
>>> env = gymnasium.make("MIER/ChangedHopper-v0", change=changes[1])
>>> str(env.unwrapped.change)
'foot reversed'
"""

from mier_adapt_envs.ant import AntDirEnv, AntGoalEnv, AntNegatedJointsEnv
from mier_adapt_envs.change_sets import ChangeSet, change_set
from mier_adapt_envs.changed_robots import RobotChange
from mier_adapt_envs.families import (
    env_class,
    families,
    register,
    task_set,
    task_sets,
)
from mier_adapt_envs.half_cheetah import (
    HalfCheetahDirEnv,
    HalfCheetahNegatedJointsEnv,
    HalfCheetahVelEnv,
)
from mier_adapt_envs.humanoid import HumanoidDirEnv
from mier_adapt_envs.robot import Robot
from mier_adapt_envs.task_env import TaskEnv
from mier_adapt_envs.tasks import Task, TaskSet
from mier_adapt_envs.walker2d import Walker2dRandParamsEnv

__all__ = [
    "ChangeSet",
    "Robot",
    "RobotChange",
    "Task",
    "TaskEnv",
    "TaskSet",
    "change_set",
    "env_class",
    "families",
    "register",
    "task_set",
    "task_sets",
]

for _env_class in (
    HalfCheetahVelEnv,
    HalfCheetahDirEnv,
    HalfCheetahNegatedJointsEnv,
    AntDirEnv,
    AntGoalEnv,
    AntNegatedJointsEnv,
    Walker2dRandParamsEnv,
    HumanoidDirEnv,
):
    register(_env_class)
