"""Policies of one's own on robots that changed: what is told, and what is handed back.

Takes the policies of ``train_robots.py`` to every change of a set, one adaptation each, by the call
that users have. An adaptation's file is kept, and what is there is not done again.

    python examples/adapt_changed_robots.py --set test --robots HalfCheetah --seeds 0
"""

import csv
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import train_robots
import tyro

from mier_adapt import adapt_algorithm, meta_train_offline
from mier_adapt.agents import AdaptConfig, ModelConfig
from mier_adapt_envs import RobotChange, change_set

PHYSICS = ("masses", "damping", "friction", "gravity")


@dataclass
class Args:
    """Adapt policies of one's own to changed robots."""

    set: Literal["development", "test"] = "development"
    """Options are chosen on the one, results reported on the other."""
    robots: tuple[str, ...] = ("Hopper", "HalfCheetah", "Walker2d", "Ant")
    seeds: tuple[int, ...] = (0, 1, 2)
    transitions: int = 200
    """Real transitions of each adaptation."""
    model_steps: int = 5_000
    """Of the model of the intact robot."""
    trained: Path = Path("runs/robots")
    """Where ``train_robots.py`` left its policies."""
    out: Path = Path("runs/changed-robots")
    fast: bool = False
    """The first two changes alone, to see that it runs."""


def kind_of(change: RobotChange) -> str:
    """What a diagnosis should call it."""
    if change.kind in ("none", "delay"):
        return change.kind
    if change.kind in PHYSICS:
        return "dynamics"
    return "sensors" if change.kind.startswith("sensor") else "motors"


def told_of(diagnosis: dict[str, Any]) -> str:
    """What a diagnosis calls it."""
    if not diagnosis["changed"]:
        return "none"
    if diagnosis["chosen"] == "delay":
        return "delay"
    if diagnosis["compensation"] is None:
        return "dynamics"
    return "sensors" if diagnosis["compensation"]["obs_offset"] else "motors"


def parts_of(matrix: Any, offset: Any) -> set[int]:
    """Motors or sensors that do otherwise than they should."""
    matrix = np.asarray(matrix)
    off = np.abs(np.asarray(offset)) > 0.05
    return set(np.flatnonzero((np.abs(matrix - np.eye(len(matrix))) > 0.1).any(1) | off).tolist())


def judged(change: RobotChange, diagnosis: dict[str, Any]) -> dict[str, Any]:
    """Whether a diagnosis is right: its kind, the parts that it names, and their gains."""
    wanted, told = kind_of(change), told_of(diagnosis)
    found: dict[str, Any] = {"wanted": wanted, "told": told}
    if wanted == told == "motors":
        undone = diagnosis["compensation"]
        true = np.array(change.motor_matrix or np.eye(len(undone["act_offset"])))
        shift = np.array(change.motor_offset or np.zeros(len(true)))
        matrix, offset = np.array(undone["act_matrix"]), np.array(undone["act_offset"])
        found["parts"] = parts_of(true, shift) == parts_of(matrix, offset)
        large = np.abs(true) > 0.1
        found["signs"] = bool((np.sign(matrix[large]) == np.sign(true[large])).all())
        found["gain_error"] = float(np.abs(matrix - true).max())
        found["offset_error"] = float(np.abs(offset - shift).max())
    if wanted == "dynamics":
        # Of motors that are all weak and links that are all heavy no transition tells which.
        found["heavier"] = any("times as heavy" in each for each in diagnosis["sentences"])
    if wanted == told == "sensors":
        undone = diagnosis["compensation"]
        gain = np.array(change.sensor_gain or np.ones(len(undone["obs_offset"])))
        shift = np.array(change.sensor_offset or np.zeros(len(gain)))
        found["parts"] = parts_of(np.diag(gain), shift) == parts_of(
            undone["obs_matrix"], undone["obs_offset"]
        )
    return found


def main(args: Args) -> list[dict[str, Any]]:
    """Adapt to each change; print what came of it."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for robot in args.robots:
        changes = change_set(robot, args.set)
        for seed in args.seeds:
            begins = f"{args.set}-{robot}-{seed}"
            options = f"{args.transitions}-{args.model_steps}"
            algorithm, replay, intact = train_robots.load(robot, seed, args.trained)
            adapter = None
            for number, change in enumerate(changes[: 2 if args.fast else None]):
                path = args.out / f"{begins}-{number}-{options}.json"
                if not path.exists():
                    if adapter is None:  # the call would train it each time
                        adapter = meta_train_offline(
                            [replay],
                            steps=args.model_steps,
                            seed=seed,
                            config=ModelConfig(context_dim=0, batch_size=256),
                        )
                    env = gymnasium.make(changes.env_id, change=change)
                    started = time.monotonic()
                    report = adapt_algorithm(
                        algorithm,
                        env,
                        [replay],
                        seed=seed,
                        label=change.label,
                        config=AdaptConfig.for_own_policy(adaptation_steps=args.transitions),
                        adapter=adapter,
                        termination_fn=env.get_wrapper_attr("termination_fn"),
                    ).report
                    env.close()
                    row = {
                        "robot": robot,
                        "seed": seed,
                        "kind": change.kind,
                        "label": change.label,
                        "intact": intact,
                        "minutes": (time.monotonic() - started) / 60,
                        **judged(change, report.to_dict()["diagnosis"]),
                        "report": report.to_dict(),
                    }
                    path.write_text(json.dumps(row, indent=1) + "\n")
                row = json.loads(path.read_text())
                tell(row)
                rows.append(row)
    summarize(rows)
    write(rows, args.out / f"{args.set}.csv")
    return rows


def tell(row: dict[str, Any]) -> None:
    """One line, and what was said."""
    report = row["report"]
    arms = ", ".join(f"{arm} {np.mean(values):.0f}" for arm, values in report["returns"].items())
    right = "right" if row["wanted"] == row["told"] and row.get("parts", True) else "WRONG"
    print(
        f"{row['robot']} {row['seed']} {row['label']} (intact {row['intact']:.0f}): {right}: "
        f"{'; '.join(report['diagnosis']['sentences'])} | {arms} | kept {report['decision']}",
        flush=True,
    )


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """One line for each adaptation."""
    arms = ("unchanged", "compensated", "relabeled")
    told = ("wanted", "told", "parts", "signs", "gain_error", "offset_error", "heavier")
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["robot", "seed", "kind", "label", *told, "intact", *arms, "decision"])
        for row in rows:
            report = row["report"]
            means = {arm: f"{np.mean(values):.1f}" for arm, values in report["returns"].items()}
            found = [row[name] for name in ("robot", "seed", "kind", "label")]
            found += [row.get(name, "") for name in told] + [f"{row['intact']:.1f}"]
            lines.writerow(found + [means.get(arm, "") for arm in arms] + [report["decision"]])


def summarize(rows: list[dict[str, Any]]) -> None:
    """By kind of change: how often it was told, and what of the intact return came back."""
    by_kind = defaultdict(list)
    for row in rows:
        by_kind[row["kind"]].append(row)
        by_kind["all"].append(row)
    print("\n| change | adaptations | kind told | parts told | unchanged | handed back | intact |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind, some in by_kind.items():
        told = np.mean([row["wanted"] == row["told"] for row in some])
        parts = [row["parts"] for row in some if "parts" in row]
        before = [np.mean(row["report"]["returns"]["unchanged"]) for row in some]
        after = [np.mean(row["report"]["returns"][row["report"]["decision"]]) for row in some]
        intact = [row["intact"] for row in some]
        print(
            f"| {kind} | {len(some)} | {told:.0%} | {f'{np.mean(parts):.0%}' if parts else ''} | "
            f"{np.mean(before):.0f} | {np.mean(after):.0f} | {np.mean(intact):.0f} |"
        )
    heavier = [row["kind"] == "masses" and row.get("heavier", False) for row in rows]
    print(f"\n{sum(heavier)} masses were told as motors that are weak or move a heavier robot")
    lost = 0
    for row in rows:
        report = row["report"]
        before = np.mean(report["returns"]["unchanged"])
        lost += np.mean(report["returns"][report["decision"]]) < before - 0.03 * abs(before)
    print(f"\n{lost} of {len(rows)} were handed back with a return more than 3% below what came")


if __name__ == "__main__":
    main(tyro.cli(Args))
