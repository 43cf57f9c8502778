"""Meta-training by another method than ours, and what the command does with such a run."""

import inspect
import json
import shutil
from types import SimpleNamespace

import pytest

from mier_adapt._storage.checkpoints import load_tree
from mier_adapt.agents import FamilyEnvs
from mier_adapt.agents.evaluation import evaluation_record
from mier_adapt.baselines import BASELINES, Pearl, PearlConfig, Rl2, Rl2Config
from mier_adapt.cli.arguments import METHODS
from mier_adapt.cli.commands.meta_train import MetaTrain
from mier_adapt.cli.tables import status_line
from mier_adapt.training.metrics import read_metrics

from ..baselines.lever import EPISODE, GAIN_EPISODE, LeverVectorEnv, register_gain
from ..conftest import CHECKPOINT

SMALL = (
    *("--family", "Lever", "--updates", 12, "--updates-per-iteration", 5),
    *("--episode-steps", EPISODE, "--initial-episodes", 1, "--replay-per-task", 100),
    *("--encoder-hidden-sizes", 8, "--hidden-sizes", 8, "--batch-size", 4),
    *("--evaluate-every", 1, "--kl-weight", 0.3),
)


SMALL_RL2 = (
    *("--family", "Lever", "--updates", 3, "--trials-per-update", 4, "--hidden-size", 8),
    *("--episode-steps", EPISODE, "--evaluate-every", 1, "--clip-ratio", 0.3),
)

pytestmark = pytest.mark.usefixtures("lever")


@pytest.fixture
def run(command, tmp_path):
    out = tmp_path / "run"
    code, shown, err = command("meta-train", "--method", "pearl", *SMALL, "--out", out)
    assert (code, err) == (0, "")
    assert "Finished" in shown
    assert "return" in shown
    assert "model loss" not in shown
    return out


def test_meta_trains_as_options_say_and_goes_on(command, run):
    config = PearlConfig.from_dict(json.loads((run / "run.json").read_text())["config"])
    assert (config.family, config.kl_weight, config.hidden_sizes) == ("Lever", 0.3, (8,))
    assert config.latent_dim == PearlConfig.latent_dim
    assert [row["updates"] for row in read_metrics(run)] == [5, 10, 12]
    longer = ("--method=pearl", *SMALL, "--updates", 15, "--out", run)
    assert command("meta-train", *longer)[0] == 0
    assert load_tree(run / CHECKPOINT)["updates"] == 15


@pytest.mark.parametrize("name", ["halfcheetah-vel-hard", "halfcheetah-dir-paper"])
@pytest.mark.parametrize("method", ["pearl", "promp", "rl2"])
def test_a_preset_gives_a_methods_settings_and_options_win(command, method, name):
    words = ("meta-train", name, "--method", method, "--out", "x", "--dry-run")
    options = MetaTrain.options(["--method", method])
    for more, changes in (((), {}), (("--updates", 7, "--gamma", 0.5), {"gamma": 0.5})):
        code, printed, _ = command(*words, *more)
        assert code == 0
        config = BASELINES[method].of_preset(name, **changes).config
        expected = {**config.to_dict(), **({"updates": 7} if more else {})}
        assert printed.strip() == options.to_toml(expected).strip()


def test_a_preset_is_one_of_the_method(command):
    for words, expected in (
        (("halfcheetah-negated-joints-paper", "--method", "pearl"), "no preset of pearl half"),
        (("halfcheetah-vel-paper",), "There is no preset halfcheetah-vel-paper."),
        (("halfcheetah-ve", "--method", "rl2"), "Did you mean halfcheetah-vel?"),
    ):
        code, _, err = command("meta-train", *words, "--out", "x")
        assert (code, expected in err, err.count("\n")) == (1, True, 1), err


def test_rl2_meta_trains_goes_on_and_is_evaluated_as_its_trials_are(command, tmp_path, lever):
    run = tmp_path / "run"
    for words in ((), ("--updates", 4)):
        code, shown, err = command("meta-train", "--method=rl2", *SMALL_RL2, *words, "--out", run)
        assert (code, err) == (0, "")
        assert "return" in shown
    assert [row["updates"] for row in read_metrics(run)] == [1, 2, 3, 4]
    code, _, err = command("evaluate", run, "--seeds", 1, "--episodes", 2)
    assert (code, err) == (0, "")
    record = json.loads((run / "evaluation.json").read_text())
    assert (record["method"], record["adaptation_steps"]) == ("rl2", EPISODE)
    policy = Rl2(config=Rl2Config(family="Lever")).load(run)
    assert (policy.config.hidden_size, policy.config.clip_ratio) == (8, 0.3)
    with FamilyEnvs(lever) as envs:
        again = evaluation_record(
            policy,
            envs,
            {"test": lever.meta_test},
            seeds=1,
            episodes=2,
            adaptation_steps=EPISODE,
            episode_steps=EPISODE,
        )
    assert record["splits"]["test"] == again["splits"]["test"]


def test_evaluates_with_what_the_run_explores_with(command, run, lever):
    code, shown, err = command("evaluate", run, "--seeds", 2, "--episodes", 1)
    assert (code, err) == (0, "")
    assert "–" in shown  # no model, no loss
    record = json.loads((run / "evaluation.json").read_text())
    assert (record["method"], record["adaptation_steps"]) == ("pearl", 2 * EPISODE)
    assert "context_steps" not in record
    assert {name: len(rows) for name, rows in record["splits"].items()} == {"train": 6, "test": 4}
    assert record["identified"] == {"train": None, "test": None}
    policy = Pearl(config=PearlConfig(family="Lever")).load(run)
    with FamilyEnvs(lever) as envs:
        again = evaluation_record(
            policy,
            envs,
            {"test": lever.meta_test},
            seeds=2,
            episodes=1,
            adaptation_steps=2 * EPISODE,
            episode_steps=EPISODE,
        )
    assert record["splits"]["test"] == again["splits"]["test"]


def test_what_is_of_our_runs_alone_is_refused_in_a_line(command, run, tmp_path):
    ours = "is a run of method 'pearl', not of 'mier'"
    for words, expected in (
        (("adapt", run, "--task", 7), ours),
        (("export", run, "--name", "x", "--out", tmp_path / "x"), ours),
        (("meta-train", "smoke", "--out", run), ours),
        (("evaluate", run, "--context-steps", 3), "Expected no --context-steps"),
    ):
        code, _, err = command(*words)
        assert (code, expected in err, err.count("\n")) == (1, True, 1), (words, err)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--method", "perl"), "There is no method perl. Did you mean pearl?"),
        (("--method",), "There is no method"),
        (("--method", "pearl", "--late-contexts"), "option of meta-train --method pearl --late-"),
        (("--method", "pearl", "--adapt.context-steps", 3), "no option of meta-train --method"),
        (("--method", "mier", "--kl-weight", 1), "There is no option of meta-train --kl-weight"),
        (("--method", "pearl", "--kl-weight", -1), "--kl-weight expected >= 0, got -1.0"),
        (("--method", "pearl", "--latent-dim", 0), "--latent-dim expected >= 1"),
        (("--method", "rl2", "--kl-weight", 1), "no option of meta-train --method rl2 --kl-weight"),
        (("--method", "rl2", "--gae-lambda", 2), "--gae-lambda expected >= 0 and <= 1, got 2"),
    ],
)
def test_options_are_those_of_the_method(command, tmp_path, words, expected):
    code, _, err = command("meta-train", "smoke", "--out", tmp_path / "x", *words)
    assert (code, expected in err) == (1, True), err
    assert not (tmp_path / "x").exists()


def test_the_command_knows_the_librarys_methods_and_tells_them():
    assert ("mier", *BASELINES) == METHODS
    told = inspect.getsource(MetaTrain)
    assert all(name in told for name in METHODS)


@pytest.mark.parametrize("method", ["maml", "promp"])
def test_other_methods_train_and_are_evaluated_as_pearl_is(command, tmp_path, method):
    words = (
        *("--family", "Lever", "--episode-steps", EPISODE, "--method", method, "--updates", 2),
        *("--tasks-per-batch", 2, "--episodes-per-task", 2, "--exploration-episodes", 3),
    )
    out = tmp_path / "run"
    assert command("meta-train", *words, "--out", out)[0] == 0
    assert [row["updates"] for row in read_metrics(out)] == [1, 2]
    assert command("evaluate", out, "--seeds", 1, "--episodes", 1)[0] == 0
    record = json.loads((out / "evaluation.json").read_text())
    assert (record["method"], record["adaptation_steps"]) == (method, 3 * EPISODE)


def test_runs_of_several_methods_are_drawn_side_by_side(command, run, tmp_path):
    again, chance, out = tmp_path / "again", tmp_path / "chance", tmp_path / "x.svg"
    shutil.copytree(run, again)
    contents = json.loads((again / "run.json").read_text())
    (again / "run.json").write_text(json.dumps({**contents, "seed": contents["seed"] + 1}))
    words = ("--method", "random", "--family", "Lever", "--episode-steps", EPISODE)
    assert command("meta-train", *words, "--out", chance)[0] == 0
    ours = "halfcheetah-negated-joints"
    labels = ["pearl: run, mean", "random: chance, mean", f"mier: {ours}, mean"]
    for over in ("steps", "time"):
        drawn = ("plot", run, chance, again, ours, "--out", out, "--over", over)
        code, _, err = command(*drawn)
        assert (code, err) == (0, "")
        text = out.read_text()
        assert all(label in text for label in (*labels, "95% interval, 2 seeds"))
        assert ("minutes of training" in text) == (over == "time")
    for each in (run, chance):
        assert command("evaluate", each, "--episodes", 1)[0] == 0
    code, _, err = command("plot", run, chance, "--kind", "tasks", "--out", out)
    assert (code, err) == (0, "")
    assert all(f"context, {label}" in out.read_text() for label in ("pearl: run", "random: chance"))


def test_an_oracle_is_trained_and_evaluated_on_its_one_task(command, tmp_path, lever):
    words = (
        *("meta-train", "--method", "sac", "--family", "Lever", "--task", 7, "--updates", 2),
        *("--episode-steps", EPISODE, "--hidden-sizes", 8, "--batch-size", 4),
        *("--episodes-per-iteration", 2),
    )
    out = tmp_path / "run"
    assert command(*words, "--out", out)[0] == 0
    assert LeverVectorEnv.seen == {lever[7]}
    code, shown, _ = command("evaluate", out, "--episodes", 1)
    assert code == 0
    assert f"7: {lever[7]}" in shown
    splits = json.loads((out / "evaluation.json").read_text())["splits"]
    assert [(name, [row["task"] for row in rows]) for name, rows in splits.items()] == [
        ("train", [str(lever[7])])
    ]
    code, _, err = command("evaluate", out, "--split", "test")
    assert (code, "Expected --split train or all, got test" in err) == (1, True)
    code, _, err = command(*words, "--task", 10, "--out", tmp_path / "other")
    assert (code, "--task expected from 0 to 9, got 10" in err) == (1, True), err


def test_chance_is_a_run_too(command, tmp_path):
    words = ("--method", "random", "--family", "Lever", "--episode-steps", EPISODE)
    out = tmp_path / "run"
    assert command("meta-train", *words, "--out", out)[0] == 0
    assert command("evaluate", out, "--episodes", 1)[0] == 0
    record = json.loads((out / "evaluation.json").read_text())
    assert (record["method"], len(record["splits"]["test"])) == ("random", 4)


def test_grbal_trains_goes_on_and_is_evaluated_where_the_reward_is_known(
    command, tmp_path, monkeypatch
):
    register_gain(monkeypatch)
    out = tmp_path / "run"
    words = (
        *("--family", "Gain", "--episode-steps", GAIN_EPISODE, "--method", "grbal"),
        *("--past-steps", 3, "--future-steps", 3, "--hidden-sizes", 8, "--candidates", 5),
    )
    for updates in (2, 3):
        shown = command("meta-train", *words, "--updates", updates, "--out", out)
        assert (shown[0], shown[2]) == (0, "")
    assert [row["updates"] for row in read_metrics(out)] == [2, 3]
    assert command("evaluate", out, "--seeds", 1, "--episodes", 2)[0] == 0
    record = json.loads((out / "evaluation.json").read_text())
    assert (record["method"], record["adaptation_steps"]) == ("grbal", GAIN_EPISODE)
    for words, told in (
        (("halfcheetah-vel-hard",), "preset of grbal"),
        (("--family", "HalfCheetahVel"), "--family expected to have a reward_fn"),
    ):
        code, _, err = command("meta-train", *words, "--method", "grbal", "--out", tmp_path / "x")
        assert (code, err.count("\n")) == (1, 1)
        assert told in err
        assert "egated" in err  # which there are
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("rate", "told"), [(12.3, "12/s"), (1.0, "1/s"), (0.05, "20 s each"), (0.0, "0/s")]
)
def test_how_fast_slow_updates_are_is_told_in_seconds(rate, told):
    assert status_line(SimpleNamespace(updates=3), {}, rate) == f"3 updates, {told}"


def test_every_method_has_all_of_its_options_documented():
    for method in METHODS:
        options = MetaTrain.options(["--method", method])
        assert all(field.doc for field in options._fields)
