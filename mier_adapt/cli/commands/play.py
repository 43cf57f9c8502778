"""``mier-adapt play``: an adapted policy, as a file, acts."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mier_adapt._checks import Seed, Size
from mier_adapt.cli.arguments import Imports, Threads
from mier_adapt.cli.terminal import say
from mier_adapt.cli.words import UsageError


@dataclass
class Play:
    """Let an adapted policy act in its task, and film it.

    Example: mier-adapt play policy.safetensors --film it.gif
    """

    policy: Annotated[Path, tyro.conf.Positional]
    """What `mier-adapt adapt`, `quickstart` or `Adaptation.save` wrote."""
    episodes: Size = 4
    """Deterministic episodes."""
    seed: Seed = 0
    """Fixes their starts."""
    film: Path | None = None
    """Film of the first episode to write: .gif."""
    threads: Threads = None
    import_: Imports = ()

    def run(self) -> int:
        """Act, and print the returns."""
        from mier_adapt.adapted_policy import AdaptedPolicy
        from mier_adapt.agents.films import find_gl_backend, play

        policy = AdaptedPolicy.load(self.policy)
        made = policy.about.get("environment")
        if not isinstance(made, dict):
            raise UsageError(
                f"{self.policy} does not say what makes its environment, which was not made by "
                "gymnasium.make with plain values alone. Step it yourself: AdaptedPolicy.load(path)"
                ".predict(obs)."
            )
        if self.film is not None:
            try:
                os.environ["MUJOCO_GL"] = find_gl_backend()
            except RuntimeError as error:
                raise UsageError(f"No film: {error}. Leave --film out.") from error
        returns = play(policy, made, episodes=self.episodes, seed=self.seed, film=self.film)
        told = f"{np.mean(returns):.0f} ± {np.std(returns):.0f}"
        say(f"{policy.about.get('task', made['id'])}: return {told} in {len(returns)} episode(s)")
        if self.film is not None:
            say(f"Film: {self.film}")
        return 0
