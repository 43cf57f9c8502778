"""A stock Tianshou SAC that knows one robot meets three that are wired differently.

Trains SAC on the cheetah whose joints all push the right way, with Tianshou's own collector,
buffer and trainer; then takes the policy and its replay buffer to three cheetahs with two joints
negated, 1,000 real transitions each, by one call. Policies are kept in the directory and trained
once.

    python examples/adapt_own_policy.py --seeds 0 1 2
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams

import mier_adapt_envs
from mier_adapt import AdaptationReport, Transitions, adapt_algorithm, meta_train_offline
from mier_adapt.adaptation import MarginGate, compare
from mier_adapt.agents import AdaptConfig, ModelConfig
from mier_adapt.figures import plot_comparison
from mier_adapt.integration import algorithm_state, build_sac, from_tianshou, load_algorithm_state
from mier_adapt.statistics import bootstrap_interval

FAMILY = mier_adapt_envs.env_class("HalfCheetahNegatedJoints")
TASKS = ((0, 1), (2, 4), (3, 5))
"""Joints that are negated, counted from 0."""
MODEL = ModelConfig(context_dim=0, batch_size=256)
CONFIG = AdaptConfig.for_own_policy(gate=MarginGate())
"""With the gate of the table in docs/results.md: one episode of each policy."""


@dataclass
class Args:
    """Train SAC on the intact robot and adapt it to three changed ones."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One policy, and one adaptation to each task, for each."""
    env_steps: int = 60_000
    """Environment steps of SAC's training; half as many updates."""
    out: Path = Path("runs/own-policy")
    fast: bool = False
    """Train for 2,000 steps and adapt to one task, to see that it runs."""


def robot(negated: tuple[int, ...] = ()) -> gymnasium.Env[Any, Any]:
    """The cheetah with these joints negated."""
    mask = tuple(-1.0 if joint in negated else 1.0 for joint in range(6))
    return gymnasium.make(FAMILY.env_id, task=mier_adapt_envs.Task(FAMILY.family, mask))


def train(seed: int, env_steps: int, path: Path) -> tuple[Any, Transitions]:
    """A stock SAC and its replay, from the file if it was trained before."""
    env = robot()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - stock Tianshou draws from the global generators
    sac = build_sac(env.observation_space, env.action_space, context_dim=0, lr=1e-3)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        load_algorithm_state(sac, kept["algorithm"])
        return sac, Transitions(**kept["replay"])
    envs = DummyVectorEnv([robot] * 10)
    envs.seed(seed)
    buffer = VectorReplayBuffer(env_steps, len(envs))
    collector = Collector(sac, envs, buffer)
    collector.reset()
    collector.collect(n_step=2_000, random=True)
    test_envs = DummyVectorEnv([robot] * 4)
    test_envs.seed(1_000 + seed)
    started = time.monotonic()
    result = sac.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            test_collector=Collector(sac, test_envs),
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
        f"seed {seed}: {env_steps} steps of SAC, return {result.best_reward:.0f}, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    replay = from_tianshou(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"algorithm": algorithm_state(sac), "replay": vars(replay)}, path)
    return sac, replay


def main(args: Args) -> list[AdaptationReport]:
    """Adapt every policy to every task; return the reports."""
    torch.set_num_threads(1)
    env_steps = 2_000 if args.fast else args.env_steps
    reports = []
    for seed in args.seeds:
        path = args.out / f"sac-{seed}-{env_steps}.pt"
        sac, replay = train(seed, env_steps, path)
        # The call would train this model each time; the three robots can share it.
        steps = 200 if args.fast else 4_000
        adapter = meta_train_offline([replay], steps=steps, seed=seed, config=MODEL)
        for negated in TASKS[: 1 if args.fast else None]:
            env = robot(negated)
            label = f"negated joints {','.join(str(joint + 1) for joint in negated)}"
            report = adapt_algorithm(
                sac, env, [replay], seed=seed, label=label, adapter=adapter, config=CONFIG
            ).report
            env.close()
            print(f"seed {seed}, {label}:\n{report}\n", flush=True)
            reports.append(report)
    kept = [
        (np.mean(each.returns["unchanged"]), np.mean(each.returns[each.decision]))
        for each in reports
    ]
    before, after = np.mean(kept, axis=0)
    print(f"Mean return: {before:.0f} unchanged, {after:.0f} of what was handed back")
    if len(args.seeds) > 1:
        gains_TS = np.array([b - a for a, b in kept]).reshape(len(args.seeds), -1).T
        low, high = bootstrap_interval(gains_TS)
        print(f"Gain {gains_TS.mean():.0f}, 95% interval over seeds [{low:.0f}, {high:.0f}]")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "reports.json").write_text(
        json.dumps([each.to_dict() for each in reports], indent=2) + "\n"
    )
    plot_comparison(compare(reports), args.out / "comparison.png")
    return reports


if __name__ == "__main__":
    main(tyro.cli(Args))
