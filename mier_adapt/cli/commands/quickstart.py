"""``mier-adapt quickstart``: a pretrained run, a task that it never saw, a report and a film."""

import os
from dataclasses import dataclass
from pathlib import Path

from mier_adapt._checks import Count, Seed
from mier_adapt.cli.arguments import Imports, Threads
from mier_adapt.cli.commands.adapt import adapt_showing
from mier_adapt.cli.families import require_task
from mier_adapt.cli.terminal import Progress, say

_RUN = "halfcheetah-negated-joints"


@dataclass
class Quickstart:
    """Adapt a pretrained policy to a task that it never saw.

    Example: mier-adapt quickstart --task 14
    """

    task: int = 12
    """Task from 10 to 19: `mier-adapt tasks HalfCheetahNegatedJoints`."""
    seed: Seed = 0
    """Fixes the adaptation."""
    episodes: Count = 4
    """Deterministic evaluation episodes after each stage."""
    out: Path = Path("quickstart")
    """Directory for the report as JSON, the figure and the film."""
    threads: Threads = None
    import_: Imports = ()

    def run(self) -> int:
        """Adapt, print the report, and film both policies if this machine can draw."""
        from mier_adapt.agents.environments import FamilyEnvs
        from mier_adapt.agents.films import film_side_by_side, find_gl_backend
        from mier_adapt.agents.run import load_run

        run = load_run(_RUN)
        tasks = run.task_set
        first = len(tasks.meta_train)
        require_task(self.task, range(first, len(tasks)), tasks.family)
        with FamilyEnvs(tasks) as envs:
            new = {f"task-{self.task}": run.new_task(envs, tasks[self.task])}
            (adaptation,) = adapt_showing(
                run,
                new,
                run.adapt_config,
                seeds=(self.seed,),
                out=self.out,
                episodes=self.episodes,
            )
        film = self.out / f"task-{self.task}-seed-{self.seed}.gif"
        actors = {"before": run.initial_actor(1), "after": adaptation.actor}
        try:
            os.environ["MUJOCO_GL"] = find_gl_backend()
        except RuntimeError as error:
            say(f"No film: {error}.")
        else:
            with Progress() as progress:
                progress.show("quickstart", "filming both policies")
                film_side_by_side(
                    tasks.env_id,
                    tasks[self.task],
                    actors,
                    film,
                    seed=self.seed,
                    episode_steps=run.config.episode_steps,
                )
            say(f"Film, before and after: {film}")
        say(f"Report and figure: {self.out}")
        return 0
