"""Algorithm 1: meta-train a context model and a policy that is conditioned on its context."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt.integration import update
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import collect_for_tasks, evaluate_tasks
from mier_adapt.workflows.metrics import MetricsLog
from mier_adapt.workflows.presets import MetaTrainConfig
from mier_adapt.workflows.randomness import (
    global_generator_state,
    seed_global_generators,
    set_global_generator_state,
)
from mier_adapt.workflows.runs import (
    CHECKPOINT_FILE,
    RUN_FILE,
    Run,
    read_run_file,
    write_run_file,
)
from mier_adapt_envs import task_set

__all__ = ["MetaTrainer", "meta_train"]

_EVALUATION_SEED = 20_000
"""Evaluations of one run share their starts, so that its curve shows the policy alone."""


class MetaTrainer:
    """A run in the making; :meth:`step` is one SAC update with all that falls due at it.

    Between two calls the whole future of the run is a function of :meth:`state`.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``.
        seed: Fixes the run.
        device: Where networks live and learn.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 1. Ours: the model is trained
        before the policy on the first data; tasks are drawn without replacement where there
        are enough of them; several SAC updates share the contexts of one meta-step.
    """

    def __init__(
        self, config: MetaTrainConfig, envs: TaskEnvs, *, seed: int, device: str = "cpu"
    ) -> None:
        seed_global_generators(seed)
        self.generator = np.random.default_rng(seed)
        self.config = config
        self.envs = envs
        self.run = Run.build(config, envs, generator=self.generator, device=device)
        self.model_optimizer = torch.optim.Adam(self.run.model.parameters(), lr=config.model.lr)
        self.updates = 0
        self.env_steps = 0
        self.pretrain_steps = 0
        self.seconds = 0.0
        self._sums: dict[str, tuple[float, int]] = {}

    @property
    def finished(self) -> bool:
        """Whether all updates were taken."""
        return self.updates >= self.config.updates

    def step(self) -> dict[str, Any] | None:
        """Take one step of pre-training or one SAC update.

        Returns:
            The measurements of an iteration that this step completed, or ``None``.
        """
        started = time.monotonic()
        config = self.config
        if self.env_steps == 0:
            self._collect_initial()
        if self.pretrain_steps < config.model.pretrain_steps:
            self._meta_step()
            self.pretrain_steps += 1
            self.seconds += time.monotonic() - started
            return None
        if self.updates % config.updates_per_iteration == 0:
            self._collect()
        if self.updates % config.policy.updates_per_model_step == 0:
            self._meta_step()
        stats = update(self.run.algorithm, self.run.replay, config.policy.batch_size)
        self.updates += 1
        for name, value in stats.items():
            self._add(name, value)
        row = None
        if self.updates % config.updates_per_iteration == 0 or self.finished:
            row = self._measure()
        self.seconds += time.monotonic() - started
        if row is not None:
            row["seconds"] = self.seconds
        return row

    def state(self) -> dict[str, Any]:
        """All that :meth:`load_state` needs to go on as if nothing had happened."""
        return {
            "run": self.run.state(),
            "model_optimizer": self.model_optimizer.state_dict(),
            "updates": self.updates,
            "env_steps": self.env_steps,
            "pretrain_steps": self.pretrain_steps,
            "seconds": self.seconds,
            "sums": self._sums,
            "generator": self.generator.bit_generator.state,
            "global_generators": global_generator_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave in a run of the same configuration."""
        self.run.load_state(state["run"])
        self.model_optimizer.load_state_dict(state["model_optimizer"])
        self.updates = state["updates"]
        self.env_steps = state["env_steps"]
        self.pretrain_steps = state["pretrain_steps"]
        self.seconds = state["seconds"]
        self._sums = dict(state["sums"])
        self.generator.bit_generator.state = state["generator"]
        set_global_generator_state(state["global_generators"])

    def _collect_initial(self) -> None:
        """Every task's first data, all with the initial context."""
        tasks = np.arange(self.run.replay.num_tasks)
        for _ in range(self.config.initial_episodes):
            self._gather(tasks, self._initial_contexts(len(tasks)), episodes=1, initial=True)
        if self.config.model.normalize:
            self.run.model.fit_normalization(self.run.replay.stored().to(self.run.device))

    def _collect(self) -> None:
        """D_adapt with the initial context, then D_eval with the one that it identifies."""
        config, run = self.config, self.run
        tasks = self._draw_tasks(config.tasks_per_iteration)
        adaptation = self._gather(
            tasks,
            self._initial_contexts(len(tasks)),
            episodes=config.adaptation_episodes,
            initial=True,
        )
        contexts = run.adapter.adapt(adaptation.to(run.device)).cpu().numpy()
        self._gather(tasks, contexts, episodes=config.evaluation_episodes, initial=False)

    def _gather(
        self,
        tasks: NDArray[np.int_],
        contexts: NDArray[np.floating],
        *,
        episodes: int,
        initial: bool,
    ) -> Transitions:
        """Collect and store episodes of each task; give them back as ``(T, B, ...)``."""
        steps = episodes * self.config.episode_steps
        rollouts = collect_for_tasks(
            self.run,
            self.envs,
            [self.run.task_set.meta_train[task] for task in tasks],
            contexts,
            steps=steps,
            generator=self.generator,
        )
        for task, rollout in zip(tasks, rollouts, strict=True):
            self.run.replay.extend(
                task,
                rollout.transitions.flatten(),
                truncated=rollout.truncated.reshape(-1),
                initial_context=initial,
            )
        self.env_steps += steps * len(tasks)
        return Transitions.stack([rollout.transitions.flatten() for rollout in rollouts])

    def _meta_step(self) -> None:
        """One step of the model on the meta-loss; its contexts go to the policy's replay."""
        config, run = self.config.model, self.run
        tasks = self._draw_tasks(config.tasks_per_batch)
        adaptation, evaluation = (
            run.replay.sample_transitions(tasks, config.batch_size, adaptation=adaptation).to(
                run.device
            )
            for adaptation in (True, False)
        )
        meta = run.adapter.meta_loss(adaptation, evaluation, first_order=config.first_order)
        loss = float(meta.loss.detach())
        if not math.isfinite(loss):
            worst = int(torch.argmax(torch.nan_to_num(meta.evaluation_loss, nan=math.inf)))
            raise FloatingPointError(
                f"The model's meta-loss is {loss} at SAC update {self.updates}, worst on task "
                f"{tasks[worst]} ({run.task_set.meta_train[tasks[worst]]}). The checkpoint before "
                "it is whole. Lower model.lr or model.inner_lr and start a new run."
            )
        self.model_optimizer.zero_grad()
        meta.loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.max_grad_norm)
        self.model_optimizer.step()
        run.replay.set_contexts(tasks, meta.contexts)
        self._add("model_loss", float(meta.evaluation_loss.mean()))

    def _measure(self) -> dict[str, Any]:
        """Close an iteration: means since the last one, and an evaluation where it is due."""
        config = self.config
        row: dict[str, Any] = {"updates": self.updates, "env_steps": self.env_steps}
        row |= {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        iteration = -(-self.updates // config.updates_per_iteration)
        if iteration % config.evaluate_every == 0 or self.finished:
            tasks = self.run.task_set.meta_train[: config.evaluated_tasks]
            evaluations = evaluate_tasks(self.run, self.envs, tasks, seed=_EVALUATION_SEED)
            for name in ("loss_initial", "loss_adapted"):
                row[name] = float(np.mean([getattr(each, name) for each in evaluations]))
            for name in ("initial", "adapted"):
                per_task = [float(getattr(each, f"returns_{name}").mean()) for each in evaluations]
                row[f"return_{name}"] = float(np.mean(per_task))
                row[f"returns_{name}"] = per_task
        return row

    def _initial_contexts(self, count: int) -> NDArray[np.floating]:
        initial = self.run.model.initial_context.detach()
        return np.asarray(initial.expand(count, -1).cpu().numpy())

    def _draw_tasks(self, count: int) -> NDArray[np.int_]:
        num_tasks = self.run.replay.num_tasks
        return self.generator.choice(num_tasks, count, replace=count > num_tasks)

    def _add(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)


def meta_train(
    config: MetaTrainConfig,
    directory: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint_seconds: float = 120.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[MetaTrainer, dict[str, Any] | None], None] = lambda trainer, row: None,
) -> bool:
    """Meta-train into a directory, or go on with the run that it holds.

    An interrupted run that is called again ends with the parameters of an uninterrupted one,
    bit for bit on the same machine's CPU.

    Args:
        config: What to train. A run may be called again with more ``updates``, but with
            nothing else changed.
        directory: Gets ``run.json``, ``checkpoint.safetensors``, ``metrics.jsonl``,
            ``tensorboard/`` and ``learning_curve.png``. Made if needed.
        seed: Fixes the run.
        device: Where networks live and learn.
        checkpoint_seconds: Wall-clock time between checkpoints.
        should_stop: Asked after every step; True saves a checkpoint and leaves.
        on_step: Called after every step, with an iteration's measurements when one ends.

    Returns:
        Whether the run is finished.

    Raises:
        ValueError: If the directory holds a run of another configuration or seed.
        CheckpointError: If a file of the run is damaged.
        FloatingPointError: If the model's loss stops being finite.
    """
    tasks = task_set(config.family, config.task_set)
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = directory / CHECKPOINT_FILE
    if (directory / RUN_FILE).is_file():
        _require_same_run(directory, config, seed, tasks.hash)
    elif any(directory.iterdir()):
        raise ValueError(
            f"Expected an empty directory or one with a run, but {directory} holds other files. "
            "Choose another one."
        )
    write_run_file(directory, config, seed, tasks)
    with TaskEnvs(tasks) as envs:
        trainer = MetaTrainer(config, envs, seed=seed, device=device)
        if checkpoint.is_file():
            tree = load_tree(checkpoint)
            try:
                trainer.load_state(tree)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(f"{checkpoint} does not fit its run: {error}") from error
        log = MetricsLog(directory, updates=trainer.updates)
        saved = time.monotonic()
        try:
            while not (trainer.finished or should_stop()):
                row = trainer.step()
                if row is not None:
                    log.write(row)
                on_step(trainer, row)
                if time.monotonic() - saved > checkpoint_seconds:
                    save_tree(checkpoint, trainer.state())
                    saved = time.monotonic()
            save_tree(checkpoint, trainer.state())
        finally:
            log.close()
        return trainer.finished


def _require_same_run(directory: Path, config: MetaTrainConfig, seed: int, tasks: str) -> None:
    found_config, found_seed, found_tasks = read_run_file(directory)
    if dataclasses.replace(found_config, updates=config.updates) != config:
        wanted, found = config.to_dict(), found_config.to_dict()
        fields = [name for name in wanted if name != "updates" and wanted[name] != found[name]]
        raise ValueError(
            f"{directory} holds a run of another configuration: {', '.join(fields)} differ. "
            "Choose another directory, or the options of that run (see its run.json)."
        )
    if (found_seed, found_tasks) != (seed, tasks):
        raise ValueError(
            f"{directory} holds a run with seed {found_seed} and tasks {found_tasks[:12]}, not "
            f"seed {seed} and tasks {tasks[:12]}. Choose another directory, or that seed."
        )
