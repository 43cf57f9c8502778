"""A stock Tianshou SAC or TD3 that knows one robot meets others that are wired differently.

Trains it on the cheetah whose joints all push the right way, with Tianshou's own collector,
buffer and trainer; then takes policy and replay buffer to three cheetahs with two joints negated,
by one call. Policies are kept in the directory and trained once.

    python examples/adapt_own_policy.py --seeds 0 1 2 --transitions 50 200
    python examples/adapt_own_policy.py --seeds 0 1 2 --arms    # relabeling, too, side by side
    python examples/adapt_own_policy.py --unchanged 20          # the same robot, 20 times
"""

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.td3 import TD3
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.exploration import GaussianNoise
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorDeterministic, ContinuousCritic

import mier_adapt_envs
from mier_adapt import AdaptationReport, Transitions, adapt_algorithm, meta_train_offline
from mier_adapt.adaptation import compare
from mier_adapt.agents import AdaptConfig, ModelConfig
from mier_adapt.figures import plot_comparison
from mier_adapt.integration import algorithm_state, build_sac, from_tianshou, load_algorithm_state
from mier_adapt.statistics import bootstrap_interval

FAMILY = mier_adapt_envs.env_class("HalfCheetahNegatedJoints")
TASKS = ((0, 1), (2, 4), (3, 5))
"""Joints that are negated, counted from 0."""
MODEL = ModelConfig(context_dim=0, batch_size=256)


@dataclass
class Args:
    """Train on the intact robot and adapt to three changed ones."""

    algorithm: Literal["sac", "td3"] = "sac"
    seeds: tuple[int, ...] = (0, 1, 2)
    """One policy, and one adaptation to each task, for each."""
    transitions: tuple[int, ...] = (200,)
    """Real transitions of an adaptation; one table for each."""
    arms: bool = False
    """Relabel as well where undoing the change suffices."""
    unchanged: int = 0
    """Adapt to the same robot with so many seeds, in place of changed ones."""
    env_steps: int = 60_000
    """Environment steps of training; half as many updates."""
    out: Path = Path("runs/own-policy")
    fast: bool = False
    """Train for 2,000 steps and adapt to one task, to see that it runs."""


def robot(negated: tuple[int, ...] = ()) -> gymnasium.Env[Any, Any]:
    """The cheetah with these joints negated."""
    mask = tuple(-1.0 if joint in negated else 1.0 for joint in range(6))
    return gymnasium.make(FAMILY.env_id, task=mier_adapt_envs.Task(FAMILY.family, mask))


def build(algorithm: str, env: gymnasium.Env[Any, Any]) -> Any:
    """A new one, of stock Tianshou parts."""
    spaces: Any = env.observation_space, env.action_space
    if algorithm == "sac":
        return build_sac(*spaces, context_dim=0, lr=1e-3)
    obs_shape, act_shape = (each.shape for each in spaces)

    def critic() -> ContinuousCritic:
        net = Net(
            state_shape=obs_shape, action_shape=act_shape, hidden_sizes=(256, 256), concat=True
        )
        return ContinuousCritic(preprocess_net=net)

    actor = ContinuousActorDeterministic(
        preprocess_net=Net(state_shape=obs_shape, hidden_sizes=(256, 256)), action_shape=act_shape
    )
    return TD3(
        policy=ContinuousDeterministicPolicy(
            actor=actor, exploration_noise=GaussianNoise(sigma=0.1), action_space=spaces[1]
        ),
        policy_optim=AdamOptimizerFactory(lr=1e-3),
        critic=critic(),
        critic_optim=AdamOptimizerFactory(lr=1e-3),
        critic2=critic(),
        critic2_optim=AdamOptimizerFactory(lr=1e-3),
    )


def train(name: str, seed: int, env_steps: int, path: Path) -> tuple[Any, Transitions]:
    """A stock algorithm and its replay, from the file if it was trained before."""
    env = robot()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - stock Tianshou draws from the global generators
    algorithm = build(name, env)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        load_algorithm_state(algorithm, kept["algorithm"])
        return algorithm, Transitions(**kept["replay"])
    envs = DummyVectorEnv([robot] * 10)
    envs.seed(seed)
    buffer = VectorReplayBuffer(env_steps, len(envs))
    collector = Collector(algorithm, envs, buffer)
    collector.reset()
    collector.collect(n_step=2_000, random=True)
    test_envs = DummyVectorEnv([robot] * 4)
    test_envs.seed(1_000 + seed)
    started = time.monotonic()
    result = algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            test_collector=Collector(algorithm, test_envs),
            test_step_num_episodes=4,
            max_epochs=1,
            epoch_num_steps=env_steps,
            collection_step_num_env_steps=200,
            update_step_num_gradient_steps_per_sample=0.5,
            batch_size=256,
            show_progress=False,
            verbose=False,
        )
    )
    print(
        f"seed {seed}: {env_steps} steps of {name.upper()}, return {result.best_reward:.0f}, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    replay = from_tianshou(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"algorithm": algorithm_state(algorithm), "replay": vars(replay)}, path)
    return algorithm, replay


def main(args: Args) -> list[AdaptationReport]:
    """Adapt every policy to every task; return the reports."""
    torch.set_num_threads(1)
    env_steps = 2_000 if args.fast else args.env_steps
    tasks = TASKS[: 1 if args.fast else None]
    reports = []
    for transitions in args.transitions:
        config = AdaptConfig.for_own_policy(adaptation_steps=transitions, learn_always=args.arms)
        found: list[AdaptationReport] = []
        for seed in args.seeds:
            name = f"{args.algorithm}-{seed}-{env_steps}"
            algorithm, replay = train(args.algorithm, seed, env_steps, args.out / f"{name}.pt")
            # The call would train this model each time; the robots can share it.
            steps = 200 if args.fast else 5_000
            adapter = meta_train_offline([replay], steps=steps, seed=seed, config=MODEL)
            met = [((), each) for each in range(args.unchanged)]
            for negated, adaptation_seed in met or zip(tasks, itertools.repeat(seed), strict=False):
                joints = ",".join(str(joint + 1) for joint in negated) or "none"
                env = robot(negated)
                report = adapt_algorithm(
                    algorithm,
                    env,
                    [replay],
                    seed=adaptation_seed,
                    label=f"negated joints {joints}",
                    adapter=adapter,
                    config=config,
                ).report
                env.close()
                print(f"{name}, {transitions} transitions: {report}\n", flush=True)
                found.append(report)
        summarize(found, transitions, len(args.seeds))
        reports += found
        args.out.mkdir(parents=True, exist_ok=True)
        kind = "-arms" if args.arms else "-unchanged" if args.unchanged else ""
        path = args.out / f"{args.algorithm}-{transitions}{kind}"
        values = [each.to_dict() for each in found]
        path.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n")
        if not args.unchanged:
            plot_comparison(compare(found), path.with_suffix(".png"))
    return reports


def summarize(reports: list[AdaptationReport], transitions: int, seeds: int) -> None:
    """What was returned before and after, over all tasks and seeds."""
    kept = [
        (np.mean(each.returns["unchanged"]), np.mean(each.returns[each.decision]))
        for each in reports
    ]
    before, after = np.mean(kept, axis=0)
    lowest = min(b - a for a, b in kept)
    told = sum(
        each.diagnosis is not None and each.diagnosis["sentences"] == ["nothing changed"]
        for each in reports
    )
    print(
        f"{transitions} transitions: mean return {before:.0f} unchanged, {after:.0f} of what was "
        f"handed back; the least gain is {lowest:.0f}; nothing changed, it says of {told} of "
        f"{len(reports)}"
    )
    if seeds > 1:
        gains_TS = np.array([b - a for a, b in kept]).reshape(seeds, -1).T
        low, high = bootstrap_interval(gains_TS)
        print(f"Gain {gains_TS.mean():.0f}, 95% interval over seeds [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    main(tyro.cli(Args))
