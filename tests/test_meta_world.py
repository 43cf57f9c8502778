"""The example that takes a policy of Meta-World's to a changed arm."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALLED = importlib.util.find_spec("metaworld") is not None


def run_example(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "meta_world.py", *arguments],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.skipif(INSTALLED, reason="Meta-World is installed")
def test_without_meta_world_it_says_how_to_install_it():
    done = run_example()
    assert done.returncode != 0
    assert "pip install metaworld==3.1.1 ." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not INSTALLED, reason="Meta-World needs an environment of its own")
def test_it_goes_through_a_whole_adaptation():
    done = run_example("--fast")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["real_transitions"] == 50
    assert told["scripted"] > 4_000
    assert told["decision"] in told
