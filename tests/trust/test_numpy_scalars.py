"""NumPy's numbers where Python's are meant: nothing overflows, and all that is kept is plain."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mier_adapt_envs
from mier_adapt import AdaptConfig, NewTask, adapt, load_run, meta_train, meta_train_offline, preset
from mier_adapt.adaptation import MarginGate
from mier_adapt.agents import FamilyEnvs, ModelConfig, PolicyConfig
from mier_adapt.integration import algorithm_state
from tests.mier_adapt.doubles import (
    TINY_ADAPT,
    assert_same_tree,
    random_transitions,
    tiny_config,
)


def in_numpy(value: Any, whole: type, real: type) -> Any:
    """A configuration's fields, with their numbers as NumPy's."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return type(value)(**{name: in_numpy(each, whole, real) for name, each in fields.items()})
    if isinstance(value, tuple):
        return tuple(in_numpy(each, whole, real) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return (whole if isinstance(value, int) else real)(value)


@pytest.mark.parametrize("whole", [np.int64, np.uint32])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        PolicyConfig(),
        AdaptConfig(),
        AdaptConfig(adaptation_steps=40, gate=MarginGate(episodes=2)),
        preset("smoke").meta_train,
        tiny_config(),
    ],
    ids=str,
)
def test_configurations_are_plain(config: Any, whole: type) -> None:
    given = in_numpy(config, whole, np.float64)
    assert given == config
    fields = given.to_dict() if hasattr(given, "to_dict") else dataclasses.asdict(given)
    own = config.to_dict() if hasattr(config, "to_dict") else dataclasses.asdict(config)
    assert json.dumps(fields) == json.dumps(own)
    if hasattr(given, "to_dict"):
        assert type(given).from_dict(json.loads(json.dumps(fields))) == config


def test_single_precision_is_taken_as_it_is() -> None:
    config = AdaptConfig(adaptation_steps=np.int64(40), actor_lr=np.float32(1e-4))
    assert json.loads(json.dumps(config.to_dict()))["actor_lr"] == float(np.float32(1e-4))
    assert type(config.adaptation_steps) is int


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_an_adaptation_goes_on_from_what_another_kind_of_seed_began(
    finished_run: Path, tmp_path: Path, kind: type
) -> None:
    checkpoint = tmp_path / "transitions.safetensors"
    with FamilyEnvs(
        mier_adapt_envs.task_set("HalfCheetahNegatedJoints"), num_threads=kind(1)
    ) as envs:
        run = load_run(finished_run, envs)
        task = run.new_task(envs, envs.task_set[12])
        config = dataclasses.replace(run.adapt_config, adaptation_steps=kind(40))
        expected = adapt(run, task, run.adapt_config, seed=5, evaluation_episodes=1)

        def interrupt(stage: str, progress: float) -> None:
            if stage == "refresh":
                raise KeyboardInterrupt

        options: dict[str, Any] = {"evaluation_episodes": kind(1), "checkpoint": checkpoint}
        with pytest.raises(KeyboardInterrupt):
            adapt(run, task, config, seed=kind(5), on_stage=interrupt, **options)
        found = adapt(run, task, config, seed=kind(5), **options)
    assert_same_tree(algorithm_state(found.algorithm), algorithm_state(expected.algorithm))
    assert torch.equal(found.context, expected.context)
    written = json.loads(json.dumps(found.report.to_dict()))
    assert {**written, "seconds": 0} == {
        **json.loads(json.dumps(expected.report.to_dict())),
        "seconds": 0,
    }


def test_an_adaptation_stops_after_its_first_round_and_goes_on(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "transitions.safetensors"
    act, rounds = NewTask.run, []

    def once(*args: Any, **kwargs: Any) -> Any:
        rounds.append(1)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        return act(*args, **kwargs)

    with FamilyEnvs(mier_adapt_envs.task_set("HalfCheetahNegatedJoints"), num_threads=1) as envs:
        run = load_run(finished_run, envs)
        task = run.new_task(envs, envs.task_set[12])
        options: dict[str, Any] = {"evaluation_episodes": 0, "checkpoint": checkpoint}
        monkeypatch.setattr(NewTask, "run", once)
        with pytest.raises(KeyboardInterrupt):
            adapt(run, task, run.adapt_config, seed=np.int64(0), **options)
        monkeypatch.setattr(NewTask, "run", act)
        found = adapt(run, task, run.adapt_config, seed=np.int64(0), **options)
        expected = adapt(run, task, run.adapt_config, seed=0, evaluation_episodes=0)
    assert torch.equal(found.context, expected.context)


def test_meta_training_with_a_seed_of_numpys(finished_run: Path, tmp_path: Path) -> None:
    config = in_numpy(tiny_config(), np.uint16, np.float64)
    options: dict[str, Any] = {"adapt_config": in_numpy(TINY_ADAPT, np.int32, np.float64)}
    assert meta_train(config, tmp_path / "run", seed=np.uint32(1), **options)
    written, expected = (
        (each / "run.json").read_text() for each in (tmp_path / "run", finished_run)
    )
    assert json.loads(written) == json.loads(expected)
    one, other = (load_run(each).algorithm for each in (tmp_path / "run", finished_run))
    assert_same_tree(algorithm_state(one), algorithm_state(other))


def test_offline_meta_training_with_numbers_of_numpys() -> None:
    logs = [random_transitions(30, seed=number) for number in range(2)]
    config = ModelConfig(hidden_sizes=(8,), context_dim=2, batch_size=8)
    models = [
        meta_train_offline(logs, steps=kind(3), seed=kind(255), config=each).model
        for kind, each in ((int, config), (np.uint8, in_numpy(config, np.uint16, np.float64)))
    ]
    assert_same_tree(*(dict(each.state_dict()) for each in models))
