"""Meter: every step and reset that environments are made to do, counted by what it is for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper


@dataclass
class Spent:
    """What an environment did."""

    steps: int = 0
    """Environment steps, of all slots."""
    resets: int = 0
    """Resets, of all slots, those included that an environment makes by itself."""


@dataclass
class Meter:
    """Counts for whatever :attr:`purpose` says at the time."""

    purpose: str = ""
    """What the next steps are for."""
    spent: dict[str, Spent] = field(default_factory=dict)
    """By purpose."""

    def around(self, env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
        """The environment, counted."""
        return _Metered(env, self)

    def steps(self, purpose: str) -> int:
        """Steps of one purpose."""
        return self.spent.get(purpose, Spent()).steps

    def add(self, *, steps: int = 0, resets: int = 0) -> None:
        """Count."""
        spent = self.spent.setdefault(self.purpose, Spent())
        spent.steps += steps
        spent.resets += resets


class _Metered(VectorWrapper):  # which takes no types before gymnasium 1.4
    def __init__(self, env: VectorEnv[Any, Any, Any], meter: Meter) -> None:
        super().__init__(env)
        self.meter = meter

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        mask = (options or {}).get("reset_mask")
        self.meter.add(resets=self.num_envs if mask is None else int(np.sum(mask)))
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        self.meter.add(steps=self.num_envs)  # also where the environment raises
        outcome = self.env.step(actions)
        if self.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
            self.meter.add(resets=int(np.sum(outcome[2] | outcome[3])))
        return outcome
