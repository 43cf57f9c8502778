"""Adaptation that goes on: in a robot's own loop, and in adapt's."""

import copy
import dataclasses
import json

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
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.adaptation import session as sessions
from mier_adapt.adaptation import standing
from mier_adapt.adaptation.front_door import rounds_of
from mier_adapt.agents import AdaptConfig, ContinueConfig
from mier_adapt.compensation import Compensation
from mier_adapt.integration import ContextReplayBuffer

from ..doubles import (
    ACT_DIM,
    OBS_DIM,
    ClosedForm,
    CountedEnv,
    DriftEnv,
    assert_same_tree,
    random_transitions,
    small_sac,
)
from .test_foreign_agents import CONFIG, WITHOUT_CONTEXT, agent_of
from .test_structured import CONFIG as STRUCTURED
from .test_structured import agent as structured_agent
from .test_structured import assert_within_reach, windy

STEPS = 10
ROUNDS = ContinueConfig(weight_steps=3, relabel_size=30, updates=3, window=2)


def drifting(steps=STEPS, **options):
    return CountedEnv(gymnasium.wrappers.TimeLimit(DriftEnv(**options), steps))


def session_of(agent=None, config=CONFIG, **options):
    given = {"seed": 0, "rounds": ROUNDS, "termination_fn": DriftEnv.ends, **options}
    return AdaptationSession(agent or agent_of(), config, **given)


def live(session, env, episodes, *, improve=True):
    """The loop that a robot's owner writes; what was said."""
    said = []
    for _ in range(episodes):
        number = len(session.log)
        (obs, _), over = env.reset(seed=number), False
        while not over:
            act = session.act(obs)
            assert env.action_space.contains(act)
            obs_next, rew, terminated, truncated, _ = env.step(act)
            session.observe(obs, act, rew, obs_next, terminated, truncated)
            obs, over = obs_next, terminated or truncated
        if improve:
            said.append(session.improve())
    return said


def weights(session):
    return {name: each.clone() for name, each in session.policy.network.state_dict().items()}


@pytest.mark.parametrize("name", ["SAC", "TD3", "REDQ"])
@pytest.mark.parametrize("conditioned", [True, False])
def test_it_gathers_tries_and_learns_round_by_round(name, conditioned):
    env = drifting(bound=2.0)
    agent = agent_of(name, conditioned=conditioned)
    agent.algorithm.policy.action_space = env.action_space
    session = session_of(agent, CONFIG if conditioned else WITHOUT_CONTEXT)
    with pytest.raises(ValueError, match="expected 25 transitions and a call of improve"):
        _ = session.policy
    said = live(session, env, 16)
    assert session.transitions == env.steps == sum(each["steps"] for each in session.log)
    assert said[0] == f"{session.log[0]['steps']} of 25 transitions gathered"
    assert any("relabeled is to play an episode" in each for each in said)
    assert "learned from" in said[-1]
    policies = [each["policy"] for each in session.log]
    assert policies[-1] == "continued"
    # What gathered is not the policy of a context that is not known yet.
    assert ("adapted context" in policies) == conditioned
    returns = [each["return"] for each in session.log]
    assert all(np.isfinite(returns))
    assert session.policy.about["log"] == session.log
    json.dumps(session.log)


def test_real_steps_end_in_the_buffer_as_they_were(trained_on):
    env = drifting(bound=2.0)
    agent = agent_of()
    agent.algorithm.policy.action_space = env.action_space
    session = session_of(agent)
    acts = []

    class Watched(gymnasium.Wrapper):
        def step(self, action):
            acts.append(np.array(action))
            return super().step(action)

    live(session, Watched(env), 8)
    buffer = trained_on[-1]
    taken = len(acts) - session.log[-1]["steps"] * (session.log[-1]["policy"] != "continued")
    stored = buffer.act[: buffer.num_real]
    np.testing.assert_allclose(stored, np.array(acts)[: len(stored)] / 2, atol=1e-6)
    assert buffer.num_real in (taken, len(acts))


def test_two_equal_sessions_are_equal_and_the_callers_generators_stay():
    kept = []
    for _ in range(2):
        torch.manual_seed(7)
        session = session_of()
        live(session, drifting(), 8)
        kept.append((weights(session), session.log))
        torch.manual_seed(7)
        before = torch.get_rng_state()
        session.act(np.zeros(OBS_DIM))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_tree(kept[0], kept[1])


@pytest.mark.parametrize("episodes", [1, 4, 7])
def test_a_session_is_taken_up_from_its_file(tmp_path, episodes):
    whole = session_of()
    env = drifting()
    said = live(whole, env, 9)
    path = tmp_path / "session"
    live(session_of(checkpoint=path), drifting(), episodes)
    again = session_of(checkpoint=path)
    assert again.transitions == sum(each["steps"] for each in whole.log[:episodes])
    assert live(again, drifting(), 9 - episodes) == said[episodes:]
    assert_same_tree(again.log, whole.log)
    assert_same_tree(weights(again), weights(whole))
    with pytest.raises(ValueError, match="is of another session: seed differ"):
        session_of(seed=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError):
        session_of(checkpoint=path)


class Clock:
    """Time that passes only where somebody looks at it."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize(("seconds", "updates"), [(1, 0), (3, 2), (30, 3)])
def test_an_improvement_ends_with_its_time_and_is_taken_up_with_as_many_updates(
    tmp_path, monkeypatch, seconds, updates
):
    monkeypatch.setattr(sessions, "time", Clock())
    path, env = tmp_path / "session", drifting()
    session = session_of(checkpoint=path)
    live(session, env, 8, improve=False)
    said = [session.improve(seconds=seconds)]
    for _ in range(6):
        live(session, env, 1, improve=False)
        said.append(session.improve(seconds=seconds))
    learned = [each for each in said if "learned from" in each]
    assert learned
    cut = "" if updates == 3 else f", by {updates} of 3 updates"
    assert {each.partition(" real transitions")[2] for each in learned} == {cut}
    acted = weights(session)
    monkeypatch.undo()
    again = session_of(checkpoint=path)
    assert_same_tree(again.log, session.log)
    assert_same_tree(weights(again), acted)


def improved_within_episodes(session, env, episodes, reward):
    """As a thread would while the robot moves; rewards are of the version that acts."""
    for number in range(episodes):
        (obs, _), over, step = env.reset(seed=number), False, 0
        while not over:
            act = session.act(obs)
            obs_next, _, terminated, truncated, _ = env.step(act)
            if step == 3:
                session.improve()
            rew = reward(session, session._acting)
            session.observe(obs, act, rew, obs_next, terminated, truncated)
            obs, over, step = obs_next, terminated or truncated, step + 1


@pytest.fixture
def taken_up(tmp_path, monkeypatch):
    """Begins a session that only goes on learning, or takes it up from its file."""
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    config = dataclasses.replace(WITHOUT_CONTEXT, relabel_rounds=0)
    rounds = dataclasses.replace(ROUNDS, window=1)
    path = tmp_path / "session"

    def taken_up():
        agent = agent_of(conditioned=False)
        return session_of(agent, config, rounds=rounds, checkpoint=path)

    return taken_up


def test_who_acted_while_it_improved_is_taken_up_as_well(taken_up):
    def the_second_is_good(session, acting):
        progress = session._standing.progress
        second = [each.number for each in progress.learned[1:2]] if progress else []
        return 10.0 if getattr(acting, "number", None) in second else -10.0

    session = taken_up()
    improved_within_episodes(session, drifting(), 8, the_second_is_good)
    again = taken_up()
    before, after = (
        [each.returns for each in one._standing.progress.learned] for one in (session, again)
    )
    assert before == after
    assert session._standing.progress.learned[1].candidate is session.kept
    assert_same_tree(again.log, session.log)
    assert_same_tree(weights(again), weights(session))


def test_episodes_that_end_while_it_improves_are_for_the_next_improvement(monkeypatch):
    counted = []
    fit = standing.Standing._fit

    def fitting(self, config, real, *arguments):
        counted.append((len(real), session.transitions))
        if len(counted) == 2:
            live(session, drifting(), 1, improve=False)
        return fit(self, config, real, *arguments)

    monkeypatch.setattr(standing.Standing, "_fit", fitting)
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    config = dataclasses.replace(WITHOUT_CONTEXT, relabel_rounds=0)
    session = session_of(agent_of(conditioned=False), config)
    said = live(session, drifting(), 9)
    (learned, known), *_ = counted[1:]
    assert learned == known
    assert any(f"learned from {learned} real transitions" in each for each in said)
    assert session._standing.learner.buffer.num_real == counted[-1][0]


def test_an_episode_that_ends_while_another_change_is_noticed_is_taken_up(tmp_path, monkeypatch):
    path = tmp_path / "session"
    session = session_of(structured_agent(), STRUCTURED, checkpoint=path)
    live(session, drifting(30), 5)
    surprise, changed = standing.Expectation.surprise, drifting(30, strength=-1.0)

    def playing(self, fresh, share):
        if len(session.log) == 6:
            live(session, changed, 1, improve=False)
        return surprise(self, fresh, share)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(standing.Expectation, "surprise", playing)
        assert "changed again" in live(session, changed, 1)[0]
    live(session, changed, 3)
    again = session_of(structured_agent(), STRUCTURED, checkpoint=path)
    assert_same_tree(again.log, session.log)
    versions = [
        [each.returns for each in one._standing.progress.versions] for one in (session, again)
    ]
    assert versions[0] == versions[1]


def test_an_episode_that_ends_while_it_improves_counts_from_then_on(taken_up, monkeypatch):
    """Whether its end came before a step of that or after is no part of what comes of it."""
    session, env = taken_up(), drifting()
    live(session, env, 6)
    lost = standing.Progress.lost

    def one_episode_later(self):
        live(session, env, len(session.log) == 7, improve=False)
        return lost.fget(self)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(standing.Progress, "lost", property(one_episode_later))
        live(session, env, 1)
    live(session, env, 3)
    again = taken_up()
    assert_same_tree(again.log, session.log)
    assert_same_tree(weights(again), weights(session))


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
@pytest.mark.parametrize("failing", [3, 6])
def test_an_improvement_that_fails_changes_nothing_and_is_not_made_again(
    tmp_path, monkeypatch, error, failing
):
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    path, env = tmp_path / "session", drifting()
    session = session_of(agent_of(conditioned=False), WITHOUT_CONTEXT, checkpoint=path)

    def fails(*arguments, **options):
        raise error

    for number in range(8):
        live(session, env, 1, improve=False)
        if number == failing:
            before = (
                [each.returns for each in session._standing.progress.versions],
                weights(session),
            )
            with monkeypatch.context() as failure:
                failure.setattr(standing.Learner, "update", fails)
                failure.setattr(standing, "train_on_synthetic", fails)
                with pytest.raises(error):
                    session.improve()
            after = [each.returns for each in session._standing.progress.versions], weights(session)
            assert_same_tree(after, before)
        session.improve()
    again = session_of(agent_of(conditioned=False), WITHOUT_CONTEXT, checkpoint=path)
    assert_same_tree(again.log, session.log)
    states = [dict(one.acting.candidate.actor.policy.state_dict()) for one in (again, session)]
    assert_same_tree(*states)


def test_an_improvement_that_died_at_work_and_fails_again_is_left_out(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    config = dataclasses.replace(WITHOUT_CONTEXT, relabel_rounds=0)
    path, env = tmp_path / "session", drifting()
    session = session_of(agent_of(conditioned=False), config, checkpoint=path)
    live(session, env, 6)

    live(session, env, 1, improve=False)
    tree = load_tree(path)
    tree["improved"].append([7, -1])  # begun, and not over
    save_tree(path, tree)

    update = standing.Learner.update

    def diverges(self, *arguments, **options):
        if self.buffer.num_real == session.transitions:
            raise FloatingPointError("The losses are nan")
        return update(self, *arguments, **options)

    monkeypatch.setattr(standing.Learner, "update", diverges)
    again = session_of(agent_of(conditioned=False), config, checkpoint=path)
    assert again.transitions == session.transitions
    assert "fails: The losses are nan" in caplog.text


def test_learning_that_goes_back_keeps_its_step_sizes_and_tau(monkeypatch):
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    rounds = dataclasses.replace(ROUNDS, actor_lr=7e-5, critic_lr=9e-5, tau=0.25)
    config = dataclasses.replace(WITHOUT_CONTEXT, relabel_rounds=0)
    session = session_of(agent_of(conditioned=False), config, rounds=rounds)
    env, said = drifting(), []
    for _ in range(9):
        live(session, env, 1, improve=False)
        for each in session._standing.progress.learned if session._standing.progress else []:
            each.returns[:] = [-1e4 for _ in each.returns]
        said.append(session.improve())
    assert any("went back" in each for each in said)
    algorithm = session._standing.learner.algorithm
    sizes = [group["lr"] for each in algorithm._optimizers for group in each._optim.param_groups]
    assert sizes == [7e-5, 9e-5, 9e-5]
    assert algorithm.tau == 0.25 != session.kept.algorithm.tau == session._agent.algorithm.tau
    assert type(algorithm.alpha).__name__ == "FixedAlpha"


def test_an_algorithm_without_targets_learns_on():
    agent = agent_of("SAC")
    agent.algorithm._update_lagged_network_weights = lambda: None
    del agent.algorithm.tau
    said = live(session_of(agent), drifting(), 12)
    assert any("learned from" in each for each in said)


def test_where_undoing_suffices_nothing_is_learned():
    session = session_of(structured_agent(), STRUCTURED)
    said = live(session, drifting(30, strength=-1.0), 5)
    assert "motor 1 is reversed" in said[1]
    assert said[-1] == "nothing is left to be learned"
    policies = [each["policy"] for each in session.log]
    assert policies[:3] == ["gathering", "gathering", "compensated"]  # the first was unchanged
    assert set(policies[3:]) <= {"unchanged", "compensated"}  # the better one of the two
    undone = [each.candidate.compensation for each in session._standing.progress.first]
    assert [type(each) for each in undone] == [type(None), Compensation]


def test_behind_motors_that_are_too_weak_it_learns_what_they_can(trained_on):
    session = session_of(structured_agent(), STRUCTURED)
    env = drifting(30, strength=0.3)
    live(session, env, 4)
    compensated = session._standing.progress.first[1]
    compensated.returns[:] = [0.0]  # better than any
    live(session, env, 2)
    assert session._standing.start == compensated.number
    for real in (False, True):
        assert_within_reach(trained_on[-1], compensated.candidate.compensation, real=real)


def test_where_undoing_a_change_returned_no_more_it_learns_from_real_steps_alone():
    session = session_of(structured_agent(), STRUCTURED)
    env = drifting(30, strength=0.3)
    assert live(session, env, 2)[-1].endswith("compensated is to play an episode")
    live(session, env, 1, improve=False)
    session._standing.progress.first[1].returns[:] = [-1e6]
    assert "learned from" in session.improve()
    assert session._standing.progress.base.candidate.name == "unchanged"
    assert session._standing.learner.real_alone
    live(session, env, 2)
    assert "relabeled" not in {each["policy"] for each in session.log}


def test_what_shows_in_no_single_step_is_learned_and_not_forgotten():
    whole, env = windy(-0.03)
    session = session_of(whole, STRUCTURED, seed=2)
    said = live(session, env, 14)
    first = next(number for number, each in enumerate(said) if "in the dynamics changed" in each)
    gathered = sum(each["steps"] for each in session.log[: first + 1])
    assert session._standing.diagnosed_at >= 2 * gathered  # it was looked at again
    assert "learned from" in said[-1]
    assert session.diagnosis.changed


def test_what_no_model_knows_and_nothing_undoes_is_learned_from_real_steps_alone():
    whole, env = windy(-0.03)
    session = session_of(whole, STRUCTURED, seed=2)
    said = live(session, env, 6)
    assert any("in the dynamics changed" in each for each in said)
    assert "relabeled" not in {each["policy"] for each in session.log}
    learner = session._standing.learner
    assert len(learner.buffer) == session.transitions
    # It is the algorithm itself that goes on, with what it learned of its temperature.
    assert learner.algorithm.tau == whole.algorithm.tau != ROUNDS.tau
    before, after = whole.algorithm.alpha, learner.algorithm.alpha
    assert type(after) is type(before)
    assert after.value != before.value


class Curved(ClosedForm):
    """A point that drifts as :class:`DriftEnv`'s, and curves as its context says."""

    obs_dim, act_dim, context_dim, std = OBS_DIM, ACT_DIM, 1, 0.2
    initial_context = torch.zeros(1)

    def mean(self, obs, act, context):
        curve = torch.as_tensor(context)[..., :1].unsqueeze(-2) * torch.sin(2 * obs)
        obs_next = 0.9 * obs + torch.cat((act, act[..., :1]), -1) + curve
        return -obs_next.abs().sum(-1), obs_next


class CurvedEnv(DriftEnv):
    """Does what the model says of a context, in a wind besides."""

    def __init__(self, curve=0.0, wind=0.0):
        super().__init__()
        self.curve, self.wind = torch.tensor([curve]), wind

    def step(self, action):
        obs, act = torch.from_numpy(self._state), torch.as_tensor(action)
        _, after = Curved().mean(obs[None], act[None], self.curve)
        self._state = (after[0] + self.wind).numpy()
        return self._state.copy(), -float(np.abs(self._state).sum()), False, False, {}


@pytest.mark.parametrize(
    ("env", "begins", "alone"),
    [
        (CurvedEnv(wind=1.0), "known task", True),
        (CurvedEnv(curve=1.0), "adapted context", False),
    ],
)
def test_dynamics_that_no_context_explains_are_learned_under_a_known_one(env, begins, alone):
    stored, generator = [], np.random.default_rng(0)
    for context in (0.0, 0.5):
        obs, act = torch.randn(300, OBS_DIM), torch.rand(300, ACT_DIM) * 2 - 1
        rew, obs_next = Curved().mean(obs, act, torch.tensor([context]))
        stored.append(Transitions(obs, act, rew, obs_next, torch.zeros(300, dtype=torch.bool)))
    whole = Agent(
        adapter=GradientContextAdapter(Curved(), lr=0.02, steps=20),
        algorithm=small_sac(context_dim=1),
        replay=ContextReplayBuffer.of(stored, context_dim=1, generator=generator),
    )
    config = dataclasses.replace(
        STRUCTURED, context_steps=20, later_context_lr=0.02, excitation=0.0
    )
    session = session_of(whole, config)
    said = live(session, gymnasium.wrappers.TimeLimit(env, 30), 5)
    assert "learned from" in said[-1]
    policies = [each["policy"] for each in session.log]
    assert policies[:3] == ["gathering", "gathering", begins]
    assert ("relabeled" in policies) != alone
    assert session._standing.learner.real_alone == alone
    context = session._standing.progress.first[0].candidate.actor.contexts.flatten()
    assert float(context) == pytest.approx(float(env.unwrapped.curve), abs=0.05)


def test_another_diagnosis_goes_on_from_what_was_learned(monkeypatch):
    began = []

    class Remembered(standing.Learner):
        def __init__(self, agent, algorithm, *args, **options):
            began.append(algorithm)
            super().__init__(agent, algorithm, *args, **options)

    monkeypatch.setattr(standing, "Learner", Remembered)
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    config = dataclasses.replace(WITHOUT_CONTEXT, relabel_rounds=0)
    session = session_of(agent_of(conditioned=False), config)
    live(session, drifting(bound=2.0), 8)
    assert len(began) == 1
    for each in [each for each in session._standing.progress.learned if each.returns][-2:]:
        each.returns[:] = [100.0]
    learned = session.kept
    assert learned.name == "continued"
    assert learned.algorithm.tau == ROUNDS.tau
    monkeypatch.setattr(standing.Standing, "_beyond", True)
    session.improve()
    assert session._standing.learner.real_alone
    assert session._standing.learner.algorithm.tau == session._agent.algorithm.tau != ROUNDS.tau
    assert began[1:] == [learned.algorithm]
    live(session, drifting(bound=2.0), 2)
    assert len(began) == 2


def test_another_change_is_noticed_with_the_next_episode_and_undone():
    session = session_of(structured_agent(), STRUCTURED)
    live(session, drifting(30), 5)
    assert session.kept.compensation is None
    said = live(session, drifting(30, strength=-1.0), 4)
    assert said[0].startswith("the task has changed again; 30 of 60 transitions gathered")
    assert "motor 1 is reversed" in said[1]
    assert [each["policy"] for each in session.log][-2:] == ["unchanged", "compensated"]
    safe = session._standing.progress.first[0]
    assert safe.returns == [session.log[5]["return"]]  # of what acted then
    assert sum("changed again" in each for each in said) == 1


@pytest.mark.parametrize(
    ("known", "change", "explains", "another"),
    [
        (0, "reversed", True, False),
        (1, "reversed", True, True),
        (0, "nothing", True, True),
        (1, "nothing", True, True),
        (1, "reversed", False, False),
        (None, "unknown", True, False),
    ],
)
def test_an_episode_of_another_known_task_is_another_task(
    monkeypatch, known, change, explains, another
):
    session = session_of(structured_agent(), STRUCTURED)
    live(session, drifting(30, strength=-1.0), 5)
    stands = session.diagnosis
    chosen = dataclasses.replace(stands.chosen, known_task=0)
    session._standing.diagnosis = dataclasses.replace(stands, chosen=chosen)
    assert stands.compensation is not None
    told = dataclasses.replace(
        stands,
        chosen=dataclasses.replace(chosen, known_task=known),
        compensation=stands.compensation if change == "reversed" else None,
    )
    monkeypatch.setattr(standing, "explain", lambda *_: told)
    monkeypatch.setattr(standing.Expectation, "is_explained_by", lambda *_: explains)
    fresh = Transitions.cat([each.real for each in session._episodes])
    assert session._standing._is_another(fresh, np.random.default_rng(0)) == another


def test_a_state_that_is_new_is_no_other_task(monkeypatch):
    session = session_of(structured_agent(), STRUCTURED)
    env = drifting(30)
    live(session, env, 5)
    surprises = iter([0.0, 9.0, 0.0, 9.0, 9.0])
    monkeypatch.setattr(standing.Expectation, "surprise", lambda self, real, share: next(surprises))
    monkeypatch.setattr(standing.Standing, "_is_another", lambda *_: False)
    said = live(session, env, 5)
    assert ["changed again" in each for each in said] == [False] * 4 + [True]


def test_what_makes_no_sense_is_refused_and_nothing_is_taken():
    session, env = session_of(), drifting()
    obs, _ = env.reset(seed=0)
    act = session.act(obs)
    good = {"obs": obs, "act": act, "rew": 0.0, "obs_next": obs, "terminated": False}
    for bad, match in (
        ({"obs": obs[:-1]}, "of shapes"),
        ({"obs_next": np.full(OBS_DIM, np.nan)}, "finite"),
        ({"act": act + 3}, "what the robot was told"),
        ({"rew": np.inf}, "finite"),
        ({"rew": 1e300}, "finite"),  # beyond float32, in which it is kept
    ):
        with pytest.raises(ValueError, match=match):
            session.observe(**{**good, **bad})
    assert session.transitions == 0
    with pytest.raises(ValueError, match="obs of shape"):
        session.act(obs[:-1])
    with pytest.raises(ValueError, match="expected termination_fn"):
        session_of(termination_fn=None)
    assert session.improve() == "no episode has ended yet"


def logged(strength=1.0):
    """What a loop without a session wrote down."""
    session = session_of(structured_agent(), STRUCTURED)
    live(session, drifting(30, strength=strength), 2, improve=False)
    return Transitions.cat([each.real for each in session._episodes])


def test_a_session_may_start_from_a_log():
    log = logged(-1.0)
    session = session_of(structured_agent(), STRUCTURED, logged=log.to(torch.float64))
    assert (session.transitions, session.log) == (60, [])
    said = session.improve()
    assert "motor 1 is reversed" in said
    assert said.endswith("unchanged is to play an episode")  # no policy is judged by the log
    env = drifting(30, strength=-1.0)
    live(session, env, 2)
    assert [each["policy"] for each in session.log] == ["unchanged", "compensated"]
    assert session.transitions == len(log) + env.steps
    assert [each["transitions"] for each in session.log] == [60, 90]


def test_a_session_that_started_from_a_log_is_taken_up_with_the_same_one(tmp_path):
    log, path = logged(-1.0), tmp_path / "session"
    options = {"agent": structured_agent(), "config": STRUCTURED, "logged": log}
    whole = session_of(**options)
    whole.improve()
    said = live(whole, drifting(30, strength=-1.0), 3)
    before = session_of(**options, checkpoint=path)
    before.improve()
    live(before, drifting(30, strength=-1.0), 1)
    again = session_of(**options, checkpoint=path)
    assert again.transitions == 90
    assert live(again, drifting(30, strength=-1.0), 2) == said[1:]
    assert_same_tree(again.log, whole.log)
    for other in (None, log[:50]):
        with pytest.raises(ValueError, match="is of another session: logged differ"):
            session_of(**{**options, "logged": other}, checkpoint=path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"adaptation_steps": 5, "diagnose": True}, ValueError, "adaptation_steps >= 10, to tell"),
        ({"weight_steps": 2}, TypeError, "expected a model with weights"),
    ],
)
def test_what_an_improvement_will_need_is_asked_for_at_once(changes, error, message):
    agent = agent_of()
    if error is TypeError:
        frozen = copy.deepcopy(agent.model).requires_grad_(False)
        agent = dataclasses.replace(agent, adapter=GradientContextAdapter(frozen))
    with pytest.raises(error, match=f"AdaptationSession .*{message}"):
        session_of(agent, dataclasses.replace(CONFIG, **changes))


def test_a_log_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"AdaptationSession expected logged with \(3, 2\) dim"):
        session_of(logged=random_transitions(9, obs_dim=5))


# In adapt -----------------------------------------------------------------------------------


def adapted(env, agent=None, config=CONFIG, **options):
    task = NewTask.of_env(env, label="drift", termination_fn=DriftEnv.ends)
    given = {"seed": 0, "rounds": ROUNDS, "evaluation_episodes": 1, "budget": 65, **options}
    return adapt(agent or agent_of(), task, config, **given)


def test_a_budget_is_spent_in_whole_episodes_and_counted():
    env, stages = drifting(), []
    adaptation = adapted(env, on_stage=lambda stage, share: stages.append((stage, share)))
    report = adaptation.report
    log = report.continued
    assert 65 - STEPS < report.continued_transitions <= 65
    assert report.continued_transitions == sum(each["steps"] for each in log)
    spent = report.real_transitions + report.gate_transitions + report.evaluation_transitions
    assert env.steps == spent + report.continued_transitions
    assert env.resets == sum(report.resets.values())
    assert "learned from" in log[-1]["said"]
    shares = [share for stage, share in stages if stage == "continue"]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert json.loads(json.dumps(report.to_dict()))["continued"] == list(log)
    assert f"{report.continued_transitions:,} further" in str(report)


def test_a_budgeted_adaptation_goes_on_from_its_checkpoint(tmp_path):
    whole = adapted(drifting())
    path = tmp_path / "adaptation"
    before = adapted(drifting(), budget=35, checkpoint=path).report
    env = drifting()
    again = adapted(env, checkpoint=path)
    assert_same_tree(list(again.report.continued), list(whole.report.continued))
    assert_same_tree(again.algorithm.policy.state_dict(), whole.algorithm.policy.state_dict())
    report = again.report  # what was gathered then is not gathered again
    further = report.continued_transitions - before.continued_transitions
    assert env.steps == further + report.gate_transitions + report.evaluation_transitions
    assert further > 0


def test_an_episode_of_a_budget_is_kept_before_anything_is_made_of_it(tmp_path, monkeypatch):
    improve, calls = sessions.AdaptationSession.improve, []

    def killed(self, *arguments, **options):
        calls.append(self.transitions)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return improve(self, *arguments, **options)

    monkeypatch.setattr(sessions.AdaptationSession, "improve", killed)
    path = tmp_path / "real"
    with pytest.raises(KeyboardInterrupt):
        adapted(drifting(), checkpoint=path)
    assert sum(load_tree(rounds_of(path))["lengths"]) == calls[-1]
    monkeypatch.undo()
    whole, again = adapted(drifting()), adapted(drifting(), checkpoint=path)
    assert_same_tree(list(again.report.continued), list(whole.report.continued))
    assert_same_tree(again.algorithm.policy.state_dict(), whole.algorithm.policy.state_dict())


def test_what_is_learned_to_be_compared_is_not_gone_on_with():
    config = dataclasses.replace(STRUCTURED, learn_always=True)
    env = drifting(30, strength=-1.0)
    report = adapted(env, structured_agent(), config, budget=95).report
    assert report.updates > 0
    assert {each["policy"] for each in report.continued} == {report.decision}


def test_no_budget_is_what_it_was_and_less_than_an_episode_is_refused():
    without = adapted(drifting(), budget=0).report
    assert (without.continued, without.continued_transitions) == ((), 0)
    env = drifting()
    with pytest.raises(ValueError, match="budget of at least an episode, 10 transitions"):
        adapted(env, budget=9)
    assert env.steps == 0


def test_it_never_hands_back_what_was_worse(monkeypatch):
    """Learning that only ever ruins the policy costs nothing in the end."""

    def ruined(self, count, *args, **kwargs):
        for each in self.algorithm.policy.parameters():
            each.data.mul_(0).add_(5)
        return count

    monkeypatch.setattr(standing.Learner, "update", ruined)
    config = dataclasses.replace(CONFIG, relabel_rounds=0)
    report = adapted(drifting(), config=config).report
    policies = {each["policy"] for each in report.continued}
    assert policies == {"actor only", "continued"} or policies == {"adapted context", "continued"}
    assert report.decision != "continued"


def test_own_families_take_it_too():
    assert AdaptConfig.from_dict(CONFIG.to_dict()) == CONFIG  # rounds are no part of it


@pytest.mark.parametrize("outside", [True, False])
def test_a_known_tasks_policy_plays_where_rewards_are_far_from_known_ones(monkeypatch, outside):
    monkeypatch.setattr(standing, "is_outside", lambda *arguments: outside)
    monkeypatch.setattr(standing, "SURPRISING", 1e9)
    session = session_of()
    said = live(session, drifting(bound=2.0), 8)
    names = ["known task" if outside else "adapted context", "relabeled"]
    plays = [each.split(" is to play")[0].split("; ")[-1] for each in said if "is to play" in each]
    assert plays == names
    acted = [row["policy"] for row in session.log]
    assert [name for name in acted if name not in ("gathering", "continued")] == names
    first = session._standing.progress.first[0]
    if outside:  # the initial context is to be beaten, by the episode that it gathered
        assert first.candidate.name == "initial context"
        assert first.returns == [session.log[0]["return"]]
    else:
        assert first.candidate.name == "adapted context"


def test_a_known_tasks_policy_is_not_kept_unplayed_where_a_log_gathered(monkeypatch):
    monkeypatch.setattr(standing, "is_outside", lambda *arguments: True)
    session = session_of(logged=random_transitions(30))
    session.improve()
    assert session.kept.name == "initial context"
    live(session, drifting(bound=2.0), 2)
    assert [each["policy"] for each in session.log] == ["initial context", "known task"]


@pytest.mark.parametrize("diagnosed", [True, False])
def test_known_states_surprise_only_where_a_task_is_another(monkeypatch, diagnosed):
    asked = set()

    def surprise(self, fresh, share):
        asked.add(share)
        return 0.0

    monkeypatch.setattr(standing.Expectation, "surprise", surprise)
    session = session_of(structured_agent(), STRUCTURED) if diagnosed else session_of()
    live(session, drifting(30 if diagnosed else STEPS), 7)
    assert asked == {0.5 if diagnosed else 0.0}


def test_a_false_alarm_loses_nothing_that_was_kept(monkeypatch):
    surprises = iter([9.0, 9.0])
    monkeypatch.setattr(standing.Expectation, "surprise", lambda *_: 0.0)
    session, env = session_of(), drifting(bound=2.0)
    live(session, env, 12)
    monkeypatch.setattr(standing.Expectation, "surprise", lambda *_: next(surprises, 0.0))
    live(session, env, 1)
    acted = session.acting
    assert acted.candidate.name == "continued"
    assert "changed again" in live(session, env, 1)[0]
    live(session, env, 3, improve=False)  # as many as are gathered
    assert "is to play an episode" in session.improve()
    proven = session._standing.progress.first[0]
    assert proven.candidate is acted.candidate
    assert proven.returns == acted.returns == [session.log[13]["return"]]
    assert session.kept is proven.candidate  # until another one was better
