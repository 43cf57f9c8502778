"""Simulations that Python threads step."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mier_adapt_envs.robot import Robot, State
from mier_adapt_envs.simulations import Restarts, Simulations


class ThreadSimulations(Simulations):
    """One MjData per slot, and Python threads that step them.

    MuJoCo releases Python's global lock while it steps, so the threads run in parallel, but each
    takes the lock between two steps. Serves robots whose contact forces are read, and MuJoCo
    before 4.0.
    """

    def __init__(self, robot: Robot, models: Sequence[mujoco.MjModel], *, num_threads: int) -> None:
        super().__init__(robot, models, num_threads=num_threads)
        self._datas = [mujoco.MjData(model) for model in self.models]
        self._threads = _Threads(num_threads)
        # Arrays that look into MuJoCo's memory, and the rows that they are copied to, are made
        # once: making one takes longer than copying what it shows. The two sets of rows take
        # turns, so that a step finds the state before and the state after.
        self._controls = [data.ctrl for data in self._datas]
        self._warnings = [data.warning.number for data in self._datas]
        self._states: list[dict[str, NDArray[np.float64]]] = []
        self._copies: list[list[list[tuple[NDArray[np.float64], NDArray[np.float64]]]]] = []
        for _ in range(2):
            state = {
                name: np.stack([getattr(data, name) for data in self._datas])
                for name in robot.reads
            }
            self._states.append(state)
            self._copies.append(
                [
                    [(rows[slot], getattr(data, name)) for name, rows in state.items()]
                    for slot, data in enumerate(self._datas)
                ]
            )
        self._turn = 0

    @property
    @override
    def state(self) -> State:
        return self._states[self._turn]

    @property
    @override
    def warnings(self) -> NDArray[np.integer]:
        return np.array(self._warnings)

    @override
    def step(self, ctrl_BA: NDArray[np.float64], restarts: Restarts) -> None:
        self._turn = 1 - self._turn
        copies = self._copies[self._turn]
        robot, models, datas, controls = self._robot, self.models, self._datas, self._controls

        def work(slot: int) -> None:
            if slot in restarts:
                robot.reset(models[slot], datas[slot], restarts[slot])
            else:
                controls[slot][:] = ctrl_BA[slot]
                robot.step(models[slot], datas[slot])
            for row, view in copies[slot]:
                row[...] = view

        self._threads.run(work, range(len(datas)))

    @override
    def reset(self, restarts: Restarts) -> None:
        copies = self._copies[self._turn]

        def work(slot: int) -> None:
            self._robot.reset(self.models[slot], self._datas[slot], restarts[slot])
            for row, view in copies[slot]:
                row[...] = view

        self._threads.run(work, list(restarts))

    @override
    def update_models(self) -> None:
        pass  # each step looks at them

    @override
    def data(self, slot: int) -> mujoco.MjData:
        return self._datas[slot]

    @override
    def close(self) -> None:
        self._threads.close()


class _Threads:
    """The caller's thread, and helpers that wait for work between steps.

    An executor would do, but its futures take as long as stepping a simulation or two.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_helpers = num_threads - 1
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        self._pid: int | None = None
        self._end: Callable[[], Any] | None = None

    def run(self, work: Callable[[int], None], slots: Sequence[int]) -> None:
        """Call ``work`` once for each slot, and return when all calls have.

        A thread that has finished a slot takes the next one: simulations with many contacts take
        longer, and with fixed shares the other threads would wait for them.
        """
        pending = deque(slots)

        def take_slots() -> None:
            while True:
                try:
                    slot = pending.popleft()
                except IndexError:
                    return
                work(slot)

        num_helpers = min(self._num_helpers, len(slots) - 1)
        if num_helpers > 0:
            self._start()
        for _ in range(num_helpers):
            self._jobs.put(take_slots)
        try:
            take_slots()
        finally:
            errors = [self._outcomes.get() for _ in range(num_helpers)]
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """End the helpers. Another run would start new ones."""
        if self._end is not None:
            self._end()
        self._pid = None

    def _start(self) -> None:
        # Threads do not survive a fork: a child process starts its own, on queues of its own.
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._jobs, self._outcomes = SimpleQueue(), SimpleQueue()
        # Neither the helpers nor what ends them know this object, so that it can be collected.
        self._end = weakref.finalize(self, _dismiss, self._jobs, self._num_helpers)
        for number in range(self._num_helpers):
            threading.Thread(
                target=_help,
                args=(self._jobs, self._outcomes),
                name=f"mier-adapt-envs-{number}",
                daemon=True,
            ).start()


def _dismiss(jobs: "SimpleQueue[Any]", num_helpers: int) -> None:
    for _ in range(num_helpers):
        jobs.put(None)


def _help(jobs: "SimpleQueue[Any]", outcomes: "SimpleQueue[BaseException | None]") -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
            outcomes.put(None)
        except BaseException as error:
            outcomes.put(error)
        del job  # it refers to the simulations
