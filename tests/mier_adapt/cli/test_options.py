"""Options of configurations: each field, from the command line and from a file, and back."""

import json
import tomllib
import typing
from pathlib import Path

import pytest

from mier_adapt.agents.configs import AdaptConfig, ContinueConfig, MetaTrainConfig
from mier_adapt.agents.presets import preset
from mier_adapt.cli import commands
from mier_adapt.cli.options import Options

RUN = "halfcheetah-vel-hard"
COMMANDS = {
    "meta-train": ("meta-train", "smoke", "--out", "nowhere"),
    "adapt": ("adapt", RUN),
}


def leaves(values: dict, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Values by path."""
    found = {}
    for key, value in values.items():
        found |= leaves(value, (*at, key)) if isinstance(value, dict) else {(*at, key): value}
    return found


def options_of(subcommand: str) -> Options:
    return commands.COMMANDS[subcommand].options()


def another(path: tuple[str, ...], value: object, kind: object) -> object:
    """A value that a field may have and does not have."""
    names = {
        **{"family": "AntDir", "task_set": "ood", "kind": "never"},
        **{"evaluated_split": "meta_test"},
    }
    if path[-1] in names:
        return names[path[-1]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.9 * value or 0.25
    if isinstance(value, str):  # of a file: None
        return 3 if "int" in str(typing.get_args(kind)) else -2.5
    return [5, 7]


def words_for(path: tuple[str, ...], value: object) -> list[str]:
    *before, last = path if path[-1] != "kind" else path[:-1]
    prefix = "".join(f"{key}." for key in before)
    if isinstance(value, bool):
        return [f"--{prefix}{'' if value else 'no-'}{last}".replace("_", "-")]
    parts = value if isinstance(value, list) else [value]
    return [f"--{prefix}{last}".replace("_", "-"), *map(str, parts)]


def every_other(subcommand: str, printed: str) -> dict[tuple[str, ...], object]:
    kinds = {field.path: field.kind for field in options_of(subcommand)._fields}
    found = leaves(tomllib.loads(printed))
    assert found.keys() == kinds.keys()  # the margin gate has all that gates have
    changed = {path: another(path, value, kinds[path]) for path, value in found.items()}
    assert all(changed[path] != value for path, value in found.items())
    return changed


@pytest.mark.parametrize("subcommand", COMMANDS)
def test_every_field_is_an_option_and_a_key_of_a_file(command, subcommand, tmp_path):
    arguments = COMMANDS[subcommand]
    code, printed, err = command(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    wanted = every_other(subcommand, printed)
    # Another gate than the margin's has no options, so that one is tried with the other test.
    wanted = {path: "margin" if path[-1] == "kind" else value for path, value in wanted.items()}
    words = [word for path, value in wanted.items() for word in words_for(path, value)]
    code, changed, err = command(*arguments, *words, "--dry-run")
    assert (code, err) == (0, "")
    assert leaves(tomllib.loads(changed)) == wanted
    path = tmp_path / "it.toml"
    path.write_text(changed)
    assert command(*arguments, "--config", path, "--dry-run") == (0, changed, "")


@pytest.mark.parametrize("subcommand", COMMANDS)
def test_each_option_gives_its_field_alone(command, subcommand):
    _, printed, _ = command(*COMMANDS[subcommand], "--dry-run")
    options = options_of(subcommand)
    for path, value in every_other(subcommand, printed).items():
        given, rest = options.parse(["before", *words_for(path, value), "--after", "1"])
        assert rest == ["before", "--after", "1"]
        (found,) = leaves(given).items()
        assert found == (path, tuple(value) if isinstance(value, list) else value)
    assert options.parse([]) == ({}, [])


def test_the_fields_are_those_of_the_configurations():
    found = {(field.owner, field.path[-1]) for field in options_of("adapt")._fields}
    for config in (AdaptConfig, ContinueConfig):
        for name in config.__dataclass_fields__.keys() - {"gate"}:
            assert (config, name) in found
    found = {(field.owner, field.path[-1]) for field in options_of("meta-train")._fields}
    for name in MetaTrainConfig.__dataclass_fields__.keys() - {"model", "policy"}:
        assert (MetaTrainConfig, name) in found
    assert all(field.doc for each in COMMANDS for field in options_of(each)._fields)


def test_options_win_over_the_file_and_the_file_over_the_preset(command, tmp_path):
    path = tmp_path / "it.toml"
    path.write_text("updates = 7\n[model]\ninner_steps = 3\n[adapt]\nadaptation_steps = 50\n")
    code, printed, _ = command(
        *COMMANDS["meta-train"], "--config", path, "--model.inner-steps", 4, "--dry-run"
    )
    assert code == 0
    values, smoke = tomllib.loads(printed), preset("smoke")
    assert (values["updates"], values["model"]["inner_steps"]) == (7, 4)
    assert values["adapt"]["adaptation_steps"] == 50
    assert values["model"]["context_dim"] == smoke.meta_train.model.context_dim
    assert values["adapt"]["num_models"] == smoke.adapt.num_models
    assert "# Real transitions that identify the task" in printed


def test_another_gate_brings_its_own_fields(command, tmp_path):
    path = tmp_path / "it.toml"
    path.write_text('[gate]\nkind = "margin"\nepisodes = 5\n')
    for options, gate in (
        (("--gate", "always"), {"kind": "always"}),
        (("--config", path, "--gate", "never"), {"kind": "never"}),
        (("--config", path, "--gate.margin", 0.5), {"kind": "margin", "episodes": 5}),
    ):
        code, printed, _ = command(*COMMANDS["adapt"], *options, "--dry-run")
        found = tomllib.loads(printed)["gate"]
        assert (code, gate.items() <= found.items()) == (0, True)
        assert (len(found) > 1) == (gate["kind"] == "margin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adapt", RUN, "--transitions", "1"), "--transitions expected >= 2, got 1."),
        (("adapt", RUN, "--adaptation-steps", "1"), "--transitions expected >= 2, got 1."),
        (("adapt", RUN, "--rounds.margin", "-1"), "--rounds.margin expected >= 0, got -1"),
        (("adapt", RUN, "--gate.episodes", "0"), "--gate.episodes expected >= 1, got 0."),
        (
            ("adapt", RUN, "--gate", "always", "--gate.episodes", "2"),
            "--gate expected to be one with episodes, got always.",
        ),
        (
            ("adapt", RUN, "--transitions", "4", "--collection-rounds", "5"),
            "at least one of --transitions for each of --collection-rounds, got 4 and 5.",
        ),
        (("quickstart", "--seed", "-1"), "--seed expected >= 0, got -1."),
        (("adapt", RUN, "--task", "3", "--seed", "0", "-1"), "--seed expected >= 0, got -1."),
        (("adapt", RUN, "--task", "3", "--episodes", "-1"), "--episodes expected >= 0, got -1."),
        (("play", "x", "--seed", "-1", "--film", "x.gif"), "--seed expected >= 0, got -1."),
        (("evaluate", RUN, "--seeds", "0"), "--seeds expected >= 1, got 0."),
        (("meta-train", "smoke", "--out", "x", "--seed", "-1"), "--seed expected >= 0, got -1."),
        (
            ("meta-train", "smoke", "--out", "x", "--checkpoint-seconds", "-1"),
            "--checkpoint-seconds expected >= 0, got -1.0.",
        ),
        (("adapt", RUN, "--weigth-steps", "4"), "Did you mean --weight-steps?"),
        (("adapt", RUN, "--task", "3", "--rounds.updates", "4"), "Expected --budget N with"),
        (("adapt", RUN, "--task", "100", "--budget", "5"), "--budget of at least an episode, 200"),
        (("meta-train", "smoke", "--out", "x", "--model.lr", "0"), "--model.lr expected > 0, got"),
        (
            ("meta-train", "smoke", "--out", "x", "--policy.hidden-sizes", "4", "0"),
            "--policy.hidden-sizes expected >= 1, got 0.",
        ),
        (("meta-train", "smoke", "--out", "x", "--modle.lr", "1"), "Did you mean --model.lr?"),
        (("meta-train", "smoke", "--out", "x", "--family", "AntDri"), "Did you mean AntDir?"),
        (("meta-train", "--out", "x", "--family", "AntDri"), "--import the module that registers"),
        (("meta-train", "smoke", "--out", "x", "--task-set", "x"), "must be one of standard"),
        (("meta-train", "--out", "x"), "Expected a PRESET, or --family NAME"),
    ],
)
def test_what_an_option_refuses_is_said_in_words_of_the_command_line(
    command, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*arguments)
    assert not list(tmp_path.iterdir())  # an adaptation would write its options there
    assert code == 1
    assert message in err
    assert "Config" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adaptation_steps = 1", "it.toml: adaptation_steps expected >= 2, got 1."),
        ("adaptation_stpes = 1", "Did you mean adaptation_steps?"),
        ("[rounds]\nupdtes = 1", "Did you mean rounds.updates?"),
        ("[rounds]\nupdates = 0", "it.toml: rounds.updates expected >= 1, got 0."),
        ("[gate]\nkind = 'alway'", "it.toml: gate.kind expected to be in ['margin', 'always'"),
        ("gate = 'always'", "expected gate to be a table, [gate]"),
        ("[num_models]\nx = 1", "expected num_models to be a value, not a table"),
        ("weight_steps = 'many'", "it.toml: weight_steps expected >= 0 and whole, got 'many'."),
        ("weight_steps = 'None'", "it.toml: weight_steps expected >= 0 and whole, got None."),
        ("weight_steps =", "it.toml is no TOML"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_a_file_refuses_is_said_in_words_of_the_file(command, text, message, tmp_path):
    (tmp_path / "it.toml").write_text(text)
    code, _, err = command("adapt", RUN, "--config", tmp_path / "it.toml", "--dry-run")
    assert code == 1
    assert message in err
    # what an option gives instead is not the file's fault
    if text == "adaptation_steps = 1":
        words = ("--config", tmp_path / "it.toml", "--transitions", 5, "--dry-run")
        assert command("adapt", RUN, *words)[0] == 0


def test_what_an_adaptation_used_lies_beside_its_reports(command, negated_joints_run, tmp_path):
    task = ("--task", 12, "--episodes", 1, "--out")
    options = ("--weight-steps", 4, "--gate", "never", "--collection-rounds", 1)
    assert command("adapt", negated_joints_run, *task, tmp_path / "one", *options)[0] == 0
    written = tmp_path / "one" / "config.toml"
    values = tomllib.loads(written.read_text())
    assert (values["weight_steps"], values["gate"]) == (4, {"kind": "never"})
    again = ("--config", written)
    assert command("adapt", negated_joints_run, *task, tmp_path / "two", *again)[0] == 0
    first, second = (
        json.loads((tmp_path / name / "task-12-seed-0.json").read_text()) for name in ("one", "two")
    )
    del first["seconds"], second["seconds"]
    assert first == second
    assert (tmp_path / "two" / "config.toml").read_text() == written.read_text()


def test_meta_trains_as_options_say(command, tmp_path):
    small = ("--updates", 4, "--updates-per-iteration", 2, "--initial-episodes", 1)
    small += ("--episode-steps", 20, "--tasks-per-iteration", 2, "--evaluated-tasks", 1)
    small += ("--model.hidden-sizes", 8, 8, "--policy.hidden-sizes", 8, "--model.pretrain-steps", 2)
    small += ("--adapt.adaptation-steps", 20, "--adapt.gate", "always", "--replay-per-task", 200)
    assert command("meta-train", "smoke", "--out", tmp_path / "run", *small)[0] == 0
    run_file = json.loads((Path(tmp_path) / "run" / "run.json").read_text())
    assert run_file["config"]["model"]["hidden_sizes"] == [8, 8]
    assert run_file["config"]["updates"] == 4
    assert run_file["adapt"]["gate"] == {"kind": "always"}
