"""Adaptation that goes on, for policies of one's own on robots that changed.

Takes the policies of ``train_robots.py`` to changes of a set, in the robot's own loop. What is done
is kept in a file for each, and not done again.

    python examples/keep_adapting_own_policy.py --set development --changes 4 10
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import train_robots
import tyro
from keep_adapting import keep_adapting

from mier_adapt import AdaptationSession, AdaptConfig, Agent, meta_train_offline
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt_envs import change_set


@dataclass
class Args:
    """Adapt policies of one's own to changed robots, episode by episode."""

    set: Literal["development", "test"] = "development"
    """Options are chosen on the one, results reported on the other."""
    robot: str = "HalfCheetah"
    changes: tuple[int, ...] = (4, 10)
    """By index in the set."""
    seeds: tuple[int, ...] = (0,)
    budget: int = 4_000
    """Real transitions."""
    episodes: int = 4
    """Deterministic ones that measure what is kept; no part of the budget."""
    model_steps: int = 20_000
    """Of the model of the intact robot."""
    trained: Path = Path("runs/robots")
    """Where ``train_robots.py`` left its policies."""
    out: Path = Path("runs/keep-adapting")


def main(args: Args) -> list[dict[str, Any]]:
    """Adapt to each change; print what was kept."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    changes, rows = change_set(args.robot, args.set), []
    for seed in args.seeds:
        algorithm, replay, intact = train_robots.load(args.robot, seed, args.trained)
        agent = None
        for number in args.changes:
            name = f"{args.set}-{args.robot}-{seed}-{number}-{args.model_steps}-{args.budget}.json"
            path = args.out / name
            if not path.exists():
                if agent is None:
                    config = ModelConfig(context_dim=0, batch_size=256)
                    adapter = meta_train_offline(
                        [replay], steps=args.model_steps, seed=seed, config=config
                    )
                    stored = ContextReplayBuffer.of([replay], generator=np.random.default_rng(seed))
                    agent = Agent(
                        adapter=adapter, algorithm=algorithm, replay=stored, conditioned=False
                    )
                env, measured = (
                    gymnasium.make(changes.env_id, change=changes[number]) for _ in range(2)
                )
                session = AdaptationSession(
                    agent,
                    AdaptConfig.for_own_policy(adaptation_steps=200),
                    seed=seed,
                    termination_fn=env.get_wrapper_attr("termination_fn"),
                )
                found = keep_adapting(
                    session, env, measured, seed=seed, budget=args.budget, episodes=args.episodes
                )
                row = {"change": changes[number].label, "intact": intact, **found}
                path.write_text(json.dumps(row, indent=1) + "\n")
            row = json.loads(path.read_text())
            rows.append(row)
            told = " ".join(f"{at}: {value:.0f}" for at, value in row["kept"].items())
            print(
                f"{args.robot} {row['seed']} {row['change']} (intact {row['intact']:.0f}): {told} "
                f"({row['minutes']:.1f} minutes)",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
