"""Does the gate tell better policies from worse? Candidates whose truth is known.

For every task of a run: identify it, then train candidates on experience that was relabeled by
refined models (as shipped, without averaging), by a model that was refined without rehearsal, by
the meta-trained model under another task's context, and by refined models with the sign of the
reward wrong, each for several numbers of updates; the actor-only control comes on top. A
candidate's truth is its mean return in 20 deterministic episodes against that of the
policy that only knows the new context, from the same starts; it counts as better or worse where
they differ by more than 25 and by more than two standard errors, and as a tie otherwise. The gate
sees one further episode of either; "any episode" is the mean over which of the 21 it might have
seen. A second table has gates that see more where the first ones leave doubt, the mean over all
places among the 21 at which they might have begun.

    python examples/evaluate_gate.py halfcheetah-negated-joints --out gate.json
    python examples/evaluate_gate.py runs/ant-negated-joints --task 0 1 2 3 --out gate-ant.json

A call that is repeated goes on where it was.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from mier_adapt import NewTask, Transitions, load_run
from mier_adapt.adaptation import (
    MarginGate,
    first_candidate,
    identify,
    refine,
    refresh,
    relabelers,
    train_on_synthetic,
)
from mier_adapt.agents import FamilyEnvs, Run
from mier_adapt.protocols import Candidate, SyntheticSource

EPISODES = 20
"""Deterministic episodes that are the truth about a candidate."""
MARGINS = (0.0, 0.02, 0.03, 0.04, 0.05, 0.1)
"""Values of ``MarginGate.margin`` to look at."""
MOST_EPISODES = (1, 2, 4, 8)
"""Values of ``MarginGate.most_episodes`` to look at, with the margin that it has."""


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


def negated(transitions: Transitions) -> Transitions:
    """The same with the sign of the reward wrong."""
    return replace(transitions, rew=-transitions.rew)


@dataclass
class NegatedRewards:
    """A source of synthetic transitions that has the sign of another's rewards wrong."""

    source: SyntheticSource

    def stream(self, source: Iterable[Transitions]) -> Iterator[Transitions]:
        return map(negated, self.source.stream(source))


def candidates(
    run: Run, task: NewTask, *, seed: int, fast: bool
) -> Iterator[tuple[str, Candidate]]:
    """The policy to beat, then others by what they were trained on, good and bad."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - stock Tianshou draws from the global generators
    config = replace(run.adapt_config, relabel_rounds=5, averaged_share=0.0)
    lengths = (100, 250, 500, 1_000)
    if fast:
        config = replace(
            config, refresh_updates=10, num_models=2, weight_steps=10, relabel_size=1_000
        )
        lengths = (5, 10, 15, 20)

    found = identify(run, task, config, seed=seed, generator=generator)
    start = first_candidate(run, found.context)
    yield "safe", start
    yield "actor only", refresh(run, config, start, generator)

    others = run.earlier_contexts(config.adaptation_steps, generator)
    careless = replace(
        config,
        num_models=1,
        weight_steps=min(config.weight_steps, 100),
        context_lr=0.0,
        model_batch_size=None,
        rehearsal_batch_size=0,
        actor_lr=3e-4,
    )
    refined, narrow = (
        refine(run, each, found.real, others, generator) for each in (config, careless)
    )
    wrong = replace(refined[0], model=run.model, context=others[generator.integers(len(others))])
    good, bad, unrehearsed = (
        relabelers(task, fitted, generator) for fitted in (refined, [wrong], narrow)
    )

    def opposed(policy: Callable[[torch.Tensor], torch.Tensor]) -> Sequence[SyntheticSource]:
        return [NegatedRewards(each) for each in good(policy)]

    against = replace(found, real=negated(found.real))
    for name, options, real, sources_of, updates in (
        ("refined", config, found, good, lengths[:3]),
        ("refined, reward negated", config, against, opposed, lengths[1:3]),
        ("another task's context", config, found, bad, lengths[1:3]),
        ("no rehearsal, actor 3e-4", careless, found, unrehearsed, lengths[2:]),
    ):
        for count in updates:
            once = replace(options, updates_per_round=count // config.relabel_rounds)
            yield (
                f"{name}, {count} updates",
                train_on_synthetic(run, once, start, real, sources_of, generator),
            )


def measure(run: Run, task: NewTask, *, seed: int, fast: bool) -> list[dict[str, Any]]:
    """Every candidate's returns on one task, beside those of the policy that it has to beat."""
    returns = {}
    for name, candidate in candidates(run, task, seed=seed, fast=fast):
        starts = np.random.default_rng(seed + 1)  # common to all
        values = task.returns(candidate, episodes=EPISODES + 1, generator=starts)
        returns[name] = [round(value, 1) for value in values]
    safe = returns.pop("safe")
    return [{"candidate": name, "safe": safe, "returns": each} for name, each in returns.items()]


def verdict(row: dict[str, Any], tie: float) -> str:
    """Whether a candidate is truly better, worse, or neither."""
    differences = np.subtract(row["returns"], row["safe"])[:EPISODES]
    mean = float(differences.mean())
    spread = 2 * float(differences.std(ddof=1)) / EPISODES**0.5
    return "tie" if abs(mean) <= max(tie, spread) else "better" if mean > 0 else "worse"


def accepts(row: dict[str, Any], margin: float) -> list[bool]:
    """What the gate says after each episode that it might see; it has seen the last."""
    gate = MarginGate(margin=margin)
    chosen = [
        gate.choose(("safe", "returns"), lambda name, _, seen=seen: (row[name][seen],))
        for seen in range(EPISODES + 1)
    ]
    return [name == "returns" for name, _ in chosen]


def plays(row: dict[str, Any], most_episodes: int) -> tuple[float, float]:
    """How often a gate accepts, wherever it begins, and how many episodes of each it plays."""
    gate, accepted, played = MarginGate(most_episodes=most_episodes), [], []
    for first in range(EPISODES + 1):
        seen = {"safe": 0, "returns": 0}

        def play(name: str, episodes: int, seen: Any = seen, first: int = first) -> tuple[Any, ...]:
            at = [(first + seen[name] + each) % (EPISODES + 1) for each in range(episodes)]
            seen[name] += episodes
            return tuple(row[name][each] for each in at)

        chosen, _ = gate.choose(("safe", "returns"), play)
        accepted.append(chosen == "returns")
        played.append(seen["returns"])
    return float(np.mean(accepted)), float(np.mean(played))


def main(args: Args) -> None:
    """Measure what is missing; print how often the gate accepts."""
    torch.set_num_threads(1)
    run = load_run(args.run_directory)
    found: dict[str, list[dict[str, Any]]] = (
        json.loads(args.out.read_text()) if args.out.exists() else {}
    )
    with FamilyEnvs(run.task_set) as envs:
        tasks = args.task or tuple(range(len(run.task_set)))
        for seed, index in itertools.product(args.seed, tasks[:1] if args.fast else tasks):
            name = f"task {index} seed {seed}"
            if name not in found:
                task = run.new_task(envs, run.task_set[index])
                found[name] = measure(run, task, seed=1_000 * seed + index, fast=args.fast)
                args.out.write_text(json.dumps(found, indent=1) + "\n")
    rows = [row for one in found.values() for row in one]
    table = Table(title=f"{len(rows)} candidates of {len(found)} adaptations; ties: {args.tie:g}")
    for column in (
        "margin",
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
    table = Table(title=f"margin {MarginGate.margin:.0%}, more episodes where there is doubt")
    for column in ("at most", "truly", "candidates", "accepted", "episodes of each"):
        table.add_column(column, justify="right")
    for most, kind in itertools.product(MOST_EPISODES, ("better", "worse", "tie")):
        of_kind = [plays(row, most) for row in rows if verdict(row, args.tie) == kind]
        if of_kind:
            accepted, played = np.mean(of_kind, axis=0)
            table.add_row(str(most), kind, str(len(of_kind)), f"{accepted:.1%}", f"{played:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
