"""Does the gate tell better policies from worse? Candidates whose truth is known.

For every task of a run: identify it, then train candidates on experience that was relabeled by
refined models (as shipped, without averaging), by a model that was refined without rehearsal, by
the meta-trained model under another task's context, and by refined models with the sign of the
reward wrong; the actor-only control comes on top. Each training is looked at after several
lengths. A candidate's truth is its mean return in 20 deterministic episodes against that of the
policy that only knows the new context, from the same starts; it counts as better or worse where
they differ by more than 25 and by more than two standard errors, and as a tie otherwise. The gate
sees one further episode of either; "any episode" is the mean over which of the 21 it might have
seen.

    python examples/evaluate_gate.py halfcheetah-negated-joints --out gate.json

A call that is repeated goes on where it was.
"""

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from mier_adapt import ExperienceRelabeler
from mier_adapt.context_adapter import FineTuneResult
from mier_adapt.integration import (
    MixedReplayBuffer,
    relabeling_policy,
    restart_optimizers,
    update,
)
from mier_adapt.transitions import Transitions
from mier_adapt.workflows import adaptation_stages as stages
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.files import replace_text
from mier_adapt.workflows.identification import Identified, identify
from mier_adapt.workflows.new_tasks import NewTask
from mier_adapt.workflows.pretrained import find_run
from mier_adapt.workflows.randomness import forked_global_generators
from mier_adapt.workflows.runs import Run, load_run, read_run_file
from mier_adapt_envs import task_set

EPISODES = 20
"""Deterministic episodes that are the truth about a candidate."""
MARGINS = (0.0, 0.02, 0.03, 0.04, 0.05, 0.1)
"""Values of ``AdaptConfig.gate_margin`` to look at."""


@dataclass
class Args:
    """Measure how often the gate accepts candidates that are truly better, and truly worse."""

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run directory, or the name of a pretrained run."""
    out: Path
    """JSON of all candidates."""
    task: tuple[int, ...] = ()
    """Tasks by index; all of the run's task set if none is given."""
    seed: tuple[int, ...] = (0,)
    """Adaptation seeds."""
    tie: float = 25.0
    """Difference of mean returns up to which candidates are ties."""
    fast: bool = False
    """One task, few updates, to see that it runs."""


def relabeled(
    run: Run,
    task: NewTask,
    found: Identified,
    models: list[Any],
    contexts: list[torch.Tensor],
    lengths: list[int],
    *,
    actor_lr: float,
    reward_sign: float = 1.0,
    generator: np.random.Generator,
) -> Iterator[tuple[int, Any]]:
    """SAC on relabeled experience, after each of several numbers of updates."""
    config = run.config.adapt
    algorithm = copy.deepcopy(run.algorithm)
    restart_optimizers(algorithm, actor_lr=actor_lr, critic_lr=config.critic_lr)
    buffer = MixedReplayBuffer(
        len(found.real),
        config.relabel_rounds * config.relabel_size,
        obs_dim=run.model.obs_dim,
        act_dim=run.model.act_dim,
        context=found.context,
        real_fraction=config.real_fraction,
        generator=generator,
    )
    buffer.extend_real(
        replace(found.real, rew=reward_sign * found.real.rew), truncated=found.truncated
    )
    relabelers = [
        ExperienceRelabeler(
            model,
            context,
            policy=relabeling_policy(algorithm.policy, found.context),
            termination_fn=task.termination_fn,
        )
        for model, context in zip(models, contexts, strict=True)
    ]
    for count in range(max(lengths)):
        if count % config.updates_per_round == 0:
            for relabeler in relabelers:
                share = config.relabel_size // len(relabelers)
                for chunk in relabeler.stream(stages.draw_stored(run, share, share, generator)):
                    buffer.extend_synthetic(replace(chunk, rew=reward_sign * chunk.rew))
        update(algorithm, buffer, config.batch_size)
        if count + 1 in lengths:
            yield count + 1, algorithm


def candidates(
    run: Run, task: NewTask, found: Identified, generator: np.random.Generator, *, fast: bool
) -> Iterator[tuple[str, Any]]:
    """Named algorithms, good and bad; each is trained further once it has been looked at."""
    config = run.config.adapt
    shares = 50 if fast else 1
    tasks = np.arange(run.replay.num_tasks)
    adaptation = run.replay.sample_transitions(
        tasks, config.adaptation_steps, adaptation=True, generator=generator
    )
    others = run.adapter.adapt(adaptation.to(run.device))

    def rehearse() -> tuple[Transitions, torch.Tensor]:
        per_task = max(1, config.rehearsal_batch_size // len(tasks))
        earlier = run.replay.sample_transitions(
            tasks, per_task, adaptation=False, generator=generator
        )
        return earlier.flatten().to(run.device), others.repeat_interleave(per_task, 0)

    def refine(*, rehearsed: bool) -> FineTuneResult:
        return run.adapter.fine_tune(
            found.real,
            context_steps=config.context_steps,
            weight_steps=(config.weight_steps if rehearsed else 100) // shares,
            weight_lr=config.weight_lr,
            context_lr=config.context_lr if rehearsed else 0.0,
            batch_size=config.model_batch_size if rehearsed else None,
            rehearsal=rehearse if rehearsed else None,
            validate_every=config.validate_every,
        )

    few = replace(config, refresh_updates=config.refresh_updates // shares)
    yield "actor only", stages.refresh(run, few, found.context, generator)

    refined = [refine(rehearsed=True) for _ in range(config.num_models)]
    narrow = refine(rehearsed=False)
    models = [each.model for each in refined]
    contexts = [each.context for each in refined]
    wrong = others[int(generator.integers(len(others)))]
    recipes: dict[str, tuple[list[Any], list[torch.Tensor], list[int], dict[str, Any]]] = {
        "refined": (models, contexts, [100, 250, 500], {}),
        "refined, reward negated": (models, contexts, [250, 500], {"reward_sign": -1.0}),
        "another task's context": ([run.model], [wrong], [250, 500], {}),
        "no rehearsal, actor 3e-4": (
            [narrow.model],
            [narrow.context],
            [500, 1_000],
            {"actor_lr": 3e-4},
        ),
    }
    for name, (recipe_models, recipe_contexts, lengths, changes) in recipes.items():
        options = {"actor_lr": config.actor_lr, **changes}
        lengths = [max(1, length // shares) for length in lengths]
        for length, algorithm in relabeled(
            run,
            task,
            found,
            recipe_models,
            recipe_contexts,
            lengths,
            generator=generator,
            **options,
        ):
            yield f"{name}, {length} updates", algorithm


def measure(run: Run, task: NewTask, *, seed: int, fast: bool) -> list[dict[str, Any]]:
    """Every candidate's returns on one task, beside those of the policy that it has to beat."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    with forked_global_generators(seed):
        found = identify(run, task, run.config.adapt, seed=seed, generator=generator)

        def returns(algorithm: Any) -> list[float]:
            values = task.returns(
                algorithm.policy,
                found.context,
                episodes=EPISODES + 1,
                generator=np.random.default_rng(seed + 1),
            )
            return [round(value, 1) for value in values]

        safe = returns(run.algorithm)
        for name, algorithm in candidates(run, task, found, generator, fast=fast):
            rows.append({"candidate": name, "safe": safe, "returns": returns(algorithm)})
    return rows


def verdict(row: dict[str, Any], tie: float) -> str:
    """Whether a candidate is truly better, worse, or neither."""
    differences = np.subtract(row["returns"], row["safe"])[:EPISODES]
    mean = float(differences.mean())
    spread = 2 * float(differences.std(ddof=1)) / EPISODES**0.5
    return "tie" if abs(mean) <= max(tie, spread) else "better" if mean > 0 else "worse"


def accepts(row: dict[str, Any], margin: float) -> list[bool]:
    """What the gate says after each episode that it might see; it has seen the last."""
    pairs = zip(row["safe"], row["returns"], strict=True)
    return [stages.passes_gate((safe,), (candidate,), margin)[0] for safe, candidate in pairs]


def main(args: Args) -> None:
    """Measure what is missing; print how often the gate accepts."""
    torch.set_num_threads(1)
    directory = find_run(args.run_directory)
    config, _, _ = read_run_file(directory)
    found: dict[str, list[dict[str, Any]]] = (
        json.loads(args.out.read_text()) if args.out.exists() else {}
    )
    with TaskEnvs(task_set(config.family, config.task_set)) as envs:
        run = load_run(directory, envs)
        tasks = args.task or tuple(range(len(envs.task_set)))
        for seed, index in itertools.product(args.seed, tasks[:1] if args.fast else tasks):
            name = f"task {index} seed {seed}"
            if name not in found:
                task = NewTask.of_family(
                    envs, envs.task_set[index], episode_steps=config.episode_steps
                )
                found[name] = measure(run, task, seed=1_000 * seed + index, fast=args.fast)
                replace_text(args.out, json.dumps(found, indent=1) + "\n")
    rows = [row for one in found.values() for row in one]
    table = Table(title=f"{len(rows)} candidates of {len(found)} adaptations; ties: {args.tie:g}")
    for column in (
        "gate_margin",
        "truly",
        "candidates",
        "accepted",
        "95% interval (Wilson)",
        "any episode",
    ):
        table.add_column(column, justify="right")
    for margin, kind in itertools.product(MARGINS, ("better", "worse", "tie")):
        of_kind = [row for row in rows if verdict(row, args.tie) == kind]
        if of_kind:
            accepted = sum(accepts(row, margin)[-1] for row in of_kind)
            interval = stats.binomtest(accepted, len(of_kind)).proportion_ci(method="wilson")
            table.add_row(
                f"{margin:.0%}",
                kind,
                str(len(of_kind)),
                f"{accepted / len(of_kind):.0%}",
                f"{interval.low:.0%} to {interval.high:.0%}",
                f"{np.mean([accepts(row, margin) for row in of_kind]):.1%}",
            )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
