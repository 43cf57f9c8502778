"""Going on on a robot that changed, by ours and by what else one could do with the same steps.

Takes the policies of ``train_robots.py`` to changes of a set, in the robot's own loop, by each arm:

- ``ours``: an ``AdaptationSession``.
- ``once``: what ``adapt_algorithm`` hands back, which ends after one round.
- ``sac``: the same SAC goes on with the real transitions alone.
- ``sac-old``: so, with half of each batch from its old replay buffer, as RLPD mixes offline data
  (Ball et al. 2023, arXiv:2302.02948).
- ``scratch``: a new SAC.

What is done is kept in a file for each, and not done again.

    python examples/keep_adapting_own_policy.py --set development --changes 4 10 --arms ours sac
"""

import copy
import json
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

from mier_adapt import (
    AdaptationSession,
    AdaptConfig,
    Agent,
    Transitions,
    adapt_algorithm,
    meta_train_offline,
)
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import ContextReplayBuffer, MixedReplayBuffer, PolicyActor, update
from mier_adapt_envs import RobotChange, change_set

Arm = Literal["ours", "once", "sac", "sac-old", "scratch"]


@dataclass
class Args:
    """Take policies of one's own to changed robots, episode by episode."""

    set: Literal["development", "test"] = "development"
    """Options are chosen on the one, results reported on the other."""
    robot: str = "HalfCheetah"
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
    """Of the model of the intact robot."""
    updates: int = 400
    """Of SAC after each episode, in the arms that have no model."""
    trained: Path = Path("runs/robots")
    """Where ``train_robots.py`` left its policies."""
    out: Path = Path("runs/keep-adapting")


def acted(algorithm: Any, obs: Any, *, explore: bool) -> Any:
    """What a SAC does; the robots' actions lie within [-1, 1], as its own do."""
    actor = PolicyActor(algorithm.policy, torch.zeros(0))
    return actor.act(np.asarray(obs, dtype=np.float32)[None], explore=explore)[0]


@dataclass
class Policy:
    """A SAC without noise."""

    algorithm: Any

    def predict(self, obs: Any) -> Any:
        """What it does."""
        return acted(self.algorithm, obs, explore=False)


class SACSession:
    """SAC that goes on learning from a robot's steps; used as an ``AdaptationSession`` is.

    Args:
        algorithm: What goes on; it is changed.
        old: Transitions of the intact robot.
        old_fraction: Share of them in a batch.
        updates: After each episode.
        seed: Draws batches.
    """

    def __init__(
        self, algorithm: Any, old: Transitions, *, old_fraction: float, updates: int, seed: int
    ) -> None:
        self._algorithm, self._updates = algorithm, updates
        self._buffer = MixedReplayBuffer(
            100_000,
            len(old),
            obs_dim=old.obs.shape[1],
            act_dim=old.act.shape[1],
            context=torch.zeros(0),
            real_fraction=1.0 - old_fraction,
            generator=np.random.default_rng(seed),
        )
        if old_fraction:
            self._buffer.extend_synthetic(old)
        self._rows: list[tuple[Any, ...]] = []
        self.transitions = 0
        self.log: list[dict[str, Any]] = []

    @property
    def policy(self) -> Policy:
        """As it is now."""
        return Policy(self._algorithm)

    def act(self, obs: Any) -> Any:
        """What to do next, exploring."""
        return acted(self._algorithm, obs, explore=True)

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
            update(self._algorithm, self._buffer, 256)


class Robot:
    """One of the robots as it left the factory, and what was learned on it."""

    def __init__(self, args: Args, seed: int) -> None:
        self.args, self.seed = args, seed
        self.algorithm, self.replay, self.intact = train_robots.load(args.robot, seed, args.trained)

    @cached_property
    def adapter(self) -> Any:
        """Its model, which takes a while and not every arm needs."""
        config = ModelConfig(context_dim=0, batch_size=256)
        return meta_train_offline(
            [self.replay], steps=self.args.model_steps, seed=self.seed, config=config
        )

    def session(self, arm: Arm, env: gymnasium.Env[Any, Any]) -> Any:
        """What goes on."""
        if arm == "ours":
            stored = ContextReplayBuffer.of(
                [self.replay], generator=np.random.default_rng(self.seed)
            )
            return AdaptationSession(
                Agent(
                    adapter=self.adapter,
                    algorithm=self.algorithm,
                    replay=stored,
                    conditioned=False,
                ),
                AdaptConfig.for_own_policy(adaptation_steps=200),
                seed=self.seed,
                termination_fn=env.get_wrapper_attr("termination_fn"),
            )
        torch.manual_seed(self.seed)
        return SACSession(
            train_robots.build(env, self.seed)
            if arm == "scratch"
            else copy.deepcopy(self.algorithm),
            self.replay,
            old_fraction=0.5 if arm == "sac-old" else 0.0,
            updates=self.args.updates,
            seed=self.seed,
        )

    def once(self, env: gymnasium.Env[Any, Any]) -> Any:
        """What is handed back after one round."""
        return adapt_algorithm(
            self.algorithm,
            env,
            [self.replay],
            seed=self.seed,
            config=AdaptConfig.for_own_policy(adaptation_steps=200),
            adapter=self.adapter,
            termination_fn=env.get_wrapper_attr("termination_fn"),
            evaluation_episodes=0,
        )


def go_on(robot: Robot, arm: Arm, change: RobotChange, env_id: str) -> dict[str, Any]:
    """Take one policy to one change by one arm; what was kept at each point."""
    args, seed = robot.args, robot.seed
    env, measured = (gymnasium.make(env_id, change=change) for _ in range(2))
    came = returned(measured, Policy(robot.algorithm), args.episodes, seed)
    row = {"arm": arm, "change": change.label, "intact": robot.intact, "unchanged": came}
    if arm == "once":
        adaptation = robot.once(env)
        value = returned(measured, adaptation, args.episodes, seed)
        spent = adaptation.report.real_transitions + adaptation.report.gate_transitions
        points = [at for at in POINTS if spent <= at <= args.budget]
        return row | {"seed": seed, "kept": dict.fromkeys(points, value)}
    return row | keep_adapting(
        robot.session(arm, env),
        env,
        measured,
        seed=seed,
        budget=args.budget,
        episodes=args.episodes,
    )


def main(args: Args) -> list[dict[str, Any]]:
    """Take each policy to each change by each arm; print what was kept."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    changes, rows = change_set(args.robot, args.set), []
    for seed in args.seeds:
        robot = Robot(args, seed)
        for number in args.changes:
            for arm in args.arms:
                work = args.model_steps if arm in ("ours", "once") else args.updates
                name = f"{args.set}-{args.robot}-{seed}-{number}-{arm}-{work}-{args.budget}"
                path = args.out / f"{name}-{args.episodes}.json"
                if not path.exists():
                    row = go_on(robot, arm, changes[number], changes.env_id)
                    path.write_text(json.dumps(row, indent=1) + "\n")
                rows.append(json.loads(path.read_text()))
                told = " ".join(f"{at}: {value:.0f}" for at, value in rows[-1]["kept"].items())
                print(
                    f"{args.robot} {seed} {changes[number].label}, {rows[-1]['unchanged']:.0f} as "
                    f"it came, {robot.intact:.0f} intact, {arm}: {told}",
                    flush=True,
                )
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
