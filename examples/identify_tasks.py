"""Does the context identify the task? Three models' losses on fresh transitions.

Takes a meta-trained run, gathers 400 real transitions of each meta-training task with the
initial context, takes the two context steps of meta-training, and measures the model's loss on
400 *fresh* transitions of the same task, against

- a model without context that was trained for as many steps on the same experience, and
- the same model under the contexts that it found for the other tasks.

A second table says how much worse the model predicts with the sign of one motor's commands wrong: a
motor for which that is nothing is one whose sign no context tells. Where tasks are negated joints,
a model that is told what motors execute, and needs no context, shows what there was to be learned.

    mier-adapt meta-train halfcheetah-negated-joints --updates 20000 --out runs/negated-joints
    python examples/identify_tasks.py runs/negated-joints
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from mier_adapt import ContextModel, Transitions, load_run, meta_train_offline
from mier_adapt.agents import FamilyEnvs, collect
from mier_adapt.integration import from_tianshou


@dataclass
class Args:
    """Compare losses with and without the context that two steps identify."""

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run directory, or the name of a pretrained run."""
    seed: int = 0
    transitions: int = 400
    """Real transitions of each task, to adapt on; and as many fresh ones, to measure on."""
    fast: bool = False
    """Train the model without context for 200 steps only, to see that it runs."""


@torch.no_grad()
def worse_with_signs_wrong(
    model: ContextModel, transitions: Transitions, contexts: torch.Tensor
) -> torch.Tensor:
    """By how much, for each motor, in the mean over tasks: ``(A,)``."""
    right = model.loss(transitions, contexts).mean()
    signs = 1 - 2 * torch.eye(model.act_dim)
    wrong = [
        model.loss(replace(transitions, act=transitions.act * each), contexts).mean()
        for each in signs
    ]
    return torch.stack(wrong) - right


def main(args: Args) -> None:
    """Print a table of losses, a row for each meta-training task, and one of motors."""
    torch.manual_seed(args.seed)
    generator = np.random.default_rng(args.seed)
    run = load_run(args.run_directory)
    config, tasks = run.config, run.task_set.meta_train
    with FamilyEnvs(run.task_set) as envs:
        adaptation, fresh = (
            collect(
                envs.of_size(len(tasks)),
                tasks,
                run.initial_actor(len(tasks)),
                steps=args.transitions,
                generator=generator,
            ).transitions
            for _ in range(2)
        )
    adapted = run.adapter.adapt(adaptation)
    steps = config.model.pretrain_steps + -(-config.updates // config.policy.updates_per_model_step)
    steps = min(steps, 200) if args.fast else steps
    stored = [from_tianshou(each) for each in run.replay.buffers]

    def without_context(experience: list[Transitions]) -> ContextModel:
        return meta_train_offline(
            experience,
            steps=steps,
            seed=args.seed,
            config=replace(config.model, context_dim=0),
            varies=run.model.varies,
        ).model

    plain = without_context(stored)
    with torch.no_grad():
        without = plain.loss(fresh, plain.initial_context)
        before = run.model.loss(fresh, run.model.initial_context)
    losses = run.adapter.cross_losses(fresh, adapted)
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
    for i, task in enumerate(tasks):
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
    if run.model.varies == "reward":
        return

    table = Table(title="How much worse with the sign of one motor's commands wrong")
    columns = {"own context": worse_with_signs_wrong(run.model, fresh, adapted)}
    if run.task_set.family.endswith("NegatedJoints"):
        signs = torch.tensor([task.parameters for task in tasks]).float()
        executed = [
            replace(each, act=each.act * sign) for each, sign in zip(stored, signs, strict=True)
        ]
        told = without_context(executed)
        fresh = replace(fresh, act=fresh.act * signs.unsqueeze(1))
        column = worse_with_signs_wrong(told, fresh, told.initial_context)
        columns["told what motors execute"] = column
    for column in ("motor", *columns):
        table.add_column(column, justify="right")
    for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
        table.add_row(str(number), *(f"{value:.2f}" for value in row))
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
