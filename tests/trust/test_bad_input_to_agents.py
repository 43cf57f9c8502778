"""Every public function that needs a run, with arguments that make no sense; none is missing."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mier_adapt_envs
from mier_adapt import (
    AdaptationSession,
    Agent,
    ContextModel,
    ExperienceRelabeler,
    GradientContextAdapter,
    NewTask,
    adapt,
    adapt_algorithm,
    adapt_sb3,
    fit_model,
    load_run,
    meta_train,
    meta_train_offline,
)
from mier_adapt.adaptation import (
    compensated,
    explain,
    first_candidate,
    identify,
    refine,
    refresh,
    relabelers,
    train_on_synthetic,
)
from mier_adapt.adaptation.identification import Identified
from mier_adapt.agents import ContinueConfig, FamilyEnvs, Run, collect, evaluate
from mier_adapt.agents import run_file as run_files
from mier_adapt.agents.metering import Spent
from mier_adapt.agents.run_file import CARD_FILE
from mier_adapt.baselines import (
    Grbal,
    GrbalConfig,
    Maml,
    MamlConfig,
    Mql,
    MqlConfig,
    Pearl,
    PearlConfig,
    Promp,
    PrompConfig,
    Random,
    RandomConfig,
    Rl2,
    Rl2Config,
    Sac,
    SacConfig,
)
from mier_adapt.integration import build_sac, sb3_transitions
from mier_adapt.statistics import bootstrap_interval
from mier_adapt.training import Mier, imitate
from tests.mier_adapt.doubles import TINY_ADAPT, random_transitions, small_sb3, tiny_config
from tests.rooms import public_names
from tests.trust import test_bad_input
from tests.trust.senseless import PLAIN, Target, arrays, require_sense

PEARL = PearlConfig(
    family="HalfCheetahVel",
    replay_per_task=9,
    episode_steps=2,
    encoder_hidden_sizes=(4,),
    hidden_sizes=(4,),
)
INNER_STEP = {
    **{"family": "HalfCheetahVel", "episode_steps": 2, "hidden_sizes": (4,)},
    **{"tasks_per_batch": 2, "episodes_per_task": 2, "exploration_episodes": 2},
}
BASELINES = (
    Grbal(
        config=GrbalConfig(
            **{"family": "HalfCheetahNegatedJoints", "hidden_sizes": (4,), "candidates": 2},
            **{"episode_steps": 2, "past_steps": 1, "future_steps": 1, "replay_per_task": 9},
        )
    ),
    Pearl(config=PEARL),
    Maml(config=MamlConfig(**INNER_STEP)),
    Promp(config=PrompConfig(**INNER_STEP)),
    Random(config=RandomConfig(family="HalfCheetahVel", episode_steps=2)),
    Sac(config=SacConfig(family="HalfCheetahVel", episode_steps=2, hidden_sizes=(4,))),
    Mql(config=MqlConfig(family="HalfCheetahVel", replay_per_task=9, episode_steps=2)),
    Rl2(
        config=Rl2Config(
            family="HalfCheetahVel", trials_per_update=1, episode_steps=2, hidden_size=4
        )
    ),
)
CONFIG = tiny_config(initial_episodes=2, evaluated_tasks=1)

LEFT_OUT = {
    # what functions give back; nothing takes them but what is called here
    **dict.fromkeys(("AdaptationReport", "Diagnosis", "FittedModel"), "a result"),
    **dict.fromkeys(("AlwaysGate", "Delay", "NeverGate", "families"), "takes nothing"),
    **dict.fromkeys(
        ("Actor", "Candidate", "Gate", "MetaPolicy", "Method", "SyntheticSource", "TaskModel"),
        "a shape; what lacks it is refused by what takes it",
    ),
    "Change": "what one of your own derives from",
    "TerminationFn": "a shape, as those",
    "__version__": "a string",
}
"""Public names that are not called here, and why."""
MORE = {"TaskVectorEnv": "what gymnasium makes of a public family"}
"""Names that are not public and are called, and why."""


def unlearned(method: Any, here: Path) -> Path:
    """A run of a baseline that has not begun to learn."""
    out = here / f"{type(method).__name__} run"
    method.meta_train(out, seed=0, should_stop=lambda: True, log="none")
    return out


def targets(finished: Path, here: Path) -> Iterator[Target]:
    """All of them, on a finished run and in a directory of their own."""
    tasks = mier_adapt_envs.task_set(CONFIG.family)
    envs = FamilyEnvs(tasks, num_threads=1)
    run = load_run(finished, envs)
    generator = np.random.default_rng(0)
    new_task = NewTask.of_family(envs, tasks[11], episode_steps=20)
    context = torch.zeros(run.model.context_dim)

    yield Target("FamilyEnvs", FamilyEnvs, {"task_set": tasks, "num_threads": 1})
    yield Target("FamilyEnvs.of_size", envs.of_size, {"num_envs": 2})
    yield Target("load_run", load_run, {"run": finished, "envs": envs, "device": "cpu"})
    yield Target("load_run", load_run, {"run": "tiny"})
    yield Target("Run", Run, {name: getattr(run, name) for name in run.__dataclass_fields__})
    yield Target(
        "Run.build",
        Run.build,
        {
            "config": CONFIG,
            "envs": envs,
            "adapt_config": TINY_ADAPT,
            "generator": generator,
            "device": "cpu",
        },
    )
    other = load_run(finished, envs)
    yield Target("Run.load_state", other.load_state, {"state": run.state()})
    yield Target("Run.new_task", run.new_task, {"envs": envs, "task": tasks[11]})
    yield Target("Run.with_context_steps", run.with_context_steps, {"steps": 3})
    parts = ("adapter", "algorithm", "replay", "conditioned")
    yield Target("Agent", Agent, {name: getattr(run, name) for name in parts})
    yield Target("Agent.actor", run.actor, {"contexts": context})
    earlier = run.replay.stored()[:20]
    yield Target("Agent.adapt", run.adapt, {"transitions": earlier})

    yield Target(
        "NewTask.of_family",
        NewTask.of_family,
        {"envs": envs, "task": tasks[11], "episode_steps": 3},
    )
    pendulum = gymnasium.make("Pendulum-v1")
    yield Target(
        "NewTask.of_env",
        NewTask.of_env,
        {
            "env": pendulum,
            "label": "mine",
            "termination_fn": None,
            "episode_steps": 3,
            "act_filter": None,
        },
    )
    acting = {"actor": run.actor(context), "generator": generator}
    yield Target("NewTask.run", new_task.run, {**acting, "steps": 3, "explore": True})
    yield Target("NewTask.returns", new_task.returns, {**acting, "episodes": 1})
    yield Target(
        "evaluate",
        evaluate,
        {
            "policy": run,
            "envs": envs,
            "tasks": tasks[:1],
            "seed": 1,
            "adaptation_steps": 5,
            "episodes": 1,
            "episode_steps": 5,
        },
    )

    adapting = {"agent": run, "task": new_task, "config": TINY_ADAPT, "seed": 1}
    logging = {"checkpoint": None, "logged": earlier}
    yield Target("adapt", adapt, {**adapting, "evaluation_episodes": 1, **logging})
    few = ContinueConfig(weight_steps=1, relabel_size=9, updates=1)

    def going_on(rounds: Any, **options: Any) -> None:
        rounds = few if rounds is None else rounds  # which would be the long default
        adapt(rounds=rounds, **options)

    yield Target("adapt", going_on, {**adapting, "budget": 20, "rounds": few})
    options = {"seed": 0, "rounds": few, "termination_fn": new_task.termination_fn}
    session = AdaptationSession(run, TINY_ADAPT, **options)
    yield Target(
        "AdaptationSession",
        AdaptationSession,
        {"agent": run, "config": TINY_ADAPT, "logged": earlier, **options},
    )
    shown = np.zeros(run.model.obs_dim)
    yield Target("AdaptationSession.act", session.act, {"obs": shown})
    came = {"obs": shown, "act": np.zeros(6), "rew": 0.0, "obs_next": shown, "terminated": False}
    yield Target("AdaptationSession.observe", session.observe, came)
    yield Target("AdaptationSession.improve", session.improve, {"seconds": 1.0})
    yield Target("identify", identify, {**adapting, "generator": generator, **logging})
    yield Target("first_candidate", first_candidate, {"agent": run, "context": context})
    start = first_candidate(run, context)
    stage = {"agent": run, "config": TINY_ADAPT, "generator": generator}
    yield Target("refresh", refresh, {**stage, "start": start})
    refining = {**stage, "real": earlier, "contexts": context.repeat(run.replay.num_tasks, 1)}
    yield Target("refine", refine, refining)
    relabeling = {"task": new_task, "fitted": refine(**refining), "generator": generator}
    yield Target("relabelers", relabelers, relabeling)
    found = Identified(earlier, np.zeros(len(earlier), bool), context, Spent())
    contexts = refining["contexts"]
    yield Target("explain", explain, {**stage, "found": found, "contexts": contexts})
    diagnosis = explain(run, TINY_ADAPT, found, contexts, generator)
    what = {"agent": run, "start": start, "diagnosis": diagnosis}
    yield Target("compensated", compensated, what)
    yield Target(
        "train_on_synthetic",
        functools.partial(train_on_synthetic, sources_of=relabelers(**relabeling)),
        {**stage, "start": start, "found": found},
    )
    plain = build_sac(envs.observation_space, envs.action_space, 0, hidden_sizes=(4,))
    adapter = GradientContextAdapter(ContextModel(20, 6, 0, hidden_sizes=(4,)))
    short = dataclasses.replace(
        TINY_ADAPT, adaptation_steps=5, refresh_updates=0, rehearsal_batch_size=0
    )

    def adapting_an_algorithm(config: Any, **options: Any) -> None:
        config = short if config is None else config  # which would be the long default
        adapt_algorithm(config=config, adapter=adapter, termination_fn=None, **options)

    yield Target(
        "adapt_algorithm",
        adapting_an_algorithm,
        {
            "algorithm": plain,
            "env": gymnasium.make(tasks.env_id, max_episode_steps=5),
            "earlier": [earlier, earlier],
            "seed": 1,
            "config": short,
            "label": "mine",
            "evaluation_episodes": 1,
            **logging,
        },
    )

    def adapting_a_model(config: Any, **options: Any) -> None:
        config = short if config is None else config
        adapt_sb3(config=config, adapter=of_pendulum, termination_fn=None, **options)

    model_of_sb3 = small_sb3()
    of_pendulum = GradientContextAdapter(ContextModel(3, 1, 0, hidden_sizes=(4,)))
    yield Target(
        "adapt_sb3",
        adapting_a_model,
        {
            "model": model_of_sb3,
            "env": gymnasium.make("Pendulum-v1", max_episode_steps=5),
            "seed": 1,
            "earlier": [sb3_transitions(model_of_sb3)],
            "config": short,
            "label": "mine",
            "evaluation_episodes": 1,
            "checkpoint": None,
        },
    )

    training = {"directory": here / "new", "seed": 1}
    begin = functools.partial(meta_train, should_stop=lambda: True)
    begin(CONFIG, **training)
    yield Target(
        "meta_train",
        begin,
        {
            **training,
            "config": CONFIG,
            "adapt_config": TINY_ADAPT,
            "device": "cpu",
            "checkpoint_seconds": 1.0,
            "log": "tensorboard",
        },
    )
    method = Mier(config=CONFIG, adapt_config=TINY_ADAPT)
    yield Target("Mier", Mier, {name: getattr(method, name) for name in ("config", "adapt_config")})
    yield Target("Mier", functools.partial(Mier, config=CONFIG), {"device": "cpu"})
    yield Target(
        "Mier.meta_train",
        functools.partial(method.meta_train, should_stop=lambda: True),
        training,
    )
    yield Target("Mier.load", method.load, {"directory": finished})
    for baseline in BASELINES:
        name, config = type(baseline).__name__, baseline.config
        yield Target(name, type(baseline), {"config": config, "device": "cpu"})
        preset = {"name": "smoke", "device": "cpu"}
        yield Target(f"{name}.of_preset", type(baseline).of_preset, preset)
        yield Target(
            f"{name}.meta_train",
            functools.partial(baseline.meta_train, should_stop=lambda: True),
            {"directory": here / name, "seed": 0, "checkpoint_seconds": 9.0, "log": "none"},
        )
        yield Target(f"{name}.load", baseline.load, {"directory": unlearned(baseline, here)})


@pytest.fixture(scope="module")
def agents(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Target]]:
    """All of them, made once; each is left able to work by arguments that make no sense."""
    here = tmp_path_factory.mktemp("agents")
    (here / "elsewhere").mkdir()
    pretrained = here / "pretrained" / "tiny"
    shutil.copytree(finished_run, pretrained)
    (pretrained / CARD_FILE).write_text("{}")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(here / "elsewhere")
        patched.setattr(run_files, "PRETRAINED", pretrained.parent)
        yield list(targets(finished_run, here))


def test_the_good_arguments_work(agents: list[Target]) -> None:
    for target in agents:
        target.function(**target.good)


def test_plain_values(agents: list[Target]) -> None:
    for target in agents:
        for argument in target.good:
            for value in PLAIN:
                require_sense(target, argument, value)


def test_tensors_and_arrays(agents: list[Target]) -> None:
    @settings(parent=settings.get_profile("trust"), max_examples=300)
    @given(
        st.sampled_from([(target, argument) for target in agents for argument in target.good]),
        arrays(),
    )
    def check(place: tuple[Target, str], value: Any) -> None:
        require_sense(*place, value)

    check()


@pytest.mark.parametrize("value", [3, "x", [], np.zeros(3), None])
def test_callbacks_that_cannot_be_called(value: Any, finished_run: Path, tmp_path: Path) -> None:
    def refuses(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        (name,) = [name for name, given in options.items() if given is value]
        with pytest.raises(TypeError, match=name):
            function(*arguments, **options)

    tasks = mier_adapt_envs.task_set(CONFIG.family)
    transitions = random_transitions(6)
    with FamilyEnvs(tasks, num_threads=1) as envs:
        run = load_run(finished_run, envs)
        plain = build_sac(envs.observation_space, envs.action_space, 0, hidden_sizes=(4,))
        new_task = run.new_task(envs, tasks[11])
        adapting = functools.partial(adapt, run, new_task, TINY_ADAPT, seed=1)
        refuses(adapting, on_stage=value)
        context = run.model.initial_context
        generator = np.random.default_rng(0)
        training = functools.partial(
            train_on_synthetic,
            *(run, TINY_ADAPT, first_candidate(run, context)),
            Identified(run.replay.stored()[:6], np.zeros(6, bool), context, Spent()),
            generator=generator,
        )
        refuses(training, sources_of=value)
        refuses(training, sources_of=lambda policy: [], on_update=value)
        actor = run.actor(context)
        steps = {"steps": 1, "generator": generator}
        refuses(collect, envs.of_size(1), tasks[:1], actor, **steps, on_step=value)
        refuses(imitate, plain, policy=value, earlier=run.replay.stored(), seed=1)
        refuses(imitate, plain, torch.tanh, run.replay.stored(), seed=1, on_update=value)
        env = gymnasium.make(tasks.env_id, max_episode_steps=5)
        refuses(adapt_algorithm, plain, env, [run.replay.stored()], seed=1, on_stage=value)
        refuses(adapt_sb3, None, env, seed=1, on_stage=value)
        if value is not None:  # which asks for none, or for the library's own
            refuses(adapting, sources=value)
            refuses(fit_model, run.adapter, run.replay.stored(), rehearsal=value)
            refuses(NewTask.of_env, env, termination_fn=value)
            refuses(NewTask.of_env, env, act_filter=value)
            refuses(adapt_algorithm, plain, env, [run.replay.stored()], seed=1, act_filter=value)
            refuses(collect, envs.of_size(1), tasks[:1], actor, **steps, act_filter=value)
            refuses(
                adapt_algorithm, plain, env, [run.replay.stored()], seed=1, termination_fn=value
            )
            refuses(adapt_sb3, None, env, seed=1, termination_fn=value)
            refuses(ExperienceRelabeler, run.model, context, policy=value)
            refuses(ExperienceRelabeler, run.model, context, termination_fn=value)
    refuses(meta_train_offline, [transitions], steps=1, seed=2, on_step=value)
    for name in ("should_stop", "on_step"):
        refuses(meta_train, CONFIG, tmp_path / "run", **{name: value})
    refuses(Mier(config=CONFIG).meta_train, tmp_path / "run", seed=1, should_stop=value)
    for name in ("should_stop", "on_step"):
        for baseline in BASELINES:
            refuses(baseline.meta_train, tmp_path / "run", seed=1, **{name: value})
    refuses(bootstrap_interval, np.zeros((2, 2)), statistic=value)


def test_no_public_name_is_missing(agents: list[Target]) -> None:
    called = {target.name for target in (*test_bad_input.TARGETS, *agents)}
    public = {
        f"vector.{each.name}" if each.room == "mier_adapt.wrappers.vector" else each.name
        for each in public_names()
    }
    # Methods go with their classes.
    names = {
        next((name for name in public | MORE.keys() if f"{call}.".startswith(f"{name}.")), call)
        for call in called
    }
    assert public - names == LEFT_OUT.keys()
    assert names - public == MORE.keys()
