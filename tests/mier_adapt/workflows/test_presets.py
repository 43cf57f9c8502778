import dataclasses
import json
import math

import pytest

import mier_adapt_envs
from mier_adapt.workflows.presets import (
    PRESETS,
    AdaptConfig,
    MetaTrainConfig,
    ModelConfig,
    PolicyConfig,
    preset,
)

from ..doubles import tiny_config

CONFIGS = (
    ModelConfig,
    PolicyConfig,
    AdaptConfig,
    lambda **values: MetaTrainConfig(family="HalfCheetahVel", **values),
)

BELOW_RANGE = (
    (
        0,  # counts of at least 1
        "tasks_per_batch batch_size",
        "batch_size updates_per_model_step",
        "adaptation_steps collection_rounds num_models model_batch_size validate_every "
        "relabel_size updates_per_round batch_size",
        "updates updates_per_iteration tasks_per_iteration adaptation_episodes "
        "evaluation_episodes initial_episodes episode_steps replay_per_task evaluate_every "
        "evaluated_tasks",
    ),
    (
        -1,  # counts of at least 0
        "context_dim inner_steps pretrain_steps",
        "",
        "context_steps refresh_updates weight_steps rehearsal_batch_size relabel_rounds "
        "gate_episodes",
        "",
    ),
    (
        0.0,  # positive numbers
        "inner_lr max_inner_grad_norm lr max_grad_norm",
        "lr gamma tau",
        "later_context_lr weight_lr actor_lr critic_lr",
        "",
    ),
)
OUT_OF_RANGE = [
    (config, field, value)
    for value, *fields in BELOW_RANGE
    for config, names in zip(CONFIGS, fields, strict=True)
    for field in names.split()
] + [
    (PolicyConfig, "gamma", 1.5),
    (PolicyConfig, "tau", 1.5),
    (AdaptConfig, "real_fraction", 1.5),
    (AdaptConfig, "real_fraction", -0.1),
    (ModelConfig, "hidden_sizes", (8, 0)),
    (PolicyConfig, "hidden_sizes", (8, 0)),
    (CONFIGS[-1], "annealed_share", 1.5),
    (AdaptConfig, "context_lr", -0.1),
    (PolicyConfig, "target_entropy", math.nan),
    (PolicyConfig, "final_target_entropy", math.nan),
    (AdaptConfig, "validation_threshold", math.nan),
]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = preset(name)
    again = MetaTrainConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False)))
    assert again == config
    assert isinstance(again.model.hidden_sizes, tuple)


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_first_data_fits_its_tasks_and_its_replay(name):
    config = preset(name)
    assert mier_adapt_envs.task_set(config.family, config.task_set).meta_test
    assert config.initial_episodes * config.episode_steps <= config.replay_per_task


def test_a_wrong_name_lists_the_presets():
    with pytest.raises(ValueError, match=r"halfcheetah-negated-joints.*smoke.*got 'smok'"):
        preset("smok")


@pytest.mark.parametrize(("config", "field", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_names_its_field(config, field, value):
    with pytest.raises(ValueError, match=field):
        config(**{field: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["lr", "inner_lr", "max_grad_norm"])
def test_a_value_that_is_not_finite_names_its_field(field, value):
    with pytest.raises(ValueError, match=field):
        ModelConfig(**{field: value})


@pytest.mark.parametrize(("part", "field"), [(None, "updates"), ("model", "context_dim")])
def test_a_count_must_be_whole(part, field):
    values = tiny_config().to_dict()
    (values[part] if part else values)[field] = 2.5
    with pytest.raises(ValueError, match=field):
        MetaTrainConfig.from_dict(values)


def test_unknown_families_and_sets_are_listed():
    with pytest.raises(ValueError, match=r"family in .*'HalfCheetahVel'.* got 'HalfCheetah'"):
        MetaTrainConfig(family="HalfCheetah")
    with pytest.raises(ValueError, match=r"task_set in .*'hard'.* HalfCheetahVel, got 'harder'"):
        MetaTrainConfig(family="HalfCheetahVel", task_set="harder")


@pytest.mark.parametrize("change", [{"speed": 3}, {"model": {"depth": 3}}, {"model": 3}])
def test_values_of_another_version_are_refused(change):
    with pytest.raises(ValueError, match="Not a configuration of this version"):
        MetaTrainConfig.from_dict({**tiny_config().to_dict(), **change})


def test_from_dict_leaves_what_it_is_given():
    values = tiny_config().to_dict()
    before = json.dumps(values)
    MetaTrainConfig.from_dict(values)
    assert json.dumps(values) == before


def test_a_last_iteration_may_be_short():
    config = tiny_config(updates=24, updates_per_iteration=10)
    assert config.iterations == 3
    assert dataclasses.replace(config, updates=30).iterations == 3
