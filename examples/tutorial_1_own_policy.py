r"""
Adapt your own Tianshou policy to a changed robot
=================================================

A policy that Tianshou trained meets a robot whose motors turn the other way. One call takes the
policy, its replay buffer and the changed robot, spends 1,000 real transitions, and hands back the
better of two policies with a report.

.. code-block:: bash

    python examples/tutorial_1_own_policy.py          # a few minutes
    python examples/tutorial_1_own_policy.py --fast   # under a minute

This page was made with ``--fast``.
"""

from dataclasses import dataclass

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha, SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step

from mier_adapt import NewTask, adapt_algorithm, meta_train_offline
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import PolicyActor, from_tianshou


@dataclass
class Args:
    """Train a Tianshou SAC, turn the robot's motors around, and adapt."""

    fast: bool = False
    """Train for a quarter of the updates."""
    seed: int = 0
    """Fixes training and adaptation."""


args = tyro.cli(Args)
torch.set_num_threads(1)
torch.manual_seed(args.seed)
np.random.seed(args.seed)  # noqa: NPY002 - stock Tianshou draws from the global generators

# %%
# What you have: a policy and its replay buffer
# ---------------------------------------------
# Gymnasium's Reacher, an arm of two joints that is to bring its tip to a point, and Tianshou's SAC.
# Nothing here is of this library.

env = gymnasium.make("Reacher-v5")
obs_shape, act_shape = env.observation_space.shape, env.action_space.shape


def critic():
    """Q of an observation and an action."""
    net = Net(state_shape=obs_shape, action_shape=act_shape, hidden_sizes=(64, 64), concat=True)
    return ContinuousCritic(preprocess_net=net)


actor = ContinuousActorProbabilistic(
    preprocess_net=Net(state_shape=obs_shape, hidden_sizes=(64, 64)),
    action_shape=act_shape,
    unbounded=True,
    conditioned_sigma=True,
)
adam = AdamOptimizerFactory(lr=1e-3)
sac = SAC(
    policy=SACPolicy(actor=actor, action_space=env.action_space),
    policy_optim=adam,
    critic=critic(),
    critic_optim=adam,
    critic2=critic(),
    critic2_optim=adam,
    alpha=AutoAlpha(target_entropy=-2.0, log_alpha=-2.0, optim=adam),
)
envs = DummyVectorEnv([lambda: gymnasium.make("Reacher-v5") for _ in range(10)])
envs.seed(args.seed)
buffer = VectorReplayBuffer(20_000, buffer_num=10)
collector = Collector(sac, envs, buffer)
collector.reset()
collector.collect(n_step=1_000, random=True)
with policy_within_training_step(sac.policy):
    for _ in range(25 if args.fast else 100):
        collector.collect(n_step=100)
        for _ in range(100):
            sac.update(buffer, sample_size=128)
print(f"{len(buffer)} transitions in the buffer")


def returns_of(env):
    """Returns of ten deterministic episodes of the policy."""
    actor = PolicyActor(sac.policy, torch.zeros(0))  # under a context of no dimensions
    starts = np.random.default_rng(args.seed + 1)
    return NewTask.of_env(env).returns(actor, episodes=10, generator=starts)


old_returns = returns_of(env)
print(f"return on the robot that it was trained on: {np.mean(old_returns):.1f}")

# %%
# The robot changes
# -----------------
# Both motors are wired backwards. The policy does not know.


class MotorsBackwards(gymnasium.ActionWrapper):
    """Every action reaches the motors with the other sign."""

    def action(self, action):
        return -action


changed = MotorsBackwards(gymnasium.make("Reacher-v5"))

# %%
# One call
# --------
# ``adapt_algorithm(sac, changed, [buffer], seed=0)`` is all that is needed. It trains a model of
# the robot on the buffer, runs the policy on the changed robot for 1,000 transitions, fits the
# model to them, asks it what the policy would have met there wherever it has been before, and goes
# on with Tianshou's own ``update`` on the answers. We say one thing more: the model is trained
# beforehand, for less time than the call would take on a page like this.

adapter = meta_train_offline(
    [from_tianshou(buffer)],
    steps=2_000 if args.fast else 4_000,
    seed=args.seed,
    config=ModelConfig(context_dim=0, batch_size=256),
)
adaptation = adapt_algorithm(
    sac,
    changed,
    [buffer],
    seed=args.seed,
    adapter=adapter,
    label="Reacher, motors backwards",
    evaluation_episodes=10,
)
report = adaptation.report
print(f"handed back: {report.decision}, because {report.reason}")
print(f"real transitions: {report.real_transitions}, and {report.gate_transitions} for the gate")

# %%
# Before and after
# ----------------
# ``adaptation.algorithm`` is a Tianshou SAC like the one that came, which is left as it was: train
# it further, save it, put it on the robot. Returns are of deterministic episodes from the same
# starts.

bars = {
    "as trained,\nold robot": old_returns,
    "as trained,\nchanged robot": report.returns["unchanged"],
    "adapted,\nchanged robot": report.returns["relabeled"],
}
for name, returns in bars.items():
    print(f"{' '.join(name.split())}: {np.mean(returns):.1f}")
figure, (axis, loss) = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained")
for position, (returns, colour) in enumerate(
    zip(bars.values(), ("#999999", "#0072B2", "#009E73"), strict=True)
):
    axis.bar(position, np.mean(returns), color=colour)
    axis.plot([position] * len(returns), returns, "k_", markersize=10, alpha=0.5)
axis.set_xticks(range(len(bars)), list(bars))
axis.set(ylabel="return of an episode", title=report.decision)
for name, (before, _, after), colour in (
    ("fitted", report.train_loss, "#0072B2"),
    ("held out", report.validation_loss, "#D55E00"),
):
    loss.plot([0, 1], [before, after], "o-", color=colour, label=name)
loss.set_xticks([0, 1], ["before", "refined"])
loss.set(ylabel="model loss", title="Model on the changed robot", xlim=(-0.3, 1.3))
loss.legend(frameon=False)
plt.show()

# %%
# The gate is why this is safe to try: it lets both policies run for a real episode, and hands the
# old one back if the new one is no better there. :doc:`tutorial_4_read_the_report` explains the
# rest of the report. TD3 and REDQ go the same way. Where episodes end before their time limit, pass
# ``termination_fn``, which says when; a policy that no Tianshou algorithm made comes in as in
# :doc:`tutorial_5_from_stable_baselines3`.
