"""How large should a context step be? Models meta-trained offline with different step sizes.

Takes the experience of a meta-trained run and meta-trains new models on it, without any
reinforcement learning, which differ in the size of the context's steps and in the limit on its
gradients. Prints, for each, the loss under a task's own context on fresh transitions, and by how
much the best of the other tasks' contexts is worse: a model that tells tasks apart has a margin.

    python examples/compare_context_steps.py runs/negated-joints
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from mier_adapt import ContextModel, GradientContextAdapter, Transitions
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import collect_for_tasks
from mier_adapt.workflows.runs import Run, load_run, read_run_file
from mier_adapt_envs import task_set

VARIANTS: tuple[tuple[float, float | None], ...] = (
    (0.01, 10.0),  # the paper's
    (0.03, 10.0),
    (0.1, 10.0),
    (0.3, 10.0),
    (1.0, 10.0),  # this library's
    (1.0, None),
)
"""Size of a context step, and the norm to which longer context gradients are rescaled."""


@dataclass
class Args:
    """Compare sizes of the context's steps on one run's experience."""

    run_directory: Annotated[Path, tyro.conf.Positional]
    steps: int = 1_500
    """Meta-steps of each model."""
    fast: bool = False
    """Take 20 meta-steps, to see that it runs."""
    seed: int = 0
    threads: int = 2
    """CPU threads of torch."""


def meta_train_offline(
    run: Run, steps: int, *, lr: float, max_grad_norm: float | None, seed: int
) -> GradientContextAdapter:
    """A new model like the run's, meta-trained on the experience that the run holds."""
    config = run.config.model
    model = ContextModel(
        run.model.obs_dim,
        run.model.act_dim,
        config.context_dim,
        hidden_sizes=config.hidden_sizes,
        varies=run.model.varies,
        generator=torch.Generator().manual_seed(seed),
    )
    model.fit_normalization(run.replay.stored())
    adapter = GradientContextAdapter(
        model, steps=config.inner_steps, lr=lr, max_grad_norm=max_grad_norm
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    generator = np.random.default_rng(seed)
    tasks = np.arange(run.replay.num_tasks)
    for _ in range(steps):
        drawn = generator.permutation(tasks)[: config.tasks_per_batch]
        adaptation, evaluation = (
            run.replay.sample_transitions(
                drawn, config.batch_size, adaptation=adaptation, generator=generator
            )
            for adaptation in (True, False)
        )
        loss = adapter.meta_loss(adaptation, evaluation).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
    return adapter


def main(args: Args) -> None:
    """Print a table, a row for each variant."""
    torch.set_num_threads(args.threads)
    steps = 20 if args.fast else args.steps
    torch.manual_seed(args.seed)
    config, _, _ = read_run_file(args.run_directory)
    tasks = task_set(config.family, config.task_set)
    with TaskEnvs(tasks) as envs:
        run = load_run(args.run_directory, envs)
        contexts = run.model.initial_context.detach().expand(len(tasks.meta_train), -1).numpy()
        generator = np.random.default_rng(args.seed)

        def gather() -> Transitions:
            steps = config.adapt.adaptation_steps
            rollouts = collect_for_tasks(
                run, envs, tasks.meta_train, contexts, steps=steps, generator=generator
            )
            return Transitions.stack([rollout.transitions.flatten() for rollout in rollouts])

        adaptation, fresh = gather(), gather()
    table = Table(
        title=f"{steps} meta-steps on {len(run.replay)} stored transitions, "
        f"seed {args.seed}; medians over {len(fresh)} tasks"
    )
    for column in ("step size", "gradient limit", "context norm", "loss", "margin", "own is best"):
        table.add_column(column, justify="right")
    for lr, max_grad_norm in VARIANTS:
        adapter = meta_train_offline(run, steps, lr=lr, max_grad_norm=max_grad_norm, seed=args.seed)
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
            "none" if max_grad_norm is None else f"{max_grad_norm:g}",
            f"{adapted.norm(dim=1).median():.2f}",
            f"{own.median():.2f}",
            f"{(others - own).median():.2f}",
            f"{int((others > own).sum())} of {len(own)}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
