"""Algorithm 1: meta-train a context model and a policy that is conditioned on its context."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import Device, NonNegative, Seed, checked
from mier_adapt._memory import keep_freed_memory
from mier_adapt._products import quick_products
from mier_adapt._storage.files import require_kinds
from mier_adapt._storage.randomness import (
    check_generator_state,
    check_global_generator_state,
    global_generator_state,
    seed_global_generators,
    set_global_generator_state,
)
from mier_adapt._storage.trees import require_keys, require_like, require_optimizer_state
from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.rollouts import collect_episodes
from mier_adapt.agents.run import Run
from mier_adapt.agents.run_file import RunFile
from mier_adapt.context_adapter import MetaLoss
from mier_adapt.integration import FastSAC, update
from mier_adapt.integration.actors import require_finite_parameters
from mier_adapt.integration.algorithms import set_lr, set_target_entropy
from mier_adapt.protocols import Actor
from mier_adapt.training.meta_step import Place, descend, draw_sets, require_finite_contexts
from mier_adapt.training.metrics import Log, evaluated
from mier_adapt.training.running import entered, keep_training
from mier_adapt.transitions import Transitions

_STARTED = {"tasks": [int], "contexts": torch.Tensor, "loss": float}
_LEAST_STD = 0.1
"""What hardly varies at first is not magnified more than tenfold."""


class _Step(NamedTuple):
    """What a meta-step gives."""

    contexts: torch.Tensor
    """Shape ``(T, C)``."""
    loss: float


class _Started(NamedTuple):
    """A meta-step that may be under way."""

    tasks: NDArray[np.int_]
    step: Future[_Step]


class MetaTrainer:
    """A run in the making; :meth:`step` is one SAC update with all that falls due at it.

    Between two calls the whole future of the run is a function of :meth:`state`.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``.
        seed: Fixes the run.
        adapt_config: How the run will meet new tasks.
        device: Where networks live and learn.
        beside: Takes meta-steps beside the updates where ``config.late_contexts`` lets it; without,
            they are taken in between, with the same results.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 1. Ours: the model is trained
        before the policy on the first data; tasks are drawn without replacement where there
        are enough of them; several SAC updates share the contexts of one meta-step.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        envs: FamilyEnvs,
        *,
        seed: int,
        adapt_config: AdaptConfig | None = None,
        device: torch.device | str = "cpu",
        beside: Executor | None = None,
    ) -> None:
        keep_freed_memory()
        seed_global_generators(seed)
        self.generator = np.random.default_rng(seed)
        self.config = config
        self.envs = envs
        self.run = Run.build(
            config,
            envs,
            adapt_config=adapt_config or AdaptConfig(),
            generator=self.generator,
            device=device,
        )
        self._algorithm.scale_rewards(config.policy.reward_scale)
        self.model_optimizer = torch.optim.Adam(
            self.run.context_model.parameters(), lr=config.model.lr
        )
        self.updates = 0
        self.env_steps = 0
        self.pretrain_steps = 0
        self.seconds = 0.0
        self._sums: dict[str, tuple[float, int]] = {}
        self._beside = beside
        self._started: _Started | None = None

    @property
    def finished(self) -> bool:
        """Whether all updates were taken."""
        return self.updates >= self.config.updates

    @property
    def device(self) -> torch.device:
        """Where networks live and learn."""
        return self.run.device

    def step(self) -> dict[str, Any] | None:
        """Take one step of pre-training or one SAC update.

        Returns:
            The measurements of an iteration that this step completed, or ``None``.

        Raises:
            FloatingPointError: If something stops being finite; names it, the step and the tasks.
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
            self._take_contexts()
            self._anneal()
            self._collect()
        if self.updates % config.policy.updates_per_model_step == 0:
            self._meta_step()
        stats = update(self._algorithm, self.run.replay, config.policy.batch_size)
        self.updates += 1
        for name, value in stats.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"SAC's {name} is {value} at update {self.updates}, on tasks "
                    f"{[int(task) for task in self.run.replay.active_tasks]}. The checkpoint "
                    "before it is whole. Lower policy.lr and start a new run."
                )
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
        started = None
        if self._started is not None:  # the model is not whole before it is done
            contexts, loss = self._started.step.result()
            started = {
                "tasks": self._started.tasks.tolist(),
                "contexts": contexts,
                "loss": loss,
            }
        return {
            "started": started,
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
        """Go on from what :meth:`state` gave in a run of the same configuration.

        Raises:
            ValueError: If it does not fit; nothing is changed then.
        """
        state = {"started": None, **state}  # unknown to release 0.1
        self._check_state(state)
        self._started = None
        if state["started"] is not None:
            done: Future[_Step] = Future()
            done.set_result(_Step(state["started"]["contexts"], state["started"]["loss"]))
            self._started = _Started(np.array(state["started"]["tasks"]), done)
        self.run.load_state(state["run"])
        self.model_optimizer.load_state_dict(state["model_optimizer"])
        self.updates = state["updates"]
        self.env_steps = state["env_steps"]
        self.pretrain_steps = state["pretrain_steps"]
        self.seconds = state["seconds"]
        self._sums = dict(state["sums"])
        self.generator.bit_generator.state = state["generator"]
        set_global_generator_state(state["global_generators"])
        if self.updates % self.config.updates_per_iteration:
            self._anneal()  # no state holds the target entropy of an iteration that is under way

    def _check_state(self, state: Any) -> None:
        own = {**self.state(), "run": None}
        require_keys(own, state, "state")
        if state["started"] is not None:
            require_kinds(_STARTED, state["started"], "started")
            tasks, shape = state["started"]["tasks"], state["started"]["contexts"].shape
            known = all(0 <= task < self.run.replay.num_tasks for task in tasks)
            if not known or shape != (len(tasks), self.run.replay.context_dim):
                raise ValueError(f"started: contexts {tuple(shape)} of tasks {tasks}.")
        self.run.check_state(state["run"])
        require_optimizer_state(self.model_optimizer, state["model_optimizer"], "model_optimizer")
        for name in ("updates", "env_steps", "pretrain_steps", "seconds"):
            require_like(own[name], state[name], name)
            if state[name] < 0:
                raise ValueError(f"{name}: expected a count, got {state[name]}.")
        if not isinstance(state["sums"], dict):
            raise ValueError(f"sums: expected a dictionary, got {type(state['sums']).__name__}.")
        for name, value in state["sums"].items():
            require_like((0.0, 0), value, f"sums/{name}")
        check_generator_state(self.generator, state["generator"])
        check_global_generator_state(state["global_generators"])

    def _anneal(self) -> None:
        """Set this iteration's step sizes and target entropy, which move in a run's last part."""
        config, policy = self.config, self.config.policy
        started = self.updates - self.updates % config.updates_per_iteration
        left = 1.0
        if config.annealed_share > 0:
            left = min(1.0, (1 - started / config.updates) / config.annealed_share)
        set_lr(self.run.algorithm, left * policy.lr)
        for group in self.model_optimizer.param_groups:
            group["lr"] = left * config.model.lr
        entropy = left * policy.target_entropy + (1 - left) * policy.final_target_entropy
        set_target_entropy(self.run.algorithm, entropy)

    def _collect_initial(self) -> None:
        """Every task's first data, all with the initial context."""
        tasks = np.arange(self.run.replay.num_tasks)
        actor = self.run.initial_actor(len(tasks))
        for _ in range(self.config.initial_episodes):
            self._gather(tasks, actor, episodes=1, initial=True)
        if self.config.model.normalize:
            stored = self.run.replay.stored().to(self.run.device)
            self.run.context_model.fit_normalization(stored)
        if self.config.policy.normalize:
            std = self.run.replay.stored().obs.double().std(0)
            scale = torch.where(std > 0, 1 / std.clamp_min(_LEAST_STD), 1.0)
            self._algorithm.scale_obs(scale.float().to(self.run.device))

    @property
    def _algorithm(self) -> FastSAC:
        return cast(FastSAC, self.run.algorithm)

    def _collect(self) -> None:
        """D_adapt with the initial context, then D_eval with the one that it identifies."""
        config, run = self.config, self.run
        tasks = self._draw_tasks(config.tasks_per_iteration)
        adaptation = self._gather(
            tasks,
            run.initial_actor(len(tasks)),
            episodes=config.adaptation_episodes,
            initial=True,
        )
        contexts = run.adapter.adapt(adaptation.to(run.device))
        require_finite_contexts(contexts, tasks, self._place())
        self._gather(tasks, run.actor(contexts), episodes=config.evaluation_episodes, initial=False)

    def _gather(
        self, tasks: NDArray[np.int_], actor: Actor, *, episodes: int, initial: bool
    ) -> Transitions:
        """Collect and store episodes of each task; give them back as ``(T, B, ...)``."""
        steps = episodes * self.config.episode_steps
        rollouts = collect_episodes(
            self.envs.of_size,
            [self.run.task_set.meta_train[task] for task in tasks],
            actor,
            steps=steps,
            episode_steps=self.config.episode_steps,
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
        """One step of the model; its contexts go to the policy's replay, with the next if late.

        All that is drawn for it is drawn here, so that it may run beside whatever draws next.
        """
        config, run = self.config.model, self.run
        self._take_contexts()
        tasks = self._draw_tasks(config.tasks_per_batch)
        sets = draw_sets(run.replay, tasks, config)
        step = functools.partial(
            descend, run.adapter, self.model_optimizer, sets, tasks, config, self._place()
        )
        late = self.config.late_contexts and self.updates > 0
        if late and self._beside is not None:
            self._started = _Started(tasks, self._beside.submit(_contexts_of, step))
        else:
            done: Future[_Step] = Future()
            done.set_result(_contexts_of(step))
            self._started = _Started(tasks, done)
        if not late:
            self._take_contexts()

    def _take_contexts(self) -> None:
        """Let the policy act on the contexts of the meta-step that was started, if one was."""
        if self._started is None:
            return
        tasks, step = self._started
        contexts, loss = step.result()
        self._started = None
        self.run.replay.set_contexts(tasks, contexts)
        self._add("model_loss", loss)

    def _place(self) -> Place:
        return Place(
            step=f"SAC update {self.updates}",
            tasks=self.run.task_set.meta_train,
            remedy="The checkpoint before it is whole. Lower model.lr or model.inner_lr and start "
            "a new run.",
        )

    def _measure(self) -> dict[str, Any]:
        """Close an iteration: means since the last one, and an evaluation where it is due."""
        config = self.config
        if self._started is not None:
            self._started.step.result()
        for network, name in (
            (self.run.context_model, "The model"),
            (self.run.algorithm, "SAC"),
        ):
            require_finite_parameters(network, f"After update {self.updates}: {name}")
        row: dict[str, Any] = {"updates": self.updates, "env_steps": self.env_steps}
        row |= {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        iteration = -(-self.updates // config.updates_per_iteration)
        if iteration % config.evaluate_every == 0 or self.finished:
            row |= evaluated(
                self.run,
                self.envs,
                config.evaluated_split,
                config.evaluated_tasks,
                adaptation_steps=self.run.adapt_config.adaptation_steps,
                episode_steps=config.episode_steps,
            )
        return row

    def _draw_tasks(self, count: int) -> NDArray[np.int_]:
        num_tasks = self.run.replay.num_tasks
        return self.generator.choice(num_tasks, count, replace=count > num_tasks)

    def _add(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)


def _contexts_of(step: Callable[[], MetaLoss]) -> _Step:
    meta = step()
    return _Step(meta.contexts, float(meta.evaluation_loss.mean()))


@contextlib.contextmanager
def _core_of_its_own(config: MetaTrainConfig, device: torch.device | str) -> Iterator[Any]:
    """What takes meta-steps beside updates; None where that is not asked, or there is one core."""
    if config.late_contexts and _cores() > 1 and torch.device(device).type == "cpu":
        with ThreadPoolExecutor(max_workers=1) as worker:
            yield worker
    else:
        yield None


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@checked
@torch.inference_mode(False)
@quick_products()
def meta_train(
    config: MetaTrainConfig,
    directory: Path,
    *,
    adapt_config: AdaptConfig | None = None,
    seed: Seed = 0,
    device: Device = "cpu",
    checkpoint_seconds: NonNegative = 120.0,
    log: Log = "tensorboard",
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[MetaTrainer, dict[str, Any] | None], None] = lambda trainer, row: None,
) -> bool:
    """Meta-train into a directory, or go on with the run that it holds.

    An interrupted run that is called again ends with the parameters of an uninterrupted one,
    bit for bit on the same machine's CPU with as many of torch's threads; with another number of
    them it goes on, and the log says so. A finished one is left as it is. The global generators of
    NumPy and torch, from which training draws, are given back as they were found.

    Args:
        config: What to train. A run may be called again with more ``updates``, but with
            nothing else changed.
        directory: Gets ``run.json``, ``checkpoint.safetensors``, ``metrics.jsonl``,
            ``tensorboard/`` and ``learning_curve.png``. Made if needed.
        adapt_config: How the run will meet new tasks, which ``run.json`` keeps; a run may be
            called again with another one.
        seed: Fixes the run.
        device: Where networks live and learn.
        checkpoint_seconds: Wall-clock time between checkpoints.
        log: Where measurements go besides ``metrics.jsonl``: ``"tensorboard"``, ``"none"``, or
            ``"wandb"``, Weights & Biases with TensorBoard's events beside it; a resumed run goes on
            as the same one there, whose ID ``wandb.json`` keeps.
        should_stop: Asked after every step; True saves a checkpoint and leaves.
        on_step: Called after every step, with an iteration's measurements when one ends.

    Returns:
        Whether the run is finished.

    Raises:
        ImportError: If wandb is asked for and is not installed.
        ValueError: If the directory holds a run of another configuration or seed, or one that has
            taken more updates; or if wandb does not start.
        RunLockedError: If another process is at work in the directory.
        CheckpointError: If a file of the run is damaged and there is no older one.
        FloatingPointError: If something stops being finite; names it, the step and the task. The
            checkpoint before it stays.
        OSError: If the last checkpoint cannot be written after several tries. Checkpoints on the
            way that the disk refuses cost nothing: the run goes on in memory, says so in the log,
            and tries again at the next one.
    """
    tasks = config.tasks
    run_file = RunFile(config, adapt_config or AdaptConfig(), seed, tasks.hash)
    with (
        entered(directory, run_file, log=log),
        FamilyEnvs(tasks) as envs,
        _core_of_its_own(config, device) as beside,
    ):
        trainer = MetaTrainer(
            config,
            envs,
            seed=seed,
            adapt_config=run_file.adapt_config,
            device=device,
            beside=beside,
        )
        return keep_training(
            trainer,
            directory,
            run_file,
            checkpoint_seconds=checkpoint_seconds,
            log=log,
            should_stop=should_stop,
            on_step=on_step,
        )
