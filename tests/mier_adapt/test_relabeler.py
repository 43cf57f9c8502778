import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import ContextModel, ExperienceRelabeler, Transitions

from .doubles import (
    ACT_DIM,
    CONTEXT_DIM,
    OBS_DIM,
    LinearModel,
    assert_same_tree,
    random_model,
    random_transitions,
)

FIELDS = ("obs", "act", "rew", "obs_next", "terminated")


def never(obs, act, obs_next):
    return np.zeros(len(obs), dtype=bool)


def model(**options) -> ContextModel:
    return random_model(**options).float()


def relabeler(**options) -> ExperienceRelabeler:
    options = {"model": model(), "termination_fn": never, **options}
    return ExperienceRelabeler(
        options.pop("model"), options.pop("context", torch.tensor([0.5, -1.0])), **options
    )


class Sure:
    """A model that draws what is most likely, so that what it gives can be told beforehand."""

    def __init__(self, model: ContextModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def sample(self, obs, act, context, *, generator=None):
        return self._model.mean(obs, act, context)


def columns(transitions: Transitions) -> dict[str, torch.Tensor]:
    return {name: getattr(transitions, name) for name in FIELDS}


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    chunk_size=st.integers(1, 15),
    varies=st.sampled_from(["reward", "reward_and_dynamics"]),
    with_policy=st.booleans(),
)
def test_a_chunked_stream_equals_one_pass(sizes, chunk_size, varies, with_policy):
    options = {"model": Sure(model(varies=varies))}
    if with_policy and varies != "reward":
        options["policy"] = lambda obs: torch.tanh(obs[:, :ACT_DIM])
    sets = [random_transitions(size, seed=seed) for seed, size in enumerate(sizes)]
    chunks = list(relabeler(chunk_size=chunk_size, **options).stream(sets))
    assert max(map(len, chunks)) <= chunk_size
    whole = relabeler(chunk_size=sum(sizes), **options).relabel(Transitions.cat(sets))
    joined = Transitions.cat(chunks)
    for name in FIELDS:
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name))


def test_predicts_rewards_and_next_observations_in_order():
    stored = random_transitions(20)
    used = relabeler(model=Sure(model()), chunk_size=7)
    relabeled = used.relabel(stored)
    rew, obs_next = used.model.mean(stored.obs, stored.act, used.context)
    torch.testing.assert_close(relabeled.rew, rew.detach())
    torch.testing.assert_close(relabeled.obs_next, obs_next.detach())
    assert torch.equal(relabeled.obs, stored.obs)
    assert torch.equal(relabeled.act, stored.act)
    assert not relabeled.terminated.any()
    assert not relabeled.rew.requires_grad
    other = relabeler(model=used.model, context=torch.tensor([-0.5, 1.0])).relabel(stored)
    assert not torch.allclose(other.rew, relabeled.rew)


def test_a_policys_actions_replace_the_stored_ones():
    stored = random_transitions(6)
    used = relabeler(model=Sure(model()), policy=lambda obs: -torch.tanh(obs[:, 1:]))
    relabeled = used.relabel(stored)
    act = -torch.tanh(stored.obs[:, 1:])
    assert torch.equal(relabeled.act, act)
    rew, obs_next = used.model.mean(stored.obs, act, used.context)
    torch.testing.assert_close(relabeled.rew, rew.detach())
    torch.testing.assert_close(relabeled.obs_next, obs_next.detach())


def test_a_model_of_rewards_keeps_everything_else():
    stored = random_transitions(10)
    used = relabeler(
        model=model(varies="reward"),
        termination_fn=lambda *_: pytest.fail("the stored next observation is the true one"),
    )
    relabeled = used.relabel(stored)
    for name in ("obs", "act", "obs_next", "terminated"):
        assert torch.equal(getattr(relabeled, name), getattr(stored, name))
    assert stored.terminated.any()
    assert not torch.equal(relabeled.rew, stored.rew)


def test_the_termination_rule_sees_what_was_predicted_and_decides():
    stored = random_transitions(30)
    calls = []

    def rule(obs, act, obs_next):
        calls.append((obs, act, obs_next))
        return obs_next[:, 0] > 0

    relabeled = relabeler(termination_fn=rule, chunk_size=30).relabel(stored)
    ((obs, act, obs_next),) = calls
    assert all(isinstance(value, np.ndarray) for value in calls[0])
    np.testing.assert_array_equal(obs, stored.obs)
    np.testing.assert_array_equal(act, stored.act)
    np.testing.assert_array_equal(obs_next, relabeled.obs_next)
    assert torch.equal(relabeled.terminated, relabeled.obs_next[:, 0] > 0)
    assert 0 < int(relabeled.terminated.sum()) < 30


def test_callbacks_may_write_into_what_they_are_given_and_what_they_gave():
    stored, answer = random_transitions(20), torch.zeros(5, ACT_DIM)
    ends = np.zeros(5, dtype=bool)

    def policy(obs):
        answer[:] = obs[:, :ACT_DIM].tanh()
        obs.zero_()
        return answer

    def ended(obs, act, obs_next):
        ends[:] = obs[:, 0] > 0
        for each in (obs, act, obs_next):
            each[:] = 7.0
        return ends

    def gentle(obs, act, obs_next):
        return obs[:, 0] > 0

    before = copy.deepcopy(stored)
    rough, expected = (
        relabeler(model=Sure(model()), policy=acts, termination_fn=ends_by, chunk_size=5).relabel(
            stored
        )
        for acts, ends_by in ((policy, ended), (lambda obs: obs[:, :ACT_DIM].tanh(), gentle))
    )
    assert_same_tree(columns(rough), columns(expected))
    assert_same_tree(columns(stored), columns(before))


@pytest.mark.parametrize("caller", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("varies", ["reward", "reward_and_dynamics"])
def test_transitions_within_a_graph_are_relabeled_as_constants(caller, varies):
    stored, rule = random_transitions(6), {} if varies == "reward" else {"termination_fn": never}
    sure = Sure(model(varies=varies))
    context = torch.tensor([0.5, -1.0])
    expected = ExperienceRelabeler(sure, context, **rule).relabel(stored)
    for name in ("obs", "act", "rew", "obs_next"):
        getattr(stored, name).requires_grad_()
    with caller():
        relabeled = ExperienceRelabeler(sure, context, **rule).relabel(stored)
    assert_same_tree(columns(relabeled), columns(expected))
    assert not any(value.requires_grad for value in columns(relabeled).values())


def test_the_generator_fixes_the_samples():
    stored = random_transitions(8)

    def draw(seed: int) -> Transitions:
        generator = torch.Generator().manual_seed(seed)
        return relabeler(generator=generator).relabel(stored)

    first, again, other = draw(0), draw(0), draw(1)
    assert_same_tree(columns(first), columns(again))
    assert not torch.equal(first.rew, other.rew)
    assert not torch.equal(first.obs_next, other.obs_next)
    certain = relabeler(model=Sure(model())).relabel(stored)
    assert not torch.equal(first.rew, certain.rew)
    assert not torch.equal(first.obs_next, certain.obs_next)


def test_a_stream_takes_its_source_one_set_at_a_time():
    taken = 0

    def source() -> Iterator[Transitions]:
        nonlocal taken
        while True:  # without end: only a lazy reader returns
            taken += 1
            yield random_transitions(10, seed=taken)

    largest = 0

    def rule(obs, act, obs_next):
        nonlocal largest
        largest = max(largest, len(obs))
        return np.zeros(len(obs), dtype=bool)

    stream = relabeler(termination_fn=rule, chunk_size=4).stream(source())
    assert taken == 0
    sizes = [len(next(stream)) for _ in range(3)]
    assert (sizes, taken) == ([4, 4, 2], 1)
    next(stream)
    assert taken == 2
    assert largest == 4


def test_works_without_a_context():
    stored = random_transitions(5)
    used = relabeler(model=model(context_dim=0), context=torch.zeros(0))
    assert len(used.relabel(stored)) == 5


def test_any_task_model_relabels():
    """A subclass of nothing, in the precision of its own."""
    stored = random_transitions(9)
    for varies in ("reward", "reward_and_dynamics"):
        linear = LinearModel(varies=varies, std=0.0)
        used = relabeler(model=linear, chunk_size=4)
        relabeled = used.relabel(stored)
        rew, obs_next = linear.mean(stored.obs, stored.act, used.context)
        torch.testing.assert_close(relabeled.rew, rew)
        torch.testing.assert_close(
            relabeled.obs_next, stored.obs_next if obs_next is None else obs_next
        )


def test_the_model_is_not_changed_and_gets_no_gradient():
    used = relabeler(policy=lambda obs: torch.tanh(obs[:, :ACT_DIM]))
    before = {name: value.clone() for name, value in used.model.state_dict().items()}
    used.relabel(random_transitions(5))
    assert_same_tree(dict(used.model.state_dict()), before)
    assert all(parameter.grad is None for parameter in used.model.parameters())


class MeansAlone:
    """Predicts means alone."""

    obs_dim, act_dim, context_dim = OBS_DIM, ACT_DIM, CONTEXT_DIM
    varies = "reward_and_dynamics"
    initial_context = torch.zeros(CONTEXT_DIM)
    loss = mean = LinearModel.mean


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": MeansAlone()}, TypeError, "TaskModel.*MeansAlone.*has no sample"),
        ({"model": torch.nn.Linear(1, 1)}, TypeError, "model to be a TaskModel, .*has no act_dim"),
        ({"termination_fn": None}, ValueError, "expected termination_fn, since next observations"),
        ({"termination_fn": 3}, TypeError, "termination_fn to be of type Callable or None"),
        ({"policy": torch.zeros(2)}, TypeError, "policy to be of type Callable or None"),
        ({"context": torch.zeros(3)}, ValueError, r"context of shape \(2,\)"),
        ({"context": torch.zeros(1, CONTEXT_DIM)}, ValueError, r"context of shape \(2,\)"),
        ({"context": torch.tensor([0.0, torch.nan])}, ValueError, "context .* finite values"),
        ({"chunk_size": 0}, ValueError, "chunk_size >= 1, got 0"),
    ],
)
def test_construction_names_the_argument_that_does_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        relabeler(**options)


def test_a_policy_contradicts_a_model_of_rewards():
    with pytest.raises(ValueError, match="policy for a model of rewards alone"):
        relabeler(
            model=model(varies="reward"), policy=lambda obs: obs[:, :ACT_DIM], termination_fn=None
        )
    relabeler(model=model(varies="reward"), termination_fn=None)  # needs no rule


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda obs: torch.zeros(len(obs), 3), r"shape \(4, 2\), got \(4, 3\)"),
        (lambda obs: torch.zeros(len(obs)), r"shape \(4, 2\), got \(4,\)"),
        (lambda obs: np.zeros((len(obs), ACT_DIM)), "policy to return a tensor .*ndarray"),
        (
            lambda obs: torch.full((len(obs), ACT_DIM), 1.5),
            r"in \[-1, 1\], got .* to 1.5",
        ),
        (
            lambda obs: torch.full((len(obs), ACT_DIM), torch.nan),
            r"in \[-1, 1\], got .* to nan",
        ),
    ],
)
def test_refuses_what_a_policy_must_not_return(policy, message):
    with pytest.raises(ValueError, match=message):
        relabeler(policy=policy).relabel(random_transitions(4))


@pytest.mark.parametrize(("row", "what"), [(0, "reward"), (2, "next observation")])
def test_refuses_a_prediction_that_is_not_finite(row, what):
    diverged = model()
    with torch.no_grad():
        diverged.layers[-1].bias[row] = torch.inf
    with pytest.raises(FloatingPointError, match=f"predicts a {what} that is not finite"):
        relabeler(model=diverged).relabel(random_transitions(4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "rule",
    [
        lambda obs, act, obs_next: np.zeros(len(obs)),
        lambda obs, act, obs_next: np.zeros((len(obs), 1), dtype=bool),
        lambda obs, act, obs_next: False,
    ],
)
def test_refuses_what_a_termination_rule_must_not_return(rule):
    with pytest.raises(ValueError, match=r"termination_fn to return bool of shape \(4,\)"):
        relabeler(termination_fn=rule).relabel(random_transitions(4))


def test_refuses_batches_of_tasks_and_other_dimensions():
    with pytest.raises(ValueError, match=r"transitions .*\(B, \.\.\.\)"):
        relabeler().relabel(random_transitions(2, 4))
    with pytest.raises(ValueError, match=r"obs of shape \(\.\.\., 3\)"):
        relabeler().relabel(random_transitions(4, obs_dim=OBS_DIM + 1))
