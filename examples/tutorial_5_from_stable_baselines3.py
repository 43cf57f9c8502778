r"""
From SB3 to the changed robot and back
======================================

Stable-Baselines3 trained a policy; then the robot changed. :func:`.adapt_sb3` takes the model as
it is, with weights and replay buffer, to the changed environment. It says what changed, undoes that
or learns where it cannot be undone, and what comes of it goes back into the model.

.. code-block:: bash

    pip install 'mier-adapt[sb3]'
    python examples/tutorial_5_from_stable_baselines3.py          # about a minute
    python examples/tutorial_5_from_stable_baselines3.py --fast   # under a minute

This page was made with ``--fast``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from safetensors.torch import load_file
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

import mier_adapt_envs
from mier_adapt import (
    AdaptConfig,
    CompensatedAction,
    Transitions,
    adapt_sb3,
    meta_train_offline,
)
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import to_sb3
from mier_adapt_envs import Task


@dataclass
class Args:
    """Take a policy that Stable-Baselines3 trained to a changed robot, and bring it back."""

    fast: bool = False
    """Train the model for two fifths of the steps, and evaluate by 4 episodes rather than 20."""
    seed: int = 0
    """Fixes everything."""


args = tyro.cli(Args)
torch.set_num_threads(1)

# %%
# The robot, and the model
# ------------------------
# A cheetah, first as it was, then with the motors of both feet wired backwards. Any Gymnasium
# environment with a time limit would do.

FAMILY = "HalfCheetahNegatedJoints"
ENV_ID = mier_adapt_envs.env_class(FAMILY).env_id
intact = gymnasium.make(ENV_ID, task=Task(FAMILY, (1, 1, 1, 1, 1, 1)))
changed = gymnasium.make(ENV_ID, task=Task(FAMILY, (1, 1, -1, 1, 1, -1)))

# %%
# Your own model holds all that is needed after ``learn``, and the call is
# ``adapt_sb3(model, changed, seed=0)``. So that this page takes a minute, what a run of
# ``examples/train_sb3.py`` left lies beside it: the actor, and a part of the replay buffer, which
# goes in as ``earlier``. A card says how it was made.

HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()  # a page, or a notebook
DATA = HERE / "data" / "sb3-halfcheetah"
card = json.loads((DATA / "card.json").read_text())
print(card["command"])
print(f"{card['env_steps']} steps, mean return {card['mean_return']}")

model = SAC(
    "MlpPolicy", intact, policy_kwargs={"net_arch": [128, 128]}, buffer_size=1, seed=args.seed
)
model.policy.actor.load_state_dict(load_file(DATA / "policy.safetensors"))
log = {name: values.float() for name, values in load_file(DATA / "buffer.safetensors").items()}
earlier = Transitions(
    obs=log["obs"][:, :-1],
    act=log["act"],
    rew=log["rew"],
    obs_next=log["obs"][:, 1:],
    terminated=torch.zeros_like(log["rew"], dtype=torch.bool),
).flatten()

# %%
# To the changed robot
# --------------------
# The policy drives it for 200 transitions, as noisily as it did in training. The report says what
# changed, what was done about it, and what that was worth. A whole model also learns where undoing
# does not suffice; this one came without its critics, so that is switched off. The robot's model,
# which the call would train by itself, is trained beforehand, so that it serves other changes too.

adapter = meta_train_offline(
    [earlier],
    steps=2_000 if args.fast else 5_000,
    seed=args.seed,
    config=ModelConfig(context_dim=0, batch_size=256),
)
adaptation = adapt_sb3(
    model,
    changed,
    seed=args.seed,
    earlier=[earlier],
    adapter=adapter,
    config=AdaptConfig.for_own_policy(adaptation_steps=200, weight_steps=0, relabel_rounds=0),
)
print(adaptation.report)

# %%
# What was handed back acts by itself: ``adaptation.predict(obs)`` here, and, after
# ``adaptation.save(path)``, :meth:`AdaptedPolicy.load <.AdaptedPolicy.load>` in any other process.
#
# And back
# --------
# :func:`.to_sb3` writes what was learned into the model, which then trains on in SB3. Here nothing
# had to be learned: the weights are those that came, and what undoes the change goes around the
# environment. These two lines are right in either case.

to_sb3(adaptation.algorithm, model)
undone = adaptation.compensation
robot = changed if undone is None else CompensatedAction(changed, undone)

# %%
# SB3's own function measures SB3's own model.

bars = {}
for name, env in (("intact robot", intact), ("changed robot", changed), ("adapted", robot)):
    env.reset(seed=args.seed)
    episodes = 4 if args.fast else 20
    bars[name], _ = evaluate_policy(model, env, episodes, return_episode_rewards=True, warn=False)
    print(f"{name}: {np.mean(bars[name]):.0f}")

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
colours = ("#999999", "#D55E00", "#009E73")
for position, (returns, colour) in enumerate(zip(bars.values(), colours, strict=True)):
    axis.bar(position, np.mean(returns), color=colour)
    axis.plot([position] * len(returns), returns, "k_", markersize=10, alpha=0.5)
axis.axhline(0, color="black", linewidth=0.6)
axis.set_xticks(range(len(bars)), list(bars))
axis.set(ylabel="return of an episode", title="SB3's model, by SB3's evaluate_policy")
plt.show()

# %%
# What goes over is a ``SAC`` or ``TD3`` with an ``MlpPolicy``, of any size and activation;
# :func:`.from_sb3` says what is refused, and how to do without. A policy of another make is
# imitated first, :func:`.imitate`, and adapted as in :doc:`tutorial_1_own_policy`.
