"""Gain: the smallest family whose dynamics differ under one reward, which is known.

A mass is to be brought to 0, and a gain that no observation tells says how far, and which way, an
action pushes it.
"""

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from mier_adapt_envs import Task, TaskSet

EPISODE = 12
GAINS = (-1.0, -0.8, -0.6, 0.6, 0.8, 1.0)
NEW_GAINS = (-0.9, -0.7, 0.7, 0.9)


class GainVectorEnv(VectorEnv[Any, Any, Any]):
    """The next observation is obs + gain * act / 2, the reward -obs_next^2."""

    seen: set[Task] = set()  # noqa: RUF012  # tasks that anything ran, for tests to look at

    def __init__(self, num_envs: int, **_: Any) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        type(self).seen.update(options["tasks"])
        self._gains = np.array([task.parameters[0] for task in options["tasks"]])
        self._generator = np.random.default_rng(seed)
        self._start()
        return self._obs(), {}

    def step(self, actions: Any) -> Any:
        self._place = self._place + self._gains * actions[:, 0] / 2
        rew = -np.square(self._place)
        self._clock += 1
        ended = np.full(self.num_envs, self._clock == EPISODE)
        infos = {}
        if ended.all():
            final = np.empty(self.num_envs, dtype=object)
            final[:] = list(self._obs())
            infos = {"final_obs": final}
            self._start()
        return self._obs(), rew, np.zeros_like(ended), ended, infos

    def _start(self) -> None:
        self._clock = 0
        self._place = self._generator.choice((-1.0, 1.0), self.num_envs)

    def _obs(self) -> Any:
        return self._place[:, None].astype(np.float32)


class GainFamily:
    """As much of a family as meta-training by planning asks for."""

    family = "Gain"
    env_id = "Gain-v0"
    varies = "reward_and_dynamics"

    @staticmethod
    def reward_fn(obs: Any, act: Any, obs_next: Any) -> Any:
        return -np.square(obs_next[:, 0])

    @staticmethod
    def termination_fn(obs: Any, act: Any, obs_next: Any) -> Any:
        return np.zeros(len(obs), dtype=bool)

    @classmethod
    def task_sets(cls) -> dict[str, TaskSet]:
        train, test = (
            tuple(Task(cls.family, (gain,)) for gain in gains) for gains in (GAINS, NEW_GAINS)
        )
        return {"standard": TaskSet(cls.family, "standard", cls.env_id, train, test)}


def register_gain(monkeypatch: Any) -> TaskSet:
    """Make the family known for the time of a test."""
    known = importlib.import_module("mier_adapt_envs.families")._FAMILIES
    monkeypatch.setitem(known, GainFamily.family, GainFamily)
    spec = EnvSpec(GainFamily.env_id, max_episode_steps=EPISODE, vector_entry_point=GainVectorEnv)
    monkeypatch.setitem(gymnasium.registry, GainFamily.env_id, spec)
    monkeypatch.setattr(GainVectorEnv, "seen", set())
    return GainFamily.task_sets()["standard"]
