"""Stable-Baselines3's own SAC on the cheetah that has no motor negated, for tutorial 5.

Writes the actor, whole episodes spread over the replay buffer, and a card that says how they came
about. All are safetensors or JSON: reading them runs no code.

    python examples/train_sb3.py --out examples/data/sb3-halfcheetah
"""

import json
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import stable_baselines3
import torch
import tyro
from safetensors.torch import save_file
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

import mier_adapt_envs
from mier_adapt_envs import Task

EPISODE_STEPS = 200


@dataclass
class Args:
    """Train Stable-Baselines3's SAC on the intact cheetah, and write what it learned."""

    out: Path
    """Directory for ``policy.safetensors``, ``buffer.safetensors`` and ``card.json``."""
    steps: int = 20_000
    """Environment steps, and updates."""
    episodes: int = 60
    """Episodes of the replay buffer to keep, spread evenly, the last one among them."""
    seed: int = 0
    fast: bool = False
    """Take 1,000 steps, to see that it runs."""


def episodes_of(model: SAC, count: int) -> dict[str, torch.Tensor]:
    """Some whole episodes: ``obs`` ``(E, 201, O)``, ``act`` and ``rew`` ``(E, 200, ...)``."""
    buffer = model.replay_buffer
    columns = {
        name: values[: buffer.size(), 0].reshape(-1, EPISODE_STEPS, *values.shape[2:])
        for name, values in (
            ("obs", buffer.observations),
            ("obs_next", buffer.next_observations),
            ("act", buffer.actions),  # SB3 stores them scaled to [-1, 1]
            ("rew", buffer.rewards),
        )
    }
    held = len(columns["obs"])
    kept = np.arange(1, count + 1) * held // count - 1 if count < held else np.arange(held)
    # Nothing here terminates: within an episode a step's obs_next is the next one's obs.
    columns["obs"] = np.concatenate([columns["obs"], columns.pop("obs_next")[:, -1:]], axis=1)
    return {name: torch.from_numpy(values[kept]).half() for name, values in columns.items()}


def main(args: Args) -> None:
    """Train, evaluate, write."""
    torch.set_num_threads(1)
    steps = 1_000 if args.fast else args.steps
    family = mier_adapt_envs.env_class("HalfCheetahNegatedJoints")
    env = gymnasium.make(family.env_id, task=Task(family.family, (1,) * 6))
    model = SAC(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        buffer_size=steps,
        policy_kwargs={"net_arch": [128, 128]},
        seed=args.seed,
    )
    started = time.process_time()
    model.learn(steps, log_interval=None)
    seconds = time.process_time() - started
    returns, _ = evaluate_policy(model, model.get_env(), 10, return_episode_rewards=True)

    buffer = episodes_of(model, args.episodes)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(model.policy.actor.state_dict(), args.out / "policy.safetensors")
    save_file(buffer, args.out / "buffer.safetensors")
    log = ["git", "log", "-1", "--format=%h", "--", "mier_adapt_envs"]
    commit = subprocess.run(log, capture_output=True, text=True).stdout.strip()
    card = {
        "command": f"python examples/train_sb3.py --out {args.out} --steps {steps} "
        f"--episodes {args.episodes} --seed {args.seed}",
        "environments_commit": commit or None,
        "stable-baselines3": stable_baselines3.__version__,
        "torch": torch.__version__,
        "task": "HalfCheetahNegatedJoints, no joint negated",
        "seed": args.seed,
        "env_steps": steps,
        "cpu_seconds": round(seconds),
        "machine": f"1 thread, {platform.machine()}",
        "returns": [round(value, 1) for value in returns],
        "mean_return": round(float(np.mean(returns)), 1),
        "transitions": buffer["rew"].numel(),
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"mean return {card['mean_return']} in {seconds:.0f} s of CPU: {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args))
