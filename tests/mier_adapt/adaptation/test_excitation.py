"""A robot that came to rest is moved, one that moves is left alone."""

import gymnasium
import numpy as np
import pytest
import torch

from mier_adapt import (
    AdaptationSession,
    Agent,
    GradientContextAdapter,
    NewTask,
    Transitions,
    adapt,
)
from mier_adapt.adaptation import front_door, standing
from mier_adapt.adaptation.excitation import Excited
from mier_adapt.adaptation.identification import identify
from mier_adapt.adaptation.progress import Version
from mier_adapt.agents import AdaptConfig
from mier_adapt.integration import ContextReplayBuffer, build_sac

from ..doubles import LinearModel

OBS, ACT = 3, 2


class Holds:
    """Commands the same for ever; counts what it was asked."""

    def __init__(self):
        self.started = []

    def act(self, obs, *, explore):
        assert explore
        return np.full((len(obs), ACT), 0.9, np.float32)

    def start_episodes(self, starting_N):
        self.started.append(starting_N.copy())


def known(tasks=1, count=400, seed=0, episode=100):
    """Of a robot that never rests, in episodes."""
    generator = np.random.default_rng(seed)
    obs = generator.normal(size=(tasks, count + 1, OBS)).cumsum(1)
    obs, obs_next = obs[:, :-1].copy(), obs[:, 1:].copy()
    obs_next[:, episode - 1 :: episode] += 1e3  # where a time limit cut it
    rows = [obs, np.zeros((tasks, count, ACT)), np.zeros((tasks, count)), obs_next]
    return Transitions(
        *(torch.from_numpy(each).float() for each in rows),
        torch.zeros(tasks, count, dtype=torch.bool),
    )


def excited(inner=None, stored=None, std=0.5):
    actor = inner or Holds()
    stored = known() if stored is None else stored
    return Excited(actor, stored, std=std, generator=np.random.default_rng(0))


def moves(actor, observations, slots=1):
    """Which of the steps were moved, for each slot, ``(S, N)``."""
    actor.start_episodes(np.ones(slots, dtype=bool))
    acts = np.array([actor.act(each.astype(np.float32), explore=True) for each in observations])
    assert (np.abs(acts) <= 1).all()
    assert acts.dtype == np.float32
    return (acts != np.float32(0.9)).any(-1)


def test_a_robot_at_rest_is_moved_and_one_that_moves_is_left_alone() -> None:
    walks = np.random.default_rng(1).normal(size=(60, 1, OBS)).cumsum(0)
    actor = excited()
    assert not moves(actor, walks).any()
    assert not actor.moved
    stands = np.concatenate((walks, walks[-1:].repeat(60, 0)))
    found = moves(actor, stands)[:, 0]
    assert actor.moved
    first = int(found.argmax())
    assert 60 < first < 80
    assert found[first:].all()  # as long as it rests


def test_it_is_moved_for_ten_steps_after_it_rested() -> None:
    stands = np.zeros((20, 1, OBS))
    walks = 5 * np.random.default_rng(1).normal(size=(40, 1, OBS)).cumsum(0)
    found = moves(excited(), np.concatenate((stands, walks)))[:, 0]
    assert found.nonzero()[0].tolist() == list(range(19, 29))


def test_each_slot_and_each_episode_begins_anew() -> None:
    actor = excited()
    stands = np.zeros((30, 2, OBS))
    stands[:, 1] = np.random.default_rng(1).normal(size=(30, OBS)).cumsum(0)
    found = moves(actor, stands, slots=2)
    assert found[19:, 0].all()
    assert not found[:, 1].any()
    actor.start_episodes(np.array([True, False]))
    assert not (actor.act(stands[0].astype(np.float32), explore=True) != np.float32(0.9)).any()
    assert [each.tolist() for each in actor.actor.started] == [[True, True], [True, False]]


def test_rest_is_what_known_tasks_hardly_ever_come_to() -> None:
    """A robot that is to stand stands."""
    stored = known()
    stored.obs[:, 40:80], stored.obs_next[:, 39:79] = 0.0, 0.0  # a tenth of it, at rest
    assert not moves(excited(stored=stored), np.zeros((60, 1, OBS))).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "stored", [known(count=10), known(episode=10), known()._map(torch.zeros_like)]
)
def test_where_no_stretch_is_known_nothing_is_moved(stored) -> None:
    assert not moves(excited(stored=stored), np.zeros((60, 1, OBS))).any()


def test_what_never_varied_tells_nothing() -> None:
    stored = known(tasks=2)
    stored.obs[..., 0] = 7.0
    stored.obs_next[..., 0] = 7.0
    obs = np.zeros((30, 1, OBS))
    obs[..., 0] = np.arange(30)[:, None]
    assert moves(excited(stored=stored), obs)[19:].all()


class Stuck(gymnasium.Env):
    """Stands where it is, whatever it is told by less than 1."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (ACT,), np.float32)
    free = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = self.np_random.normal(size=OBS)
        return self.obs.copy(), {}

    def step(self, act):
        self.obs += self.np_random.normal(size=OBS) if self.free or (np.abs(act) == 1).any() else 0
        return self.obs.copy(), 0.0, False, False, {}


def stuck(free=False, **options):
    """An agent, a task in which its robot stands, or moves freely, and how it is met."""
    env = gymnasium.wrappers.TimeLimit(Stuck(), 100)
    env.unwrapped.free = free
    torch.manual_seed(0)
    agent = Agent(
        adapter=GradientContextAdapter(LinearModel(OBS, ACT, 0)),
        algorithm=build_sac(env.observation_space, env.action_space, 0, hidden_sizes=(8,)),
        replay=ContextReplayBuffer.of([known().flatten()], generator=np.random.default_rng(0)),
        conditioned=False,
    )
    task = NewTask.of_env(env, label="stuck", termination_fn=lambda o, a, n: np.zeros(len(o), bool))
    return agent, task, AdaptConfig.for_own_policy(adaptation_steps=60, **options)


@pytest.mark.parametrize(("free", "excitation", "moved"), [(0, 9.0, 1), (0, 0.0, 0), (1, 9.0, 0)])
def test_where_transitions_are_gathered(free, excitation, moved, tmp_path) -> None:
    agent, task, config = stuck(bool(free), excitation=excitation)
    path = tmp_path / "real"

    def found():
        generator = np.random.default_rng(0)
        return identify(agent, task, config, seed=0, generator=generator, checkpoint=path)

    first = found()
    assert first.excited == bool(moved)
    assert bool((first.real.act.abs() == 1).any()) == bool(moved)
    again = found()  # from what is kept
    assert again.excited == bool(moved)
    assert torch.equal(again.real.act, first.real.act)


@pytest.mark.parametrize("excitation", [9.0, 0.0])
def test_what_was_moved_is_not_compared_as_what_the_policy_did(excitation, monkeypatch) -> None:
    def explain(*args, same_policy):
        raise InterruptedError(same_policy)

    monkeypatch.setattr(front_door, "explain", explain)
    agent, task, config = stuck(excitation=excitation, weight_steps=0)
    with pytest.raises(InterruptedError, match=str(not excitation)):
        adapt(agent, task, config, seed=0)


def live(session, episodes, free=False):
    """In a robot's own loop; what it was told."""
    env, told = gymnasium.wrappers.TimeLimit(Stuck(), 30), []
    env.unwrapped.free = free
    for _ in range(episodes):
        (obs, _), over = env.reset(seed=len(session.log)), False
        while not over:
            told.append(session.act(obs))
            obs_next, rew, terminated, over, _ = env.step(told[-1])
            session.observe(obs, told[-1], rew, obs_next, terminated, over)
            obs = obs_next
    return np.array(told)


@pytest.mark.parametrize(("free", "excitation", "moved"), [(0, 9.0, 1), (0, 0.0, 0), (1, 9.0, 0)])
def test_a_robots_own_loop_is_moved_alike(free, excitation, moved, monkeypatch, tmp_path) -> None:
    """As long as it gathers; what was moved tells nothing of the policy."""
    compared = []
    explain = standing.explain

    def spied(*args, same_policy):
        compared.append(same_policy)
        return explain(*args, same_policy=same_policy)

    monkeypatch.setattr(standing, "explain", spied)
    agent, task, config = stuck(excitation=excitation, weight_steps=0)

    def session_of(name):
        return AdaptationSession(
            agent, config, seed=0, termination_fn=task.termination_fn, checkpoint=tmp_path / name
        )

    whole = session_of("whole")
    told = live(whole, 2, bool(free))
    assert bool((np.abs(told) == 1).any()) == bool(moved)
    assert {each["policy"] for each in whole.log} == {"gathering"}
    live(session_of("part"), 1, bool(free))
    again = session_of("part")  # as another process takes it up
    np.testing.assert_array_equal(live(again, 1, bool(free)), told[30:])
    assert [each.acted for each in again._episodes] == [each.acted for each in whole._episodes]
    again.improve()
    assert compared == [not moved]
    assert len(again._standing.progress.first[0].returns) == 2 * (not moved)
    assert isinstance(again.acting, Version)  # a policy, and no longer what gathers
