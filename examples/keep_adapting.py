"""Adaptation that goes on: what is kept after so many real transitions.

Takes a meta-trained run to speeds far beyond those that it was trained on, or to rewired cheetahs,
in a robot's own loop: an episode, an improvement, an episode. Every real step counts, those that
identify the task included. What is done is kept in a file for each, and not done again.

    python examples/keep_adapting.py --run halfcheetah-vel-hard --tasks 100 103 106 109 112
    python examples/keep_adapting.py --speeds 3.1 --seeds 0 2 3 4 --budget 2000 --rounds.tau 0.01
"""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from mier_adapt import AdaptationSession, load_run
from mier_adapt.agents import ContinueConfig
from mier_adapt_envs import Task

POINTS = (400, 600, 800, 1_000, 2_000, 3_000, 4_000)
"""Real transitions after which what is kept is measured."""


@dataclass
class Args:
    """Adapt to tasks of a run's task set, episode by episode."""

    run: str = "halfcheetah-vel-hard"
    """A pretrained run, or a run's directory."""
    tasks: tuple[int, ...] = (100, 103, 106, 109, 112, 115, 118, 121, 124, 127)
    """By index; fixed before any of them was run."""
    speeds: tuple[float, ...] = ()
    """In m/s, in place of tasks; 2.2, 2.45 and 3.1 are those that options were chosen at."""
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: int = 4_000
    """Real transitions."""
    rounds: ContinueConfig = field(default_factory=ContinueConfig)
    """How each adaptation goes on."""
    second: int = 0
    """Real transitions after which each robot becomes the next task's; 0 for never."""
    episodes: int = 4
    """Deterministic ones that measure what is kept; no part of the budget."""
    out: Path = Path("runs/keep-adapting")
    fast: bool = False
    """One task and a short budget, to see that it runs."""


def returned(env: gymnasium.Env[Any, Any], policy: Any, episodes: int, seed: int) -> float:
    """Mean return of deterministic episodes, from the same starts every time."""
    returns = []
    for episode in range(episodes):
        (obs, _), total, over = env.reset(seed=1_000 * seed + episode), 0.0, False
        while not over:
            obs, rew, terminated, truncated, _ = env.step(policy.predict(obs))
            total, over = total + float(rew), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def keep_adapting(
    session: AdaptationSession,
    env: gymnasium.Env[Any, Any],
    measured: gymnasium.Env[Any, Any],
    *,
    seed: int,
    budget: int,
    episodes: int,
    second: int = 0,
    afterwards: Sequence[gymnasium.Env[Any, Any]] = (),
) -> dict[str, Any]:
    """One adaptation; its episodes, and what was kept at each point.

    After ``second`` transitions the robot, and the one that is measured, are those ``afterwards``.
    """
    started, thinking, kept, points = time.monotonic(), [], {}, list(POINTS)
    while session.transitions < budget:
        if afterwards and session.transitions >= second:
            (env, measured), afterwards = afterwards, ()
        (obs, _), over = env.reset(seed=seed if not session.transitions else None), False
        while not over:
            act = session.act(obs)
            obs_next, rew, terminated, truncated, _ = env.step(act)
            session.observe(obs, act, rew, obs_next, terminated, truncated)
            obs, over = obs_next, terminated or truncated
        began = time.monotonic()
        session.improve()
        thinking.append(time.monotonic() - began)
        while points and session.transitions >= points[0]:
            kept[points.pop(0)] = returned(measured, session.policy, episodes, seed)
    return {
        "seed": seed,
        "kept": kept,
        "log": session.log,
        "improving": thinking,
        "minutes": (time.monotonic() - started) / 60,
    }


def adapt(run: Any, task: Any, later: Any, seed: int, args: Args) -> dict[str, Any]:
    """Of a run, to a task of its family, and then to another one."""
    steps = run.config.episode_steps
    env, measured, *afterwards = (
        gymnasium.make(run.task_set.env_id, task=each, max_episode_steps=steps)
        for each in (task, task, later, later)
    )
    session = AdaptationSession(
        run,
        run.adapt_config,
        seed=seed,
        rounds=args.rounds,
        termination_fn=env.get_wrapper_attr("termination_fn"),
    )
    found = keep_adapting(
        session,
        env,
        measured,
        seed=seed,
        budget=args.budget,
        episodes=args.episodes,
        second=args.second,
        afterwards=afterwards if args.second else (),
    )
    return {"task": str(task), "later": str(later), **found}


def main(args: Args) -> list[dict[str, Any]]:
    """Adapt to each task; print what was kept."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    run = load_run(args.run)
    if args.fast:
        args.tasks, args.speeds = args.tasks[:1], args.speeds[:1]
        args.seeds, args.budget = args.seeds[:1], 1_000
    family = run.config.tasks[0].family
    tasks = {f"{each}": Task(family, (each,)) for each in args.speeds}
    tasks = tasks or {f"{each}": run.config.tasks[each] for each in args.tasks}
    later = dict(zip(tasks, [*list(tasks)[1:], *tasks], strict=False))
    rounds = asdict(args.rounds).items() - asdict(ContinueConfig()).items()
    changed = "".join(f"-{name}-{value}" for name, value in sorted(rounds))
    rows = []
    for seed in args.seeds:
        for number, task in tasks.items():
            name = f"{Path(args.run).name}-{number}-{seed}-{args.budget}"
            name += f"-{args.second}" * (args.second > 0) + changed
            path = args.out / f"{name}.json"
            if not path.exists():
                row = adapt(run, task, tasks[later[number]], seed, args)
                path.write_text(json.dumps(row, indent=1) + "\n")
            row = json.loads(path.read_text())
            rows.append(row)
            told = " ".join(f"{at}: {value:.0f}" for at, value in row["kept"].items())
            print(f"{row['task']}, seed {seed}: {told} ({row['minutes']:.1f} minutes)", flush=True)
    points = list(rows[0]["kept"])
    with (args.out / f"{Path(args.run).name}.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["task", "seed", *points])
        for row in rows:
            lines.writerow([row["task"], row["seed"], *(f"{row['kept'][at]:.1f}" for at in points)])
    noticed = [
        [each["transitions"] for each in row["log"] if "changed again" in each.get("said", "")]
        for row in rows
    ]
    print(f"\nbefore the episode in which the task was said to have changed again: {noticed}")
    first = np.array([row["kept"][points[0]] for row in rows])
    print("\n| real transitions | mean return | of these, worse than after the first |")
    print("|---:|---:|---:|")
    for at in points:
        returns = np.array([row["kept"][at] for row in rows])
        worse = int((returns < first - 0.01 * np.abs(first)).sum())
        print(f"| {at} | {returns.mean():.0f} | {worse} of {len(rows)} |")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
