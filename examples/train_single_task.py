"""Plain SAC on one task, through this library's collection and buffers.

The reinforcement-learning half alone: no model, no context. Run it to see that a stock
Tianshou SAC learns on these environments, and as a yardstick for meta-training.

    python examples/train_single_task.py --seed 0
"""

import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from tianshou.algorithm.modelfree.sac import SAC

import mier_adapt_envs
from mier_adapt.agents import collect
from mier_adapt.integration import ContextReplayBuffer, PolicyActor, build_sac, update

SLOTS = 20
EPISODE_STEPS = 200


@dataclass
class Args:
    """Train SAC on one task until it reaches a return or runs out of updates."""

    family: str = "HalfCheetahNegatedJoints"
    """Family of tasks, as `mier-adapt tasks` lists them."""
    task: int = 0
    """Index of the task in the set."""
    task_set: str = "standard"
    """Which of the family's task sets."""
    seed: int = 0
    updates: int = 60_000
    """Gradient updates at most."""
    target_return: float = 800.0
    """Stop when the mean return of the evaluation episodes reaches this."""
    updates_per_round: int = 1_000
    """Updates after each round of 20 episodes of 200 steps."""
    batch_size: int = 256
    lr: float = 1e-3
    """Adam's step size for actor, critics and temperature."""
    threads: int = 1
    """CPU threads of torch."""
    fast: bool = False
    """Take 2,000 updates, to see that it runs."""


def main(args: Args, algorithm_class: type[SAC[Any]] = SAC) -> dict[int, float]:
    """Train; return the mean undiscounted return of 10 deterministic episodes after n updates."""
    torch.set_num_threads(args.threads)
    np.random.seed(args.seed)  # noqa: NPY002 - stock Tianshou draws from the global generators
    torch.manual_seed(args.seed)
    generator = np.random.default_rng(args.seed)
    task_set = mier_adapt_envs.task_set(args.family, args.task_set)
    task = task_set[args.task]
    env = gymnasium.make_vec(
        task_set.env_id,
        num_envs=SLOTS,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    obs_space, act_space = env.single_observation_space, env.single_action_space
    sac = build_sac(
        obs_space, act_space, context_dim=0, lr=args.lr, algorithm_class=algorithm_class
    )
    replay = ContextReplayBuffer(
        1,
        SLOTS * EPISODE_STEPS * (args.updates // args.updates_per_round + 1),
        obs_dim=obs_space.shape[0],
        act_dim=act_space.shape[0],
        context_dim=0,
        generator=generator,
    )
    actor = PolicyActor(sac.policy, torch.zeros(0))
    updates = 2_000 if args.fast else args.updates
    started, mean_returns = time.monotonic(), {}
    for done in range(args.updates_per_round, updates + 1, args.updates_per_round):
        rollout = collect(env, [task] * SLOTS, actor, steps=EPISODE_STEPS, generator=generator)
        for slot in range(SLOTS):
            replay.extend(0, rollout.transitions[slot], truncated=rollout.truncated[slot])
        for _ in range(args.updates_per_round):
            update(sac, replay, args.batch_size)
        if done % 5_000 == 0 or done == updates:
            evaluation = collect(
                env,
                [task] * SLOTS,
                actor,
                steps=EPISODE_STEPS,
                generator=np.random.default_rng(10_000 + args.seed),
                explore=False,
            )
            mean_returns[done] = mean_return = float(evaluation.first_returns[:10].mean())
            print(
                f"{task} seed {args.seed}: {done:6d} updates, {len(replay):7d} env steps, "
                f"return {mean_return:7.1f}, {time.monotonic() - started:5.0f} s",
                flush=True,
            )
            if mean_return >= args.target_return:
                break
    env.close()
    return mean_returns


if __name__ == "__main__":
    main(tyro.cli(Args))
