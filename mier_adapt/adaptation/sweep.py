"""A sweep: an agent adapts to several tasks with several seeds; reports and figures are kept."""

import functools
import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mier_adapt._checks import Count, Seed, checked
from mier_adapt._storage.files import replace_text
from mier_adapt.adaptation.comparison import compare
from mier_adapt.adaptation.front_door import Adaptation, adapt, rounds_of
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
from mier_adapt.agents.new_task import NewTask
from mier_adapt.figures import plot_adaptation, plot_comparison, plot_episodes

_logger = logging.getLogger(__name__)


@checked
def adapt_to_each(
    agent: Agent,
    tasks: Mapping[str, NewTask],
    config: AdaptConfig,
    *,
    seeds: Sequence[Seed],
    out: Path,
    evaluation_episodes: Count,
    budget: Count = 0,
    rounds: ContinueConfig | None = None,
    on_stage: Callable[[str, int, str, float], None] = lambda name, seed, stage, progress: None,
    on_adapted: Callable[[str, int, Adaptation], None] = lambda name, seed, adaptation: None,
) -> list[Adaptation]:
    """Adapt to each task with each seed.

    An interrupted sweep keeps the real transitions of the adaptation that it was at.

    Args:
        agent: The agent; not changed.
        tasks: By the names of their files.
        config: How it adapts.
        seeds: One adaptation of each task for each.
        out: Directory; gets ``NAME-seed-SEED.json``, ``.png`` and ``.policy.safetensors``, which
            :meth:`.AdaptedPolicy.load` reads, for every adaptation, and ``.compensation.json``
            where one was handed back.
        evaluation_episodes: Deterministic episodes after each stage.
        budget: Further real transitions of each adaptation; with some, ``.episodes.png`` shows what
            its episodes returned.
        rounds: How these are spent.
        on_stage: Told task, seed, stage and its progress from 0 to 1.
        on_adapted: Told task, seed and result of every adaptation as it ends.

    Raises:
        ValueError: If a number is out of range, before any adaptation.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = []
    for (name, task), seed in itertools.product(tasks.items(), seeds):
        tell = functools.partial(on_stage, name, seed)
        path = out / f"{name}-seed-{seed}"
        checkpoint = path.with_suffix(".safetensors")
        adaptation = adapt(
            agent,
            task,
            config,
            seed=seed,
            evaluation_episodes=evaluation_episodes,
            budget=budget,
            rounds=rounds,
            checkpoint=checkpoint,
            on_stage=tell,
        )
        report = adaptation.report.to_dict()
        plot_adaptation(report, path.with_suffix(".png"))
        try:
            adaptation.save(path.with_suffix(".policy.safetensors"))
        except TypeError as error:  # a network of one's own, of which the report is worth no less
            _logger.warning("%s: the policy was not written. %s", path.name, error)
        if adaptation.compensation is not None:
            adaptation.compensation.save(path.with_suffix(".compensation.json"))
        if report["continued"]:
            plot_episodes(report["continued"], path.with_suffix(".episodes.png"))
        # Last: where it is, all of this adaptation is.
        replace_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
        for each in (checkpoint, rounds_of(checkpoint)):
            each.unlink(missing_ok=True)
        on_adapted(name, seed, adaptation)
        done.append(adaptation)
    return done


def write_comparison(adaptations: Sequence[Adaptation], out: Path) -> dict[str, object]:
    """Write ``comparison.json``, whose contents this gives, and ``.png`` of a sweep."""
    compared = compare([each.report for each in adaptations])
    replace_text(out / "comparison.json", json.dumps(compared, indent=2) + "\n")
    plot_comparison(compared, out / "comparison.png")
    return compared
