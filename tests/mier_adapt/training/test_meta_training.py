import dataclasses
import importlib.metadata
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import mier_adapt_envs
from mier_adapt import meta_train
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.agents import AdaptConfig, FamilyEnvs, ModelConfig, Run, evaluate, load_run
from mier_adapt.gates import NeverGate
from mier_adapt.protocols import MetaPolicy, Method
from mier_adapt.training import Mier, meta_training
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import TINY_ADAPT, assert_same_tree, start_python, tiny_config

TIMES = ("seconds",)
ADAPT = {"adapt_config": TINY_ADAPT}  # its transitions are those of a run's evaluations


def model_config(**changes) -> ModelConfig:
    return dataclasses.replace(tiny_config().model, **changes)


def without_times(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


# A whole run --------------------------------------------------------------------------------


def test_a_run_leaves_everything_that_it_promises(negated_joints_run):
    names = {path.name for path in negated_joints_run.iterdir()}
    promised = {"run.json", CHECKPOINT, "metrics.jsonl", "tensorboard", "learning_curve.png"}
    assert promised <= names
    assert not [name for name in names if name.endswith(".partial")]
    rows = read_metrics(negated_joints_run)
    assert [row["updates"] for row in rows] == [10, 20, 24]
    config, tasks = tiny_config(), 10
    first = tasks * config.initial_episodes
    each = config.tasks_per_iteration * (config.adaptation_episodes + config.evaluation_episodes)
    steps = [config.episode_steps * (first + each * iteration) for iteration in (1, 2, 3)]
    assert [row["env_steps"] for row in rows] == steps
    for row in rows:
        assert {"model_loss", "actor_loss", "critic1_loss", "alpha", "seconds"} <= set(row)
        for name in ("initial", "adapted"):
            assert len(row[f"returns_{name}"]) == config.evaluated_tasks
            assert row[f"return_{name}"] == pytest.approx(np.mean(row[f"returns_{name}"]))
            assert np.isfinite(row[f"loss_{name}"])


@pytest.mark.parametrize("split", ["meta_train", "meta_test"])
def test_evaluations_are_of_the_split_that_is_asked_for(split, negated_joints_envs, tmp_path):
    config = tiny_config(updates=2, evaluated_split=split)
    meta_train(config, tmp_path, seed=0, adapt_config=TINY_ADAPT)
    (row,) = read_metrics(tmp_path)
    evaluations = evaluate(
        load_run(tmp_path),
        negated_joints_envs,
        getattr(negated_joints_envs.task_set, split)[: config.evaluated_tasks],
        seed=20_000,
        adaptation_steps=TINY_ADAPT.adaptation_steps,
        episode_steps=config.episode_steps,
    )
    assert row["split"] == split
    assert row["returns_adapted"] == [each.returns_adapted.mean() for each in evaluations]


def test_the_run_file_says_what_the_run_is(negated_joints_run):
    contents = json.loads((negated_joints_run / "run.json").read_text())
    assert contents["seed"] == 1
    assert contents["config"] == json.loads(json.dumps(tiny_config().to_dict()))
    assert contents["adapt"] == TINY_ADAPT.to_dict()
    tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints")
    assert contents["task_set_hash"] == tasks.hash
    assert contents["versions"]["torch"] == importlib.metadata.version("torch")


def test_adaptation_data_is_what_was_gathered_with_the_initial_context(negated_joints_run):
    replay = load_tree(negated_joints_run / CHECKPOINT)["run"]["replay"]
    config = tiny_config()
    flags, lengths = replay["columns"]["initial_context"], replay["lengths"]
    iterations = config.tasks_per_iteration * config.iterations * config.episode_steps
    assert int(flags.sum()) == 10 * config.episode_steps + iterations
    assert int((~flags).sum()) == iterations
    assert sum(lengths) == len(flags)


def test_calling_a_finished_run_again_changes_nothing(negated_joints_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(negated_joints_run, copied)
    calls = []
    assert meta_train(
        tiny_config(), copied, **ADAPT, seed=1, on_step=lambda *args: calls.append(args)
    )
    assert calls == []
    assert_same_tree(load_tree(copied / CHECKPOINT), load_tree(negated_joints_run / CHECKPOINT))
    assert read_metrics(copied) == read_metrics(negated_joints_run)


@pytest.mark.parametrize("updates", [20, 24])  # whole iterations, and one that is cut short
def test_a_finished_run_that_annealed_to_nothing_is_finished(tmp_path, updates):
    config = tiny_config(updates=updates, annealed_share=0.4)
    assert meta_train(config, tmp_path, **ADAPT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for _ in range(2):
        assert meta_train(config, tmp_path, **ADAPT)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    # And may go on, as one may that was cut there.
    longer = tiny_config(updates=30, annealed_share=0.4)
    assert meta_train(longer, tmp_path, **ADAPT)
    assert load_tree(tmp_path / CHECKPOINT)["updates"] == 30


def test_fewer_updates_than_are_done_are_refused_and_nothing_changes(negated_joints_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(negated_joints_run, copied)
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="has taken 24 updates: ask for as many or for more"):
        meta_train(tiny_config(updates=23), copied, **ADAPT, seed=1)
    assert before == {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}


def generators() -> list:
    """The state of every global generator, and settings that training could change."""
    return [
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        np.random.get_state()[2:],  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    ]


def test_the_global_generators_are_given_back_as_they_were_found(tmp_path):
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = generators()
    steps = iter(range(12))
    meta_train(tiny_config(), tmp_path, **ADAPT, should_stop=lambda: next(steps, None) is None)
    assert generators() == before
    assert meta_train(tiny_config(), tmp_path, **ADAPT)
    assert generators() == before
    load_run(tmp_path)
    assert generators() == before

    def fail(trainer, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meta_train(tiny_config(updates=30), tmp_path, **ADAPT, on_step=fail)
    assert generators() == before
    with pytest.raises(ValueError, match="seed differ"):
        meta_train(tiny_config(), tmp_path, **ADAPT, seed=3)
    assert generators() == before


def test_the_seed_fixes_a_run(negated_joints_run, tmp_path):
    short = tiny_config(updates=4)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        meta_train(short, tmp_path / name, **ADAPT, seed=seed)
    first, again, other = (load_tree(tmp_path / name / CHECKPOINT) for name in "abc")
    assert_same_tree(first, again, ignore=TIMES)
    weights = "layers.0.weight"
    assert not torch.equal(first["run"]["model"][weights], other["run"]["model"][weights])


# Stopping and going on ----------------------------------------------------------------------


def test_a_run_that_stops_anywhere_ends_bit_for_bit_alike(negated_joints_run, tmp_path):
    """In pre-training, within and at the end of an iteration, and just before the end."""
    for stop in (0, 3, 11, 10, 4):
        steps = iter(range(stop))
        finished = meta_train(
            tiny_config(),
            tmp_path,
            **ADAPT,
            seed=1,
            should_stop=lambda steps=steps: next(steps, None) is None,
        )
        assert not finished
    assert meta_train(tiny_config(), tmp_path, **ADAPT, seed=1)
    assert_same_tree(
        load_tree(tmp_path / CHECKPOINT), load_tree(negated_joints_run / CHECKPOINT), ignore=TIMES
    )
    assert without_times(read_metrics(tmp_path)) == without_times(read_metrics(negated_joints_run))


@pytest.fixture
def cores(monkeypatch):
    """Sets how many there are."""
    return lambda count: monkeypatch.setattr(meta_training, "_cores", lambda: count)


def test_late_contexts_are_the_same_beside_the_updates_or_between_them(cores, tmp_path):
    """Wherever a run is stopped, and on however many cores its parts are taken."""
    config = tiny_config(late_contexts=True)
    cores(1)
    assert meta_train(config, tmp_path / "whole", **ADAPT, seed=1)
    for number, stop in enumerate((7, 4, 6, 3, 5, 1)):
        cores(1 + number % 2)
        steps = iter(range(stop))
        assert not meta_train(
            config,
            tmp_path / "parts",
            **ADAPT,
            seed=1,
            should_stop=lambda steps=steps: next(steps, None) is None,
        )
    assert meta_train(config, tmp_path / "parts", **ADAPT, seed=1)
    whole, parts = (load_tree(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert_same_tree(whole, parts, ignore=TIMES)
    rows = [without_times(read_metrics(tmp_path / name)) for name in ("whole", "parts")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("beside", [False, True])
def test_late_contexts_are_those_of_the_meta_step_before(beside):
    config = tiny_config(late_contexts=True)
    started, acted_on = [], []
    with (
        FamilyEnvs(mier_adapt_envs.task_set(config.family), num_threads=1) as envs,
        ThreadPoolExecutor(max_workers=1) as worker,
    ):
        trainer = MetaTrainer(config, envs, seed=0, beside=worker if beside else None)
        while trainer.updates < 10:
            before = trainer.updates
            trainer.step()
            if trainer.updates > before and before % 4 == 0:
                acted_on.append(trainer.run.replay.active_tasks.tolist())
                state = trainer.state()["started"]
                started.append(acted_on[-1] if state is None else state["tasks"])
    # The first has none before it.
    assert acted_on == [started[0], started[0], started[1]]
    assert len({tuple(each) for each in started}) == 3


def test_a_meta_step_beside_the_updates_that_diverges_ends_the_run(cores, tmp_path):
    cores(2)
    config = tiny_config(
        late_contexts=True,
        updates_per_iteration=20,
        model=model_config(lr=1e8, max_grad_norm=1e30, pretrain_steps=0),
    )
    with pytest.raises(FloatingPointError, match=r"at SAC update [1-9]"):
        meta_train(config, tmp_path)


def test_a_damaged_meta_step_that_was_under_way_is_refused(tmp_path):
    config = tiny_config(late_contexts=True)
    steps = iter(range(12))
    meta_train(config, tmp_path, **ADAPT, should_stop=lambda: next(steps, None) is None)
    whole = load_tree(tmp_path / CHECKPOINT)
    contexts = whole["started"]["contexts"]
    for damaged in (
        {"tasks": [99, 1, 2, 3]},
        {"tasks": ["0", "1", "2", "3"]},
        {"contexts": contexts[:2]},
        {"loss": None},
    ):
        save_tree(tmp_path / CHECKPOINT, {**whole, "started": {**whole["started"], **damaged}})
        with pytest.raises(CheckpointError, match="started"):
            meta_train(config, tmp_path, **ADAPT)


def test_another_number_of_threads_is_told(tmp_path, caplog):
    def train(stop):
        steps = iter(range(stop))
        return meta_train(
            tiny_config(),
            tmp_path,
            **ADAPT,
            should_stop=lambda: next(steps, None) is None,
        )

    threads = torch.get_num_threads()
    train(3)
    assert load_tree(tmp_path / CHECKPOINT)["manifest"]["threads"] == threads
    train(3)
    assert not caplog.records
    torch.set_num_threads(threads + 1)
    try:
        assert train(100)
        (record,) = caplog.records
        assert f"trained on {threads} of torch's threads and goes on with" in record.getMessage()
        assert f"--threads {threads} (torch.set_num_threads) keeps them" in record.getMessage()
        assert load_tree(tmp_path / CHECKPOINT)["manifest"]["threads"] == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert train(1)  # a finished run goes on with none
    assert len(caplog.records) == 1


@pytest.mark.parametrize("threads", ["1", [1], None])
def test_a_number_of_threads_that_is_none_is_refused(negated_joints_run, tmp_path, threads):
    shutil.copytree(negated_joints_run, tmp_path / "run")
    tree = load_tree(tmp_path / "run" / CHECKPOINT)
    tree["manifest"]["threads"] = threads
    save_tree(tmp_path / "run" / CHECKPOINT, tree)
    with pytest.raises(CheckpointError, match="manifest/threads"):
        meta_train(tiny_config(updates=30), tmp_path / "run", **ADAPT, seed=1)


def test_step_sizes_fall_in_the_last_part_of_a_run(tmp_path):
    policy_config = dataclasses.replace(tiny_config().policy, final_target_entropy=-4.0)
    config = tiny_config(updates=40, annealed_share=0.5, policy=policy_config)
    seen = {}

    def note(trainer, row):
        state = trainer.state()
        policy = state["run"]["algorithm"]["alpha_optimizer"]["param_groups"][0]["lr"]
        model = state["model_optimizer"]["param_groups"][0]["lr"]
        entropy = trainer.run.algorithm.alpha._target_entropy
        seen[trainer.updates] = (policy / config.policy.lr, model / config.model.lr, entropy)

    for stop in (27, 100):  # the second time it goes on in the middle of an iteration
        steps = iter(range(stop))
        meta_train(
            config,
            tmp_path,
            **ADAPT,
            should_stop=lambda steps=steps: next(steps, None) is None,
            on_step=note,
        )
    for update, factor in ((1, 1.0), (20, 1.0), (21, 1.0), (30, 1.0), (31, 0.5), (40, 0.5)):
        assert seen[update] == pytest.approx((factor, factor, -1 * factor - 4 * (1 - factor)))


def test_a_longer_run_goes_on_from_a_shorter_one(negated_joints_run, tmp_path):
    # 20 ends an iteration; a run cut within one would close it early and go another way.
    assert meta_train(tiny_config(updates=20), tmp_path, **ADAPT, seed=1)
    assert meta_train(tiny_config(updates=24), tmp_path, **ADAPT, seed=1)
    longer, whole = (load_tree(path / CHECKPOINT) for path in (tmp_path, negated_joints_run))
    assert_same_tree(longer, whole, ignore=TIMES)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["updates"] == 24


def test_a_run_called_again_may_meet_new_tasks_in_another_way(negated_joints_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(negated_joints_run, copied)
    assert load_run(copied).adapt_config == TINY_ADAPT
    other = AdaptConfig(weight_steps=7, gate=NeverGate())
    assert meta_train(tiny_config(), copied, adapt_config=other, seed=1)
    run = load_run(copied)
    assert run.adapt_config == other
    assert_same_tree(run.state(), load_run(negated_joints_run).state())


SCRIPT = """
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from mier_adapt import meta_train
from tests.mier_adapt.doubles import TINY_ADAPT, tiny_config

meta_train(
    tiny_config(),
    Path(sys.argv[1]),
    adapt_config=TINY_ADAPT,
    seed=1,
    checkpoint_seconds=0,
    on_step=lambda trainer, row: print(trainer.updates, flush=True),
)
"""


def test_a_run_that_is_killed_twice_ends_bit_for_bit_alike(negated_joints_run, tmp_path):
    for lines, delay in ((9, 0.013), (8, 0.002)):  # steps, and anywhere in a step or a save
        with start_python(SCRIPT, tmp_path) as process:
            for _ in range(lines):
                assert process.stdout.readline(), process.stderr.read()
            time.sleep(delay)
            process.kill()
        assert process.returncode == -9
    assert 0 < load_tree(tmp_path / CHECKPOINT)["updates"] < 24
    with start_python(SCRIPT, tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_same_tree(
        load_tree(tmp_path / CHECKPOINT), load_tree(negated_joints_run / CHECKPOINT), ignore=TIMES
    )
    assert without_times(read_metrics(tmp_path)) == without_times(read_metrics(negated_joints_run))


@pytest.mark.parametrize("name", ["run.json.partial", "run.json.4711-0123abcd.partial"])
def test_a_kill_before_the_first_files_are_whole_leaves_a_directory_to_start_in(tmp_path, name):
    (tmp_path / name).write_text('{"conf')
    assert not meta_train(tiny_config(), tmp_path, should_stop=lambda: True)
    assert meta_train(tiny_config(updates=1), tmp_path / "other", **ADAPT)


@pytest.mark.parametrize("contents", [None, "", "{", "[1]", '{"config": {}, "seed": 1}'])
def test_what_a_run_file_said_is_taken_from_the_checkpoint(tmp_path, contents, caplog):
    def stop_after(count: int):
        steps = iter(range(count))
        return lambda: next(steps, None) is None

    meta_train(tiny_config(), tmp_path, **ADAPT, seed=1, should_stop=stop_after(8))
    path = tmp_path / "run.json"
    whole = path.read_text()
    path.unlink() if contents is None else path.write_text(contents)
    assert (
        load_run(tmp_path).config.model == tiny_config().model
    )  # who only reads it, writes nothing
    problem = "missing" if contents is None else "damaged"
    assert f"{path} is {problem}; going on from what {CHECKPOINT} says of the run" in caplog.text
    assert path.exists() == (contents is not None)
    with pytest.raises(ValueError, match="is of another run: seed differ"):
        meta_train(tiny_config(), tmp_path, **ADAPT, seed=2)
    meta_train(tiny_config(), tmp_path, **ADAPT, seed=1, should_stop=stop_after(2))
    assert path.read_text() == whole


def test_the_run_file_is_written_where_it_changes(tmp_path):
    def start(updates: int) -> int:
        config = tiny_config(updates=updates)
        assert not meta_train(config, tmp_path, **ADAPT, should_stop=lambda: True)
        return (tmp_path / "run.json").stat().st_ino

    first = start(24)
    assert start(24) == first
    assert start(25) != first
    assert json.loads((tmp_path / "run.json").read_text())["config"]["updates"] == 25


def test_a_checkpoint_that_cannot_be_saved_leaves_the_one_before(tmp_path, monkeypatch):
    meta_train(tiny_config(updates=4), tmp_path, **ADAPT, seed=1)
    before = load_tree(tmp_path / CHECKPOINT)

    def spoil(trainer, row):
        with torch.no_grad():
            next(trainer.run.algorithm.critic.parameters()).fill_(torch.nan)

    with pytest.raises(FloatingPointError, match=r"update 5.* Refusing to save .*critic"):
        meta_train(tiny_config(updates=5), tmp_path, seed=1, on_step=spoil, checkpoint_seconds=1e9)
    assert_same_tree(load_tree(tmp_path / CHECKPOINT), before)


# As a method beside others ------------------------------------------------------------------


def test_it_is_a_method_that_trains_and_loads(negated_joints_run, negated_joints_envs, tmp_path):
    method = Mier(config=tiny_config(), adapt_config=TINY_ADAPT)
    assert isinstance(method, Method)
    steps = iter(range(12))
    assert not method.meta_train(tmp_path, seed=1, should_stop=lambda: next(steps, None) is None)
    assert method.meta_train(tmp_path, seed=1)
    policy = method.load(tmp_path)
    assert isinstance(policy, Run)
    assert isinstance(policy, MetaPolicy)
    assert policy.adapt_config == TINY_ADAPT
    assert_same_tree(policy.state(), load_run(negated_joints_run, negated_joints_envs).state())
    tasks = negated_joints_envs.task_set.meta_test[:1]
    (each,) = evaluate(
        policy, negated_joints_envs, tasks, seed=0, adaptation_steps=40, episode_steps=20
    )
    assert each.loss_adapted is not None


# Refusals -----------------------------------------------------------------------------------


def test_another_seed_or_configuration_is_refused(negated_joints_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(negated_joints_run, copied)
    with pytest.raises(ValueError, match="is of another run: seed differ"):
        meta_train(tiny_config(), copied, seed=2)
    other = tiny_config(model=model_config(lr=2e-3), evaluate_every=2)
    with pytest.raises(ValueError, match="is of another run: evaluate_every, model differ"):
        meta_train(other, copied, seed=1)
    assert_same_tree(load_tree(copied / CHECKPOINT), load_tree(negated_joints_run / CHECKPOINT))
    assert (copied / "run.json").read_bytes() == (negated_joints_run / "run.json").read_bytes()


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds other files\. Choose another one"):
        meta_train(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"config": {}, "seed": 1}'])
def test_a_damaged_run_file_is_refused(tmp_path, contents):
    (tmp_path / "run.json").write_text(contents)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        meta_train(tiny_config(), tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    meta_train(tiny_config(), tmp_path, should_stop=lambda: True)
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=CHECKPOINT):
        meta_train(tiny_config(), tmp_path)


# Variants -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"learn_initial_context": True},
        {"first_order": True},
        {"normalize": False},
        {"context_dim": 0},
        {"pretrain_steps": 0},
        {"inner_steps": 0},
        {"tasks_per_batch": 12},  # more than there are tasks: drawn with replacement
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_variant_of_the_model_trains_and_resumes(changes, tmp_path):
    config = tiny_config(updates=6, updates_per_iteration=5, model=model_config(**changes))
    steps = iter(range(8))
    meta_train(config, tmp_path / "a", **ADAPT, should_stop=lambda: next(steps, None) is None)
    for name in "ab":
        assert meta_train(config, tmp_path / name, **ADAPT)
    first, second = (load_tree(tmp_path / name / CHECKPOINT) for name in "ab")
    assert_same_tree(first, second, ignore=TIMES)
    context = first["run"]["model"]["initial_context"]
    assert bool(context.any()) == bool(changes.get("learn_initial_context"))


def test_a_policy_that_is_trained_in_other_ways_resumes_bit_for_bit(tmp_path):
    policy = dataclasses.replace(
        tiny_config().policy, normalize=True, reward_scale=0.1, updates_per_model_step=2
    )
    config = tiny_config(updates=9, policy=policy)
    for stop in (0, 2, 5, 7):
        steps = iter(range(stop))
        meta_train(
            config,
            tmp_path / "a",
            **ADAPT,
            should_stop=lambda steps=steps: next(steps, None) is None,
        )
    for name in "ab":
        assert meta_train(config, tmp_path / name, **ADAPT)
    trees = [load_tree(tmp_path / name / CHECKPOINT) for name in "ab"]
    assert_same_tree(*trees, ignore=TIMES)
    algorithm = load_run(tmp_path / "a").algorithm  # which adapts by the same step sizes
    assert algorithm.reward_scale == 0.1
    assert torch.equal(algorithm.obs_scale, trees[0]["run"]["algorithm"]["scales"]["obs_scale"])


def test_a_policys_observations_are_scaled_by_the_first_datas_deviations():
    policy = dataclasses.replace(tiny_config().policy, normalize=True)
    config = tiny_config(policy=policy)
    with FamilyEnvs(mier_adapt_envs.task_set(config.family), num_threads=1) as envs:
        trainer = MetaTrainer(config, envs, seed=0)
        plain = MetaTrainer(tiny_config(), envs, seed=0)
        trainer.step()
        plain.step()
    obs = trainer.run.replay.stored().obs.double()
    expected = torch.where(obs.std(0) > 0, 1 / obs.std(0).clamp_min(0.1), 1)
    torch.testing.assert_close(
        trainer.run.algorithm.obs_scale.double(), expected, rtol=1e-5, atol=0
    )
    weights = [next(each.run.algorithm.critic.parameters()).detach() for each in (trainer, plain)]
    scale = weights[0] / weights[1]
    torch.testing.assert_close(scale[0, : len(expected)], expected.float(), rtol=1e-5, atol=0)
    assert torch.equal(weights[0][:, len(expected) :], weights[1][:, len(expected) :])


def test_the_model_learns_from_real_transitions(tmp_path):
    config = tiny_config(model=model_config(pretrain_steps=150, batch_size=16), updates=1)
    losses = []
    tasks = mier_adapt_envs.task_set(config.family)
    with FamilyEnvs(tasks, num_threads=1) as envs:
        trainer = MetaTrainer(config, envs, seed=0)
        for _ in range(150):
            before = trainer._sums.get("model_loss", (0.0, 0))[0]
            trainer.step()
            losses.append(trainer._sums["model_loss"][0] - before)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 1


def test_a_meta_loss_that_is_not_finite_names_update_and_task(tmp_path):
    config = tiny_config(model=model_config(lr=1e25, max_grad_norm=1e30))
    with pytest.raises(FloatingPointError, match=r"meta-loss is .* at SAC update 0, worst on task"):
        meta_train(config, tmp_path)
