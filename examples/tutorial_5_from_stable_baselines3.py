r"""
From Stable-Baselines3
======================

Stable-Baselines3 trained a policy; then the robot changed. The policy and its replay buffer are all
that is needed: a Tianshou SAC learns to act as the policy does and what that is worth, and is then
adapted to the changed robot.

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
from mier_adapt import Transitions, adapt_algorithm, meta_train_offline
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import FastSAC, build_sac
from mier_adapt.training import imitate
from mier_adapt_envs import Task


@dataclass
class Args:
    """Take a policy that Stable-Baselines3 trained to a changed robot."""

    fast: bool = False
    """Take less than half of the updates."""
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


before = {"SB3, intact robot": sb3_returns(intact), "SB3, changed robot": sb3_returns(changed)}
for name, returns in before.items():
    print(f"{name}: {np.mean(returns):.0f}")

# %%
# Imitate it
# ----------
# SB3's critics are not needed. A stock Tianshou SAC learns the actor's actions on the buffer's
# observations, and then, from the buffer, what they are worth. ``policy`` may be any function from
# observations ``(B, O)`` to actions ``(B, A)`` in [-1, 1]; so this is also the way from a policy
# that no library made.


def policy(obs):
    """SB3's deterministic action, before it is scaled to the environment's action space."""
    return trained.policy.actor(obs, deterministic=True)


sac = build_sac(
    intact.observation_space,
    intact.action_space,
    context_dim=0,
    hidden_sizes=(128, 128),
    algorithm_class=FastSAC,  # Tianshou's SAC, in less time
)
difference = imitate(
    sac,
    policy,
    earlier,
    seed=args.seed,
    actor_updates=2_500 if args.fast else 5_000,
    critic_updates=4_000 if args.fast else 10_000,
)
print(f"its actions differ from the policy's by {difference:.3f} (root mean square)")

# %%
# Adapt it
# --------
# A model of the world is trained on the buffer, fitted to 1,000 transitions on the changed robot,
# and asked what the policy would have met there wherever it has been before. Without ``adapter``,
# :func:`.adapt_algorithm` trains the model itself, for longer than this page should take.

adapter = meta_train_offline(
    [earlier],
    steps=1_500 if args.fast else 4_000,
    seed=args.seed,
    config=ModelConfig(context_dim=0, batch_size=256),
)
adaptation = adapt_algorithm(
    sac, changed, [earlier], seed=args.seed, adapter=adapter, label="both feet backwards"
)
report = adaptation.report
print(f"real transitions: {report.real_transitions}, and {report.gate_transitions} for the gate")
print(f"handed back: {report.decision}, because {report.reason}")

# %%
# What came of it
# ---------------
# Nothing, with ``--fast``: imitation lost much of the policy on the changed robot, relabeling lost
# the rest, and the gate kept what came, since the new policy was no better in a real episode. The
# critics were made from 12,000 stored transitions in few updates, which is little to go on; those
# of :doc:`tutorial_1_own_policy` were trained together with their policy. At its full length the
# script hands back the relabeled policy. See :doc:`tutorial_4_read_the_report` for all that the
# report says.

bars = {
    **before,
    "imitated, changed": report.returns["unchanged"],
    "relabeled, changed": report.returns.get("relabeled", ()),
}
figure, axis = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
colours = ("#999999", "#D55E00", "#0072B2", "#009E73")
for position, (values, colour) in enumerate(zip(bars.values(), colours, strict=True)):
    axis.bar(position, np.mean(values), color=colour)
    axis.plot([position] * len(values), values, "k_", markersize=10, alpha=0.5)
axis.axhline(0, color="black", linewidth=0.6)
axis.set_xticks(range(len(bars)), [name.replace(", ", ",\n") for name in bars])
axis.set(ylabel="return of an episode", title=f"{report.task}: {report.decision}")
plt.show()

# %%
# One earlier task is little: the model has seen no motor but as it was. Buffers of several robots,
# and a policy that is told which one it drives, go further: that is meta-training
# (:doc:`tutorial_2_own_task_family`). To go back to SB3, let the adapted actor be what an SB3 actor
# imitates, or step the environment with ``adaptation.algorithm.policy`` as it is.
