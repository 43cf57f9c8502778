r"""
A robot that keeps learning
===========================

An adaptation need not end: the robot goes on running, and every episode is new evidence. An
:class:`~mier_adapt.AdaptationSession` goes into the robot's own loop. It acts, is told what came of
that, and in between it improves. Here a cheetah walks with a motor wired backwards, and later
another one fails.

.. code-block:: bash

    python examples/tutorial_6_keep_adapting.py          # a minute or two
    python examples/tutorial_6_keep_adapting.py --fast   # fewer episodes

This page was made with ``--fast``.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import gymnasium
import matplotlib.pyplot as plt
import torch
import tyro

from mier_adapt import AdaptationSession, AdaptedPolicy, load_run
from mier_adapt.figures import plot_episodes


@dataclass
class Args:
    """Adapt a pretrained run in a robot's own loop."""

    fast: bool = False
    """Six episodes of each task in place of ten."""
    seed: int = 0
    """Fixes the session."""


args = tyro.cli(Args)
torch.set_num_threads(1)
episodes = 6 if args.fast else 10

# %%
# The robot
# ---------
# Any ``gymnasium.Env``, or anything that is stepped. ``halfcheetah-negated-joints`` was trained
# with three of its first five motors wired backwards; here motors 1 and 4 are, and the sixth,
# which never was.

run = load_run("halfcheetah-negated-joints")
robot = gymnasium.make(run.task_set.env_id, task=run.task_set[12], max_episode_steps=200)
session = AdaptationSession(
    run,
    run.adapt_config,
    seed=args.seed,
    termination_fn=robot.get_wrapper_attr("termination_fn"),
)

# %%
# The loop
# --------
# ``act`` gives a command in the robot's units and ``observe`` takes what came of it, in 15 lines.
# ``improve`` says what it made of the episodes so far.


def episode(robot):
    """One episode of the robot, and what was made of it."""
    obs, _ = robot.reset(seed=args.seed + session.transitions)
    over = False
    while not over:
        act = session.act(obs)
        obs_next, rew, terminated, truncated, _ = robot.step(act)
        session.observe(obs, act, rew, obs_next, terminated, truncated)
        obs, over = obs_next, terminated or truncated
    said = session.improve()
    last = session.log[-1]
    print(f"{session.transitions:>5} {last['policy']:>16} {last['return']:7.0f}  {said}")


for _ in range(episodes):
    episode(robot)

# %%
# It gathers 400 transitions, says what changed, and tries what it can do about that: the policy
# under the new context, and the policy of a known task behind what undoes the change. The better
# one stays, by the episodes that the robot plays anyway.
#
# Something else fails
# --------------------
# Now motor 1 is put right and motor 2 fails instead. Nobody tells the session.

robot = gymnasium.make(run.task_set.env_id, task=run.task_set[15], max_episode_steps=200)
for _ in range(episodes):
    episode(robot)

# %%
# The model's surprise tells, with the first episode, and the diagnosis starts anew from there.

figure = Path(mkdtemp()) / "episodes.png"
plot_episodes(session.log, figure, title="A cheetah whose motors fail")
plt.figure(figsize=(8, 4.6), layout="constrained")
plt.imshow(plt.imread(figure))
plt.axis("off")
plt.show()

# %%
# What is kept
# ------------
# ``session.policy`` is at any time what has proved itself: a file that acts by itself, with context
# and compensation inside.

path = figure.with_name("policy.safetensors")
session.policy.save(path)
policy = AdaptedPolicy.load(path)
(obs, _), total, over = robot.reset(seed=99), 0.0, False
while not over:
    obs, rew, terminated, truncated, _ = robot.step(policy.predict(obs))
    total, over = total + float(rew), terminated or truncated
print(f"an episode with what was kept: {total:.0f}")

# %%
# Where a change cannot be undone, the session goes on learning, round by round: it fits the model
# to all that is real, relabels earlier experience afresh, and updates the policy on both. Where
# other dynamics (heavier links, more damping) are none that its model knows, a policy that knows
# no context learns from real steps alone. How far that leads is in the
# `results <../results.html>`__.
