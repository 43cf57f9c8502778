"""How large should a context step be? Models meta-trained offline with different step sizes.

Takes the experience of a meta-trained run and meta-trains new models on it, without any
reinforcement learning, which differ in the size of the context's steps and in the limit on its
gradients. Prints, for each, the loss under a task's own context on fresh transitions, and by how
much the best of the other tasks' contexts is worse: a model that tells tasks apart has a margin.

    python examples/compare_context_steps.py runs/negated-joints
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from mier_adapt import load_run, meta_train_offline
from mier_adapt.agents import FamilyEnvs, collect
from mier_adapt.integration import from_tianshou

VARIANTS = (
    (0.01, 10.0),  # the paper's
    (0.03, 10.0),
    (0.1, 10.0),
    (0.3, 10.0),
    (1.0, 10.0),  # this library's
    (1.0, 1e9),  # without a limit, in effect
)
"""Size of a context step, and the norm to which longer context gradients are rescaled."""


@dataclass
class Args:
    """Compare sizes of the context's steps on one run's experience."""

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run directory, or the name of a pretrained run."""
    steps: int = 1_500
    """Meta-steps of each model."""
    fast: bool = False
    """Take 20 meta-steps, to see that it runs."""
    seed: int = 0
    threads: int = 2
    """CPU threads of torch."""


def main(args: Args) -> None:
    """Print a table, a row for each variant."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    steps = 20 if args.fast else args.steps
    run = load_run(args.run_directory)
    tasks = run.task_set.meta_train
    generator = np.random.default_rng(args.seed)
    with FamilyEnvs(run.task_set) as envs:
        adaptation, fresh = (
            collect(
                envs.of_size(len(tasks)),
                tasks,
                run.initial_actor(len(tasks)),
                steps=run.adapt_config.adaptation_steps,
                generator=generator,
            ).transitions
            for _ in range(2)
        )
    logs = [from_tianshou(each) for each in run.replay.buffers]
    table = Table(
        title=f"{steps} meta-steps on {len(run.replay)} stored transitions, "
        f"seed {args.seed}; medians over {len(fresh)} tasks"
    )
    for column in ("step size", "gradient limit", "context norm", "loss", "margin", "own is best"):
        table.add_column(column, justify="right")
    for lr, max_grad_norm in VARIANTS:
        config = replace(run.config.model, inner_lr=lr, max_inner_grad_norm=max_grad_norm)
        adapter = meta_train_offline(
            logs, steps=steps, seed=args.seed, config=config, varies=run.model.varies
        )
        adapted = adapter.adapt(adaptation)
        with torch.no_grad():
            # losses[i, j]: task i's fresh transitions under the context found for task j
            losses = torch.stack(
                [adapter.model.loss(fresh, context.expand(len(fresh), -1)) for context in adapted],
                dim=1,
            )
        own = losses.diagonal()
        others = losses.masked_fill(torch.eye(len(own), dtype=torch.bool), torch.inf).min(1).values
        table.add_row(
            f"{lr:g}",
            f"{max_grad_norm:g}",
            f"{adapted.norm(dim=1).median():.2f}",
            f"{own.median():.2f}",
            f"{(others - own).median():.2f}",
            f"{int((others > own).sum())} of {len(own)}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
