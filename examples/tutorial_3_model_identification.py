r"""
Only the parts: model identification on logged data, no RL
==========================================================

You have logs of a robot in several conditions, and want a model that recognises a new condition
from a little data. No policy is trained here, and Tianshou is never imported.

.. code-block:: bash

    python examples/tutorial_3_model_identification.py          # some minutes
    python examples/tutorial_3_model_identification.py --fast   # under a minute

This page was made with ``--fast``.
"""

from dataclasses import dataclass

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode

import mier_adapt_envs
from mier_adapt import ContextModel, GradientContextAdapter, Transitions, fit_model


@dataclass
class Args:
    """Meta-train a model on logged data, and identify conditions that it has not seen."""

    fast: bool = False
    """Take a sixth of the meta-steps."""
    seed: int = 0
    """Fixes data, model and draws."""


args = tyro.cli(Args)
torch.set_num_threads(1)
torch.manual_seed(args.seed)
rng = np.random.default_rng(args.seed)

# %%
# The logs
# --------
# Twenty conditions of a cheetah, some of whose motors are wired backwards; ten to meta-train on,
# ten with a combination that is not among these. The logs are of random actions, each held for a
# few steps. Yours come from your robot: see :doc:`/guides/offline_data`.

tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints")
STEPS = 4_000


def log_random_actions(seed):
    """Random behaviour in every condition: transitions of shape ``(T, STEPS, …)``."""
    envs = gymnasium.make_vec(
        tasks.env_id,
        num_envs=len(tasks),
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        tasks=list(tasks),
    )
    columns = {name: [] for name in ("obs", "act", "rew", "obs_next", "terminated")}
    obs, _ = envs.reset(seed=seed)
    for step in range(STEPS):
        if step % 4 == 0:
            act = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        obs_next, rew, terminated, truncated, infos = envs.step(act)
        last = obs_next.copy()  # of an episode that ended; obs_next is then the next one's first
        for slot in np.flatnonzero(terminated | truncated):
            last[slot] = infos["final_obs"][slot]
        for name, value in zip(columns, (obs, act, rew, last, terminated), strict=True):
            columns[name].append(value.copy())
        obs = obs_next
    envs.close()
    tensors = {name: torch.from_numpy(np.stack(rows, axis=1)) for name, rows in columns.items()}
    return Transitions(**{**tensors, "rew": tensors["rew"].float()})


logs, fresh = log_random_actions(seed=0), log_random_actions(seed=1)
known = torch.arange(len(tasks.meta_train))
unseen = torch.arange(len(tasks.meta_train), len(tasks))
print(
    f"{len(known)} + {len(unseen)} conditions of {STEPS} transitions, obs {tuple(logs.obs.shape)}"
)

# %%
# Meta-training
# -------------
# Each step draws an adaptation and an evaluation set of every training condition, takes two
# gradient steps on a context per condition, and moves the weights down the evaluation loss of the
# *adapted* contexts. All conditions are one graph.

model = ContextModel(logs.obs.shape[-1], logs.act.shape[-1], 5, hidden_sizes=(128, 128, 128))
model.fit_normalization(logs[known])
adapter = GradientContextAdapter(model, steps=2, lr=1.0)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def draw(source, conditions, size):
    """``size`` transitions of each of these conditions, with replacement."""
    picks = torch.from_numpy(rng.integers(STEPS, size=(len(conditions), size)))
    return Transitions.stack(
        [source[int(n)][those] for n, those in zip(conditions, picks, strict=True)]
    )


losses = []
for _ in range(1_000 if args.fast else 6_000):
    meta = adapter.meta_loss(draw(logs, known, 64), draw(logs, known, 64))
    optimizer.zero_grad()
    meta.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    losses.append(float(meta.evaluation_loss.mean()))
print(f"evaluation loss: {losses[0]:.2f} at first, {np.mean(losses[-50:]):.2f} in the end")

# %%
# Whose data is it?
# -----------------
# Find a context for every condition from 400 of its transitions, then ask how well *each* of these
# contexts predicts fresh transitions of *each* condition. A model that identifies has its lowest
# loss on the diagonal.

contexts = adapter.adapt(draw(logs, torch.arange(len(tasks)), 400))
table = adapter.cross_losses(fresh, contexts)  # [i, j]: condition i's data, condition j's context
initial = model.loss(fresh, model.initial_context).detach()
own = table.diagonal()
others = (table.sum(1) - own) / (len(tasks) - 1)
for name, part in (("training", known), ("unseen", unseen)):
    print(
        f"{name} conditions: loss {initial[part].mean():.2f} with the initial context, "
        f"{own[part].mean():.2f} with their own, {others[part].mean():.2f} with those of others"
    )

# %%
# How much data does it take?
# ---------------------------
# The same for fewer transitions, on fresh ones.

sizes = (5, 10, 25, 50, 100, 200, 400, 800)
curves = {
    name: [
        float(model.loss(fresh[part], adapter.adapt(draw(logs, part, size))).detach().mean())
        for size in sizes
    ]
    for name, part in (("training", known), ("unseen", unseen))
}

figure, (who, amount) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
excess = (table - own[:, None]).clamp(-2, 10)
image = who.imshow(excess, cmap="RdBu_r", vmin=-10, vmax=10)
who.axhline(len(known) - 0.5, color="black", lw=0.8)
who.axvline(len(known) - 0.5, color="black", lw=0.8)
who.set(
    xlabel="context found for condition", ylabel="data of condition", title="loss above one's own"
)
figure.colorbar(image, ax=who, shrink=0.8)
for (name, values), part, color in zip(
    curves.items(), (known, unseen), ("tab:blue", "tab:orange"), strict=True
):
    amount.plot(sizes, values, "o-", color=color, label=f"{name} conditions")
    amount.axhline(float(initial[part].mean()), color=color, ls=":", lw=1)
amount.set(
    xscale="log",
    xlabel="transitions to identify with",
    ylabel="loss on fresh ones (dotted: initial context)",
)
amount.legend()
plt.show()

# %%
# Left: light cells are conditions that the model does not tell apart. After the little training of
# ``--fast`` it knows which *thighs* are negated (joints 1 and 4), and not yet which shins and feet,
# which change less about the motion. Right: a context is found from a few dozen transitions.
#
# Fit it further
# --------------
# For one condition, the weights can follow the context. The result says how much each helped, on
# transitions that were held out, and keeps the weights that were best there.

fitted = fit_model(adapter.with_steps(10), draw(logs, unseen[:1], 400)[0], weight_steps=100)
print(
    f"condition {tasks[int(unseen[0])]}, held-out loss: {fitted.validation_loss_initial:.2f} at "
    f"first, {fitted.validation_loss_context:.2f} with its context, "
    f"{fitted.validation_loss_final:.2f} with {fitted.weight_steps} weight steps"
)
