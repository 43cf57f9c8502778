"""A policy of another simulator's: Meta-World's arm, with its first axis reversed.

Meta-World pins MuJoCo 3.3.0, so that it needs an environment of its own, without this library's
``constraints.txt``:

    python3 -m venv meta-world
    meta-world/bin/pip install metaworld==3.1.1 .
    meta-world/bin/python examples/meta_world.py            # minutes
    meta-world/bin/python examples/meta_world.py --fast     # few updates, to see that it runs

The policy that Meta-World scripts for the task is imitated by a SAC; then the arm takes the first
component of every action for its opposite, and one call adapts.
"""

import json
import time
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from mier_adapt import Transitions, adapt_algorithm
from mier_adapt.agents import AdaptConfig
from mier_adapt.integration import build_sac
from mier_adapt.training import imitate

try:
    import metaworld
    from metaworld.policies import SawyerReachV3Policy
except ImportError as error:
    raise SystemExit(
        "This example needs Meta-World, in a virtual environment of its own: python3 -m venv "
        "meta-world && meta-world/bin/pip install metaworld==3.1.1 ."
    ) from error


@dataclass
class Args:
    """Adapt a policy of Meta-World's reach to an arm whose first axis is reversed."""

    episodes: int = 50
    """Of the scripted policy, as many in which it is pushed about, and as many of pushes alone, 500
    steps each: what is known of the arm before the change."""
    transitions: int = 200
    """Real ones that identify the change."""
    seed: int = 0
    """Fixes everything."""
    fast: bool = False
    """Few episodes and updates, to see that it runs."""


class Goals(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A goal for each episode, by the seed of its reset.

    Meta-World's own wrapper draws it before the seed is set.
    """

    def __init__(self, env: Any, tasks: list[Any]) -> None:
        super().__init__(env)
        self.tasks, self.generator = tasks, np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        task = self.tasks[int(self.generator.integers(len(self.tasks)))]
        self.env.unwrapped.set_task(task)
        return self.env.reset(seed=seed, options=options)


class Hand(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Hand and gripper, now and one step before, and the goal as the hand sees it.

    The other 28 of 39 numbers are of an object that reach does not touch, or always zero. A goal
    that stands still for an episode would be predicted without any doubt, and then be wrong.
    """

    HAND, GOAL = (0, 1, 2, 3, 18, 19, 20, 21), (36, 37, 38)

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float64)

    def observation(self, observation: Any) -> Any:
        hand, goal = observation[list(self.HAND)], observation[list(self.GOAL)]
        return np.concatenate((hand, goal - hand[:3]))


class Reversed(gymnasium.ActionWrapper[Any, Any, Any]):
    """The first axis goes the other way."""

    def action(self, action: Any) -> Any:
        return action * np.array([-1, 1, 1, 1], action.dtype)


def arm(seed: int) -> gymnasium.Env[Any, Any]:
    """Meta-World's reach, with its time limit of 500 steps and its 50 goals."""
    benchmark = metaworld.MT1("reach-v3", seed=seed)
    env = benchmark.train_classes["reach-v3"]()
    return gymnasium.wrappers.TimeLimit(Hand(Goals(env, benchmark.train_tasks)), 500)


def scripted(obs: torch.Tensor) -> torch.Tensor:
    """Meta-World's policy, ``obs (B, 11) -> act (B, 4)`` in [-1, 1]."""
    policy = SawyerReachV3Policy()
    seen, whole = obs.double().cpu().numpy(), np.zeros((len(obs), 39))
    whole[:, Hand.HAND] = seen[:, :8]
    whole[:, Hand.GOAL] = seen[:, 8:] + seen[:, :3]
    return torch.as_tensor(np.clip([policy.get_action(row) for row in whole], -1, 1)).float()


def at_rest(obs: torch.Tensor) -> torch.Tensor:
    """What noise is added to where the arm is only moved about."""
    return torch.zeros(len(obs), 4)


def experience(
    env: gymnasium.Env[Any, Any],
    policy: Any,
    episodes: int,
    generator: np.random.Generator,
    *,
    noise: float = 0.3,
    held: int = 1,
) -> tuple[Transitions, float]:
    """What a policy met, with noise that is held for some steps, and the mean return."""
    rows, returns = [], []
    for _ in range(episodes):
        (obs, _), over, total = env.reset(seed=int(generator.integers(2**31))), False, 0.0
        while not over:
            act = policy(torch.from_numpy(obs[None]))[0].numpy()
            if len(rows) % held == 0:
                drawn = generator.normal(0, noise, act.shape)
            act = np.clip(act + drawn, -1, 1).astype(np.float32)
            obs_next, rew, terminated, truncated, _ = env.step(act)
            rows.append((obs, act, rew, obs_next, terminated))
            obs, over, total = obs_next, terminated or truncated, total + float(rew)
        returns.append(total)
    columns = (np.array(column) for column in zip(*rows, strict=True))
    obs, act, rew, obs_next, terminated = (torch.from_numpy(each) for each in columns)
    made = (each.float() for each in (obs, act, rew, obs_next))
    return Transitions(*made, terminated.bool()), float(np.mean(returns))


def main() -> None:
    args = tyro.cli(Args)
    torch.set_num_threads(1)
    warnings.filterwarnings(
        "ignore", message="Constant"
    )  # of the scripted policy, which is clipped
    started = time.monotonic()
    env = arm(args.seed)
    generator = np.random.default_rng(args.seed)
    episodes = 2 if args.fast else args.episodes
    earlier, scripted_return = experience(env, scripted, episodes, generator)
    pushed, _ = experience(env, scripted, episodes, generator, noise=1.0, held=20)
    moved, _ = experience(env, at_rest, episodes, generator, noise=1.0, held=50)
    print(f"{len(earlier):,} transitions of the scripted policy; {scripted_return:.0f} an episode")

    algorithm = build_sac(env.observation_space, env.action_space, 0, lr=1e-3)
    updates = {"actor_updates": 50, "critic_updates": 50} if args.fast else {}
    difference = imitate(algorithm, scripted, earlier, seed=args.seed, **updates)
    print(f"imitated, to {difference:.2f}, after {time.monotonic() - started:.0f} s")

    config = AdaptConfig.for_own_policy(adaptation_steps=args.transitions)
    if args.fast:
        config = AdaptConfig.for_own_policy(
            adaptation_steps=50, weight_steps=5, relabel_rounds=1, updates_per_round=5
        )
    adaptation = adapt_algorithm(
        algorithm,
        Reversed(env),
        [Transitions.cat([earlier, pushed, moved])],
        seed=args.seed,
        config=config,
        label="reach-v3, first axis reversed",
    )
    report = adaptation.report
    print(report)
    print(
        json.dumps(
            {
                "seed": args.seed,
                "scripted": round(scripted_return),
                **{name: round(float(np.mean(each))) for name, each in report.returns.items()},
                "decision": report.decision,
                "real_transitions": report.real_transitions,
                "gate_transitions": report.gate_transitions,
                "seconds": round(time.monotonic() - started),
            }
        )
    )


if __name__ == "__main__":
    main()
