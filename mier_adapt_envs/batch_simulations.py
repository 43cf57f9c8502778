"""Simulations that MuJoCo itself steps on several threads (MuJoCo 4.0 and later)."""

import ctypes
import os
import weakref
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray
from typing_extensions import override

from mier_adapt_envs.robot import Robot, State
from mier_adapt_envs.simulations import Restarts, Simulations


class BatchSimulations(Simulations):
    """Simulations in one ``mujoco.batch.Batch``.

    Its threads never wait for Python's global lock. It has no place for the
    ``mj_rnePostConstraint`` that contact forces take.
    """

    def __init__(self, robot: Robot, models: Sequence[mujoco.MjModel], *, num_threads: int) -> None:
        super().__init__(robot, models, num_threads=num_threads)
        self._datas: dict[int, mujoco.MjData] = {}
        self._open()
        self._state = self._read()

    def _open(self) -> None:
        # Persistent, so that data() shows all of a simulation.
        self._batch: Any = Batch(
            self.models[0], len(self.models), self._num_threads, persistent=True
        )
        _BATCHES.add(self._batch)
        self._pid: int | None = os.getpid()
        self._batch.set_models(self.models)
        self._fields = {name: self._batch.bind(name) for name in self._robot.reads}
        self._qpos_BQ, self._qvel_BV = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._ctrl_BA = self._batch.bind("ctrl")

    @property
    @override
    def state(self) -> State:
        return self._state

    @property
    @override
    def warnings(self) -> NDArray[np.integer]:
        counts: NDArray[np.integer] = self._batch.warning[..., 1]  # mjWarningStat.number
        return counts

    @override
    def step(self, ctrl_BA: NDArray[np.float64], restarts: Restarts) -> None:
        self._survive_fork()
        self._ctrl_BA[:] = ctrl_BA
        stepping_B = None
        if restarts:
            stepping_B = np.ones(len(self.models), dtype=np.bool_)
            stepping_B[list(restarts)] = False
        self._batch.step(stepping_B, nstep=self._robot.frame_skip)
        self._restart(restarts)
        self._state = self._read()

    @override
    def reset(self, restarts: Restarts) -> None:
        self._survive_fork()
        self._restart(restarts)
        state = {name: values.copy() for name, values in self._state.items()}
        for name, field in self._fields.items():
            state[name][list(restarts)] = field[list(restarts)]
        self._state = state

    @override
    def update_models(self) -> None:
        self._survive_fork()
        self._batch.set_models(self.models)

    @override
    def data(self, slot: int) -> mujoco.MjData:
        self._survive_fork()
        self._datas[slot] = self._batch.get_data(slot, self._datas.get(slot))
        return self._datas[slot]

    @override
    def close(self) -> None:
        if self._pid is not None:
            # The batch's destructor ends the threads, once no array looks into it any more.
            del self._batch, self._fields, self._qpos_BQ, self._qvel_BV, self._ctrl_BA
            self._pid = None

    def _restart(self, restarts: Restarts) -> None:
        if restarts:
            slots = sorted(restarts)
            self._batch.reset(slots, stage=mujoco.mjtStage.mjSTAGE_NONE)
            for slot in slots:
                start = self._robot.draw_start(self.models[slot], restarts[slot])
                self._qpos_BQ[slot], self._qvel_BV[slot] = start
            self._batch.forward(slots)

    def _read(self) -> State:
        return {name: field.copy() for name, field in self._fields.items()}

    def _survive_fork(self) -> None:
        # Threads do not survive a fork: a child process goes on with a batch of its own.
        if self._pid != os.getpid():
            inherited = self._batch
            self._open()
            self._batch.state[:] = inherited.state


_BATCHES: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _keep_inherited() -> None:
    """In a process that was forked, keep all batches for good, the interpreter's end included.

    Their threads were lost in the fork, and their destructors would wait for these forever. No list
    does: what refers to something is let go of in the end.
    """
    for batch in _BATCHES:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(batch))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)
