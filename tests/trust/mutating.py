"""A process that reads mutated files of every kind, one after another, and watches itself.

Run as ``python -m tests.trust.mutating RUN_DIRECTORY SCRATCH_DIRECTORY FILES``; prints one JSON
object. What is done to a file follows from its name and its number, and is the same every time.
"""

import functools
import json
import logging
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._subclasses.schema_check_mode  # which torch imports when it is first surprised
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mier_adapt import AdaptationSession, AdaptedPolicy, Transitions
from mier_adapt._storage.checkpoints import CHECKPOINT_FILE, load_tree, save_tree
from mier_adapt._storage.files import CheckpointError
from mier_adapt._storage.locks import LOCK_FILE, RunLockedError, run_lock
from mier_adapt.adaptation import identification
from mier_adapt.agents import FamilyEnvs, load_run, pretrained
from mier_adapt.agents import run_file as run_files
from mier_adapt.agents.metering import Spent
from mier_adapt.agents.pretrained import export_run, read_card, read_evaluation
from mier_adapt.agents.run_file import RUN_FILE, read_run_file
from mier_adapt.compensation import Compensation
from mier_adapt.integration import from_minari, to_minari
from mier_adapt.training.metrics import read_metrics
from mier_adapt_envs import Task, TaskSet
from tests.mier_adapt.doubles import random_transitions
from tests.trust.loading import memory, watch
from tests.trust.test_checkpoint_fuzz import nodes_of, parts_of, replaced, sealed

MOST_GROWTH = 48 * 2**20
"""Bytes that any file may take, beside some times its own."""
MOST_ROOM = 2 * 2**30
"""Bytes of addresses, used or not."""
MOST_SECONDS = 20.0
"""For one file; what never ends would take longer, also on a machine that does other work."""

Mutate = Callable[[Random], bytes]


class Kind(NamedTuple):
    """A kind of file."""

    path: Path
    mutate: Mutate
    """Draws contents."""
    read: Callable[[], Any]
    errors: tuple[type[Exception], ...] = (CheckpointError,)
    """By which it may be refused."""
    does: str = "nothing"
    """What reading it does beside that: a pattern of audit events."""


# Mutations ----------------------------------------------------------------------------------

FOREIGN = [
    *("null", "true", "-1", "0", "0.5", "NaN", "-Infinity", "1e999", "1e308", "9" * 19, "-1e-400"),
    *("9" * 25, "9" * 5_000, "9" * 400 + ".0", '""', '"x"', r'"\ud800"', '"/etc/passwd"'),
    *('"' + "x" * 100_000 + '"', "[]", "{}", "[null]", '{"":{}}', '{"__tensor__":"/"}'),
    *('{"__pairs__":[[1,2],[1,2]]}', "[" * 40 + "]" * 40, "[" * 100_000, '{"a":' * 50_000),
    *("[" + "[]," * 50_000 + "[]]", "", "}", ",", '"', "\x00", "'x'", "undefined"),
]
"""Texts that may stand anywhere in JSON, or in its place."""
_PLACE = "\ue000"  # of private use, and in none of the files


def mutated_bytes(honest: bytes, random_: Random) -> bytes:
    """What disks and transfers do, and editors of binary files."""
    size = len(honest)
    start, other = random_.randrange(size), random_.randrange(size)
    length = random_.randint(1, min(64, size))
    kind = random_.choice(("flip", "cut", "splice", "repeat", "lose", "blank", "insert"))
    if kind == "cut":
        return honest[:start]
    if kind == "splice":
        return honest[:start] + honest[other:]
    if kind == "repeat":
        return honest[:start] + honest[other : other + length] * 3 + honest[start:]
    if kind == "lose":
        return honest[:start] + honest[start + length :]
    if kind == "blank":
        return honest[:start] + bytes(length) + honest[start + length :]
    if kind == "insert":
        return honest[:start] + random_.randbytes(length) + honest[start:]
    flipped = bytearray(honest)
    for _ in range(random_.randint(1, 8)):
        flipped[random_.randrange(size)] ^= 1 << random_.randrange(8)
    return bytes(flipped)


def mutations_of_json(honest: Any) -> Callable[[Random], str]:
    """Texts of a value in which one place, or two, hold something else."""
    places = nodes_of(honest)

    def found(at: tuple[Any, ...]) -> Any:
        node = honest
        for key in at:
            node = node[key]
        return node

    def mutate(random_: Random) -> str:
        at = random_.choice(places)
        node = found(at)
        text, raw = json.dumps(node), random_.choice(FOREIGN)
        kind = random_.choice(("foreign", "foreign", "other", "twice", "without", "number"))
        if kind == "other":  # what stands elsewhere
            raw = json.dumps(found(random_.choice(places)))
        elif kind == "twice" and isinstance(node, dict) and node:
            raw = f"{text[:-1]}, {json.dumps(random_.choice(list(node)))}: {raw}}}"
        elif kind == "twice" and isinstance(node, list):
            raw = json.dumps(node * 2)
        elif kind == "without" and isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            gone = random_.choice(keys)
            kept = {key: node[key] for key in keys if key != gone}
            raw = json.dumps(kept if isinstance(node, dict) else list(kept.values()))
        elif kind == "number" and isinstance(node, int | float):
            raw = json.dumps(random_.choice((-node, node + 1, node * 1000, node / 7, 2**31, 2**63)))
        return json.dumps(replaced(honest, at, _PLACE)).replace(json.dumps(_PLACE), raw)

    return mutate


def text_file(honest: bytes) -> Mutate:
    """Mutations of a JSON file; of several lines, one line is mutated, or some are."""
    lines = honest.splitlines(keepends=True)
    try:
        whole: Any = [mutations_of_json(json.loads(honest))]
    except ValueError:  # one value a line
        whole = [mutations_of_json(json.loads(line)) for line in lines]

    def mutate(random_: Random) -> bytes:
        if random_.random() < 0.4:
            return mutated_bytes(honest, random_)
        if len(whole) == 1:
            return str(whole[0](random_)).encode()
        mutated = list(lines)
        for number in random_.sample(range(len(lines)), random_.randint(1, len(lines))):
            mutated[number] = whole[number](random_).encode() + b"\n"
        return b"".join(mutated)

    return mutate


def tree_file(honest: bytes) -> Mutate:
    """Mutations of a safetensors file with a tree inside; most with a checksum that is right."""
    header, data = parts_of(honest)
    header["__metadata__"]["sha256"] = "0" * 64
    metadata = header["__metadata__"]
    of_header = mutations_of_json(header)
    of_tree = mutations_of_json(json.loads(metadata["tree"]))

    def mutate(random_: Random) -> bytes:
        kind = random_.choice(("file", "data", "header", "header's text", "tree", "tree", "tree"))
        if kind == "file":
            return mutated_bytes(honest, random_)
        if kind == "data":
            return sealed(header, mutated_bytes(data, random_)[: len(data)].ljust(len(data), b"\0"))
        if kind == "header":
            return sealed(header, data, text=of_header(random_).encode())
        if kind == "header's text":
            text = mutated_bytes(json.dumps(header).encode(), random_)
            return sealed(header, data, text=text)
        return sealed({**header, "__metadata__": {**metadata, "tree": of_tree(random_)}}, data)

    return mutate


def tensor_file(honest: bytes) -> Mutate:
    """Mutations of a safetensors file of any other library, which has no checksum."""
    header, data = parts_of(honest)
    of_header = mutations_of_json(header)

    def mutate(random_: Random) -> bytes:
        if random_.random() < 0.5:
            return mutated_bytes(honest, random_)
        text = of_header(random_).encode()
        return len(text).to_bytes(8, "little") + text + data

    return mutate


# Kinds of files -----------------------------------------------------------------------------


def kinds_of_files(run: Path, scratch: Path, envs: FamilyEnvs) -> dict[str, Kind]:
    """All that the library reads: honest files, how they are mutated, and what reads them."""
    honest = load_run(run, envs)
    run_files.PRETRAINED = pretrained.PRETRAINED = scratch
    export_run(run, scratch / "exported", name="exported", command="x", commit="x", seeds=1)
    record = json.loads((scratch / "exported" / "card.json").read_text())["evaluation"]
    for name in ("run file", "checkpoint", "measured", "evaluated", "locked"):
        (scratch / name).mkdir()
    shutil.copy(run / RUN_FILE, scratch / "run file")
    for name in (RUN_FILE, CHECKPOINT_FILE):
        shutil.copy(run / name, scratch / "checkpoint")
    shutil.copy(run / "metrics.jsonl", scratch / "measured")
    (scratch / "evaluated" / "evaluation.json").write_text(json.dumps(record))
    with run_lock(run):
        shutil.copy(run / LOCK_FILE, scratch / "locked")
    tasks = honest.task_set
    for name, each in (("task.json", tasks[0]), ("set.json", tasks)):
        (scratch / name).write_text(each.to_json())
    undone = Compensation(np.diag([-1.0, 0.5]), np.zeros(2), np.eye(3), np.ones(3))
    undone.save(scratch / "compensation.json")
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4), torch.nn.Tanh())
    network.append(torch.nn.Linear(4, 2))
    parts = {"context": torch.zeros(2), "low": np.zeros(2), "high": np.ones(2)}
    policy = AdaptedPolicy(network=network, compensation=undone, about={"task": "x"}, **parts)
    policy.save(scratch / "policy")
    random_transitions(7).save(scratch / "transitions")
    save_tree(scratch / "replay", honest.replay.state())
    episodes = random_transitions(4, 9)
    columns = {name: getattr(episodes, name).clone() for name in ("obs", "act", "rew")}
    save_file(columns, scratch / "buffer.safetensors")
    os.environ["MINARI_DATASETS_PATH"] = str(scratch / "minari")
    to_minari(random_transitions(20), "mine-v0", author="x")

    config, kept = honest.adapt_config, scratch / "adaptation"
    task = honest.new_task(envs, tasks[12])
    identity = identification.identity_of(honest, [task.label, *task.parameters], config, 0)
    real = random_transitions(12, obs_dim=honest.model.obs_dim, act_dim=honest.model.act_dim)
    cuts = [np.zeros(12, dtype=bool)]
    identification._save(kept, identity, np.random.default_rng(0), [real], cuts, False, Spent())

    def session() -> AdaptationSession:
        path, ends = scratch / "session", task.termination_fn
        return AdaptationSession(honest, config, seed=0, termination_fn=ends, checkpoint=path)

    played = session()
    played.add_episode(real, cuts[0], acted=played.acting)
    played.improve()

    def read_adaptation() -> None:
        identification._load(kept, identity, np.random.default_rng(0), Spent())

    def read_replay() -> None:
        honest.replay.load_state(load_tree(scratch / "replay"))

    def read_lock() -> None:
        os.utime(scratch / "locked" / LOCK_FILE, (0, 0))  # old enough to be left over
        with run_lock(scratch / "locked"):
            pass

    def read_foreign() -> None:
        """As the tutorial reads the buffer of another library."""
        found = {
            name: each.float() for name, each in load_file(scratch / "buffer.safetensors").items()
        }
        obs, rew = found["obs"], found["rew"]
        ended = torch.zeros_like(rew, dtype=torch.bool)
        Transitions(obs[:, :-1], found["act"][:, 1:], rew[:, 1:], obs[:, 1:], ended[:, 1:])

    # What stands around a reading is not the library's: a missing column, or one without an axis.
    foreign_errors = (SafetensorError, LookupError, ValueError, TypeError)

    def text_of(name: str) -> str:
        return (scratch / name).read_text(errors="replace")

    # A lock asks who it is, and whether its owner lives; a run is looked for by its name; Minari
    # makes sure of its directory.
    locks = (
        r"socket\.gethostname \(\)|open '/proc/\d+/stat' r|os\.kill \(\d+, 0\)|"
        r"(fcntl\.flock|os\.(remove|utime|truncate)) .*"
    )
    makes, lists = r"os\.mkdir .*", r"(pathlib\.Path\.glob|os\.scandir) .*"
    errors, lock_errors = (CheckpointError,), (CheckpointError, RunLockedError)
    load, bad = functools.partial(load_run, envs=envs), (ValueError,)
    readers: dict[str, tuple[Any, ...]] = {
        "run file/run.json": (text_file, lambda: read_run_file(scratch / "run file")),
        "checkpoint/checkpoint.safetensors": (tree_file, lambda: load(scratch / "checkpoint")),
        "replay": (tree_file, read_replay, bad),
        "measured/metrics.jsonl": (text_file, lambda: read_metrics(scratch / "measured")),
        "evaluated/evaluation.json": (text_file, lambda: read_evaluation(scratch / "evaluated")),
        "locked/run.lock": (text_file, read_lock, lock_errors, locks),
        "exported/run.json": (text_file, lambda: load("exported"), errors, lists),
        "exported/checkpoint.safetensors": (tree_file, lambda: load("exported"), errors, lists),
        "exported/card.json": (text_file, lambda: read_card("exported"), errors, lists),
        "adaptation": (tree_file, read_adaptation, bad),
        "task.json": (text_file, lambda: Task.from_json(text_of("task.json")), bad),
        "compensation.json": (
            text_file,
            lambda: Compensation.load(scratch / "compensation.json"),
        ),
        "session": (tree_file, session, bad),
        "transitions": (tree_file, lambda: Transitions.load(scratch / "transitions")),
        "policy": (tree_file, lambda: AdaptedPolicy.load(scratch / "policy")),
        "set.json": (text_file, lambda: TaskSet.from_json(text_of("set.json")), bad),
        "minari/mine-v0/data/metadata.json": (
            text_file,
            lambda: from_minari("mine-v0"),
            bad,
            makes,
        ),
        "minari/mine-v0/data/main_data.hdf5": (
            lambda honest: functools.partial(mutated_bytes, honest),
            lambda: from_minari("mine-v0"),
            bad,
            makes,
        ),
        "buffer.safetensors": (tensor_file, read_foreign, foreign_errors),
    }
    return {
        name: Kind(scratch / name, mutations((scratch / name).read_bytes()), *rest)
        for name, (mutations, *rest) in readers.items()
    }


# Reading ------------------------------------------------------------------------------------


def attack(
    name: str, kind: Kind, count: int, events: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Read mutated files of a kind; what came of it, and what should not have."""
    outcomes: Counter[str] = Counter()
    faults = []
    worst_growth, slowest = 0, 0.0
    honest = kind.path.read_bytes()
    for number in range(-3, count):  # at first honest ones, for imports, caches and allocators
        contents = honest if number < 0 else kind.mutate(Random(f"{name} {number}"))
        kind.path.write_bytes(contents)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before, started = memory("VmRSS"), time.monotonic()
        events.clear()
        fault = ""
        try:
            kind.read()
            outcome = "read"
        except kind.errors:
            outcome = "refused"
        except Exception:  # which one it is, is the question
            outcome, fault = "failed", traceback.format_exc()[-1500:]
        seconds = time.monotonic() - started
        happened = [event for event in events if not re.fullmatch(kind.does, event)]
        growth = memory("VmHWM") - before
        if number < 0:
            assert outcome == "read" or name.endswith("run.lock"), (name, fault)
            continue
        if happened:
            fault = f"{fault} events {happened[:5]}"
        if growth > MOST_GROWTH + 4 * len(contents):
            fault = f"{fault} {growth / 2**20:.0f} MiB for {len(contents)} bytes"
        if seconds > MOST_SECONDS:
            fault = f"{fault} {seconds:.0f} s"
        if fault:
            faults.append(f"{name} {number}: {fault}")
        outcomes[outcome] += 1
        worst_growth, slowest = max(worst_growth, growth), max(slowest, seconds)
    kind.path.write_bytes(honest)
    measured = {"most_mib": round(worst_growth / 2**20, 1), "most_seconds": round(slowest, 2)}
    return {**outcomes, **measured}, faults


def main(run: Path, scratch: Path, files: int) -> dict[str, Any]:
    """Attack every kind with the same number of files."""
    import resource  # of POSIX alone, while pytest imports every module

    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    started = time.monotonic()
    config = read_run_file(run).config
    with FamilyEnvs(config.tasks) as envs:
        kinds = kinds_of_files(run, scratch, envs)
        # Whatever a file makes ask for more gets a MemoryError.
        room = memory("VmSize") + MOST_ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        events = watch(lambda path: path.is_relative_to(scratch))
        each = -(-files // len(kinds))
        results, faults = {}, []
        for name, kind in kinds.items():
            results[name], found = attack(name, kind, each, events)
            faults += found
    return {
        "kinds": results,
        "files": len(kinds) * each,
        "faults": faults[:20],
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
