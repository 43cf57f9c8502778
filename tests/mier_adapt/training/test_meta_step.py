import numpy as np
import pytest
import torch

from mier_adapt.agents import ModelConfig
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.training.meta_step import draw_sets

from ..doubles import ACT_DIM, OBS_DIM, random_transitions


@pytest.mark.parametrize(("window", "oldest"), [(None, 0), (100, 60), (20, 140)])
def test_adaptation_sets_are_of_the_last_visits_with_the_initial_context(window, oldest):
    replay = ContextReplayBuffer(
        2, 500, obs_dim=OBS_DIM, act_dim=ACT_DIM, context_dim=2, generator=np.random.default_rng(0)
    )
    for visit in range(4):  # each of 40 transitions of the initial context, and 60 of others
        for task in range(2):
            for count, initial in ((40, True), (60, False)):
                transitions = random_transitions(count, seed=visit)
                number = 40 * visit + torch.arange(count) if initial else torch.full((count,), -1)
                transitions.rew[:] = number
                replay.extend(task, transitions, initial_context=initial)
    config = ModelConfig(batch_size=9_000, adaptation_window=window)
    adaptation, evaluation = draw_sets(replay, np.array([0, 1, 0]), config)
    for row in adaptation.rew:
        assert set(row.int().tolist()) == set(range(oldest, 160))
    for row in evaluation.rew:
        assert set(row.int().tolist()) == set(range(-1, 160))
