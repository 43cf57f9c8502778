import dataclasses
import json
import math

import pytest

import mier_adapt_envs
from mier_adapt.agents import AdaptConfig, MetaTrainConfig, ModelConfig, PolicyConfig, preset
from mier_adapt.agents.presets import PRESETS
from mier_adapt.gates import AlwaysGate, MarginGate, NeverGate

from ..doubles import TINY_ADAPT, tiny_config

CONFIGS = (
    ModelConfig,
    PolicyConfig,
    AdaptConfig,
    lambda **values: MetaTrainConfig(family="HalfCheetahVel", **values),
)

BELOW_RANGE = (
    (
        0,  # counts of at least 1
        "tasks_per_batch batch_size adaptation_window",
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
        "context_steps refresh_updates weight_steps rehearsal_batch_size relabel_rounds",
        "",
    ),
    (
        0.0,  # positive numbers
        "inner_lr max_inner_grad_norm lr max_grad_norm",
        "lr reward_scale gamma tau",
        "later_context_lr weight_lr actor_lr critic_lr unexplained_scale",
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
    (MarginGate, "episodes", 0),
    (MarginGate, "margin", -0.1),
    (MarginGate, "margin", math.nan),
]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    for config in preset(name):
        plain = json.loads(json.dumps(config.to_dict(), allow_nan=False))
        assert type(config).from_dict(plain) == config
    again = MetaTrainConfig.from_dict(json.loads(json.dumps(preset(name).meta_train.to_dict())))
    assert isinstance(again.model.hidden_sizes, tuple)


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_first_data_fits_its_tasks_and_its_replay(name):
    config = preset(name).meta_train
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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("field", ["gate", "adaptation_steps", "num_models"])
def test_a_value_of_another_kind_names_its_field(field):
    with pytest.raises((TypeError, ValueError), match=rf"AdaptConfig expected {field} .*'two'"):
        AdaptConfig(**{field: "two"})


@pytest.mark.parametrize(("part", "field"), [(None, "updates"), ("model", "context_dim")])
def test_a_count_must_be_whole(part, field):
    values = tiny_config().to_dict()
    (values[part] if part else values)[field] = 2.5
    with pytest.raises(ValueError, match=field):
        MetaTrainConfig.from_dict(values)


def test_unknown_families_and_sets_are_listed():
    with pytest.raises(ValueError, match=r"family .* of .*HalfCheetahVel.* got 'HalfCheetah'"):
        MetaTrainConfig(family="HalfCheetah")
    with pytest.raises(ValueError, match=r"HalfCheetahVel task_set .* of .*hard, .*got 'harder'"):
        MetaTrainConfig(family="HalfCheetahVel", task_set="harder")


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (tiny_config(), {"speed": 3}),
        (tiny_config(), {"model": {"depth": 3}}),
        (tiny_config(), {"model": 3}),
        # An option of release 0.1, which had to be off to be left out.
        (tiny_config(), {"policy": {"critic_layer_norm": True}}),
        (TINY_ADAPT, {"speed": 3}),
        (TINY_ADAPT, {"gate": {"kind": "oracle"}}),
        (TINY_ADAPT, {"gate": {"kind": "always", "episodes": 3}}),
        (TINY_ADAPT, {"gate": {"episodes": 3}}),
        (TINY_ADAPT, {"gate": 3}),
    ],
    ids=str,
)
def test_values_of_another_version_are_refused(config, change):
    with pytest.raises(ValueError, match="Not a configuration of this version"):
        type(config).from_dict({**config.to_dict(), **change})


@pytest.mark.parametrize("config", [tiny_config(), TINY_ADAPT], ids=["meta-train", "adapt"])
def test_from_dict_leaves_what_it_is_given(config):
    values = config.to_dict()
    before = json.dumps(values)
    type(config).from_dict(values)
    assert json.dumps(values) == before


GATES = [MarginGate(), MarginGate(episodes=3, margin=0.0), AlwaysGate(), NeverGate()]


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_way_to_adapt_survives_json_with_each_gate(gate):
    config = AdaptConfig.for_own_policy(gate=gate)
    again = AdaptConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False)))
    assert again == config
    assert type(again.gate) is type(gate)


@pytest.mark.parametrize(
    ("given", "gate"),
    [
        ({"gate_episodes": 3, "gate_margin": 0.1}, MarginGate(episodes=3, margin=0.1)),
        ({"gate_episodes": 0, "gate_margin": 0.1}, AlwaysGate()),
        ({"gate_episodes": 2}, MarginGate(episodes=2)),
        ({}, MarginGate()),
    ],
)
def test_a_way_to_adapt_of_release_0_1_is_read(given, gate):
    values = AdaptConfig(weight_steps=7).to_dict()
    del values["gate"]
    assert AdaptConfig.from_dict({**values, **given}) == AdaptConfig(weight_steps=7, gate=gate)


class MarginOf(MarginGate):
    """What another programme cannot know, whatever it is made of."""


class Third:
    def choose(self, candidates, play):
        return candidates[2], "it is the third"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("gate", [Third(), MarginOf()], ids=["own", "subclass"])
def test_a_gate_of_ones_own_fits_in_but_cannot_be_written(gate):
    config = AdaptConfig(gate=gate)
    assert config.gate is gate
    with pytest.raises(TypeError, match=r"gate to be of \['always', 'margin', 'never'\] to be wr"):
        config.to_dict()
    with pytest.raises(TypeError, match=r"gate to be a Gate, got 3 of type int.* no choose"):
        AdaptConfig(gate=3)


def test_a_last_iteration_may_be_short():
    config = tiny_config(updates=24, updates_per_iteration=10)
    assert config.iterations == 3
    assert dataclasses.replace(config, updates=30).iterations == 3
