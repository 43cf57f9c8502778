"""Going on on a robot that changed, by ours and by what else one could do with the same steps.

Takes the policies of ``train_robots.py``, or with ``--run`` a meta-trained run on the first of its
training tasks, to changes of a set, in the robot's own loop, by each arm:

- ``ours``: an ``AdaptationSession``.
- ``once``: what ``adapt`` hands back, which ends after one round.
- ``sac``: the same SAC goes on with the real transitions alone.
- ``sac-old``: so, with half of each batch from its old replay buffer, as RLPD mixes offline data
  (Ball et al. 2023, arXiv:2302.02948).
- ``scratch``: a new SAC.

What is done is kept in a file for each, and not done again. Arms are compared by what is kept on
average over all transitions of the budget, the area under its curve.

    python examples/keep_adapting_changed_robots.py --changes 4 10 --arms ours sac
    python examples/keep_adapting_changed_robots.py --run halfcheetah-negated-joints --changes 10
"""

import copy
import csv
import json
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import train_robots
import tyro
from keep_adapting import POINTS, keep_adapting, returned

import mier_adapt_envs
from mier_adapt import (
    AdaptationSession,
    AdaptConfig,
    Agent,
    NewTask,
    Transitions,
    adapt,
    load_run,
    meta_train_offline,
)
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import ContextReplayBuffer, MixedReplayBuffer, PolicyActor, update
from mier_adapt.statistics import bootstrap_interval
from mier_adapt_envs import RobotChange, change_set

Arm = Literal["ours", "once", "sac", "sac-old", "scratch"]


@dataclass
class Args:
    """Take policies to changed robots, episode by episode."""

    set: Literal["development", "test"] = "development"
    """Options are chosen on the one, results reported on the other."""
    robot: str = "HalfCheetah"
    run: str = ""
    """A pretrained run of this robot, or a run's directory; by default a policy of one's own."""
    changes: tuple[int, ...] = (4, 10)
    """By index in the set."""
    arms: tuple[Arm, ...] = ("ours", "once", "sac", "sac-old", "scratch")
    """What is done."""
    seeds: tuple[int, ...] = (0,)
    budget: int = 4_000
    """Real transitions."""
    episodes: int = 4
    """Deterministic ones that measure what is kept; no part of the budget."""
    model_steps: int = 20_000
    """Of the model of the intact robot, for a policy of one's own."""
    updates: int = 400
    """Of SAC after each episode, in the arms that have no model."""
    lr: float = 3e-4
    """Its step size there, as ours; its training may have ended with a far smaller one."""
    trained: Path = Path("runs/robots")
    """Where ``train_robots.py`` left its policies."""
    out: Path = Path("runs/keep-adapting")


@dataclass
class Policy:
    """A SAC under a context, without noise."""

    algorithm: Any
    context: torch.Tensor

    def act(self, obs: Any, *, explore: bool) -> Any:
        """What it does; the robots' actions lie within [-1, 1], as its own do."""
        actor = PolicyActor(self.algorithm.policy, self.context)
        return actor.act(np.asarray(obs, dtype=np.float32)[None], explore=explore)[0]

    def predict(self, obs: Any) -> Any:
        """What it does without noise."""
        return self.act(obs, explore=False)


class SACSession:
    """SAC that goes on learning from a robot's steps; used as an ``AdaptationSession`` is.

    Args:
        policy: What goes on; it is changed.
        old: Transitions of the robot as it was.
        old_fraction: Share of them in a batch.
        updates: After each episode.
        lr: Their step size.
        seed: Draws batches.
    """

    def __init__(
        self,
        policy: Policy,
        old: Transitions,
        *,
        old_fraction: float,
        updates: int,
        lr: float,
        seed: int,
    ) -> None:
        self.policy, self._updates = policy, updates
        sac = policy.algorithm
        for optimizer in (sac.policy_optim, sac.critic_optim, sac.critic2_optim):
            for group in optimizer._optim.param_groups:
                group["lr"] = lr
        self._buffer = MixedReplayBuffer(
            100_000,
            len(old),
            obs_dim=old.obs.shape[1],
            act_dim=old.act.shape[1],
            context=policy.context,
            real_fraction=1.0 - old_fraction,
            generator=np.random.default_rng(seed),
        )
        if old_fraction:
            self._buffer.extend_synthetic(old)
        self._rows: list[tuple[Any, ...]] = []
        self.transitions = 0
        self.log: list[dict[str, Any]] = []

    def act(self, obs: Any) -> Any:
        """What to do next, exploring."""
        return self.policy.act(obs, explore=True)

    def observe(
        self, obs: Any, act: Any, rew: Any, obs_next: Any, terminated: bool, truncated: bool
    ) -> None:
        """Keep a step."""
        self._rows.append((obs, act, rew, obs_next, terminated))
        self.transitions += 1
        if not (terminated or truncated):
            return
        columns = [np.array(each) for each in zip(*self._rows, strict=True)]
        obs_, act_, rew_, next_ = (torch.as_tensor(each).float() for each in columns[:4])
        real = Transitions(obs_, act_, rew_, next_, torch.as_tensor(columns[4]))
        cut = np.zeros(len(real), dtype=np.bool_)
        cut[-1] = truncated and not terminated
        self._buffer.extend_real(real, truncated=cut)
        first, total = self.transitions - len(real), float(columns[2].sum())
        self.log.append({"transitions": first, "steps": len(real), "return": total})
        self._rows = []

    def improve(self) -> None:
        """Learn."""
        for _ in range(self._updates):
            update(self.policy.algorithm, self._buffer, 256)


class OwnPolicy:
    """One of ``train_robots.py``, and what was learned on the intact robot."""

    def __init__(self, args: Args, seed: int) -> None:
        self.args, self.seed, self.name = args, seed, args.robot
        algorithm, self.old, self.intact = train_robots.load(args.robot, seed, args.trained)
        self.policy = Policy(algorithm, torch.zeros(0))
        self.config = AdaptConfig.for_own_policy(adaptation_steps=200)

    def env(self, change: RobotChange) -> gymnasium.Env[Any, Any]:
        """The changed robot."""
        return train_robots.robot(self.args.robot, change)

    @cached_property
    def agent(self) -> Agent:
        """With its model, which takes a while and not every arm needs."""
        config = ModelConfig(context_dim=0, batch_size=256)
        return Agent(
            adapter=meta_train_offline(
                [self.old], steps=self.args.model_steps, seed=self.seed, config=config
            ),
            algorithm=self.policy.algorithm,
            replay=ContextReplayBuffer.of([self.old], generator=np.random.default_rng(self.seed)),
            conditioned=False,
        )


class ChangedTask(gymnasium.ActionWrapper[Any, Any, Any]):
    """A task of a family, by a robot with other motors, physics or delay."""

    def __init__(self, env: gymnasium.Env[Any, Any], change: RobotChange) -> None:
        super().__init__(env)
        if change.sensor_gain is not None or change.sensor_offset is not None:
            raise ValueError(
                f"--changes expected none of sensors with --run, got {change.label}: a family "
                "observes other things than the robots that change."
            )
        self._change = change
        self._commands: deque[Any] = deque()
        change.scale_physics(env.unwrapped.model)

    def reset(self, **options: Any) -> Any:
        """Start an episode, with no action on its way to the motors."""
        self._commands.clear()
        return super().reset(**options)

    def action(self, action: Any) -> Any:
        """What the motors execute."""
        change = self._change
        matrix = np.eye(len(action)) if change.motor_matrix is None else change.motor_matrix
        offset = 0.0 if change.motor_offset is None else change.motor_offset
        executed = (np.asarray(matrix) @ action + offset).clip(-1.0, 1.0).astype(action.dtype)
        self._commands.append(executed)
        late = len(self._commands) > change.delay
        return self._commands.popleft() if late else np.zeros_like(executed)


class MetaTrained:
    """A meta-trained run, on the first of its training tasks."""

    def __init__(self, args: Args, seed: int) -> None:
        self.agent = load_run(args.run)
        self.name, self.config = Path(args.run).name, self.agent.adapt_config
        family = self.agent.config.family
        self._task = mier_adapt_envs.task_set(family, self.agent.config.task_set)[0]
        generator = np.random.default_rng(seed)
        stored = self.agent.replay
        contexts = self.agent.earlier_contexts(self.config.adaptation_steps, generator)
        self.policy = Policy(self.agent.algorithm, contexts[0])
        self.old = stored.recent_transitions(len(stored.task_buffer(0)))[0]
        self.intact = returned(self.env(RobotChange("none")), self.policy, args.episodes, seed)

    def env(self, change: RobotChange) -> gymnasium.Env[Any, Any]:
        """The task, on the changed robot."""
        steps = self.agent.config.episode_steps
        env_id = self.agent.task_set.env_id
        return ChangedTask(gymnasium.make(env_id, task=self._task, max_episode_steps=steps), change)


def session(known: Any, arm: Arm, env: gymnasium.Env[Any, Any], args: Args, seed: int) -> Any:
    """What goes on."""
    if arm == "ours":
        return AdaptationSession(
            known.agent,
            known.config,
            seed=seed,
            termination_fn=env.get_wrapper_attr("termination_fn"),
        )
    if arm == "scratch":
        policy = Policy(train_robots.build(env, seed), torch.zeros(0))
    else:
        policy = Policy(copy.deepcopy(known.policy.algorithm), known.policy.context)
    torch.manual_seed(seed)
    old_fraction = 0.5 if arm == "sac-old" else 0.0
    return SACSession(
        policy,
        known.old,
        old_fraction=old_fraction,
        updates=args.updates,
        lr=args.lr,
        seed=seed,
    )


def go_on(known: Any, arm: Arm, change: RobotChange, args: Args, seed: int) -> dict[str, Any]:
    """Take one policy to one change by one arm; what was kept at each point."""
    env, measured = known.env(change), known.env(change)
    came = returned(measured, known.policy, args.episodes, seed)
    row = {"arm": arm, "change": change.label, "intact": known.intact, "unchanged": came}
    if arm == "once":
        task = NewTask.of_env(
            env, label=change.label, termination_fn=env.get_wrapper_attr("termination_fn")
        )
        adaptation = adapt(known.agent, task, known.config, seed=seed, evaluation_episodes=0)
        value = returned(measured, adaptation, args.episodes, seed)
        spent = adaptation.report.real_transitions + adaptation.report.gate_transitions
        points = [at for at in POINTS if spent <= at <= args.budget]
        return row | {"seed": seed, "kept": dict.fromkeys(points, value)}
    return row | keep_adapting(
        session(known, arm, env, args, seed),
        env,
        measured,
        seed=seed,
        budget=args.budget,
        episodes=args.episodes,
    )


def main(args: Args) -> list[dict[str, Any]]:
    """Take each policy to each change by each arm; print what was kept, and write it down."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    changes, rows = change_set(args.robot, args.set), []
    for seed in args.seeds:
        known = MetaTrained(args, seed) if args.run else OwnPolicy(args, seed)
        for number in args.changes:
            for arm in args.arms:
                work = f"{args.updates}-{args.lr:g}"
                if arm in ("ours", "once"):
                    work = "" if args.run else f"{args.model_steps}"
                name = f"{args.set}-{known.name}-{seed}-{number}-{arm}-{work}-{args.budget}"
                path = args.out / f"{name}-{args.episodes}.json"
                if not path.exists():
                    row = go_on(known, arm, changes[number], args, seed)
                    path.write_text(json.dumps(row, indent=1) + "\n")
                rows.append(json.loads(path.read_text()))
                told = " ".join(f"{at}: {value:.0f}" for at, value in rows[-1]["kept"].items())
                print(
                    f"{known.name} {seed} {changes[number].label}, {rows[-1]['unchanged']:.0f} as "
                    f"it came, {rows[-1]['intact']:.0f} intact, {arm}: {told}",
                    flush=True,
                )
    with (args.out / f"{args.set}-{known.name}.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["change", "seed", "arm", "intact", "unchanged", *POINTS])
        for row in rows:
            kept = [row["kept"].get(str(at)) for at in POINTS]
            returns = ["" if each is None else f"{each:.1f}" for each in kept]
            first = [f"{row[name]:.1f}" for name in ("intact", "unchanged")]
            lines.writerow([row["change"], row["seed"], row["arm"], *first, *returns])
    print("\n" + "\n".join(compared(rows, args.budget)))
    return rows


def kept_on_average(row: dict[str, Any], budget: int) -> float:
    """The area under what is kept over real transitions, by their number; at first what came."""
    at = np.array([0, *map(int, row["kept"]), budget])
    kept = np.array([row["unchanged"], *row["kept"].values()])
    kept = np.append(kept, kept[-1])
    return float(np.diff(at) @ (kept[1:] + kept[:-1]) / 2 / budget)


def compared(rows: list[dict[str, Any]], budget: int) -> list[str]:
    """How far ours is ahead of each other arm on each change, with an interval over the seeds.

    And how far what was kept fell below what came, at the worst point of all seeds.
    """
    by = {(row["change"], row["arm"], row["seed"]): row for row in rows}
    changes, arms, seeds = (list(dict.fromkeys(key[i] for key in by)) for i in range(3))
    told = [
        "| change | arm | kept on average | at worst, against what came | ours is ahead by | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for change in changes:
        areas = {
            arm: np.array([kept_on_average(by[change, arm, seed], budget) for seed in seeds])
            for arm in arms
        }
        for arm in arms:
            here = [by[change, arm, seed] for seed in seeds]
            # nothing is kept at a point yet where the budget ends before the first
            lowest = min(
                min(row["kept"].values(), default=row["unchanged"]) - row["unchanged"]
                for row in here
            )
            line = f"| {change} | {arm} | {areas[arm].mean():.0f} | {lowest:+.0f} |"
            if arm != "ours" and "ours" in arms:
                ahead = areas["ours"] - areas[arm]
                line += f" {ahead.mean():.0f} |"
                interval = bootstrap_interval(ahead[None])
                line += " [{:.0f}, {:.0f}] |".format(*interval) if interval else " |"
            else:
                line += " | |"
            told.append(line)
    return told


if __name__ == "__main__":
    main(tyro.cli(Args))
