"""Does the context identify the task? Three models' losses on fresh transitions.

Takes a meta-trained run, gathers 400 real transitions of each meta-training task with the
initial context, takes the two context steps of meta-training, and measures the model's loss on
400 *fresh* transitions of the same task, against

- a model without context that was trained for as many steps on the same experience, and
- the same model under the contexts that it found for the other tasks.

    mier-adapt meta-train halfcheetah-negated-joints --updates 20000 --out runs/negated-joints
    python examples/identify_tasks.py runs/negated-joints
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


@dataclass
class Args:
    """Compare losses with and without the context that two steps identify."""

    run_directory: Annotated[Path, tyro.conf.Positional]
    seed: int = 0
    transitions: int = 400
    """Real transitions of each task, to adapt on; and as many fresh ones, to measure on."""
    fast: bool = False
    """Train the model without context for 200 steps only, to see that it runs."""


def train_without_context(run: Run, steps: int, generator: np.random.Generator) -> ContextModel:
    """A model like the run's but for the context, trained for ``steps`` on its experience."""
    config = run.config.model
    model = ContextModel(
        run.model.obs_dim,
        run.model.act_dim,
        0,
        hidden_sizes=config.hidden_sizes,
        varies=run.model.varies,
    )
    if config.normalize:
        for name in ("input_mean", "input_std", "target_mean", "target_std"):
            getattr(model, name).copy_(getattr(run.model, name))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    tasks = np.arange(run.replay.num_tasks)
    for _ in range(steps):
        drawn = run.replay.sample_transitions(
            generator.permutation(tasks)[: config.tasks_per_batch],
            config.batch_size,
            adaptation=False,
        )
        loss = model.loss(drawn, model.initial_context).mean() + model.bound_penalty()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
    return model


def main(args: Args) -> None:
    """Print a table of losses, a row for each meta-training task."""
    torch.manual_seed(args.seed)
    generator = np.random.default_rng(args.seed)
    config, _, _ = read_run_file(args.run_directory)
    tasks = task_set(config.family, config.task_set)
    with TaskEnvs(tasks) as envs:
        run = load_run(args.run_directory, envs)
        initial = run.model.initial_context.detach()
        contexts = initial.expand(len(tasks.meta_train), -1).numpy()

        def gather() -> Transitions:
            rollouts = collect_for_tasks(
                run, envs, tasks.meta_train, contexts, steps=args.transitions, generator=generator
            )
            return Transitions.stack([rollout.transitions.flatten() for rollout in rollouts])

        adaptation, fresh = gather(), gather()
    adapted = GradientContextAdapter(
        run.model, steps=config.model.inner_steps, lr=config.model.inner_lr
    ).adapt(adaptation)
    steps = config.model.pretrain_steps + -(-config.updates // config.policy.updates_per_model_step)
    steps = min(steps, 200) if args.fast else steps
    plain = train_without_context(run, steps, generator)
    with torch.no_grad():
        without = plain.loss(fresh, plain.initial_context)
        before = run.model.loss(fresh, initial)
        # losses[i, j]: task i's fresh transitions under the context found for task j
        losses = torch.stack(
            [run.model.loss(fresh, context.expand(len(fresh), -1)) for context in adapted], dim=1
        )
    own = losses.diagonal()
    others = losses.masked_fill(torch.eye(len(own), dtype=torch.bool), torch.inf)
    mean_of_others = (losses.sum(1) - own) / (len(own) - 1)

    table = Table(
        title=f"Model loss on {fresh.rew.shape[1]} fresh transitions; the model without context "
        f"trained for {steps} steps, seed {args.seed}"
    )
    columns = ("task", "own context", "initial context", "no context", "others, best", "mean")
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for i, task in enumerate(tasks.meta_train):
        row = (own[i], before[i], without[i], others.min(1).values[i], mean_of_others[i])
        table.add_row(str(task), *(f"{value:.2f}" for value in row))
    console = Console()
    console.print(table)
    for name, rival in (
        ("a model without context", without),
        ("the best other context", others.min(1).values),
    ):
        wins = int((own < rival).sum())
        console.print(f"Own context better than {name}: {wins} of {len(own)} tasks.")


if __name__ == "__main__":
    main(tyro.cli(Args))
