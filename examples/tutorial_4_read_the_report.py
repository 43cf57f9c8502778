r"""
Read the report: when to trust relabeling
=========================================

An adaptation ends with a policy and with a report: what changed, what was spent, what each stage
achieved, how new the task was, and why this policy was handed back and no other. Here the cheetah
that was meta-trained with three of its first five motors wired backwards meets three tasks: one
that it was trained on, and two in which the sixth motor is backwards too, which no training task
had.

.. code-block:: bash

    python examples/tutorial_4_read_the_report.py          # some minutes
    python examples/tutorial_4_read_the_report.py --fast   # under a minute

This page was made with ``--fast``.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro

from mier_adapt import adapt, load_run
from mier_adapt.agents import FamilyEnvs


@dataclass
class Args:
    """Adapt a pretrained run to three tasks, and explain the reports."""

    fast: bool = False
    """Take a quarter of the weight steps and a fifth of the updates."""
    seed: int = 0
    """Fixes the adaptations."""


args = tyro.cli(Args)
torch.set_num_threads(1)

# %%
# Three tasks
# -----------
# ``halfcheetah-negated-joints`` comes with the library. Task 0 is one of its training tasks, 12 and
# 18 are out of distribution. The stages take what ``run.adapt_config`` says.

run = load_run("halfcheetah-negated-joints")
chosen = [run.task_set[number] for number in (0, 12, 18)]
envs = FamilyEnvs(run.task_set)
config = run.adapt_config


def report_of(task, config):
    """The report of one adaptation."""
    return adapt(run, run.new_task(envs, task), config, seed=args.seed).report


for task in chosen[:2]:
    print(f"{report_of(task, config)}\n")

# %%
# The first thing that a report says is what changed, by the simplest hypothesis that explains the
# new transitions. A known task needs nothing but its context. In task 12, and in 18 as well, motors
# are wired otherwise than in the known task that is nearest: that is undone in front of the policy,
# and nothing has to be learned.
#
# When something has to be learned
# --------------------------------
# Masses, damping or friction cannot be undone in front of a policy. Then the stages that learn
# run, as they do in the paper. What follows is about these. To see them at work on the same tasks
# we do not ask what changed, ``diagnose=False``.

config = replace(config, diagnose=False)
if args.fast:
    config = replace(config, weight_steps=200, relabel_rounds=1, relabel_size=10_000)
reports = [report_of(task, config) for task in chosen]

# %%
# What it cost
# ------------
# *Real* transitions are those that the robot spends: some identify the task, the gate takes a few
# episodes more. Evaluation only measures for this page; with a real robot you would do without.
# *Synthetic* transitions cost the robot nothing.


def table(rows):
    """One line for each entry, one column for each task."""
    print(f"{'':34}" + "".join(f"{report.task.split()[-1]:>22}" for report in reports))
    for name, value_of in rows.items():
        print(f"{name:34}" + "".join(f"{value_of(report):>22}" for report in reports))


table(
    {
        "real, to identify": lambda r: r.real_transitions,
        "real, for the gate": lambda r: r.gate_transitions,
        "real, only to measure": lambda r: r.evaluation_transitions,
        "synthetic": lambda r: r.synthetic_transitions,
        "SAC updates": lambda r: r.updates,
        "seconds": lambda r: f"{sum(r.seconds.values()):.0f}",
    }
)

# %%
# How new is the task?
# --------------------
# ``novelty`` compares it with the *meta-training* tasks: by how many standard deviations the model
# predicts worse under the context that was found than it does in training tasks under theirs.
#
# Where that context lies among theirs would not tell: a context names a task *among those that the
# model knows*, so for a robot that it cannot describe it finds the nearest one that it can. A
# novelty of a few is what a known task may show; tens say that *no* context makes the model right,
# only new weights can.

table({"novelty": lambda r: f"{r.novelty:.0f}"})

# %%
# Is the model right?
# -------------------
# Model losses (lower is better) at three times: under the initial context, under the one found, and
# with refined weights; each on the four fifths of the real transitions that it is fitted to, and on
# the fifth that is held out.
#
# - *Training far below validation*: too few transitions for that many weight steps. The weights
#   that were best on validation are kept, and ``weight_steps`` says how early that was, for each
#   model; 0 where none were better than the context alone.
# - *Earlier tasks* shows what refinement forgot. Relabeling starts from the states that earlier
#   tasks visited; a model that no longer knows them would make things up there. Some rise is the
#   price of the fit; it should not end far above the validation loss.
# - *Disagreement* is how far the refined models' predictions lie apart on just these states, in
#   standard deviations of what they predict. It needs no labels, so it also sees where none of the
#   real transitions went: far above a tenth or two, the models guess.

table(
    {
        "training: initial context": lambda r: f"{r.train_loss[0]:.1f}",
        "training: adapted context": lambda r: f"{r.train_loss[1]:.1f}",
        "training: refined weights": lambda r: f"{r.train_loss[2]:.1f}",
        "validation: initial context": lambda r: f"{r.validation_loss[0]:.1f}",
        "validation: adapted context": lambda r: f"{r.validation_loss[1]:.1f}",
        "validation: refined weights": lambda r: f"{r.validation_loss[2]:.1f}",
        "earlier tasks: before refinement": lambda r: f"{r.earlier_tasks_loss[0]:.1f}",
        "earlier tasks: after": lambda r: f"{r.earlier_tasks_loss[1]:.1f}",
        "disagreement": lambda r: f"{r.disagreement:.2f}",
        "weight steps of each model": lambda r: ", ".join(map(str, r.weight_steps)),
    }
)

# %%
# What did each stage achieve?
# ----------------------------
# Returns of deterministic episodes from the same starts. *Actor only* is the control: the actor
# learns from the critics as they are, under the new context, and costs no model and no transition.
# Relabeling has earned its keep only by what it adds to *that*. Where the context was enough there
# is nothing to add; of the other two tasks one leaves much.

STAGES = ("initial context", "adapted context", "actor only", "relabeled")
COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73")
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), sharey=True, layout="constrained")
for axis, report in zip(axes, reports, strict=True):
    for position, (stage, colour) in enumerate(zip(STAGES, COLOURS, strict=True)):
        returns = report.returns[stage]
        axis.bar(position, np.mean(returns), color=colour)
        axis.plot([position] * len(returns), returns, "k_", markersize=9, alpha=0.5)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xticks(range(4), [stage.replace(" ", "\n") for stage in STAGES], fontsize=8)
    axis.set_title(
        f"{report.task}\nnovelty {report.novelty:.0f}: {report.decision}",
        fontsize=10,
    )
axes[0].set_ylabel("return of an episode")
plt.show()

table({stage: lambda r, stage=stage: f"{np.mean(r.returns[stage]):.0f}" for stage in STAGES})

# %%
# The decision
# ------------
# None of the losses above says whether the *policy* became better. So the policy that only knows
# the new context and the last stage's each run in real episodes, and the better one is handed back.
# One episode each is the default. Where two policies are about as good, it may decide either way,
# and either is as good; where returns vary much from episode to episode, let it see more of them:
# ``gate=MarginGate(episodes=4)``. Any object with its one method is a :class:`.Gate`.

for report in reports:
    print(f"{report.task}: {report.decision}, because {report.reason}")

# %%
# A gate that declines
# --------------------
# Let us spoil an adaptation on purpose, with a step size of the actor three hundred times too
# large. The gate sees what became of the policy, and hands back the one that only knows the new
# context. A declined gate costs its episodes, and nothing else.

spoilt = report_of(
    chosen[0],
    replace(config, actor_lr=3e-2, num_models=1, weight_steps=0, relabel_rounds=1),
)
print(f"{spoilt.task}: {spoilt.decision}, because {spoilt.reason}")
assert spoilt.decision == "adapted context"

# %%
# The paper's gate looks at the model instead: relabel only if its validation loss is below a
# threshold. A threshold is in the units of the model's loss, so it differs from family to family,
# and as an early stop it spares the relabeling. What comes after the gate's episodes is then the
# actor-only stage.

strict = report_of(
    chosen[1], replace(config, num_models=1, weight_steps=0, validation_threshold=-100.0)
)
print(f"stages that ran: {', '.join(strict.returns)}")
print(f"{strict.task}: {strict.decision}, because {strict.reason}")

# %%
# In short
# --------
#
# ========================================= =======================================================
# The report says                           Then
# ========================================= =======================================================
# loss excess of a few                      the context is enough; expect little from relabeling
# loss excess of tens, validation falls     relabeling is likely to help
# validation stays up                       more real transitions, or ones from elsewhere
# earlier tasks' loss rises above it        more rehearsal, fewer weight steps
# disagreement is large                     more real transitions; distrust what is relabeled
# relabeled no better than actor only       the model adds nothing here: leave relabeling out
# the gate declines                         keep what came back; look at the lines above for why
# ========================================= =======================================================
#
# What none of this can tell you is in :doc:`/explanation/limits`. ``mier-adapt adapt --out`` writes
# the same report as JSON, and :class:`.AdaptationReport` documents each entry.
