"""Which options of relabeling are good, told without a look at the meta-test tasks.

Sets of tasks that are new to a run, but not those that results are reported on: negations of two
and of four of the first five joints, for a run that was meta-trained on negations of three;
negations of a fifth joint, for a run that was meta-trained without it; and velocities between those
of training and of the results. All variants of a task share its real transitions, context and
models.

    python examples/choose_adaptation.py halfcheetah-negated-joints
    mier-adapt meta-train halfcheetah-negated-joints-held-out --out runs/held-out
    python examples/choose_adaptation.py runs/held-out
    python examples/choose_adaptation.py halfcheetah-vel-hard
    python examples/choose_adaptation.py halfcheetah-vel-hard --begin known
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from mier_adapt import load_run
from mier_adapt.adaptation import (
    first_candidate,
    identify,
    refine,
    refresh,
    relabelers,
    train_on_synthetic,
)
from mier_adapt.agents import FamilyEnvs
from mier_adapt_envs import Task

OTHER_COUNTS = ((0, 1), (0, 1, 2, 3), (1, 3), (1, 2, 3, 4), (2, 4), (0, 2, 3, 4))
"""Joints negated in the first set's tasks, counted from 0: two and four at a time."""
COMMON = {"updates_per_round": 100, "real_fraction": 0.05, "averaged_share": 0.0}
VELOCITIES = (2.2, 2.3, 2.45)
"""In m/s; training has up to 1.5, the meta-test tasks have 2.5 to 3."""
VELOCITY_VARIANTS = {"critics 3e-4": {"critic_lr": 3e-4}, "critics 1e-3": {"critic_lr": 1e-3}}
VARIANTS = {
    "2 models, 500 updates": {"num_models": 2},
    "4 models, 500": {},
    "4 models, 1000": {"updates_per_round": 200},
    "4 models, 500, 20% real": {"real_fraction": 0.2},
    "4 models, 1000, 20% real": {"updates_per_round": 200, "real_fraction": 0.2},
    "4 models, 1000, 20% real, averaged": {
        "updates_per_round": 200,
        "real_fraction": 0.2,
        "averaged_share": 0.5,
    },
    "4 models, 500, actor 3e-4": {"actor_lr": 3e-4},
    "4 models, 500, critics 1e-3": {"critic_lr": 1e-3},
    "4 models, 1000, critics 1e-3": {"updates_per_round": 200, "critic_lr": 1e-3},
}


@dataclass
class Args:
    """Compare options of relabeling on development tasks.

    Example: choose_adaptation.py runs/held-out --seed 1 --variant "4 models, 500"
    """

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run on HalfCheetahNegatedJoints or HalfCheetahVel, or the name of a pretrained one."""
    seed: int = 0
    episodes: int = 8
    """Deterministic evaluation episodes of each variant."""
    variant: tuple[str, ...] = ()
    """Which options; all of them if none is given."""
    collection_rounds: int | None = None
    """Rounds of identification, if not the run's."""
    begin: Literal["adapted", "known"] = "adapted"
    """With the policy under the new task's context, or under that of the known task by which the
    model explains the new one best."""
    fast: bool = False
    """One task and two variants, to see that it runs."""


def seed_globally(seed: int) -> None:
    """Seed the global generators, from which stock Tianshou draws."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def development_tasks(family: str, task_set: str) -> list[Task]:
    """Tasks that are new to a run, and that no results are reported on; none if it holds them."""
    if family == "HalfCheetahVel":
        return [Task(family, (each,), f"velocity {each}") for each in VELOCITIES]
    if task_set != "standard":
        return []
    return [
        Task(
            family,
            tuple(-1.0 if joint in negated else 1.0 for joint in range(6)),
            f"negated joints {','.join(str(joint + 1) for joint in negated)}",
        )
        for negated in OTHER_COUNTS
    ]


def main(args: Args) -> dict[str, list[float]]:
    """Print and return each variant's mean return by task."""
    torch.set_num_threads(1)
    run = load_run(args.run_directory)
    family, tasks = run.task_set.family, run.task_set
    variants, common = VARIANTS, COMMON
    if family == "HalfCheetahVel":
        variants, common = VELOCITY_VARIANTS, {}
    development = development_tasks(family, tasks.name) or list(tasks.meta_test)
    most = max(each.get("num_models", run.adapt_config.num_models) for each in variants.values())
    config = replace(run.adapt_config, num_models=most, **common)
    if args.collection_rounds is not None:
        config = replace(config, collection_rounds=args.collection_rounds)
    returns: dict[str, list[float]] = {}
    with FamilyEnvs(tasks) as envs:
        for each in development[: 1 if args.fast else None]:
            task = run.new_task(envs, each)
            generator = np.random.default_rng(args.seed)
            seed_globally(args.seed)
            found = identify(run, task, config, seed=args.seed, generator=generator)
            contexts = run.earlier_contexts(config.adaptation_steps, generator)
            start = first_candidate(run, found.context)
            candidates = {start.name: start}
            if args.begin == "known":
                losses = [float(run.model.loss(found.real, each).mean()) for each in contexts]
                start = first_candidate(run, contexts[int(np.argmin(losses))])
                candidates["known task"] = start
            candidates["actor only"] = refresh(run, config, start, generator)
            fitted = refine(run, config, found.real, contexts, generator)
            for name in (args.variant or tuple(variants))[: 2 if args.fast else None]:
                options = replace(config, **variants[name])
                seed_globally(args.seed)
                draws = np.random.default_rng(args.seed + 7)
                sources_of = relabelers(task, fitted[: options.num_models], draws)
                candidates[name] = train_on_synthetic(run, options, start, found, sources_of, draws)
            for name, candidate in candidates.items():
                starts = np.random.default_rng(args.seed + 1)  # common to all
                episodes = task.returns(candidate, episodes=args.episodes, generator=starts)
                returns.setdefault(name, []).append(float(np.mean(episodes)))
            row = ", ".join(f"{name} {values[-1]:.0f}" for name, values in returns.items())
            print(f"{each}: {row}", flush=True)
    for name, values in returns.items():
        print(f"{name:30s} {np.mean(values):7.0f}")
    return returns


if __name__ == "__main__":
    main(tyro.cli(Args))
