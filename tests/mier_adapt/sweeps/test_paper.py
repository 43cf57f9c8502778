"""The paper's figures, of sweeps whose files are written by hand."""

import csv
import json
import shutil

import numpy as np
import pytest

from mier_adapt import figures
from mier_adapt._storage.files import CheckpointError
from mier_adapt.statistics import bootstrap_interval, interquartile_mean
from mier_adapt.sweeps import paper
from mier_adapt.sweeps.jobs import Adapting, Oracle, Training, write_jobs
from mier_adapt.sweeps.results import read_results, results_of, write_results

from ..doubles import example_report
from .grids import jobs_of

VEL = {"presets": ["halfcheetah-vel", "halfcheetah-vel-hard"], "methods": ["mier", "sac"]}
STAGES = ("initial context", "adapted context", "actor only", "relabeled")


def returns(name: str, *shape: int) -> np.ndarray:
    """Numbers that are a name's alone."""
    return np.random.default_rng(sum(map(ord, name))).normal(size=shape)


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two seeds whose every job is done, and its directory."""
    jobs = jobs_of(
        tmp_path / "grid.toml", {**VEL, "seeds": [0, 1]}, adapt={"seeds": [0, 1], "budget": 400}
    )
    out = tmp_path / "out"
    out.mkdir()
    write_jobs(jobs, out)
    for job in jobs:
        directory = out / job.name
        directory.mkdir(parents=True)
        if isinstance(job, Training):
            splits = {"train": 3, "test": 3, "fig5": 2} if "hard" in job.preset else {"test": 3}
            rows = [
                {"updates": step, "env_steps": 10 * step, "return_initial": 0.0}
                | {"return_adapted": 0.0, "returns_adapted": returns(job.name, 4).tolist()}
                for step in (1, 2)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (directory / "metrics.jsonl").write_text(text)
            record = {
                split: [
                    {"task": f"velocity {task}", "parameters": [float(task)]}
                    | {"return_initial": [0.0, 0.0]}
                    | {"return_adapted": returns(f"{job.name}{split}{task}", 2).tolist()}
                    for task in range(count)
                ]
                for split, count in splits.items()
            }
            (directory / "sweep_evaluation.json").write_text(json.dumps({"splits": record}))
            continue
        for task in job.tasks:
            after = returns(f"{job.name}{task}", 4, 2)
            report = example_report(
                returns=dict(zip(STAGES, map(tuple, after.tolist()), strict=True)),
                continued=(
                    {"transitions": 400, "steps": 200, "return": float(after[0, 0])},
                    {"transitions": 600, "steps": 200, "return": float(after[0, 1])},
                ),
                real_transitions=400,
            )
            path = directory / f"task-{task}-seed-{job.adaptation_seed}.json"
            path.write_text(json.dumps(report.to_dict()))
    return jobs, out


def select(rows, **values):
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def assert_of(row, table):
    """Check a row's figures against a table of returns, ``(T, S)``."""
    assert row["iqm"] == pytest.approx(interquartile_mean(table), abs=0.01)
    interval = bootstrap_interval(table, interquartile_mean)
    assert (row["low"], row["high"]) == pytest.approx(interval, abs=0.01)  # two decimals are kept
    assert (row["tasks"], row["seeds"]) == table.shape


def test_figure_2_is_of_all_seeds_at_the_steps_that_they_share(sweep):
    jobs, out = sweep
    path = out / "halfcheetah-vel/sac/seed-1/metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    rows = paper.learning_curves(results_of(jobs, out))
    assert [row["x"] for row in select(rows, panel="halfcheetah-vel", label="sac")] == [10]
    mine = select(rows, panel="halfcheetah-vel", label="mier, context alone")
    assert [row["x"] for row in mine] == [10, 20]
    table = np.array([returns(f"halfcheetah-vel/mier/seed-{seed}", 4) for seed in (0, 1)]).T
    assert_of(mine[0], table)


def test_figure_4_has_methods_and_arms_by_what_was_handed_back(sweep):
    jobs, out = sweep
    rows = paper.ood_returns(results_of(jobs, out))
    assert {row["label"] for row in rows} == {"mier, context alone", "mier, usual", "sac"}
    (sac,) = select(rows, panel="halfcheetah-vel", label="sac")
    names = [f"halfcheetah-vel/sac/seed-{seed}test" for seed in (0, 1)]
    table = [np.concatenate([returns(f"{name}{task}", 2) for name in names]) for task in range(3)]
    assert_of(sac, np.array(table))
    (kept,) = select(rows, panel="halfcheetah-vel", label="mier, usual")
    done = [job for job in jobs if isinstance(job, Adapting) and job.preset == "halfcheetah-vel"]
    assert len(done) == 4  # two seeds of training, two of adaptation
    table = [
        [returns(f"{job.name}{task}", 4, 2)[3].mean() for job in done] for task in done[0].tasks
    ]
    assert_of(kept, np.array(table))


def test_figure_4_has_what_could_be_reached_on_the_tasks_that_there_is_an_oracle_of(tmp_path):
    jobs = jobs_of(tmp_path / "grid.toml", VEL, oracle={"seeds": [0, 1]})
    oracles = [job for job in jobs if isinstance(job, Oracle)]
    rows = [{"task": "velocity 2", "parameters": [2.0], "return_initial": [0.0]}]
    for job in oracles:
        (tmp_path / job.name).mkdir(parents=True)
        rows[0]["return_adapted"] = returns(job.name, 1).tolist()
        text = json.dumps({"splits": {"train": rows}})
        (tmp_path / job.name / "sweep_evaluation.json").write_text(text)
    results = results_of(jobs, tmp_path)
    assert not results.curves
    assert {(each.method, each.split, each.task) for each in results.outcomes} == {
        ("oracle", "test", 0),
        ("oracle", "test", 29),
    }
    bars = paper.ood_returns(results)
    assert {bar["label"] for bar in bars} == {"oracle, on some of the tasks"}
    table = [
        [returns(f"halfcheetah-vel/oracle/task-{task}-seed-{seed}", 1)[0] for seed in (0, 1)]
        for task in (0, 29)
    ]
    assert_of(select(bars, panel="halfcheetah-vel")[0], np.array(table))
    assert not paper.by_difficulty(results)


def test_figure_5_has_tasks_that_grow_harder_and_a_familys_sets(sweep):
    jobs, out = sweep
    rows = paper.by_difficulty(results_of(jobs, out))
    harder = select(rows, panel="halfcheetah-vel-hard", label="sac")
    assert [(row["x"], row["xlabel"]) for row in harder] == [(0.0, "velocity"), (1.0, "velocity")]
    names = [f"halfcheetah-vel-hard/sac/seed-{seed}fig51" for seed in (0, 1)]
    assert_of(harder[1], np.concatenate([returns(name, 2) for name in names])[None])
    sets = select(rows, panel="HalfCheetahVel", label="mier, context alone")
    assert [row["x"] for row in sets] == ["standard", "hard"]


def test_figure_6_is_over_updates_and_over_real_transitions(sweep):
    jobs, out = sweep
    rows = paper.over_adaptation(results_of(jobs, out))
    updates = select(rows, panel="halfcheetah-vel")
    settings = next(job for job in jobs if isinstance(job, Adapting)).settings
    refreshed = settings["refresh_updates"]
    assert [row["x"] for row in updates] == [0, refreshed, refreshed + 500]
    done = [job for job in jobs if isinstance(job, Adapting) and job.preset == "halfcheetah-vel"]
    of_all = np.array(
        [[returns(f"{job.name}{task}", 4, 2) for job in done] for task in done[0].tasks]
    )
    for row, stage in zip(updates, (1, 2, 3), strict=True):
        assert_of(row, of_all[:, :, stage].mean(-1))
    spent = select(rows, panel="halfcheetah-vel, with a budget")
    assert [row["x"] for row in spent] == [0, 400, 600, 800]
    assert_of(spent[0], of_all[:, :, 0].mean(-1))
    assert_of(spent[3], of_all[:, :, 0, 1])


def test_figure_6_has_what_was_handed_back_beside_what_learned(sweep):
    jobs, out = sweep
    assert not select(
        paper.over_adaptation(results_of(jobs, out)), label="usual, handed back"
    )  # all of it was relabeled
    directory = next(out / job.name for job in jobs if isinstance(job, Adapting))
    for path in directory.glob("task-*.json"):
        report = json.loads(path.read_text())
        report["decision"] = "known task"
        report["returns"]["known task"] = [9.0]
        path.write_text(json.dumps(report))
    results = results_of(jobs, out)
    rows = paper.over_adaptation(results)
    (found,) = select(rows, label="usual, handed back")
    kept = [each for each in results.outcomes if each.kept and each.arm]
    kept = [each for each in kept if each.preset == found["panel"]]
    assert {each.updates for each in kept if each.stage == "known task"} == {0}
    assert found["x"] == np.mean([each.updates for each in kept])
    assert found["tasks"] * found["seeds"] == len(kept)
    unknown = [each._replace(updates=None) if each.kept else each for each in results.outcomes]
    rows = paper.over_adaptation(results._replace(outcomes=unknown))
    assert not select(rows, label="usual, handed back")


def test_figures_are_written_and_what_is_missing_is_said(sweep, monkeypatch):
    jobs, out = sweep
    drawn = {}
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.update({path.name: figure}))
    told = paper.write_figures(out)
    assert [line.rpartition("figures/")[2][:12] for line in told] == [
        f"figure_{number}.png" for number in (2, 4, 5, 6)
    ]
    assert sorted(drawn) == [f"figure_{number}.png" for number in (2, 4, 5, 6)]
    bars = drawn["figure_4.png"].axes[0]
    assert len(bars.patches) == 3
    labels = [text.get_text() for text in drawn["figure_4.png"].legends[0].texts]
    assert set(labels) == {"mier, context alone", "mier, usual", "sac"}
    with (out / "figures" / "figure_2.csv").open() as file:
        written = list(csv.DictReader(file))
    rows = paper.learning_curves(results_of(jobs, out))
    assert [float(row["iqm"]) for row in written] == pytest.approx([row["iqm"] for row in rows])

    for path in out.rglob("sweep_evaluation.json"):
        path.unlink()
    for path in out.rglob("task-10*.json"):
        path.unlink()
    (out / "figures" / "figure_4.png").touch()
    (out / "figures" / "mine.png").touch()
    told = paper.write_figures(out)
    assert told[0] == "Not done yet: 16 of 16 jobs, which are left out."
    assert told[1].endswith("figure_2.png: returns over environment steps")
    assert [line[:12] for line in told[2:]] == ["No figure_4,", "No figure_5,", "No figure_6,"]
    assert {path.name for path in (out / "figures").iterdir()} == {"figure_2.csv", "mine.png"}


def test_figures_of_a_sweeps_tables_are_those_of_the_sweep(sweep, tmp_path):
    jobs, out = sweep
    paper.write_figures(out)
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("curves.csv", "returns.csv"):
        shutil.copy(out / name, tables)
    assert read_results(tables) == results_of(jobs, out)
    paper.write_figures(tables)
    for number in (2, 4, 5, 6):
        name = f"figures/figure_{number}.csv"
        assert (tables / name).read_text() == (out / name).read_text()


def test_tables_of_two_sweeps_make_one_figure(sweep, tmp_path):
    jobs, out = sweep
    whole = results_of(jobs, out)
    parts = [results_of([job for job in jobs if job.seed == seed], out) for seed in (0, 1)]
    joined = tmp_path / "joined"
    joined.mkdir()
    for each in parts:
        write_results(each, joined)
        for name in ("curves.csv", "returns.csv"):
            with (tmp_path / name).open("a") as file:
                file.write("".join((joined / name).read_text().splitlines(True)[file.tell() > 0 :]))
    assert paper.learning_curves(read_results(tmp_path)) == paper.learning_curves(whole)
    assert paper.ood_returns(read_results(tmp_path)) == paper.ood_returns(whole)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("curves.csv", "env_steps", "steps", "expected columns preset, method, seed, split,"),
        ("curves.csv", ",10,", ",ten,", "curves.csv, line 2: expected a whole number as env_steps"),
        ("curves.csv", ",10,", ",", "curves.csv, line 2: expected 9 values, got 8"),
        ("returns.csv", ",test,", ",train,", "returns.csv holds .* more than once"),
        (
            "returns.csv",
            ",adapted,1,",
            ",adapted,yes,",
            "line 4: expected 0 or 1 as kept, got 'yes'",
        ),
        (
            "returns.csv",
            ",adapted,1,,,",
            ",adapted,1,nan,,",
            "a finite number as updates, got 'nan'",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(sweep, tmp_path, name, old, new, says):
    write_results(results_of(*sweep), tmp_path)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=says):
        read_results(tmp_path)


def test_a_folder_without_results_says_what_makes_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds neither sweep\.json, which `mier-adapt sweep"
    ):
        paper.write_figures(tmp_path)


def test_a_single_seed_has_no_interval_and_chance_is_a_line(tmp_path):
    rows = [
        {"panel": "a", "label": label, "xlabel": "environment steps", "x": x, "iqm": 1.0 + x}
        | {"low": None, "high": None, "tasks": 3, "seeds": 1}
        for label, x in (("mier", 10), ("mier", 20), ("random", 0))
    ]
    figures.plot_panels(rows, tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    text = figures.plot_panels(rows, tmp_path / "it.svg") or (tmp_path / "it.svg").read_text()
    assert "stroke-dasharray" in text


@pytest.mark.parametrize(
    ("ends", "scale"), [((800, 20_000), "log"), ((800, 900), "linear"), ((0, 20_000), "linear")]
)
def test_lines_of_very_different_length_share_a_logarithmic_axis(
    monkeypatch, tmp_path, ends, scale
):
    rows = [
        {"panel": "a", "label": label, "xlabel": "environment steps", "x": x, "iqm": 1.0}
        | {"low": None, "high": None, "tasks": 3, "seeds": 1}
        for label, end in zip(("mier", "promp"), ends, strict=True)
        for x in (end / 2, end)
    ]
    rows.append({**rows[0], "label": "random", "x": 0})
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.extend(figure.axes))
    figures.plot_panels(rows, tmp_path / "it.png")
    assert drawn[0].get_xscale() == scale


def test_a_label_looks_the_same_in_figures_that_belong_together(monkeypatch, tmp_path):
    rows = [
        {"panel": "a", "label": label, "xlabel": "", "x": x, "iqm": 1.0 + x}
        | {"low": x, "high": 2.0 + x, "tasks": 3, "seeds": 2}
        for label in ("mier", "pearl", "promp")
        for x in (1, 2)
    ]
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.extend(figure.axes))
    for there in (("mier", "pearl", "promp"), ("promp", "pearl")):
        some = [row for label in there for row in rows if row["label"] == label]
        figures.plot_panels(some, tmp_path / "it.png", labels=("mier", "pearl", "promp"))
    first, second = (
        {each.get_label(): (each.get_color(), each.get_marker()) for each in axes.lines}
        for axes in drawn
    )
    for label in ("promp", "pearl"):
        assert second[label] == first[label]
    assert first["pearl"] != first["promp"]


@pytest.mark.parametrize("bars", [False, True])
def test_as_many_labels_as_a_sweep_has_look_different(monkeypatch, tmp_path, bars):
    rows = [
        {"panel": "a", "label": str(label), "xlabel": "", "x": x, "iqm": 1.0 + x}
        | {"low": x, "high": 2.0 + x, "tasks": 3, "seeds": 2}
        for label in range(27)
        for x in ((label,) if bars else (1, 2))
    ]
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.extend(figure.axes))
    figures.plot_panels(rows, tmp_path / "it.png", bars=bars)
    (axes,) = drawn
    looks = (
        {(each.get_facecolor(), each.get_hatch()) for each in axes.patches}
        if bars
        else {
            (each.get_color(), each.get_linestyle())
            for each in axes.lines
            if len(each.get_xdata()) == 2 and each.get_label().isdigit()
        }
    )
    assert len(looks) == 27
