import json

import pytest

from mier_adapt.agents.presets import PRESETS
from mier_adapt.baselines import BASELINES, Grbal, GrbalConfig, Maml, Mql, Pearl, PearlConfig, Promp
from mier_adapt.baselines.presets import (
    PUBLISHED,
    baseline_preset_name,
    baseline_presets,
    family_settings,
)
from mier_adapt_envs import env_class, task_set

ALL = [(method, name) for method in BASELINES for name in baseline_presets(method)]


@pytest.mark.parametrize(("method", "name"), ALL, ids=str)
def test_every_preset_is_a_configuration_on_the_presets_tasks(method, name):
    config = BASELINES[method].of_preset(name).config
    ours = PRESETS[name.removesuffix("-paper")].meta_train
    assert (config.family, config.task_set) == (ours.family, ours.task_set)
    assert name.endswith("-paper") or config.episode_steps == ours.episode_steps
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def _is_of_grbal(name: str) -> bool:
    return name == "smoke" or "negated-joints" in name


def test_every_method_has_our_presets_but_not_our_papers():
    ours = {name for name in PRESETS if not name.endswith("-paper")}
    for method in BASELINES:
        names = baseline_presets(method)
        assert len(set(names)) == len(names)
        expected = ours if method != "grbal" else {name for name in ours if _is_of_grbal(name)}
        assert {name for name in names if not name.endswith("-paper")} == expected
        published = {name for name in names if name.endswith("-paper")}
        assert published == {f"{name}-paper" for name in PUBLISHED.get(method, ())}
    assert set(PUBLISHED) <= set(BASELINES)


@pytest.mark.parametrize("name", [n for n in PRESETS if not n.endswith("-paper")])
def test_pearl_takes_ten_environment_steps_for_a_gradient_step(name):
    config = Pearl.of_preset(name).config
    episodes = config.prior_episodes + config.posterior_episodes + config.extra_episodes
    steps = config.tasks_per_iteration * episodes * config.episode_steps
    assert steps == 10 * config.updates_per_iteration
    assert config.updates == min(80_000, 2 * PRESETS[name].meta_train.updates)
    assert config.tasks_per_batch * config.batch_size == 512
    tasks = task_set(config.family, config.task_set).meta_train
    assert config.initial_episodes * config.episode_steps <= config.replay_per_task
    assert len(tasks) * config.initial_episodes * config.episode_steps <= 100_000
    assert config.next_obs_in_context == (env_class(config.family).varies != "reward")


@pytest.mark.parametrize("name", [n for n in PRESETS if not n.endswith("-paper")])
def test_mql_takes_ten_environment_steps_for_a_gradient_step(name):
    config = Mql.of_preset(name).config
    steps = config.tasks_per_iteration * config.episode_steps
    assert steps == 10 * config.updates_per_iteration
    assert config.updates <= min(80_000, PRESETS[name].meta_train.updates)


@pytest.mark.parametrize("name", [n for n in PRESETS if _is_of_grbal(n) and n[-6:] != "-paper"])
def test_grbal_takes_fifty_environment_steps_for_a_gradient_step(name):
    config = Grbal.of_preset(name).config
    steps = config.episodes_per_iteration * config.episode_steps
    assert steps == 50 * config.updates_per_iteration
    assert config.updates <= min(30_000, PRESETS[name].meta_train.updates)
    plans = config.candidates * (config.cem_rounds if config.planner == "cem" else 1)
    assert plans * config.horizon <= 1_500  # model steps, which are most of what it costs


def test_mqls_and_grbals_published_settings_are_those_of_their_code():
    """As run_script.py has them for cheetah-vel and walker-rand-params, run_grbal.py for all."""
    config = Mql.of_preset("halfcheetah-vel-paper").config
    assert (config.lr, config.adaptation_lr, config.context_dim) == (1e-3, 1e-3, 15)
    assert (config.updates_per_iteration, config.tasks_per_iteration) == (200, 1)
    assert (config.replay_batch_size, config.updates) == (5 * 256, 1_000_000)
    walker = Mql.of_preset("walker2d-rand-params-paper").config
    assert (walker.lr, walker.adaptation_lr, walker.history) == (8e-4, 8e-4, 10)
    config = Grbal.of_preset("halfcheetah-negated-joints-paper").config
    assert config == GrbalConfig(family="HalfCheetahNegatedJoints")
    assert (config.hidden_sizes, config.candidates) == ((512, 512), 1_000)


def test_pearls_published_settings_are_those_of_its_configurations():
    """As configs/cheetah-vel.json and ant-goal.json have them, in steps of 200 to an episode."""
    config = Pearl.of_preset("halfcheetah-vel-paper").config
    assert config == PearlConfig(family="HalfCheetahVel", extra_episodes=3, context_size=100)
    assert config.updates == 500 * config.updates_per_iteration
    ant = Pearl.of_preset("ant-goal-paper").config
    assert (ant.tasks_per_batch, ant.kl_weight, ant.context_size) == (10, 1.0, 256)
    assert (ant.updates, ant.updates_per_iteration) == (500 * 4000, 4000)


def test_a_configuration_is_known_by_its_preset():
    for method, name in ALL:
        config = BASELINES[method].of_preset(name, updates=7).config
        found = baseline_preset_name(method, config)
        assert BASELINES[method].of_preset(found, updates=7).config == config
    assert baseline_preset_name("pearl", Pearl.of_preset("ant-goal-paper").config) == (
        "ant-goal-paper"
    )
    assert baseline_preset_name("pearl", Pearl.of_preset("smoke", lr=0.5).config) is None


def test_lengths_of_episodes_are_published_too_but_are_those_of_our_presets():
    for method in (Maml, Promp):
        ours, published = (
            method.of_preset(name).config for name in ("halfcheetah-dir", "halfcheetah-dir-paper")
        )
        assert (ours.episode_steps, published.episode_steps) == (200, 100)
        assert method.of_preset("walker2d-rand-params-ood").config.inner_lr == 0.05


def test_a_family_without_a_preset_has_what_our_presets_share():
    config = PRESETS["halfcheetah-vel"].meta_train
    assert Pearl.of_preset("halfcheetah-vel").config == PearlConfig.from_dict(
        family_settings("pearl", config)
    )
    assert family_settings("of nobody", config) == {
        "family": "HalfCheetahVel",
        "task_set": "standard",
        "episode_steps": 200,
    }


def test_changes_win_and_wrong_names_are_answered():
    method = Pearl.of_preset("halfcheetah-vel", device="cpu", kl_weight=0.5)
    assert (method.config.kl_weight, method.config.lr, method.device) == (0.5, 1e-3, "cpu")
    with pytest.raises(ValueError, match=r"preset of pearl, one of .*'ant-goal-paper'.* got 'ant'"):
        Pearl.of_preset("ant")
    with pytest.raises(ValueError, match="nonsense"):
        Pearl.of_preset("smoke", nonsense=1)
