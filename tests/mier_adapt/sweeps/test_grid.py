"""A grid's file: what it expands to, and what is refused."""

import pytest

from mier_adapt.agents.configs import AdaptConfig
from mier_adapt.agents.presets import PRESETS
from mier_adapt.baselines import BASELINES
from mier_adapt.cli.grids import read_grid
from mier_adapt.cli.words import UsageError
from mier_adapt.sweeps.grid import FAST
from mier_adapt.sweeps.jobs import Adapting, Oracle, Training, read_jobs, write_jobs

from ..doubles import REPOSITORY
from .grids import jobs_of, write_grid

OURS = {"presets": ["halfcheetah-vel", "smoke"], "seeds": [0, 3], "changes": {"updates": 7}}
PEARL = {"presets": ["halfcheetah-vel"], "methods": ["pearl", "sac"]}


def test_a_grid_is_every_combination_and_what_needs_a_run_comes_after_it(tmp_path):
    arms = {"usual": {}, "long": {"weight_steps": 3, "gate": {"kind": "always"}}}
    jobs = jobs_of(tmp_path / "grid.toml", OURS, PEARL, adapt={"seeds": [1, 2], "arms": arms})
    runs = [job.name for job in jobs if isinstance(job, Training)]
    assert runs == [
        *(f"{preset}/mier/seed-{seed}" for preset in OURS["presets"] for seed in (0, 3)),
        *(f"halfcheetah-vel/{method}/seed-0" for method in ("pearl", "sac")),
    ]
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == len(runs) + 4 * 2 * 2
    for job in jobs:
        assert names.index(job.run_name) <= names.index(job.name)
        if isinstance(job, Adapting):
            assert job.method == "mier"
            config = AdaptConfig.from_dict(job.settings)
            assert config.learn_always  # all stages are compared
            changed = job.arm == "long"
            usual = PRESETS[job.preset].adapt.weight_steps
            assert config.weight_steps == (3 if changed else usual)
            assert job.settings["gate"]["kind"] == ("always" if changed else "margin")
            tasks = range(100, 130) if job.preset == "halfcheetah-vel" else range(10, 20)
            assert job.tasks == list(tasks)
    assert {job.settings["updates"] for job in jobs[:4]} == {7}
    pearl = jobs[4]
    assert pearl.settings == BASELINES["pearl"].of_preset("halfcheetah-vel").config.to_dict()


def test_oracles_are_of_meta_test_tasks_from_the_first_to_the_last(tmp_path):
    path = tmp_path / "grid.toml"
    oracle = {"tasks": 3, "seeds": [0, 4], "changes": {"updates": 9}}
    jobs = [job for job in jobs_of(path, OURS, PEARL, oracle=oracle) if isinstance(job, Oracle)]
    assert [job.name for job in jobs] == [
        f"{preset}/oracle/task-{task}-seed-{seed}"
        for preset, tasks in (("halfcheetah-vel", (0, 14, 29)), ("smoke", (0, 4, 9)))
        for task in tasks
        for seed in (0, 4)
    ]
    for job in jobs:
        trained = 100 if job.preset == "halfcheetah-vel" else 10
        assert (job.method, job.settings["updates"]) == ("sac", 9)
        assert job.settings["task"] == trained + job.task
    path = write_grid(path, OURS, oracle={"tasks": 99, "seeds": [2]})
    jobs = [job for job in read_grid(path) if isinstance(job, Oracle)]
    assert [job.task for job in jobs] == [*range(30), *range(10)]  # no task twice


def test_a_fast_grid_has_two_oracles_of_a_preset_at_most(tmp_path):
    path = write_grid(tmp_path / "grid.toml", OURS, oracle={"tasks": 99, "seeds": [2, 3]})
    jobs = [job for job in read_grid(path, fast=True) if isinstance(job, Oracle)]
    assert [job.task for job in jobs] == [0, 29, 0, 9]
    assert {(job.seed, job.settings["updates"]) for job in jobs} == {(2, 4)}


def test_every_run_of_a_fast_grid_is_short(tmp_path):
    path = write_grid(
        tmp_path / "grid.toml", OURS, PEARL, evaluate={"seeds": 9}, adapt={"budget": 2000}
    )
    jobs = read_grid(path, fast=True)
    assert [job.name for job in jobs[:4]] == [
        "halfcheetah-vel/mier/seed-0",
        "smoke/mier/seed-0",
        "halfcheetah-vel/pearl/seed-0",
        "halfcheetah-vel/sac/seed-0",
    ]
    for job in jobs[:4]:
        assert job.settings["updates"] <= 4
        assert (job.episodes, job.evaluation_seeds, job.evaluation_tasks) == (1, 1, 2)
    assert [(job.tasks, job.budget) for job in jobs[4:]] == [([100, 101], 80), ([10, 11], 80)]


def test_every_method_is_cut_down_also_where_its_preset_says_nothing(tmp_path):
    every = {"presets": ["halfcheetah-negated-joints"], "methods": ["mier", *BASELINES]}
    for job in read_grid(write_grid(tmp_path / "grid.toml", every), fast=True):
        assert job.settings["updates"] <= 4
        assert job.settings["episode_steps"] == 40
        for name in job.settings.keys() & FAST.keys():
            assert job.settings[name] <= FAST[name], (job.name, name)


def test_the_papers_grid_has_each_domain_and_method():
    jobs = read_grid(REPOSITORY / "examples" / "paper.toml")
    runs = [job for job in jobs if isinstance(job, Training)]
    methods = {"mier", "pearl", "promp", "maml", "rl2", "mql", "grbal", "sac", "random"}
    assert {job.method for job in runs} == methods == {"mier", *BASELINES}
    families = {job.settings["family"] for job in runs}
    assert families == {preset.meta_train.family for preset in PRESETS.values()}
    assert {job.preset for job in jobs if isinstance(job, Adapting)} >= {
        "halfcheetah-vel-hard",
        "ant-negated-joints",
        "walker2d-rand-params-ood",
    }


def test_the_comparison_curves_are_of_tasks_that_no_run_trains_on():
    jobs = read_grid(REPOSITORY / "examples" / "comparison.toml")
    curves = [
        job for job in jobs if job.name.startswith("halfcheetah-vel/") and "adapt" not in job.name
    ]
    assert {job.method for job in curves} == {"mier", *BASELINES} - {"grbal"}
    for job in curves:
        assert (job.settings["evaluated_split"], job.settings["evaluated_tasks"]) == (
            "meta_test",
            30,
        )


def table(**changes):
    return {**OURS, **changes}


@pytest.mark.parametrize(
    ("runs", "tables", "message"),
    [
        ([table(presets=["smok"])], {}, "no preset in {path} smok. Did you mean smoke?"),
        ([table(methods=["perl"])], {}, "no method of {path} perl. Did you mean pearl?"),
        (
            [table(presets=["ant-dir"], methods=["grbal"])],
            {},
            "no preset of grbal in {path} ant-dir.",
        ),
        ([table(sead=[1])], {}, "no key of runs in {path} sead. Did you mean seeds?"),
        ([table(seeds=[])], {}, "{path} expected runs.seeds to hold something"),
        ([table(seeds=[-1])], {}, "{path}: Expected seeds[0] >= 0, got -1"),
        ([table(seeds=3)], {}, "{path} expected runs.seeds to be a list, got 3."),
        ([{"seeds": [0]}], {}, "{path} expected runs.presets."),
        ([], {}, "{path} expected runs."),
        ([table(changes={"updatse": 3})], {}, "no key of {path} updatse. Did you mean updates?"),
        ([table(changes={"updates": 0})], {}, "{path}: Expected updates >= 1, got 0"),
        ([OURS, OURS], {}, "{path}: Expected each run once, but halfcheetah-vel/mier/seed-0"),
        ([OURS], {"evaluate": {"seeds": 0}}, "{path}: Expected seeds >= 1, got 0"),
        ([OURS], {"evalaute": {}}, "no key of a grid in {path} evalaute. Did you mean evaluate?"),
        ([PEARL], {"adapt": {}}, "{path}: Expected a run by mier to [adapt]"),
        ([OURS], {"oracle": {"tasks": 0}}, "{path}: Expected tasks >= 1, got 0"),
        (
            [OURS],
            {"oracle": {"changes": {"task": 3}}},
            "{path}: Expected [oracle] changes without task",
        ),
        (
            [OURS],
            {"oracle": {"changes": {"updatse": 3}}},
            "no key of {path} updatse. Did you mean updates?",
        ),
        ([OURS], {"adapt": {"arms": {"a/b": {}}}}, "{path} expected each arm to be a table"),
        (
            [OURS],
            {"adapt": {"arms": {"x": {"wieght_steps": 1}}}},
            "no key of {path} wieght_steps. Did you mean weight_steps?",
        ),
        ([OURS], {"adapt": {"arms": {"x": {"weight_steps": -1}}}}, "weight_steps >= 0, got -1"),
        (
            [OURS],
            {"adapt": {"budget": 100}},
            "{path}: Expected [adapt] budget of 0, or at least an episode of "
            "halfcheetah-vel/mier/seed-0, 200 transitions, got 100",
        ),
        (
            [OURS],
            {"adapt": {"arms": {"x": {"rounds": {"updates": 3}}}}},
            "{path}: Expected [adapt] budget with rounds of x",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_mistake_in_a_grid_is_told_in_a_line_that_names_it(tmp_path, runs, tables, message):
    path = tmp_path / "grid.toml"
    text = write_grid(path, *runs, **tables).read_text()
    if "a/b" in text:
        path.write_text(text.replace("a/b", '"a/b"'))
    with pytest.raises(UsageError) as error:
        read_grid(path)
    assert message.format(path=path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_toml_is_refused(tmp_path):
    (tmp_path / "grid.toml").write_text("runs = [")
    with pytest.raises(UsageError, match=r"grid\.toml is no TOML: "):
        read_grid(tmp_path / "grid.toml")


def test_a_sweep_may_grow_and_not_change(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first = jobs_of(tmp_path / "grid.toml", OURS)
    write_jobs(first, out)
    assert [job.to_dict() for job in read_jobs(out)] == [job.to_dict() for job in first]
    more = jobs_of(tmp_path / "grid.toml", OURS, PEARL, adapt={}, oracle={})
    write_jobs(more, out)
    assert [job.to_dict() for job in read_jobs(out)] == [job.to_dict() for job in more]
    for runs, message in (
        ([OURS], "holds a sweep of another grid, with halfcheetah-vel/pearl/seed-0"),
        ([table(changes={"updates": 9}), PEARL], "grid: updates of halfcheetah-vel/mier/seed-0"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            write_jobs(jobs_of(tmp_path / "grid.toml", *runs, adapt={}, oracle={}), out)
        assert "Choose another directory" in str(error.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        write_jobs(first, tmp_path / "other")


def test_a_sweeps_file_leads_nowhere_else(tmp_path):
    jobs = jobs_of(tmp_path / "grid.toml", OURS)
    (tmp_path / "grid.toml").unlink()
    write_jobs(jobs, tmp_path)
    text = (tmp_path / "sweep.json").read_text()
    for bad in (
        text.replace('"smoke"', '"../../smoke"'),
        text.replace('"training"', '"trainning"'),
        text.replace('"seed": 3', '"seed": "3"'),
        text[:-9],
    ):
        assert bad != text
        (tmp_path / "sweep.json").write_text(bad)
        with pytest.raises(ValueError, match=r"sweep\.json is not as this"):
            read_jobs(tmp_path)
