"""Spaces that are none of vectors, wherever one is asked for."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mier_adapt import NewTask
from mier_adapt.agents import collect
from mier_adapt.integration import build_sac

VECTORS = spaces.Box(-1, 1, (2,), np.float32)
OTHERS = [
    spaces.Discrete(3),
    spaces.MultiDiscrete([3, 2]),
    spaces.Dict(a=VECTORS, b=spaces.Discrete(2)),
    spaces.Tuple([VECTORS]),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
]


class Posed(gymnasium.Env):
    """Of given spaces."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        raise AssertionError("nothing is to be reset")


def by_build_sac(env):
    build_sac(env.observation_space, env.action_space, 0)


def by_new_task(env):
    NewTask.of_env(env, episode_steps=5)


def by_collect(env):
    envs = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    collect(envs, None, Acting(), steps=1, generator=np.random.default_rng(0))


class Acting:
    def act(self, obs, *, explore):
        raise AssertionError("nothing is to be done")


@pytest.mark.parametrize("refuse", [by_build_sac, by_new_task, by_collect])
@pytest.mark.parametrize("space", OTHERS, ids=lambda space: type(space).__name__)
def test_one_message_says_kind_and_remedy(refuse, space):
    kind = type(space).__name__
    expected = rf"to be a Box of one axis and a floating-point dtype, got a {kind}, "
    with pytest.raises(ValueError, match=rf"observation.* {expected}.*FlattenObservation"):
        refuse(Posed(space, VECTORS))
    with pytest.raises(ValueError, match=rf"action.* {expected}.*TransformAction"):
        refuse(Posed(VECTORS, space))
