r"""
Meta-train on your own task family
==================================

A disc on a table is to go to a point that it is not told. Each point is a task; what tells them
apart is the reward. We write the family, meta-train on points on one half of a circle, and let the
policy adapt to points on the whole of it, from a few short episodes.

.. code-block:: bash

    python examples/tutorial_2_own_task_family.py          # some minutes
    python examples/tutorial_2_own_task_family.py --fast   # under a minute

This page was made with ``--fast``.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro

import mier_adapt_envs
from mier_adapt import load_run, meta_train
from mier_adapt.agents import (
    FamilyEnvs,
    MetaTrainConfig,
    ModelConfig,
    PolicyConfig,
    collect,
    evaluate,
)
from mier_adapt_envs import Robot, Task, TaskEnv, TaskSet, register


@dataclass
class Args:
    """Meta-train a disc to reach points that it is not told."""

    fast: bool = False
    """Train for a sixth of the updates."""
    seed: int = 0
    """Fixes training and adaptation."""


args = tyro.cli(Args)
torch.set_num_threads(1)

# %%
# The family
# ----------
# A family is a MuJoCo robot and a few pure functions over *batches* of states, so that one
# definition serves the single environment and the batched engine. The robot here is a model file
# of our own. The point is in the task's parameters and in the reward, but not in the observation:
# a policy can only know it through the context.

directory = Path(tempfile.mkdtemp())
model_file = directory / "disc.xml"
model_file.write_text("""
<mujoco>
  <worldbody>
    <body>
      <joint name="x" type="slide" axis="1 0 0" damping="5"/>
      <joint name="y" type="slide" axis="0 1 0" damping="5"/>
      <geom type="cylinder" size="0.05 0.02" mass="1"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x" ctrlrange="-1 1" gear="6"/>
    <motor joint="y" ctrlrange="-1 1" gear="6"/>
  </actuator>
</mujoco>
""")


class ReachEnv(TaskEnv):
    """Go to a point, given in m."""

    family = "Reach"
    env_id = "Reach-v0"
    varies = "reward"
    parameter_names = ("x", "y")
    robot = Robot(xml_file=str(model_file), timestep=0.02, frame_skip=5, reset_noise=0.05)

    @staticmethod
    def observe(state):
        return np.concatenate([state["qpos"], state["qvel"]], axis=1)

    @staticmethod
    def measure(before, after, act_BA, parameters_BP):
        distance_B = np.linalg.norm(after["qpos"] - parameters_BP, axis=1)
        return {"reward_distance": -distance_B, "distance": distance_B}

    @staticmethod
    def termination_fn(obs_BO, act_BA, obs_next_BO):
        return np.zeros(len(obs_next_BO), dtype=bool)

    @classmethod
    def task_sets(cls):
        def on_circle(degrees):
            return tuple(
                Task(
                    cls.family,
                    (math.cos(math.radians(angle)), math.sin(math.radians(angle))),
                    label=f"{angle:.0f}°",
                )
                for angle in degrees
            )

        train, test = on_circle(np.linspace(-90, 90, 10)), on_circle((-165, -135, 135, 165))
        return {"standard": TaskSet(cls.family, "standard", cls.env_id, train, test)}


EPISODE = 20  # environment steps, of 0.1 s
register(ReachEnv, max_episode_steps=EPISODE)

# %%
# That is all. The environment, its task set and its batched engine are there under their names;
# see :doc:`/custom_family` for families that change physics.
#
# Meta-training
# -------------
# A configuration says what to train. The sizes are small here because the task is.

config = MetaTrainConfig(
    family="Reach",
    updates=1_500 if args.fast else 9_000,
    updates_per_iteration=250,
    tasks_per_iteration=10,
    initial_episodes=10,
    episode_steps=EPISODE,
    evaluate_every=1,
    model=ModelConfig(hidden_sizes=(64, 64), pretrain_steps=500),
    policy=PolicyConfig(hidden_sizes=(64, 64), lr=3e-3, batch_size=200),
)
meta_train(config, directory / "run", seed=args.seed)

lines = (directory / "run" / "metrics.jsonl").read_text().splitlines()
rows = [row for row in map(json.loads, lines) if "return_adapted" in row]
print(f"{rows[-1]['updates']} updates, {rows[-1]['env_steps']} environment steps")

# %%
# What it learned
# ---------------
# For each task we gather four episodes with the initial context, take two gradient steps on the
# context, and compare deterministic episodes. The last four points lie on the other half of the
# circle.

tasks = mier_adapt_envs.task_set("Reach")
with FamilyEnvs(tasks) as envs:
    run = load_run(directory / "run", envs)
    results = evaluate(run, envs, tasks, seed=args.seed, adaptation_steps=4 * EPISODE)
    # The same by hand, to see where the disc goes.
    slots, generator = envs.of_size(len(tasks)), np.random.default_rng(args.seed)
    gathered = collect(
        slots, tasks, run.initial_actor(len(tasks)), steps=4 * EPISODE, generator=generator
    )
    actor = run.adapt(gathered.transitions)
    episodes = collect(
        slots, tasks, actor, steps=EPISODE, generator=generator, explore=False
    ).transitions

for name, part in (
    ("training", results[: len(tasks.meta_train)]),
    ("unseen", results[len(tasks.meta_train) :]),
):
    before, after = (
        np.mean([getattr(result, f"returns_{stage}") for result in part])
        for stage in ("initial", "adapted")
    )
    print(f"{name} points: return {before:.1f} before, {after:.1f} after adaptation")

# %%
# Points, and where the disc went in one episode under each adapted context. Blue was trained on,
# orange was not.

figure, (curve, plane) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
updates = [row["updates"] for row in rows]
curve.plot(updates, [row["return_initial"] for row in rows], color="grey", label="initial context")
curve.plot(
    updates, [row["return_adapted"] for row in rows], color="tab:blue", label="adapted context"
)
curve.set(xlabel="SAC updates", ylabel="return of an episode, training points")
curve.legend()
for index, (task, path) in enumerate(zip(tasks, episodes.obs[..., :2], strict=True)):
    color = "tab:blue" if index < len(tasks.meta_train) else "tab:orange"
    plane.plot(path[:, 0], path[:, 1], color=color, lw=1)
    plane.plot(*path[-1], "o", color=color, ms=4)
    plane.plot(*task.parameters, "x", color=color, ms=9)
plane.set(
    aspect="equal", xlabel="x in m", ylabel="y in m", title="× the point, ● where the disc ended"
)
plt.show()

# %%
# Points on the other half are tasks out of distribution: :doc:`/explanation/limits` says what to
# expect there, and :func:`.adapt` is the next step.
