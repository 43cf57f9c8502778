"""A pendulum whose motor is wired backwards: SB3's policy, adapted, acts in a new process.

Trains a small SAC (about a minute), adapts it (another), saves what acts, and lets a process that
has never heard of Stable-Baselines3 swing the changed pendulum up. What is said to have changed may
be two sensors, the sine and the velocity: a pendulum seen in a mirror is one whose motor is wired
backwards, and no transition tells the two apart.

    pip install 'mier-adapt[sb3]'
    python examples/sb3_pendulum.py
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
import tyro


@dataclass
class Args:
    """Train, change, adapt, save; or act."""

    out: Path = Path("pendulum-policy.safetensors")
    """Where the adapted policy goes."""
    act: bool = False
    """Only load it, and act."""
    steps: int = 6_000
    """Environment steps of the training, and updates."""
    seed: int = 0
    fast: bool = False
    """Train for 300 steps, to see that it runs."""


def backwards() -> gymnasium.Env:
    """The pendulum, whose motor pushes the other way."""
    env = gymnasium.make("Pendulum-v1")
    return gymnasium.wrappers.TransformAction(env, lambda act: -act, env.action_space)


def mean_return(predict, env: gymnasium.Env, episodes: int = 10) -> float:
    """Of episodes that begin alike for all."""
    total = 0.0
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            obs, rew, terminated, truncated, _ = env.step(predict(obs))
            total, ended = total + float(rew), terminated or truncated
    return total / episodes


def act(args: Args) -> None:
    """What a robot's own process does."""
    from mier_adapt import AdaptedPolicy

    policy = AdaptedPolicy.load(args.out)
    print(f"adapted, in a new process: {mean_return(policy.predict, backwards()):.0f}")


def main(args: Args) -> None:
    """From training to acting."""
    from stable_baselines3 import SAC

    from mier_adapt import adapt_sb3

    torch.set_num_threads(1)
    steps = 300 if args.fast else args.steps
    model = SAC(
        "MlpPolicy", "Pendulum-v1", learning_rate=1e-3, policy_kwargs={"net_arch": [64, 64]},
        buffer_size=steps, seed=args.seed,
    )  # fmt: skip
    model.learn(steps)

    def trained(obs: np.ndarray) -> np.ndarray:
        return model.predict(obs, deterministic=True)[0]

    print(f"as trained: {mean_return(trained, gymnasium.make('Pendulum-v1')):.0f}")
    print(f"wired backwards: {mean_return(trained, backwards()):.0f}")

    adaptation = adapt_sb3(model, backwards(), seed=args.seed)  # from trained ...
    print(adaptation.report)
    adaptation.save(args.out)
    subprocess.run([sys.executable, __file__, "--act", "--out", args.out], check=True)  # to acting


if __name__ == "__main__":
    args = tyro.cli(Args)
    act(args) if args.act else main(args)
