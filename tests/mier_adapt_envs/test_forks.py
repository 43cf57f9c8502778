"""Engines that a forked process inherits: it ends, whatever it does with them and however it ends.

The threads of an engine do not survive a fork, and what waits for them would wait forever.
"""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import gc, json, multiprocessing, os, signal, sys, time, warnings
from mier_adapt_envs.vector import TaskVectorEnv

warnings.simplefilter("ignore")
family, use, end = sys.argv[1:]
envs = TaskVectorEnv(family, 4, num_threads=2)
envs.reset(seed=0)
envs.step(envs.action_space.sample())

def work():
    global envs
    if "step" in use:
        envs.step(envs.action_space.sample())
    if "close" in use:
        envs.close()
    if "collect" in use:
        del envs
        gc.collect()

if end == "process":
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    pid = process.pid
else:
    pid = os.fork()
    if not pid:
        work()
        sys.exit()  # and with it all that the interpreter does in its end
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        break
    time.sleep(0.01)
else:
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
envs.step(envs.action_space.sample())  # here it goes on
envs.close()
print(json.dumps(os.waitstatus_to_exitcode(status)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("end", ["process", "interpreter"])
@pytest.mark.parametrize(
    "use", ["nothing", "close", "collect", "step", "step, close", "step, collect"]
)
@pytest.mark.parametrize("family", ["HalfCheetahVel", "AntDir"])
def test_a_forked_process_that_inherits_an_engine_ends(family, use, end):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, family, use, end],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == 0, done.stderr
