"""Policies of one's own: SAC on gymnasium's four robots, each as it left the factory.

What a user brings to :func:`.adapt_algorithm`: an algorithm and the replay buffer of its training.
Both are kept in the directory, whole; the same command goes on where it was stopped. On robots that
changed, it tells what they return at all.

    python examples/train_robots.py --robots Hopper --seeds 0 --out runs/robots
    python examples/train_robots.py --robots HalfCheetah --seeds 0 --changes 10
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mier_adapt import Transitions
from mier_adapt.agents import collect
from mier_adapt.integration import (
    ContextReplayBuffer,
    FastSAC,
    PolicyActor,
    algorithm_state,
    build_sac,
    load_algorithm_state,
    update,
)
from mier_adapt_envs import RobotChange, change_set

SLOTS = 20
EPISODE_STEPS = 200
UPDATES_PER_ROUND = 1_000
UPDATES = {"Hopper": 60_000, "HalfCheetah": 80_000, "Walker2d": 100_000, "Ant": 150_000}
"""Of each robot, 4 environment steps for each; not tuned."""
LR = 1e-3
ANNEALED_SHARE = 0.4
"""Last share of the updates, over which the step size falls to zero."""


@dataclass
class Args:
    """Train SAC on intact robots, or on changed ones, one after the other."""

    robots: tuple[str, ...] = ("Hopper", "HalfCheetah", "Walker2d", "Ant")
    seeds: tuple[int, ...] = (0, 1, 2)
    set: Literal["development", "test"] = "development"
    """Of changes."""
    changes: tuple[int, ...] = ()
    """By index in the set; intact robots if none."""
    out: Path = Path("runs/robots")
    fast: bool = False
    """Take 2,000 updates of the first robot, to see that it runs."""


def robot(name: str, change: RobotChange | None = None) -> gymnasium.Env[Any, Any]:
    """The robot as it left the factory, or changed, with the paper's horizon."""
    if change is not None:
        return gymnasium.make(f"MIER/Changed{name}-v0", change=change)
    options = {"include_cfrc_ext_in_observation": False} if name == "Ant" else {}
    return gymnasium.make(f"{name}-v5", max_episode_steps=EPISODE_STEPS, **options)


def build(env: gymnasium.Env[Any, Any] | SyncVectorEnv, seed: int) -> Any:
    """A new SAC of this seed."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - stock Tianshou draws from the global generators
    obs_space = getattr(env, "single_observation_space", env.observation_space)
    act_space = getattr(env, "single_action_space", env.action_space)
    return build_sac(
        obs_space,
        act_space,
        context_dim=0,
        lr=LR,
        target_entropy=-float(act_space.shape[0]),
        algorithm_class=FastSAC,
    )


def load(name: str, seed: int, out: Path) -> tuple[Any, Transitions, float]:
    """A trained algorithm, its replay, and what it returns on the intact robot.

    Raises:
        FileNotFoundError: If it has not been trained to its end.
    """
    kept = torch.load(out / f"{name}-{seed}.pt", weights_only=True)
    if kept["done"] < kept["updates"]:
        raise FileNotFoundError(f"{name}, seed {seed} has been trained for {kept['done']} updates.")
    env = robot(name)
    algorithm = build(env, seed)
    load_algorithm_state(algorithm, kept["algorithm"])
    return algorithm, Transitions(**kept["replay"]), kept["curve"][-1][1]


def train(
    name: str, seed: int, updates: int, path: Path, change: RobotChange | None = None
) -> float:
    """Train, or go on with what the file holds; the mean return of 20 deterministic episodes."""
    envs = SyncVectorEnv(
        [lambda: robot(name, change)] * SLOTS, autoreset_mode=AutoresetMode.SAME_STEP
    )
    sac = build(envs, seed)
    generator = np.random.default_rng(seed)
    replay = ContextReplayBuffer(
        1,
        4 * updates + SLOTS * EPISODE_STEPS,
        obs_dim=envs.single_observation_space.shape[0],
        act_dim=envs.single_action_space.shape[0],
        context_dim=0,
        generator=generator,
    )
    parts: list[Transitions] = []
    curve: list[list[float]] = []
    done = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        load_algorithm_state(sac, kept["algorithm"])
        done, curve = kept["done"], kept["curve"]
        parts = [Transitions(**kept["replay"])]
        replay.extend(0, parts[0])
        generator = np.random.default_rng([seed, done])
        torch.manual_seed(seed + done)
    actor = PolicyActor(sac.policy, torch.zeros(0))
    started = time.monotonic()
    while done < updates:
        left = (updates - done) / (ANNEALED_SHARE * updates)
        for optimizer in (sac.policy_optim, sac.critic_optim, sac.critic2_optim):
            for group in optimizer._optim.param_groups:
                group["lr"] = LR * min(1.0, left)
        rollout = collect(envs, None, actor, steps=EPISODE_STEPS, generator=generator)
        parts.append(rollout.transitions.flatten())
        for slot in range(SLOTS):
            replay.extend(0, rollout.transitions[slot], truncated=rollout.truncated[slot])
        for _ in range(UPDATES_PER_ROUND):
            update(sac, replay, 256)
        done += UPDATES_PER_ROUND
        if done % 5_000 and done < updates:
            continue
        starts = np.random.default_rng(10_000 + seed)
        played = collect(
            envs, None, actor, steps=EPISODE_STEPS, generator=starts, explore=False, until_end=True
        )
        curve.append([done, float(played.first_returns.mean())])
        print(
            f"{name} seed {seed}: {done:6d} updates, {len(replay):7d} env steps, return "
            f"{curve[-1][1]:7.1f} ± {played.first_returns.std():.0f}, "
            f"{time.monotonic() - started:5.0f} s",
            flush=True,
        )
        parts = [Transitions.cat(parts)]
        kept = {
            "algorithm": algorithm_state(sac),
            "replay": vars(parts[0]),
            "curve": curve,
            "done": done,
            "updates": updates,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(kept, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    envs.close()
    return curve[-1][1]


def main(args: Args) -> None:
    """Train what is missing."""
    torch.set_num_threads(1)
    for seed in args.seeds[: 1 if args.fast else None]:
        for name in args.robots[: 1 if args.fast else None]:
            updates, stem = 2_000 if args.fast else UPDATES[name], f"{name}-{seed}"
            if not args.changes:
                train(name, seed, updates, args.out / f"{stem}.pt")
            for number in args.changes:
                change = change_set(name, args.set)[number]
                print(change.label, flush=True)
                path = args.out / f"{stem}-{args.set}-{number}.pt"
                train(name, seed, updates, path, change)


if __name__ == "__main__":
    main(tyro.cli(Args))
