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
    python examples/choose_adaptation.py halfcheetah-vel-hard --collection-rounds 2
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from mier_adapt.workflows import adaptation_stages as stages
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.identification import identify
from mier_adapt.workflows.new_tasks import NewTask
from mier_adapt.workflows.pretrained import find_run
from mier_adapt.workflows.randomness import seed_global_generators
from mier_adapt.workflows.runs import load_run, read_run_file
from mier_adapt_envs import Task, task_set
from mier_adapt_envs.negated_joints import mask_task

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
    fast: bool = False
    """One task and two variants, to see that it runs."""


def main(args: Args) -> dict[str, list[float]]:
    """Print and return each variant's mean return by task."""
    torch.set_num_threads(1)
    directory = find_run(args.run_directory)
    config, _, _ = read_run_file(directory)
    tasks = task_set(config.family, config.task_set)
    variants, common = VARIANTS, COMMON
    if config.family == "HalfCheetahVel":
        development = [Task(config.family, (each,), f"velocity {each}") for each in VELOCITIES]
        variants, common = VELOCITY_VARIANTS, {}
    elif tasks.name == "standard":
        development = [mask_task(config.family, 6, negated) for negated in OTHER_COUNTS]
    else:
        development = list(tasks.meta_test)
    most = max(each.get("num_models", config.adapt.num_models) for each in variants.values())
    returns: dict[str, list[float]] = {}
    with TaskEnvs(tasks) as envs:
        run = load_run(directory, envs)
        adapt = dataclasses.replace(run.config.adapt, num_models=most, **common)
        if args.collection_rounds is not None:
            adapt = dataclasses.replace(adapt, collection_rounds=args.collection_rounds)
        for each in development[: 1 if args.fast else None]:
            task = NewTask.of_family(envs, each, episode_steps=config.episode_steps)
            generator = np.random.default_rng(args.seed)
            seed_global_generators(args.seed)
            found = identify(run, task, adapt, seed=args.seed, generator=generator)

            def measure(name: str, algorithm, task=task, context=found.context) -> None:
                starts = np.random.default_rng(args.seed + 1)
                episodes = task.returns(
                    algorithm.policy, context, episodes=args.episodes, generator=starts
                )
                returns.setdefault(name, []).append(float(np.mean(episodes)))

            contexts = stages.earlier_contexts(run, adapt, generator)
            measure("adapted context", run.algorithm)
            measure("actor only", stages.refresh(run, adapt, found.context, generator))
            fitted = stages.refine(run, task, adapt, found.real, contexts, generator)
            for name in (args.variant or tuple(variants))[: 2 if args.fast else None]:
                options = dataclasses.replace(adapt, **variants[name])
                seed_global_generators(args.seed)
                algorithm = stages.train_on_relabeled(
                    run,
                    task,
                    options,
                    fitted[: options.num_models],
                    found,
                    np.random.default_rng(args.seed + 7),
                )
                measure(name, algorithm)
            row = ", ".join(f"{name} {values[-1]:.0f}" for name, values in returns.items())
            print(f"{each}: {row}", flush=True)
    for name, values in returns.items():
        print(f"{name:30s} {np.mean(values):7.0f}")
    return returns


if __name__ == "__main__":
    main(tyro.cli(Args))
