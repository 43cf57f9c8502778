"""Nothing that is read from a file can run: neither by the source nor by what a load does."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mier_adapt.doubles import REPOSITORY

PACKAGES = ("mier_adapt", "mier_adapt_envs")
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal"}
FORBIDDEN_MODULES |= {"shelve", "code", "runpy"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"),
    ("torch", "save"),
    ("torch.package", "PackageImporter"),
    ("np", "load"),
    ("numpy", "load"),
    ("jit", "load"),
    ("Batch", "from_hdf5"),
    ("os", "system"),
}
FORBIDDEN_METHODS = {"load_hdf5", "from_hdf5", "read_pickle", "to_pickle", "from_directory"}


def offences(source: str) -> list[str]:
    """What a module's syntax tree holds that could run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            names += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (str(node.module), alias.name) in FORBIDDEN_ATTRIBUTES
            ]
        else:
            names = []
        found += [
            name
            for name in names
            if name.split(".")[0] in FORBIDDEN_MODULES
            or tuple(name.rsplit(".", 1)) in FORBIDDEN_ATTRIBUTES
        ]
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            found.append(node.id)
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else owner
            called = (str(owner), node.attr)
            if called in FORBIDDEN_ATTRIBUTES or node.attr in FORBIDDEN_METHODS:
                found.append(".".join(called))
            if owner in ("builtins", "__builtins__") and node.attr in FORBIDDEN_CALLS:
                found.append(".".join(called))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "import torch\ntorch.load(path)",
        "from torch import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
        "run = exec",
        "import builtins\nbuiltins.eval(text)",
        "ReplayBuffer.load_hdf5(path)",
        "torch.jit.load(path)",
    ],
)
def test_the_walk_finds_what_it_looks_for(source: str) -> None:
    assert offences(source)


def test_no_source_reads_code_from_files() -> None:
    sources = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    assert len(sources) > 40
    found = {str(path): offences(path.read_text()) for path in sources}
    assert {path: names for path, names in found.items() if names} == {}


TRACE = """
import builtins, importlib, json, os, pickle, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
from mier_adapt._storage.checkpoints import load_checkpoint
from mier_adapt.agents import FamilyEnvs, load_run
from mier_adapt.agents.run_file import read_run_file
from mier_adapt_envs import task_set

directory = Path(sys.argv[1])
config = read_run_file(directory).config
with FamilyEnvs(config.tasks) as envs:
    load_run(directory, envs)  # imports what loading needs: the second time is traced
    audited, called = set(), set()
    tracing = True

    def audit(event, arguments):
        if tracing:
            audited.add(event)
            if event == "open" and isinstance(arguments[0], str):
                called.add("open " + Path(arguments[0]).name)

    def profile(frame, event, argument):
        if event == "c_call":
            called.add(f"{getattr(argument, '__module__', '')}.{argument.__qualname__}")
        elif event == "call":
            called.add(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")

    sys.addaudithook(audit)
    sys.setprofile(profile)
    load_run(directory, envs)
    load_checkpoint(directory)
    sys.setprofile(None)
    tracing = False
print(json.dumps({"audited": sorted(audited), "called": sorted(called)}))
"""


def test_a_load_calls_nothing_that_runs_code(finished_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRACE, finished_run],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    # The trace has seen the load.
    assert "mier_adapt._storage.checkpoints.load_tree" in seen["called"]
    assert any("safe_open" in name or "get_tensor" in name for name in seen["called"])
    forbidden = {"exec", "compile", "import", "marshal.loads", "pickle.find_class"}
    forbidden |= {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "ctypes.dlopen"}
    assert forbidden & set(seen["audited"]) == set()
    for name in seen["called"]:
        assert not name.startswith(("pickle.", "_pickle.", "marshal.", "torch.serialization."))
        assert name not in {"builtins.eval", "builtins.exec", "builtins.compile"}
    files = {name for name in seen["called"] if name.startswith("open ")}
    assert files == {"open run.json", "open checkpoint.safetensors"}
