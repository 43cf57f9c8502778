import gc

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mier_adapt.wrappers import ContextObservation, vector


def pendulum(context_dim: int = 2) -> ContextObservation:
    return ContextObservation(gymnasium.make("Pendulum-v1"), context_dim=context_dim)


def pendulums(num_envs: int = 3, context_dim: int = 2) -> vector.ContextObservation:
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=num_envs)
    return vector.ContextObservation(envs, context_dim=context_dim)


contexts = arrays(np.float32, 2, elements=st.floats(-1e3, 1e3, width=32))


class OneValue(gymnasium.Env):
    """An environment with the observation space that it is given."""

    def __init__(self, space: spaces.Space) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


NOT_VECTORS = [
    (spaces.Discrete(3), "Discrete", "FlattenObservation"),
    (spaces.MultiDiscrete([3, 2]), "MultiDiscrete", "FlattenObservation"),
    (spaces.MultiBinary(3), "MultiBinary", "FlattenObservation"),
    (spaces.Box(-1, 1, (2, 3)), "Box", "FlattenObservation"),
    (spaces.Box(-1, 1, ()), "Box", "FlattenObservation"),
    (spaces.Box(0, 255, (4, 4, 3), np.uint8), "Box", "FlattenObservation and DtypeObservation"),
    (spaces.Box(0, 255, (3,), np.uint8), "Box", "DtypeObservation"),  # holds no context
    (spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), "Dict", "FlattenObservation"),
    (spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1)]), "Tuple", "FlattenObservation"),
]


# One environment ----------------------------------------------------------------------------


@given(first=contexts, second=contexts)
def test_observations_end_with_the_context_of_the_moment(first, second):
    env, plain = pendulum(), gymnasium.make("Pendulum-v1")
    env.set_context(first)
    obs, _ = env.reset(seed=1)
    bare, _ = plain.reset(seed=1)
    np.testing.assert_array_equal(obs, np.concatenate((bare, first)))
    assert obs.dtype == bare.dtype
    assert env.observation_space.contains(obs)
    env.set_context(second)
    obs, *others = env.step(np.zeros(1, np.float32))
    bare, *plain_others = plain.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(obs, np.concatenate((bare, second)))
    assert others == plain_others


def test_the_space_is_that_of_the_environment_and_an_unbounded_context():
    env = pendulum()
    inner = env.env.observation_space
    assert env.observation_space.dtype == inner.dtype
    np.testing.assert_array_equal(env.observation_space.low, [*inner.low, -np.inf, -np.inf])
    np.testing.assert_array_equal(env.observation_space.high, [*inner.high, np.inf, np.inf])


def test_the_context_starts_at_zero_and_is_kept_across_resets():
    env = pendulum()
    assert env.reset(seed=0)[0][-2:].tolist() == [0, 0]
    env.set_context([1, 2])
    for _ in range(2):
        assert env.reset()[0][-2:].tolist() == [1, 2]


def test_contexts_are_copied_in_and_out():
    env, mine = pendulum(), np.array([1.0, 2.0], np.float32)
    env.set_context(mine)
    mine[:] = 9
    env.context[:] = 9
    assert env.context.tolist() == [1, 2]


def test_without_dimensions_nothing_changes():
    env, plain = pendulum(0), gymnasium.make("Pendulum-v1")
    assert env.observation_space == plain.observation_space
    np.testing.assert_array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0])


def test_double_precision_observations_stay_double():
    env = ContextObservation(OneValue(spaces.Box(-1, 1, (3,), np.float64)), context_dim=1)
    env.set_context([0.1])
    obs, _ = env.reset(seed=0)
    assert obs.dtype == np.float64
    assert obs[-1] == 0.1


def test_a_spec_rebuilds_the_wrapped_environment():
    env = pendulum(4)
    rebuilt = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(rebuilt, ContextObservation)
    assert rebuilt.context.shape == (4,)
    np.testing.assert_array_equal(rebuilt.reset(seed=5)[0], env.reset(seed=5)[0])


class Unwrapped(gymnasium.Env):
    """A wrapped environment as an innermost one, which is all that gymnasium's checker takes."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        return self.env.step(action)

    @property
    def _np_random(self):
        return self.env.unwrapped._np_random


# The checker has an opinion on spaces without limits, which the inner environment has too.
@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*imum value is:UserWarning")
def test_gymnasiums_checker_accepts_a_wrapped_environment():
    env = gymnasium.make("mier_adapt_envs:MIER/HalfCheetahVel-v0").unwrapped
    check_env(Unwrapped(ContextObservation(env, context_dim=2)), skip_render_check=True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrap", [ContextObservation, vector.ContextObservation])
@pytest.mark.parametrize(("space", "kind", "helps"), NOT_VECTORS)
def test_refuses_observations_that_are_not_vectors_of_numbers(wrap, space, kind, helps):
    env = OneValue(space)
    if wrap is vector.ContextObservation:
        env = SyncVectorEnv([lambda: OneValue(space)])
    with pytest.raises(
        ValueError,
        match=rf"observation space to be a Box of one axis .*, got a {kind}, .*wrappers\.{helps}",
    ):
        wrap(env, context_dim=2)


@pytest.mark.parametrize(("space", "kind", "helps"), NOT_VECTORS)
def test_what_helps_does(space, kind, helps):
    env = OneValue(space)
    for name in helps.split(" and "):
        options = {"dtype": np.float32} if name == "DtypeObservation" else {}
        env = getattr(gymnasium.wrappers, name)(env, **options)
    if not np.issubdtype(env.observation_space.dtype, np.floating):  # of one-hot numbers
        env = gymnasium.wrappers.DtypeObservation(env, np.float32)
    dim = env.observation_space.shape[0]
    wrapped = ContextObservation(env, context_dim=2)
    obs, _ = wrapped.reset(seed=0)
    assert obs.shape == (dim + 2,)


def test_refuses_a_negative_dimension():
    for make in (lambda: pendulum(-1), lambda: pendulums(2, -1)):
        with pytest.raises(ValueError, match="context_dim >= 0, got -1"):
            make()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("context", "message"),
    [
        ([1.0], r"shape \(2,\) .* got .* of shape \(1,\)"),
        ([[1.0, 2.0]], r"shape \(2,\) .* got .* of shape \(1, 2\).*wrappers.vector"),
        (0.0, r"shape \(2,\) .* got .* of shape \(\)"),
        ([np.nan, 0.0], "finite values"),
        ([0.0, np.inf], "finite values"),
    ],
)
def test_set_context_refuses_what_does_not_fit_and_keeps_the_old(context, message):
    env = pendulum()
    env.set_context([1, 2])
    with pytest.raises(ValueError, match=message):
        env.set_context(context)
    assert env.context.tolist() == [1, 2]


# Vector environments ------------------------------------------------------------------------


@given(
    values=arrays(np.float32, (3, 2), elements=st.floats(-1e3, 1e3, width=32)),
    actions=arrays(np.float32, (3, 3, 1), elements=st.floats(-2, 2, width=32)),
)
def test_every_slot_is_a_single_wrapped_environment(values, actions):
    envs, singles = pendulums(), [pendulum() for _ in range(3)]
    envs.set_contexts(values)
    obs, _ = envs.reset(seed=7)
    assert envs.observation_space.contains(obs)
    for slot, env in enumerate(singles):
        env.set_context(values[slot])
        np.testing.assert_array_equal(obs[slot], env.reset(seed=7 + slot)[0])
        assert envs.single_observation_space == env.observation_space
    for action in actions:
        obs, rew, *_ = envs.step(action)
        for slot, env in enumerate(singles):
            single_obs, single_rew, *_ = env.step(action[slot])
            np.testing.assert_array_equal(obs[slot], single_obs)
            assert rew[slot] == single_rew
    assert obs.dtype == np.float32


def test_a_slots_context_survives_its_own_restart():
    envs = vector.ContextObservation(
        gymnasium.make_vec("Pendulum-v1", num_envs=2, max_episode_steps=2), context_dim=1
    )
    envs.set_contexts([[1], [2]])
    envs.reset(seed=0)
    for _ in range(4):
        obs, *_ = envs.step(np.zeros((2, 1), np.float32))
        assert obs[:, -1].tolist() == [1, 2]


def test_vector_contexts_are_copied_in_and_out():
    envs, mine = pendulums(2, 1), np.ones((2, 1), np.float32)
    assert envs.contexts.tolist() == [[0], [0]]
    envs.set_contexts(mine)
    mine[:] = 9
    envs.contexts[:] = 9
    assert envs.contexts.tolist() == [[1], [1]]


def test_wraps_this_projects_engine():
    import mier_adapt_envs

    tasks = mier_adapt_envs.task_set("HalfCheetahVel").meta_train[:2]
    bare = gymnasium.make_vec(
        "MIER/HalfCheetahVel-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        tasks=tasks,
        num_threads=1,
    )
    envs = vector.ContextObservation(bare, context_dim=5)
    envs.set_contexts(np.ones((2, 5)))
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 25)
    assert obs.dtype == np.float32
    obs, *_ = envs.step(np.zeros((2, 6), np.float32))
    assert (obs[:, -5:] == 1).all()
    envs.close()


def test_an_engine_that_resets_within_a_step_is_refused():
    # Its final observations come in infos, out of a wrapper's reach.
    envs = gymnasium.make_vec(
        "Pendulum-v1",
        num_envs=2,
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    with pytest.raises((AssertionError, ValueError)):  # gymnasium's own, from 1.4 on a ValueError
        vector.ContextObservation(envs, context_dim=1)


@pytest.mark.parametrize("wrap", [vector.ContextObservation, SyncVectorEnv])
def test_a_collected_wrapper_leaves_the_environment_open(wrap):
    """Gymnasium closed it up to 1.2."""
    env = gymnasium.make("MIER/HalfCheetahVel-v0")
    envs = SyncVectorEnv([lambda: env])
    if wrap is vector.ContextObservation:
        wrapped = wrap(envs, context_dim=1)
        wrapped.reset(seed=0)
        del wrapped
    else:
        envs.reset(seed=0)
        del envs
    gc.collect()
    env.step(np.zeros(6, np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"shape \(3, 2\).* got shape \(2,\).*np.tile"),
        (np.zeros((2, 2)), r"shape \(3, 2\).* got shape \(2, 2\)"),
        (np.full((3, 2), np.nan), "finite values"),
    ],
)
def test_set_contexts_refuses_what_does_not_fit_and_keeps_the_old(values, message):
    envs = pendulums()
    envs.set_contexts(np.ones((3, 2)))
    with pytest.raises(ValueError, match=message):
        envs.set_contexts(values)
    assert (envs.contexts == 1).all()
