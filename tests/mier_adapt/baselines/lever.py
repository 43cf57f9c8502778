"""Lever and Gain: the smallest families that cannot be done without knowing which task it is.

A lever is to be set to a place that no observation tells; only rewards do. Where a gain differs, it
is dynamics that do, under one reward, which is known: a mass is to be brought to 0, and the gain
says how far, and which way, an action pushes it.
"""

import importlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from mier_adapt._storage.checkpoints import CHECKPOINT_FILE, load_tree
from mier_adapt.agents import FamilyEnvs
from mier_adapt_envs import Task, TaskSet

from ..doubles import OBS_DIM, _actions, _box, assert_same_tree

EPISODE, GAIN_EPISODE = 4, 12
PLACES = (-0.9, -0.7, -0.5, 0.5, 0.7, 0.9)
NEW_PLACES = (-0.8, -0.6, 0.6, 0.8)
GAINS = (-1.0, -0.8, -0.6, 0.6, 0.8, 1.0)
NEW_GAINS = (-0.9, -0.7, 0.7, 0.9)
BLIND_RETURN = EPISODE * (1 - np.mean(np.square(NEW_PLACES)))
"""What the best policy gets that does not know the place: 0 for all."""
BLIND_RESTING_RETURN = EPISODE * (1 - np.mean(np.square(NEW_PLACES)) / 2)
"""The same where every other step is a rest."""
SEEDS = [0, pytest.param(1, marks=pytest.mark.slow)]
"""Of what learns, or does not; the slow suite tries another."""


class LeverVectorEnv(VectorEnv[Any, Any, Any]):
    """The observation is the time, the reward is 1 - (act - place)^2."""

    seen: set[Task] = set()  # noqa: RUF012  # tasks that anything ran, for tests to look at
    episode = EPISODE
    single_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, num_envs: int, **_: Any) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        type(self).seen.update(options["tasks"])
        self._values = np.array([task.parameters[0] for task in options["tasks"]])
        self._generator = np.random.default_rng(seed)
        self._start()
        return self._obs(), {}

    def step(self, actions: Any) -> Any:
        rew = self._rew(actions[:, 0])
        self._clock += 1
        ended = np.full(self.num_envs, self._clock == self.episode)
        infos = {}
        if ended.all():
            final = np.empty(self.num_envs, dtype=object)
            final[:] = list(self._obs())
            infos = {"final_obs": final}
            self._start()
        return self._obs(), rew, np.zeros_like(ended), ended, infos

    def _start(self) -> None:
        self._clock = 0

    def _rew(self, act: Any) -> Any:
        return 1 - np.square(act - self._values)

    def _obs(self) -> Any:
        return np.full((self.num_envs, 1), self._clock / self.episode, dtype=np.float32)


class RestingLeverVectorEnv(LeverVectorEnv):
    """Every other step the lever is to rest at 0, which tells nothing of the place.

    So when it is to be set again, neither the action before nor its reward says where to.
    """

    def _rew(self, act: Any) -> Any:
        return 1 - np.square(act) if self._clock % 2 else super()._rew(act)


class GainVectorEnv(LeverVectorEnv):
    """The next observation is obs + gain * act / 2, the reward -obs_next^2."""

    episode = GAIN_EPISODE
    single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def _start(self) -> None:
        super()._start()
        self._place = self._generator.choice((-1.0, 1.0), self.num_envs)

    def _rew(self, act: Any) -> Any:
        self._place = self._place + self._values * act / 2
        return -np.square(self._place)

    def _obs(self) -> Any:
        return self._place[:, None].astype(np.float32)


class LeverFamily:
    """As much of a family as meta-training asks for."""

    family = "Lever"
    env_id = "Lever-v0"
    varies = "reward"
    values = PLACES, NEW_PLACES

    @classmethod
    def task_sets(cls) -> dict[str, TaskSet]:
        train, test = (
            tuple(Task(cls.family, (value,)) for value in values) for values in cls.values
        )
        return {"standard": TaskSet(cls.family, "standard", cls.env_id, train, test)}


class GainFamily(LeverFamily):
    """As much of one as meta-training by planning asks for."""

    family = "Gain"
    env_id = "Gain-v0"
    varies = "reward_and_dynamics"
    values = GAINS, NEW_GAINS

    @staticmethod
    def reward_fn(obs: Any, act: Any, obs_next: Any) -> Any:
        return -np.square(obs_next[:, 0])

    @staticmethod
    def termination_fn(obs: Any, act: Any, obs_next: Any) -> Any:
        return np.zeros(len(obs), dtype=bool)


def register_lever(
    monkeypatch: Any,
    env_class: type[LeverVectorEnv] = LeverVectorEnv,
    family: type[LeverFamily] = LeverFamily,
) -> TaskSet:
    """Make a family known for the time of a test."""
    known = importlib.import_module("mier_adapt_envs.families")._FAMILIES
    monkeypatch.setitem(known, family.family, family)
    spec = EnvSpec(family.env_id, max_episode_steps=env_class.episode, vector_entry_point=env_class)
    monkeypatch.setitem(gymnasium.registry, family.env_id, spec)
    monkeypatch.setattr(env_class, "seen", set(), raising=False)
    return family.task_sets()["standard"]


def register_gain(monkeypatch: Any) -> TaskSet:
    """The same for gains."""
    return register_lever(monkeypatch, GainVectorEnv, GainFamily)


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
    trees = [load_tree(directory / name / CHECKPOINT_FILE) for name in ("parts", "whole")]
    assert_same_tree(*trees, ignore=("seconds",))
    return trees[0]
