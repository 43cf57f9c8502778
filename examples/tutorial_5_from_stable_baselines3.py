r"""
From Stable-Baselines3
======================

Stable-Baselines3 trained a policy; then the robot changed. The policy and its replay buffer are all
that is needed: a model of the robot is trained on the buffer, says what changed from a few hundred
transitions of the policy on the changed robot, and what undoes that goes around the environment.
The policy stays as it is, in the library that made it.

.. code-block:: bash

    pip install 'mier-adapt[sb3]'
    python examples/tutorial_5_from_stable_baselines3.py          # some minutes
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
from mier_adapt import CompensatedAction, Transitions, diagnose, meta_train_offline
from mier_adapt.agents import ModelConfig
from mier_adapt_envs import Task


@dataclass
class Args:
    """Take a policy that Stable-Baselines3 trained to a changed robot."""

    fast: bool = False
    """Train the model for less than half of the steps."""
    seed: int = 0
    """Fixes everything."""


args = tyro.cli(Args)
torch.set_num_threads(1)

# %%
# The robot
# ---------
# A cheetah, first as it was, then with the motors of both feet wired backwards. Any Gymnasium
# environment with a time limit would do.

FAMILY = "HalfCheetahNegatedJoints"
ENV_ID = mier_adapt_envs.env_class(FAMILY).env_id
intact = gymnasium.make(ENV_ID, task=Task(FAMILY, (1, 1, 1, 1, 1, 1)))
changed = gymnasium.make(ENV_ID, task=Task(FAMILY, (1, 1, -1, 1, 1, -1)))

# %%
# The route from your own run
# ---------------------------
# After ``learn``, everything is in the model: the actor, and the replay buffer, whose actions SB3
# already scales to [-1, 1]. A few seconds of training show it. With several environments, flatten
# the buffer's second axis as well; where episodes end early, ``terminated`` is ``dones`` without
# ``timeouts``, and ``adapt_algorithm`` asks for your environment's rule.

ARCHITECTURE = {"net_arch": [128, 128]}
short = SAC("MlpPolicy", intact, policy_kwargs=ARCHITECTURE, buffer_size=1_000, seed=args.seed)
short.learn(400)

buffer = short.replay_buffer
rows = slice(0, buffer.size())
few = Transitions(
    obs=torch.from_numpy(buffer.observations[rows, 0]),
    act=torch.from_numpy(buffer.actions[rows, 0]),
    rew=torch.from_numpy(buffer.rewards[rows, 0]),
    obs_next=torch.from_numpy(buffer.next_observations[rows, 0]),
    terminated=torch.from_numpy((buffer.dones * (1 - buffer.timeouts))[rows, 0] > 0),
)
print(f"{len(few)} transitions, {int(few.terminated.sum())} of which ended an episode")

# %%
# A policy that was trained for longer
# ------------------------------------
# The same, from a run of ``examples/train_sb3.py``, which wrote the actor and a part of the buffer
# as safetensors: files that hold no code, unlike SB3's own archives. Its card says how it was made.

HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()  # a page, or a notebook
DATA = HERE / "data" / "sb3-halfcheetah"
card = json.loads((DATA / "card.json").read_text())
print(card["command"])
print(f"{card['env_steps']} steps, mean return {card['mean_return']}")

trained = SAC("MlpPolicy", intact, policy_kwargs=ARCHITECTURE, buffer_size=1, seed=args.seed)
trained.policy.actor.load_state_dict(load_file(DATA / "policy.safetensors"))

episodes = {name: values.float() for name, values in load_file(DATA / "buffer.safetensors").items()}
earlier = Transitions(
    obs=episodes["obs"][:, :-1],
    act=episodes["act"],
    rew=episodes["rew"],
    obs_next=episodes["obs"][:, 1:],
    terminated=torch.zeros_like(episodes["rew"], dtype=torch.bool),
).flatten()


def sb3_returns(env):
    """Returns of four deterministic episodes of SB3's policy."""
    env.reset(seed=args.seed)
    returns, _ = evaluate_policy(trained, env, 4, return_episode_rewards=True, warn=False)
    return returns


# %%
# What changed?
# -------------
# A model of the intact robot is trained on the buffer. The policy then drives the changed robot for
# 200 transitions, as noisily as it did in training; its actions are logged in [-1, 1].

adapter = meta_train_offline(
    [earlier],
    steps=2_000 if args.fast else 5_000,
    seed=args.seed,
    config=ModelConfig(context_dim=0, batch_size=256),
)

torch.manual_seed(args.seed)
rows = []
obs, _ = changed.reset(seed=args.seed)
while len(rows) < 200:
    act, _ = trained.predict(obs)
    obs_next, rew, terminated, truncated, _ = changed.step(act)
    rows.append((obs, act, np.float32(rew), obs_next, terminated))
    obs = changed.reset()[0] if terminated or truncated else obs_next
new = Transitions(*(torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True)))
new = new.to(torch.float32)

last = Transitions.stack([earlier[-1_000:]])  # how well the model explains the intact robot
diagnosis = diagnose(
    adapter.model, new, known=last, generator=torch.Generator().manual_seed(args.seed)
)
print(diagnosis)

# %%
# Undo it
# -------
# :class:`~mier_adapt.wrappers.CompensatedAction` makes the changed robot look like the intact one,
# to whatever acts in it. SB3's policy is evaluated by SB3's own function.

repaired = CompensatedAction(changed, diagnosis.compensation)
bars = {
    "intact robot": sb3_returns(intact),
    "changed robot": sb3_returns(changed),
    "changed robot,\nrepaired": sb3_returns(repaired),
}
for name, returns in bars.items():
    print(f"{' '.join(name.split())}: {np.mean(returns):.0f}")
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for position, (values, colour) in enumerate(
    zip(bars.values(), ("#999999", "#D55E00", "#009E73"), strict=True)
):
    axis.bar(position, np.mean(values), color=colour)
    axis.plot([position] * len(values), values, "k_", markersize=10, alpha=0.5)
axis.axhline(0, color="black", linewidth=0.6)
axis.set_xticks(range(len(bars)), list(bars))
axis.set(ylabel="return of an episode", title="SB3's policy")
plt.show()

# %%
# ``diagnosis.compensation.save`` keeps the few numbers for the control loop; alone it takes any
# function from observations to actions, ``compensation.policy(function)``.
#
# Where no map of actions and observations undoes what changed, a policy has to learn. Then
# :func:`.imitate` makes a Tianshou SAC of SB3's actor and buffer, and :func:`.adapt_algorithm`
# takes it to the changed robot, as in :doc:`tutorial_1_own_policy`.
