import dataclasses
import hashlib
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch

from mier_adapt import adapt, load_run, meta_train
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.agents import evaluate, pretrained
from mier_adapt.agents import run_file as run_files
from mier_adapt.agents.packed_run import pack_replay, unpack_replay
from mier_adapt.agents.presets import preset
from mier_adapt.integration import ContextReplayBuffer

from ..conftest import CHECKPOINT
from ..doubles import assert_same_tree, random_transitions, tiny_config

MADE = {"command": "made it", "commit": "c0ffee", "machine": "a machine"}


@pytest.fixture(scope="module")
def installed(negated_joints_run, tmp_path_factory):
    """A directory of package data with one exported run, ``tiny``, of all its experience."""
    directory = tmp_path_factory.mktemp("pretrained")
    pretrained.export_run(
        negated_joints_run, directory / "tiny", name="tiny", seeds=2, episodes=1, **MADE
    )
    return directory


def install(monkeypatch, directory):
    """Let this directory be the package's data."""
    for module in (run_files, pretrained):
        monkeypatch.setattr(module, "PRETRAINED", directory)


@pytest.fixture
def names(installed, monkeypatch):
    install(monkeypatch, installed)


@pytest.fixture
def pair(names, negated_joints_run, negated_joints_envs):
    """The run, and what was exported of it."""
    return (
        load_run(negated_joints_run, negated_joints_envs),
        load_run("tiny", negated_joints_envs),
    )


def test_a_pretrained_run_acts_and_adapts_as_the_run_it_came_from(pair, negated_joints_envs):
    generator = np.random.default_rng(0)
    obs = generator.normal(size=(50, 20)).astype(np.float32)
    actions = [run.actor(torch.arange(3.0)).act(obs, explore=False) for run in pair]
    np.testing.assert_array_equal(*actions)
    task = negated_joints_envs.task_set.meta_test[0]
    outcomes = []
    for run in pair:
        # relabels whatever the model is worth
        config = dataclasses.replace(run.adapt_config, validation_threshold=1e6)
        outcomes.append(adapt(run, run.new_task(negated_joints_envs, task), config, seed=3))
    first, other = outcomes
    assert torch.equal(first.context, other.context)
    for name, returns in first.report.returns.items():  # learned from experience in 16 bits
        assert other.report.returns[name] == pytest.approx(returns, rel=0.05, abs=0.5)
    assert "relabeled" in first.report.returns


def test_an_export_holds_parameters_and_experience_but_no_optimizer(pair, installed):
    run, exported = pair
    mine, kept = run.state(), exported.state()
    assert_same_tree(kept["model"], mine["model"])
    for state in (kept["algorithm"], mine["algorithm"]):
        moments = [one.pop("state") for one in state["algorithm"].pop("_optimizers")]
        moments.append(state.pop("alpha_optimizer")["state"])
        assert any(moments) == (state is mine["algorithm"])
    kept_tensors, tensors = (each["algorithm"]["algorithm"] for each in (kept, mine))
    assert kept_tensors.keys() == tensors.keys()
    for name, tensor in kept_tensors.items():
        of_critic = name.replace("_old.module", "")
        assert (of_critic != name) == ("_old" in name)
        assert torch.equal(tensor, tensors[of_critic])
    assert any("critic2_old" in name for name in tensors)
    for name, column in mine["replay"]["columns"].items():
        whole, near = column.joined().double(), kept["replay"]["columns"][name].joined().double()
        half_steps = (whole.amax(0) - whole.amin(0)) / 65_535 / 2
        assert bool(((near - whole).abs() <= 1.01 * half_steps + 1e-6).all())
    assert (installed / "tiny" / CHECKPOINT).stat().st_size < 300_000


def test_an_export_as_release_0_1_wrote_it_loads(pair, installed, negated_joints_envs, tmp_path):
    """Experience in single precision, and target critics that lag behind."""
    old = tmp_path / "old"
    shutil.copytree(installed / "tiny", old)
    tree = load_tree(old / CHECKPOINT)
    columns, tensors = tree["run"]["replay"]["columns"], tree["run"]["algorithm"]["algorithm"]
    for name, column in columns.items():
        if isinstance(column, dict):
            values = column["low"] + (column["codes"].double() + 2**15) * column["step"]
            columns[name] = values if name == "rew" else values.float()
    assert not any("_old" in name for name in tensors)
    targets = {
        name: tensor * 0.5
        for name, tensor in pair[0].state()["algorithm"]["algorithm"].items()
        if "_old" in name
    }
    tensors.update(targets)
    save_tree(old / CHECKPOINT, tree)
    run = load_run(old, negated_joints_envs)
    assert_same_tree(vars(run.replay.stored()), vars(pair[1].replay.stored()))
    loaded = run.state()["algorithm"]["algorithm"]
    assert targets
    for name, tensor in targets.items():
        assert torch.equal(loaded[name], tensor)


def test_the_card_says_how_the_run_was_made_and_what_it_achieved(
    names, pair, installed, negated_joints_run, negated_joints_envs
):
    card = pretrained.read_card("tiny")
    tree = load_tree(negated_joints_run / CHECKPOINT)
    assert {key: card[key] for key in MADE} == MADE
    for key in ("updates", "env_steps", "seconds"):
        assert card[key] == tree[key]
    assert card["seed"] == 1
    assert card["versions"]["torch"] == version("torch")
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((installed / "tiny" / name).read_bytes()).hexdigest() == digest
    assert {CHECKPOINT, "run.json"} <= card["sha256"].keys()
    tests = card["evaluation"]["splits"]["test"]
    tasks = negated_joints_envs.task_set.meta_test
    assert [row["task"] for row in tests] == [str(task) for task in tasks]
    again = evaluate(
        pair[1], negated_joints_envs, tasks, seed=1000, adaptation_steps=40, episode_steps=20
    )
    for row, evaluation in zip(tests, again, strict=True):
        assert len(row["return_adapted"]) == 2
        assert row["return_adapted"][1] == evaluation.returns_adapted.mean()
        assert row["loss_adapted"][1] == evaluation.loss_adapted


def test_an_export_keeps_to_its_size(negated_joints_run, installed, tmp_path, negated_joints_envs):
    small = tmp_path / "small"
    whole = load_run(negated_joints_run, negated_joints_envs)
    size = (installed / "tiny" / CHECKPOINT).stat().st_size - 1_000
    pretrained.export_run(
        negated_joints_run, small, name="x", max_megabytes=size / 1e6, seeds=1, episodes=1, **MADE
    )
    assert (small / CHECKPOINT).stat().st_size <= size
    run = load_run(small, negated_joints_envs)
    lengths = [len(run.replay.task_buffer(task)) for task in range(10)]
    assert max(lengths) == max(len(whole.replay.task_buffer(task)) for task in range(10)) - 20
    assert set(lengths) <= {20 * episodes for episodes in range(1, 9)}
    run.replay.sample_transitions(np.arange(10), 3, adaptation=True)
    with pytest.raises(ValueError, match=r"do not fit into 0\.01 MB"):
        pretrained.export_run(
            negated_joints_run, tmp_path / "no", name="x", max_megabytes=0.01, **MADE
        )
    assert list((tmp_path / "no").iterdir()) == []


def test_an_export_cannot_be_trained_further_nor_exported_again(installed, tmp_path):
    exported = tmp_path / "run"
    shutil.copytree(installed / "tiny", exported)
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    with pytest.raises(ValueError, match="holds an exported run, without optimizers"):
        meta_train(tiny_config(updates=50), exported, seed=1)
    with pytest.raises(ValueError, match="export the run that it came from"):
        pretrained.export_run(exported, tmp_path / "other", name="x", **MADE)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before


def test_an_export_takes_no_runs_place(negated_joints_run):
    with pytest.raises(ValueError, match="Choose another place"):
        pretrained.export_run(negated_joints_run, negated_joints_run, name="x", **MADE)


def test_a_configuration_of_no_preset_needs_its_command(negated_joints_run, tmp_path):
    with pytest.raises(ValueError, match=r"expected command .* Say what made it"):
        pretrained.export_run(negated_joints_run, tmp_path / "x", name="x", commit="c0ffee")


@pytest.mark.parametrize("name", run_files.pretrained_names())
def test_a_run_that_ships_is_small_and_has_its_presets_options(name):
    run, wanted = load_run(name), preset(name)
    trained = dataclasses.replace(
        run.config,
        replay_per_task=wanted.meta_train.replay_per_task,  # less of it ships
    )
    assert (trained, run.adapt_config) == (wanted.meta_train, wanted.adapt)
    assert pretrained.read_card(name)["updates"] == wanted.meta_train.updates
    checkpoint = run_files.find_run(name) / CHECKPOINT
    assert checkpoint.stat().st_size < 4_000_000


def test_unknown_names_list_the_known_ones(names, monkeypatch, tmp_path):
    assert run_files.pretrained_names() == ["tiny"]
    for unknown in ("tini", "..", "tiny/.", ""):
        with pytest.raises(FileNotFoundError, match=r"one of \['tiny'\]"):
            load_run(unknown)
        with pytest.raises(ValueError, match=r"one of \['tiny'\], got"):
            pretrained.read_card(unknown)
    with pytest.raises(FileNotFoundError, match=r"one of \['tiny'\]"):
        run_files.find_run(tmp_path)
    install(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"one of \[\]"):
        load_run("tiny")


def test_damage_to_a_pretrained_run_is_found(installed, tmp_path):
    shutil.copytree(installed / "tiny", tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match="checksum"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chained", lambda column: ~column),
        ("chained", lambda column: column[1:]),
        ("chained", lambda column: column.float()),
        ("chained", lambda column: [1, 2]),
        ("obs_next", lambda column: {**column, "codes": column["codes"][:-1]}),
        ("obs_next", lambda column: {**column, "codes": column["codes"].int()}),
        ("obs_next", lambda column: {**column, "low": column["low"][1:]}),
        ("rew", lambda column: {**column, "step": column["step"].float()}),
        ("act", lambda column: {"codes": column["codes"], "low": column["low"]}),
        ("obs", lambda column: column["codes"][0, 0]),
        ("obs", lambda column: column["codes"].double()),
        ("obs", lambda column: None),
    ],
)
def test_observations_that_do_not_belong_together_are_refused(installed, tmp_path, name, change):
    shutil.copytree(installed / "tiny", tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    tree = load_tree(path)
    columns = tree["run"]["replay"]["columns"]
    columns[name] = change(columns[name])
    save_tree(path, tree)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_run(tmp_path / "run")


# Packing ------------------------------------------------------------------------------------

STEPS = 5


def replay_of(kinds: str, *, size: int = 100) -> ContextReplayBuffer:
    """One task's episodes of five steps, gathered with initial (i) or adapted (a) contexts.

    The reward tells the episode; within it observations are chained.
    """
    replay = ContextReplayBuffer(
        1, size, obs_dim=3, act_dim=2, context_dim=2, generator=np.random.default_rng(0)
    )
    for episode, kind in enumerate(kinds):
        drawn = random_transitions(STEPS, seed=episode)
        chained = torch.cat((drawn.obs[1:], drawn.obs_next[-1:]))
        rew = torch.full_like(drawn.rew, episode)
        transitions = dataclasses.replace(drawn, rew=rew, obs_next=chained)
        replay.extend(0, transitions, initial_context=kind == "i")
    return replay


@pytest.mark.parametrize(
    ("kinds", "episodes", "kept"),
    [
        ("iiaaiaia", 2, [6, 7]),
        ("iiaaiaia", 4, [1, 3, 6, 7]),
        ("iiaaiaia", 8, list(range(8))),
        ("iiaaiaia", 100, list(range(8))),
        ("iiiiiiia", 4, [1, 3, 6, 7]),
        ("iiiiiiii", 2, [3, 7]),
        ("iaaaaaaa", 4, [0, 2, 4, 7]),
    ],
)
def test_packing_spreads_episodes_over_both_kinds_and_all_of_history(kinds, episodes, kept):
    replay = replay_of(kinds)
    state = pack_replay(replay, episodes=episodes, episode_steps=STEPS)
    assert len(state["columns"]["obs_next"]["codes"]) == len(kept)
    columns = unpack_replay(state)["columns"]
    np.testing.assert_allclose(columns["rew"][::STEPS], kept, atol=1e-3)
    flags = columns["initial_context"][::STEPS].tolist()
    assert flags == [kinds[episode] == "i" for episode in kept]


def test_packing_a_full_ring_keeps_the_order_of_time_and_drops_a_cut_episode():
    replay = replay_of("i" * 9, size=22)
    state = pack_replay(replay, episodes=9, episode_steps=STEPS)
    rewards = unpack_replay(state)["columns"]["rew"]
    np.testing.assert_allclose(rewards, np.repeat([5, 6, 7, 8], 5), atol=1e-3)


@pytest.mark.parametrize("chained", [True, False])
def test_unpacking_gives_back_what_was_packed_but_for_its_last_bits(chained):
    replay = replay_of("iaia")
    if not chained:
        replay.extend(0, random_transitions(4 * STEPS, seed=9))
    packed = pack_replay(replay, episodes=100, episode_steps=STEPS)
    other = replay_of("i")
    other.load_state(unpack_replay(packed))
    whole = replay.state()
    for name, column in whole["columns"].items():
        near = other.state()["columns"][name].joined()
        assert near.dtype == column.joined().dtype
        np.testing.assert_allclose(near, column.joined(), atol=1e-4)
    assert unpack_replay(whole) is whole
