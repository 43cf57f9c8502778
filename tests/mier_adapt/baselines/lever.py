"""Lever: the smallest family of tasks that cannot be done without knowing which one it is.

A lever is to be set to a place that no observation tells; only rewards do.
"""

import importlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from mier_adapt._storage.checkpoints import load_tree
from mier_adapt.agents import FamilyEnvs
from mier_adapt_envs import Task, TaskSet

from ..conftest import CHECKPOINT
from ..doubles import OBS_DIM, _actions, _box, assert_same_tree

EPISODE = 4
PLACES = (-0.9, -0.7, -0.5, 0.5, 0.7, 0.9)
NEW_PLACES = (-0.8, -0.6, 0.6, 0.8)
BLIND_RETURN = EPISODE * (1 - np.mean(np.square(NEW_PLACES)))
"""What the best policy gets that does not know the place: 0 for all."""
BLIND_RESTING_RETURN = EPISODE * (1 - np.mean(np.square(NEW_PLACES)) / 2)
"""The same where every other step is a rest."""


class LeverVectorEnv(VectorEnv[Any, Any, Any]):
    """The observation is the time, the reward is 1 - (act - place)^2."""

    seen: set[Task] = set()  # noqa: RUF012  # tasks that anything ran, for tests to look at

    def __init__(self, num_envs: int, **_: Any) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        type(self).seen.update(options["tasks"])
        self._places = np.array([task.parameters[0] for task in options["tasks"]])
        self._clock = 0
        return self._obs(), {}

    def step(self, actions: Any) -> Any:
        rew = self._rew(actions[:, 0])
        self._clock += 1
        ended = np.full(self.num_envs, self._clock == EPISODE)
        infos = {}
        if ended.all():
            final = np.empty(self.num_envs, dtype=object)
            final[:] = list(self._obs())
            infos, self._clock = {"final_obs": final}, 0
        return self._obs(), rew, np.zeros_like(ended), ended, infos

    def _rew(self, act: Any) -> Any:
        return 1 - np.square(act - self._places)

    def _obs(self) -> Any:
        return np.full((self.num_envs, 1), self._clock / EPISODE, dtype=np.float32)


class RestingLeverVectorEnv(LeverVectorEnv):
    """Every other step the lever is to rest at 0, which tells nothing of the place.

    So when it is to be set again, neither the action before nor its reward says where to.
    """

    def _rew(self, act: Any) -> Any:
        return 1 - np.square(act) if self._clock % 2 else super()._rew(act)


class LeverFamily:
    """As much of a family as meta-training asks for."""

    family = "Lever"
    env_id = "Lever-v0"
    varies = "reward"

    @classmethod
    def task_sets(cls) -> dict[str, TaskSet]:
        train, test = (
            tuple(Task(cls.family, (place,)) for place in places) for places in (PLACES, NEW_PLACES)
        )
        return {"standard": TaskSet(cls.family, "standard", cls.env_id, train, test)}


def register_lever(monkeypatch: Any, env_class: type[LeverVectorEnv] = LeverVectorEnv) -> TaskSet:
    """Make the family known for the time of a test."""
    known = importlib.import_module("mier_adapt_envs.families")._FAMILIES
    monkeypatch.setitem(known, LeverFamily.family, LeverFamily)
    monkeypatch.setitem(
        gymnasium.registry,
        LeverFamily.env_id,
        EnvSpec(LeverFamily.env_id, max_episode_steps=EPISODE, vector_entry_point=env_class),
    )
    monkeypatch.setattr(env_class, "seen", set(), raising=False)
    return LeverFamily.task_sets()["standard"]


class Spaces(FamilyEnvs):
    """Environments that nobody runs."""

    observation_space = _box(OBS_DIM)
    action_space = _actions()

    def __init__(self) -> None:
        pass


def resumed_as_whole(method: Any, directory: Path) -> Any:
    """A run that was stopped twice, whose checkpoint is that of one that was not."""
    for stop in (0, 2, 3):
        steps = iter(range(stop))
        assert not method.meta_train(
            directory / "parts",
            seed=1,
            should_stop=lambda steps=steps: next(steps, None) is None,
        )
    for name in ("parts", "whole"):
        assert method.meta_train(directory / name, seed=1)
    trees = [load_tree(directory / name / CHECKPOINT) for name in ("parts", "whole")]
    assert_same_tree(*trees, ignore=("seconds",))
    return trees[0]
