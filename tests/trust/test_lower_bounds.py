"""The oldest versions that pyproject.toml allows do what newer ones do.

Torch alone is the one of ``constraints.txt``: older ones come in builds of gigabytes.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.mier_adapt.doubles import REPOSITORY

CONTEMPORARIES = ["pyparsing<3.3"]
"""What old versions need, newer ones of which they warn about."""
TOOLS = ["pytest", "hypothesis", "beartype", "moviepy"]
NOT_ASKED = "not help and not batch_simulations"
"""Only a newer tyro lays the help out as its tests expect, and MuJoCo 3 has no batches."""


def oldest() -> list[str]:
    """The declared lower bounds, as requirements."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    bounds = [re.match(r"([\w-]+)(\[\w+\])?>=([\d.]+)", each) for each in project["dependencies"]]
    found = {bound[1]: f"{bound[1]}=={bound[3]}" for bound in bounds if bound}
    assert len(found) == len(project["dependencies"])
    pinned = (REPOSITORY / "constraints.txt").read_text().splitlines()
    (found["torch"],) = (line for line in pinned if line.startswith("torch=="))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the oldest NumPy knows no such Python")
def test_the_oldest_versions_pass(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join([*oldest(), *CONTEMPORARIES]))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--only-binary", ":all:", "-c", constraints]
    if subprocess.run([*pip, "--no-deps", "tyro"], capture_output=True).returncode:
        pytest.skip("no package index is reachable")
    done = subprocess.run(
        [*pip, "-e", REPOSITORY, *CONTEMPORARIES, *TOOLS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rooms = [REPOSITORY / "tests" / name for name in ("mier_adapt", "mier_adapt_envs")]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", NOT_ASKED, *rooms],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout[-5000:]
