r"""
On a real robot
===============

A robot is no simulator: nobody puts it back into a state, its motors must not get every command,
and its time is what costs. Here a stand-in for one runs in a loop of your own. What that loop wrote
down says what changed, without another step; then the policy goes on adapting in the same loop,
behind the same safety limits.

.. code-block:: bash

    python examples/tutorial_7_on_a_real_robot.py          # a minute
    python examples/tutorial_7_on_a_real_robot.py --fast   # fewer stretches

This page was made with ``--fast``.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro

from mier_adapt import AdaptationSession, AdaptedPolicy, NewTask, Transitions, adapt, load_run
from mier_adapt.adaptation import AlwaysGate
from mier_adapt.figures import plot_episodes


@dataclass
class Args:
    """Adapt a policy to a robot that is no simulator."""

    fast: bool = False
    """Four stretches in place of ten."""
    seed: int = 0
    """Fixes policy and session; of a real robot, nothing does."""


args = tyro.cli(Args)
torch.set_num_threads(1)
torch.manual_seed(args.seed)
folder = Path(mkdtemp())
STRETCH = 200
"""Steps after which the loop takes a breath: ten seconds of a cheetah."""

# %%
# The robot
# ---------
# All that there is of it: what it shows, and what came of a command. It has no reset: it goes on
# from where it stands, and where it lies on its back somebody puts it on its feet. Inside is a
# simulator, which a real one would not have: a cheetah whose motors 1 and 4 are wired backwards,
# and the sixth, which never was when ``halfcheetah-negated-joints`` was trained.

run = load_run("halfcheetah-negated-joints")


class Robot:
    """A cheetah that runs on."""

    period = 0.05  # s, of a command
    helped = 0

    def __init__(self):
        task = run.task_set[12]
        self._inside = gymnasium.make(run.task_set.env_id, task=task, max_episode_steps=-1)
        self.shown, _ = self._inside.reset(seed=args.seed)

    def send(self, command):
        """Execute a command; what the robot shows then, and its reward: the speed, less effort."""
        self.shown, reward, *_ = self._inside.step(command)
        return self.shown, float(reward)

    def help_up(self):
        """Hands put it on its feet, if it lies on its back."""
        if abs(self.shown[1]) > np.pi / 2:  # the trunk's angle
            self.shown, _ = self._inside.reset()
            self.helped += 1
        return self.shown


robot = Robot()

# %%
# Safety limits
# -------------
# No motor gets more than 90% of its torque, and none is thrown from one side to the other within a
# step. A function from what the robot shows and what is asked to what is done, in the robot's
# units; it may remember things.


class Limits:
    """A bound on commands, and on how fast they change."""

    most, fastest = 0.9, 1.2

    def __init__(self):
        self.last = np.zeros(6)

    def __call__(self, obs, act):
        act = np.clip(act, self.last - self.fastest, self.last + self.fastest)
        self.last = np.clip(act, -self.most, self.most)
        return self.last.astype(np.float32)


limits = Limits()

# %%
# Your own loop, and its log
# --------------------------
# The robot runs with the policy that it always had, and does badly. The loop writes down what was
# *executed*, not what was asked for: that is what the robot answered to.

yesterdays = run.actor(run.model.initial_context)
rows, torques = [], []
for step in range(2 * STRETCH):
    obs = robot.shown if step % STRETCH else robot.help_up()
    asked = yesterdays.act(obs[None], explore=True)[0]  # in [-1, 1], as are this robot's units
    sent = limits(obs, asked)
    obs_next, rew = robot.send(sent)
    rows.append((obs, sent, np.float32(rew), obs_next, False))
    torques.append(np.abs(asked - sent).max() > 1e-6)
columns = (torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True))
obs, act, rew, obs_next, terminated = columns
log = Transitions(obs.float(), act.float(), rew, obs_next.float(), terminated)
log.save(folder / "log.safetensors")
print(f"{len(log)} steps, {len(log) * robot.period:.0f} s; {log.rew.sum() / 2:.0f} a stretch")
print(f"the limits changed {np.mean(torques):.0%} of the commands")

# %%
# What changed, from the log alone
# --------------------------------
# ``logged=`` counts in place of what :func:`~mier_adapt.adaptation.adapt` would gather. With enough
# of it, no evaluation, and a gate that plays nothing, the robot is not touched. ``adapt`` needs to
# know only what it looks like: an environment, whose ``reset`` cannot do more than is done by hand.


class RobotEnv(gymnasium.Env):
    """The robot, as gymnasium would see it."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (run.model.obs_dim,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (run.model.act_dim,), np.float32)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return robot.help_up().astype(np.float32), {}  # it goes on from where it stands

    def step(self, action):
        self.steps += 1
        obs, rew = robot.send(action)
        return obs.astype(np.float32), rew, False, False, {}


def never(obs, act, obs_next):
    """A cheetah has no end of an episode."""
    return np.zeros(len(obs), dtype=bool)


env = RobotEnv()
task = NewTask.of_env(
    env,
    label="the cheetah this morning",
    episode_steps=STRETCH,
    termination_fn=never,
    act_filter=limits,  # in case that something is gathered after all
)
config = replace(run.adapt_config, adaptation_steps=len(log), gate=AlwaysGate())
adaptation = adapt(run, task, config, seed=args.seed, logged=log, evaluation_episodes=0)
report = adaptation.report
print(report)
print(f"steps that adapt took: {env.steps}")

# %%
# Nothing vouches for a policy that has not played, and :class:`.AlwaysGate` hands it back unseen.
# The diagnosis speaks for it: an explanation, with the loss that it leaves. Where that is not
# enough, let a gate play a few episodes (:class:`.MarginGate`), or go on in the loop, as below.
#
# In the loop
# -----------
# A session starts from the same log, so that it has gathered enough already, and the stretches that
# the robot runs anyway decide between policies. After each stretch the file holds all that was
# real.

session = AdaptationSession(
    run,
    run.adapt_config,
    seed=args.seed,
    termination_fn=never,
    checkpoint=folder / "session.safetensors",
    logged=log,
)
print(session.improve())
seconds = []
for _ in range(4 if args.fast else 10):
    for step in range(STRETCH):
        obs = robot.shown if step else robot.help_up()
        started = time.perf_counter()
        sent = limits(obs, session.act(obs))
        seconds.append(time.perf_counter() - started)
        obs_next, rew = robot.send(sent)
        session.observe(obs, sent, rew, obs_next, False, truncated=step == STRETCH - 1)
    said = session.improve()
    last = session.log[-1]
    print(f"{session.transitions:>5} {last['policy']:>16} {last['return']:7.0f}  {said}")

figure = folder / "stretches.png"
plot_episodes(session.log, figure, title="A cheetah that nobody puts back")
plt.figure(figsize=(8, 4.6), layout="constrained")
plt.imshow(plt.imread(figure))
plt.axis("off")
plt.show()

# %%
# A command takes a fraction of the 50 ms that this robot has for one; ``improve`` takes seconds,
# and runs where the robot stands still, or in a thread of its own (`in a robot's own loop
# <../guides/robot_loop.html>`__).

print(f"a command took {1_000 * np.median(seconds):.2f} ms, {len(seconds)} of them in the median")

# %%
# What was spent where
# --------------------

spent = {
    "in the log, before": report.logged_transitions,
    "by adapt, to identify": report.real_transitions,
    "by adapt's gate": report.gate_transitions,
    "by adapt's evaluation": report.evaluation_transitions,
    "in the loop": sum(each["steps"] for each in session.log),
}
for name, steps in spent.items():
    print(f"{name:<22} {steps:5} steps {steps * robot.period:5.0f} s")
print(f"resets: {sum(report.resets.values())}; put on its feet: {robot.helped} times")

# %%
# What is kept
# ------------
# The policy by itself, for the robot's own computer. Safety limits are no part of it: they belong
# to the robot, and stand between whatever acts and its motors.

session.policy.save(folder / "policy.safetensors")
policy = AdaptedPolicy.load(folder / "policy.safetensors")
total = 0.0
robot.help_up()
for _ in range(STRETCH):
    _, rew = robot.send(limits(robot.shown, policy.predict(robot.shown)))
    total += rew
print(f"a stretch with what was kept: {total:.0f}")

# %%
# `The guide <../guides/real_robot.html>`__ says more about resets, rates, limits and crashes.
