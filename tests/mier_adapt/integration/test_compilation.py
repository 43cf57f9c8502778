"""Processes after the first find Tianshou's functions compiled."""

import types

from mier_adapt.integration.compilation import keep_compiled

from ..doubles import run_python

BUILD = """
import gymnasium
from mier_adapt.integration import build_sac
from tianshou.algorithm import algorithm_base
from tianshou.data import VectorReplayBuffer
from tianshou.data.buffer import manager

space = gymnasium.spaces.Box(-1, 1, (3,))
build_sac(space, space, 0, hidden_sizes=(4,))
VectorReplayBuffer(10, 2)
used = [algorithm_base._gae, algorithm_base._nstep_return, manager._prev_index, manager._next_index]
print(*(sum(each.stats.cache_hits.values()) for each in used))
print(*(sum(each.stats.cache_misses.values()) for each in used))
"""


def test_a_second_process_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    first, second = (run_python(BUILD) for _ in range(2))
    assert first[:2] == (0, "0 0 0 0\n2 1 1 1\n"), first[2]
    assert second[:2] == (0, "2 1 1 1\n0 0 0 0\n"), second[2]


def test_where_nothing_can_be_kept_each_process_compiles_its_own():
    module = types.ModuleType("module")

    def refuses():
        tried.append(module)
        raise RuntimeError("cannot cache function: no locator available")

    tried = []
    module.compiled, module.other = types.SimpleNamespace(enable_caching=refuses), 3
    keep_compiled([module])
    assert tried == [module]
