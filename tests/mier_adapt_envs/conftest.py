import os
import subprocess
import sys

import pytest

import mier_adapt_envs


@pytest.fixture(params=mier_adapt_envs.families())
def family(request):
    return request.param


@pytest.fixture(scope="session")
def gl_backend():
    """A way to render without a display; the test is skipped where there is none."""
    for backend in ("egl", "osmesa"):
        probe = subprocess.run(
            [sys.executable, "-c", "import mujoco; mujoco.GLContext(8, 8).make_current()"],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
        )
        if probe.returncode == 0:
            return backend
    pytest.skip("neither EGL nor OSMesa is installed")
