r"""
Adapt your own Tianshou policy to a changed robot
=================================================

A policy that Tianshou trained meets a robot one of whose motors turns the other way. One call takes
the policy, its replay buffer and the changed robot, spends 200 real transitions, says what changed,
and hands back what works there.

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

from mier_adapt import CompensatedAction, NewTask, adapt_algorithm, meta_train_offline
from mier_adapt.agents import AdaptConfig, ModelConfig
from mier_adapt.integration import PolicyActor, from_tianshou


@dataclass
class Args:
    """Train a Tianshou SAC, turn a motor of the robot around, and adapt."""

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
# The shoulder's motor is wired backwards, and the elbow's has lost a third of its strength. The
# policy does not know.


class Rewired(gymnasium.ActionWrapper):
    """Actions reach the motors otherwise than they should."""

    def action(self, action):
        return action * np.array([-1.0, 0.67], np.float32)


changed = Rewired(gymnasium.make("Reacher-v5"))

# %%
# One call
# --------
# ``adapt_algorithm(sac, changed, [buffer], seed=0)`` is all that is needed. It trains a model of
# the robot on the buffer, runs the policy on the changed robot for a few hundred transitions, and
# looks for the simplest hypothesis that explains them: nothing changed, a motor reversed, weak or
# dead, wires exchanged, a sensor off, and so on. We say two things more: the model is trained
# beforehand, for less time than the call would take on a page like this, and 200 transitions are to
# do.

adapter = meta_train_offline(
    [from_tianshou(buffer)],
    steps=2_000 if args.fast else 5_000,
    seed=args.seed,
    config=ModelConfig(context_dim=0, batch_size=256),
)
adaptation = adapt_algorithm(
    sac,
    changed,
    [buffer],
    seed=args.seed,
    config=AdaptConfig.for_own_policy(adaptation_steps=200),
    adapter=adapter,
    label="Reacher, rewired",
    evaluation_episodes=10,
)
report = adaptation.report
print(adaptation.diagnosis)
print(f"handed back: {report.decision}, because {report.reason}")
print(f"real transitions: {report.real_transitions}, and {report.gate_transitions} for the gate")

# %%
# Lower losses are better. A hypothesis has to explain transitions that it was not fitted to, and a
# simpler one wins over another that explains a little more.
#
# Before and after
# ----------------
# Nothing was learned: the policy is the one that came, behind what undoes the change. Returns are
# of deterministic episodes from the same starts.

bars = {
    "as trained,\nold robot": old_returns,
    "as trained,\nchanged robot": report.returns["unchanged"],
    "handed back,\nchanged robot": report.returns[report.decision],
}
for name, returns in bars.items():
    print(f"{' '.join(name.split())}: {np.mean(returns):.1f}")
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for position, (returns, colour) in enumerate(
    zip(bars.values(), ("#999999", "#0072B2", "#009E73"), strict=True)
):
    axis.bar(position, np.mean(returns), color=colour)
    axis.plot([position] * len(returns), returns, "k_", markersize=10, alpha=0.5)
axis.set_xticks(range(len(bars)), list(bars))
axis.set(ylabel="return of an episode", title=report.decision)
plt.show()

# %%
# In your control loop
# --------------------
# ``adaptation.actor`` acts. Or put :class:`~mier_adapt.wrappers.CompensatedAction` around the
# changed robot: to whatever acts in it, of any make, it then looks like the old one.
# ``adaptation.compensation`` is a few numbers, which ``save`` and ``load`` keep as JSON.

repaired = CompensatedAction(changed, adaptation.compensation)
print(f"the old policy in the repaired robot: {np.mean(returns_of(repaired)):.1f}")

# %%
# Where no map of actions and observations undoes a change, as when masses or friction changed, the
# same call goes on: it fits the model to the new transitions, asks it what the policy would have
# met there wherever it has been before, and trains on with Tianshou's own ``update``.
#
# The gate is why this is safe to try: it lets both policies run for some real episodes, and hands
# the old one back if the new one is no better there. :doc:`tutorial_4_read_the_report` explains the
# rest of the report. TD3 and REDQ go the same way. Where episodes end before their time limit, pass
# ``termination_fn``, which says when; a policy that no Tianshou algorithm made comes in as in
# :doc:`tutorial_5_from_stable_baselines3`.
