"""A process that starts work, kills it with SIGKILL at random moments, and starts it again.

Run as ``python -m tests.trust.killing train|adapt|continue RUN_DIRECTORY WORK_DIRECTORY KILLS``;
prints one JSON object. Workers are forked from here, since importing the libraries takes longer
than the work. Every second kill waits for a save to begin.
"""

import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mier_adapt._storage.checkpoints import load_checkpoint, load_tree, save_tree
from mier_adapt._storage.files import replace_text
from mier_adapt.adaptation import adapt
from mier_adapt.agents import ContinueConfig, FamilyEnvs, load_run
from mier_adapt.integration import algorithm_state
from mier_adapt.training import meta_train
from mier_adapt.training.metrics import read_metrics
from mier_adapt_envs import task_set
from tests.mier_adapt.doubles import TINY_ADAPT, assert_same_tree, tiny_config


def train(_finished: Path, out: Path) -> None:
    """Meta-train, with a checkpoint after every step."""
    config = tiny_config(evaluate_every=3)
    meta_train(config, out, adapt_config=TINY_ADAPT, seed=1, checkpoint_seconds=0.0)


def trained(out: Path) -> Any:
    """What a finished meta-training left."""
    rows = read_metrics(out)
    for row in rows:
        del row["seconds"]
    return {"rows": rows, **load_checkpoint(out)[1]}


def adapt_to_a_task(finished: Path, out: Path, budget: int = 0) -> None:
    """Adapt to a task, and keep the policy and the report."""
    out.mkdir(exist_ok=True)
    tasks = task_set("HalfCheetahNegatedJoints")
    with FamilyEnvs(tasks) as envs:
        run = load_run(finished, envs)
        found = adapt(
            run,
            run.new_task(envs, tasks[12]),
            run.adapt_config,
            seed=3,
            budget=budget,
            rounds=ContinueConfig(weight_steps=3, relabel_size=50, updates=3, window=2),
            checkpoint=out / "transitions.safetensors",
        )
    kept = {"algorithm": algorithm_state(found.algorithm), "context": found.context}
    save_tree(out / "policy", kept)
    replace_text(out / "report.json", json.dumps(dataclasses.asdict(found.report)))


def adapted(out: Path) -> Any:
    """What a finished adaptation left."""
    return {
        "policy": load_tree(out / "policy"),
        "report": json.loads((out / "report.json").read_text()),
    }


WORK: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path], Any]]] = {
    "train": (train, trained),
    "adapt": (adapt_to_a_task, adapted),
    "continue": (functools.partial(adapt_to_a_task, budget=200), adapted),
}


def start(work: Callable[[Path, Path], None], finished: Path, out: Path) -> int:
    """Fork a worker; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work(finished, out)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill_often(kind: str, finished: Path, directory: Path, kills: int) -> dict[str, Any]:
    """Kill, start again, and compare what the work ends with, until there were enough kills."""
    work, result = WORK[kind]
    random_ = random.Random(kills)
    # The first time loads libraries, of which the workers find themselves copies.
    work(finished, directory / "warm-up")
    started = time.monotonic()
    work(finished, directory / "reference")
    duration = time.monotonic() - started
    expected = result(directory / "reference")
    counts = dict.fromkeys(
        ("kills", "kills_in_saves", "resumed", "completed", "different", "failed"), 0
    )
    attempt = 0
    while counts["kills"] < kills or not counts["completed"]:
        out = directory / f"attempt-{attempt}"
        attempt += 1
        while True:
            left = saves(out)
            pid = start(work, finished, out)
            if counts["kills"] < kills:
                in_save = counts["kills"] % 2 == 1
                kill_later(pid, out, duration, random_, left if in_save else None)
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                counts["kills"] += 1
                counts["kills_in_saves"] += bool(saves(out) - left)
                counts["resumed"] += any(out.glob("*.safetensors"))
                continue
            break
        if status != 0:
            counts["failed"] += 1
            continue
        counts["completed"] += 1
        try:
            assert_same_tree(expected, result(out), ignore=["seconds"])
        except AssertionError as error:
            print("differs at", error, file=sys.stderr)
            counts["different"] += 1
    return {**counts, "seconds_uninterrupted": duration, "seconds": time.monotonic() - started}


def saves(out: Path) -> set[tuple[str, int]]:
    """Files that are being written, or that a kill left so; each as name and time."""
    found = set()
    for path in out.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def kill_later(
    pid: int,
    out: Path,
    duration: float,
    random_: random.Random,
    left: set[tuple[str, int]] | None,
) -> None:
    """Kill a worker at a random moment of its life; or in its first save after that.

    ``left`` are the unfinished files that were there before it, if a save is to be met.
    """
    time.sleep(random_.uniform(0, 1.1 * duration))
    if left is not None:
        deadline = time.monotonic() + duration
        while not saves(out) - left and time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
        time.sleep(random_.uniform(0, 0.001))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(
        json.dumps(kill_often(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
    )
