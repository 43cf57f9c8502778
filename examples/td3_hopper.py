"""A hopper whose thigh is wired backwards: Tianshou's TD3, adapted, acts in a new process.

Trains a stock TD3 (some minutes), adapts it (another two), saves what acts, and lets a process that
knows neither Tianshou nor the training hop on with it.

    python examples/td3_hopper.py
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from mier_adapt_envs import RobotChange

THIGH_BACKWARDS = RobotChange(
    "motor reversed", motor_matrix=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
)


@dataclass
class Args:
    """Train, change, adapt, save; or act."""

    out: Path = Path("hopper-policy.safetensors")
    """Where the adapted policy goes."""
    act: bool = False
    """Only load it, and act."""
    steps: int = 40_000
    """Environment steps of the training, and updates."""
    seed: int = 0
    fast: bool = False
    """Train for 300 steps, to see that it runs."""


def hopper(change: RobotChange | None = None) -> gymnasium.Env[Any, Any]:
    """The robot, as it left the factory or changed."""
    change = change or RobotChange("none")
    return gymnasium.make("MIER/ChangedHopper-v0", change=change, max_episode_steps=200)


def mean_return(predict: Any, env: gymnasium.Env[Any, Any], episodes: int = 10) -> float:
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
    print(f"adapted, in a new process: {mean_return(policy.predict, hopper(THIGH_BACKWARDS)):.0f}")


def trained(args: Args) -> tuple[Any, Any]:
    """A stock TD3 and its replay buffer, by stock Tianshou."""
    from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
    from tianshou.algorithm.modelfree.td3 import TD3
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, ReplayBuffer
    from tianshou.exploration import GaussianNoise
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorDeterministic, ContinuousCritic

    from mier_adapt.integration import update

    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002 - stock Tianshou draws from the global generators
    env = hopper()
    spaces: Any = env.observation_space, env.action_space
    obs_shape, act_shape = (each.shape for each in spaces)

    def critic() -> ContinuousCritic:
        net = Net(
            state_shape=obs_shape, action_shape=act_shape, hidden_sizes=(256, 256), concat=True
        )
        return ContinuousCritic(preprocess_net=net)

    net = Net(state_shape=obs_shape, hidden_sizes=(256, 256))
    algorithm = TD3(
        policy=ContinuousDeterministicPolicy(
            actor=ContinuousActorDeterministic(preprocess_net=net, action_shape=act_shape),
            exploration_noise=GaussianNoise(sigma=0.3),
            action_space=spaces[1],
        ),
        policy_optim=AdamOptimizerFactory(lr=1e-3),
        critic=critic(),
        critic_optim=AdamOptimizerFactory(lr=1e-3),
        critic2=critic(),
        critic2_optim=AdamOptimizerFactory(lr=1e-3),
    )
    steps = 300 if args.fast else args.steps
    buffer = ReplayBuffer(steps)
    collector: Any = Collector(algorithm, env, buffer)
    collector.reset()
    collector.collect(n_step=steps // 4, random=True)
    for _ in range(steps - steps // 4):
        collector.collect(n_step=1)
        update(algorithm, buffer, 256)
    return algorithm, buffer


def main(args: Args) -> None:
    """From training to acting."""
    from mier_adapt import adapt_algorithm
    from mier_adapt.integration import PolicyActor

    torch.set_num_threads(1)
    algorithm, buffer = trained(args)
    actor = PolicyActor(algorithm.policy, torch.zeros(0))

    def predict(obs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return actor.act(obs[None].astype(np.float32), explore=False)[0]

    print(f"as trained: {mean_return(predict, hopper()):.0f}")
    print(f"thigh backwards: {mean_return(predict, hopper(THIGH_BACKWARDS)):.0f}")

    rule = hopper().unwrapped.termination_fn
    adaptation = adapt_algorithm(  # from trained ...
        algorithm, hopper(THIGH_BACKWARDS), [buffer], seed=args.seed, termination_fn=rule
    )
    print(adaptation.report)
    adaptation.save(args.out)
    subprocess.run([sys.executable, __file__, "--act", "--out", args.out], check=True)  # to acting


if __name__ == "__main__":
    args = tyro.cli(Args)
    act(args) if args.act else main(args)
