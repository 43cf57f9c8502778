"""AdaptationSession: every further episode of a robot makes its policy better."""

import dataclasses
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mier_adapt._checks import Positive, Seed, checked, require_array, shown
from mier_adapt._products import quick_products
from mier_adapt._storage.checkpoints import CheckpointError
from mier_adapt._storage.randomness import (
    forked_global_generators,
    global_generator_state,
    own_global_generators,
)
from mier_adapt.adaptation.episode import EXCITED, NO_VERSION, Episode
from mier_adapt.adaptation.excitation import Excited
from mier_adapt.adaptation.identification import Identified, as_gathered, identity_of, moving
from mier_adapt.adaptation.progress import Version
from mier_adapt.adaptation.readiness import require_adaptable
from mier_adapt.adaptation.session_file import ALL, FAILED, SessionRecord
from mier_adapt.adaptation.stages import PolicyCandidate
from mier_adapt.adaptation.standing import Standing
from mier_adapt.adapted_policy import AdaptedPolicy
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
from mier_adapt.diagnosis import Diagnosis
from mier_adapt.integration.algorithms import trained_on
from mier_adapt.protocols import Actor, TerminationFn
from mier_adapt.transitions import OneTask, Transitions

_logger = logging.getLogger(__name__)


class AdaptationSession:
    """Adaptation in a robot's own loop: it acts, you observe, and in between it improves.

    Gathers first, as :func:`.adapt` does; then finds the context and what changed; and then goes
    round: an episode with the newest policy, the model fitted anew to all real transitions,
    experience relabeled afresh, and the algorithm's own updates on that and on what is real. The
    episodes that gather are also what says which policy is kept, so that a safeguard costs nothing.
    Where undoing a change suffices nothing is learned. Where nothing undoes other dynamics, or
    undoing returned no more, and no context explains them, it learns from real transitions alone,
    and under the context of the known task that is nearest.
    Where these are no longer explained, the task has changed again, and all begins anew with what
    came since; what acted in it is what others have to beat.

    Example:
        ::

            session = AdaptationSession(agent, config, seed=0, termination_fn=has_fallen)
            while session.transitions < 4_000:
                obs, over = robot.reset(), False
                while not over:
                    act = session.act(obs)
                    obs_next, rew, terminated, truncated = robot.step(act)
                    session.observe(obs, act, rew, obs_next, terminated, truncated)
                    obs, over = obs_next, terminated or truncated
                print(session.improve())
            session.policy.save(path)

    :meth:`improve` may run in a thread while the robot goes on acting: an episode keeps the policy
    that it began with.

    Args:
        agent: What is adapted; not changed.
        config: How it gathers, looks for what changed, and fits its model.
        seed: Fixes the session, together with torch's number of threads and the robot.
        rounds: How it goes on after that; :class:`.ContinueConfig` by default.
        termination_fn: When episodes end, as :func:`.adapt` needs it.
        checkpoint: File that keeps the real transitions after every episode. If it is there, the
            session takes up where that ended, with the same policies, bit for bit on the same
            machine's CPU if none was made while the robot acted; it computes them again, at the
            price of some seconds for each :meth:`improve`.
        logged: Transitions of the robot as it is now that are there already, ``(B, ...)``, actions
            in [-1, 1]. They count as gathered, and :meth:`improve` may be called at once. They are
            no episode: no policy is judged by them.

    Raises:
        TypeError: If the model has no weights, and they are to be fitted.
        ValueError: If dynamics vary and there is no ``termination_fn``, its answer has another
            shape, the agent has no experience, logged transitions do not fit, or the checkpoint is
            of another session.
        CheckpointError: If it is damaged.
    """

    @checked
    @quick_products()  # whether there are any is asked here, and not at a robot's first step
    def __init__(
        self,
        agent: Agent,
        config: AdaptConfig,
        *,
        seed: Seed,
        rounds: ContinueConfig | None = None,
        termination_fn: TerminationFn | None = None,
        checkpoint: Path | None = None,
        logged: OneTask | None = None,
    ) -> None:
        if agent.model.varies != "reward" and termination_fn is None:
            raise ValueError(
                "AdaptationSession expected termination_fn, since next observations are "
                "predicted. If none ends: lambda obs, act, obs_next: np.zeros(len(obs), bool)."
            )
        ends = termination_fn if agent.model.varies != "reward" else None
        require_adaptable("AdaptationSession", agent, config, logged, ends)
        if logged is not None:
            logged = as_gathered(logged)
        self._agent, self._config, self._rounds = agent, config, rounds or ContinueConfig()
        self._logged = logged
        self._seed, self._checkpoint = int(seed), checkpoint
        with forked_global_generators(self._seed):
            self._drawn = global_generator_state()
        self._lock = threading.RLock()  # around what act, observe and improve share
        self._saving, self._improving = threading.Lock(), threading.Lock()
        self._episodes: list[Episode] = []
        self._improved: list[list[int]] = []  # after how many episodes, by how many updates
        self._rows: list[tuple[Any, ...]] = []
        self._acting: Version | Actor | None = None
        self._standing = Standing(agent, config, self._rounds, termination_fn)
        self.log: list[dict[str, Any]] = []
        """For every episode the real ``transitions`` before it, its ``steps`` and ``return``, the
        ``policy`` that acted, and what was made of it, as ``said``."""
        if logged is not None:
            self._take(Episode(logged, np.zeros(len(logged), np.bool_)))
        if checkpoint is not None and checkpoint.is_file():
            self._restore(checkpoint)

    # What a robot's loop calls ----------------------------------------------------------------

    @property
    def transitions(self) -> int:
        """Real ones so far, logged ones included."""
        return sum(len(each.real) for each in self._episodes) + len(self._rows)

    @quick_products()
    def act(self, obs: ArrayLike) -> NDArray[Any]:
        """What to command next, ``(A,)``, in the robot's units; it explores.

        Args:
            obs: What the robot shows, ``(O,)``.

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        row = require_array("AdaptationSession.act", "obs", obs, np.float32)
        if row.shape != (self._agent.model.obs_dim,):
            raise ValueError(
                f"AdaptationSession.act expected obs of shape ({self._agent.model.obs_dim},), got "
                f"{shown(obs)} of shape {row.shape}."
            )
        with self._lock:
            if self._acting is None:  # an episode keeps what it began with
                self._acting = self.acting
                if isinstance(self._acting, Excited):
                    self._acting.start_episodes(np.ones(1, np.bool_))
            acting = self._acting
        with own_global_generators(self._drawn):
            act = _actor(acting).act(row[None], explore=True)[0]
        low, high = self._bounds
        command: NDArray[Any] = (low + (high - low) * (act + 1.0) / 2.0).astype(low.dtype)
        return command

    def observe(
        self,
        obs: ArrayLike,
        act: ArrayLike,
        rew: float,
        obs_next: ArrayLike,
        terminated: bool | np.bool_,
        truncated: bool | np.bool_ = False,
    ) -> None:
        """Take what came of a command.

        Args:
            obs: What the robot showed before, ``(O,)``.
            act: What it was told, ``(A,)``, in its units.
            rew: The reward.
            obs_next: What it showed after, ``(O,)``.
            terminated: Whether the episode ended for good.
            truncated: Whether it ends here otherwise.

        Raises:
            ValueError: If a shape does not fit, a value is not finite, or the command is out of the
                robot's bounds. Nothing is taken then.
        """
        owner, model = "AdaptationSession.observe", self._agent.model
        rows = [
            require_array(owner, name, value, np.float64)
            for name, value in (("obs", obs), ("act", act), ("rew", rew), ("obs_next", obs_next))
        ]
        shapes = [(model.obs_dim,), (model.act_dim,), (), (model.obs_dim,)]
        with np.errstate(over="ignore"):  # what is kept has to be finite, too
            finite = all(np.isfinite(each.astype(np.float32)).all() for each in rows)
        if [each.shape for each in rows] != shapes or not finite:
            raise ValueError(
                f"{owner} expected obs, act, rew and obs_next of shapes {shapes}, finite, got "
                f"{[each.shape for each in rows]}: {shown(rows)}."
            )
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise ValueError(f"{owner} expected {name} to be a bool, got {shown(flag)}.")
        low, high = (each.astype(np.float64) for each in self._bounds)
        unit = 2 * (rows[1] - low) / (high - low) - 1
        if np.abs(unit).max() > 1 + 1e-4:
            raise ValueError(
                f"{owner} expected act within {low} and {high}, what the robot was told, got "
                f"{rows[1]}. Clip it before it is sent."
            )
        rows[1] = unit.clip(-1, 1)
        self._rows.append((*rows, bool(terminated), bool(truncated)))
        if terminated or truncated:
            self._end_episode()

    @checked
    def improve(self, seconds: Positive | None = None) -> str:
        """Make what can be made of the episodes so far; what was done, in words.

        Args:
            seconds: Wall-clock time after which no further update of the policy is begun; None
                makes all of them. A diagnosis and the model's fit, which come before, are not cut
                short. How many updates there were is kept, and a session that is taken up makes as
                many.

        Raises:
            ValueError: If there is no time at all.
            FloatingPointError: If a loss, a prediction or a parameter stops being finite. What was
                kept before is still there.
        """
        return self._improve_until(_Limit(seconds=seconds))

    @property
    def up_to_date(self) -> bool:
        """Whether an improvement has gone by all episodes so far."""
        return bool(self._improved) and self._improved[-1][0] == len(self._episodes)

    @quick_products()
    def _improve_until(self, limit: "_Limit") -> str:
        with self._improving:
            number = len(self._improved)
            generator = np.random.default_rng([self._seed, number])
            with self._lock:
                episodes, log = list(self._episodes), self.log[-1:]
                self._improved.append([len(episodes), ALL])
                standing = self._standing.copy()
            try:
                with forked_global_generators(int(generator.integers(2**31))):
                    said = standing.improve(episodes, generator, limit)
            except BaseException:
                self._failed(number)
                self._save()
                raise
            with self._lock:
                for ended_meanwhile in self._episodes[len(episodes) :]:
                    standing.take(ended_meanwhile)
                self._standing = standing
            self._improved[number][1] = limit.taken
            if log and said != log[0].get("said"):
                log[0]["said"] = said
            self._save()
            return said

    def _failed(self, number: int) -> None:
        """All is as before that improvement, but for what learns, which begins anew."""
        self._standing.learner = None
        self._improved[number][1] = FAILED

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What changed, once that was looked for."""
        return self._standing.diagnosis

    @property
    def kept(self) -> PolicyCandidate | None:
        """The candidate that is handed back if all ends now; None before there is one."""
        return self._standing.kept

    @property
    def policy(self) -> AdaptedPolicy:
        """What is handed back if all ends now.

        Raises:
            ValueError: If too few transitions were gathered for one.
        """
        if (kept := self.kept) is None:
            raise ValueError(
                f"AdaptationSession expected {self._config.adaptation_steps} transitions and a "
                f"call of improve() before there is a policy, got {self.transitions}."
            )
        algorithm = trained_on(kept.algorithm, self._agent.algorithm)
        return kept.deployed(algorithm, {"decision": kept.name, "log": list(self.log)})

    # Episodes ---------------------------------------------------------------------------------

    def add_episode(self, real: Transitions, truncated: NDArray[np.bool_], *, acted: Any) -> None:
        """Take an episode that was played elsewhere.

        Args:
            real: All of it, ``(B, ...)``, actions in [-1, 1].
            truncated: Where it ended otherwise than for good, ``(B,)``.
            acted: What :attr:`acting` was.
        """
        number = NO_VERSION
        if isinstance(acted, Excited):
            number, acted = (EXCITED if acted.moved else NO_VERSION), acted.actor
        elif isinstance(acted, Version):
            number = acted.number
        policy = getattr(_actor(acted), "name", "gathering")
        with self._lock:
            self._take(Episode(real, truncated, number, policy))
        self._save()

    def _take(self, episode: Episode) -> None:
        episode = dataclasses.replace(episode, real=episode.real.to(self._agent.device))
        if episode.policy:
            self.log.append(
                {
                    "transitions": self.transitions,
                    "steps": len(episode.real),
                    "return": episode.returned,
                    "policy": episode.policy,
                }
            )
        self._episodes.append(episode)
        self._standing.take(episode)

    @property
    def acting(self) -> Any:
        """What the next episode is played with, as :meth:`add_episode` takes it."""
        standing = self._standing
        if standing.progress:
            return standing.progress.acting
        generator = np.random.default_rng([self._seed, len(self._episodes), 0])
        return moving(self._agent, standing.gathering, self._config, generator)

    def _end_episode(self) -> None:
        rows, self._rows, acted = self._rows, [], self._acting
        self._acting = None
        obs, act, rew, obs_next, terminated, truncated = map(np.array, zip(*rows, strict=True))
        real = Transitions(
            obs=torch.as_tensor(obs, dtype=torch.float32),
            act=torch.as_tensor(act, dtype=torch.float32),
            rew=torch.as_tensor(rew, dtype=torch.float32),
            obs_next=torch.as_tensor(obs_next, dtype=torch.float32),
            terminated=torch.as_tensor(terminated),
        )
        self.add_episode(real, truncated & ~terminated, acted=acted or self.acting)

    @property
    def _bounds(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        space = self._agent.algorithm.policy.action_space
        return space.low, space.high

    # Files ------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What has to be the same for a session to be the same."""
        own = [repr(self._rounds)]
        return identity_of(self._agent, own, self._config, self._seed, self._logged)

    def _save(self) -> None:
        """Keep what there is, where there is a place for it."""
        if (path := self._checkpoint) is None:
            return
        with self._saving:
            with self._lock:
                record = SessionRecord(
                    identity=self._identity(),
                    episodes=list(self._episodes),
                    improved=[list(each) for each in self._improved],
                    drawn=self._drawn,
                )
            try:
                record.save(path)
            except OSError as error:
                _logger.warning(
                    "The real transitions were not written to %s: %s. The session goes on in "
                    "memory and loses nothing while this process lives.",
                    path,
                    error,
                )

    def _restore(self, path: Path) -> None:
        """Go through everything again, with the episodes that were played."""
        record = SessionRecord.load(path, self._identity())
        came, logged = len(self._episodes), sum(not each.policy for each in record.episodes)
        if came != logged:
            raise CheckpointError(
                f"{path} is not the checkpoint of a session: it does not say who acted in {logged} "
                f"of {len(record.episodes)} episodes, {came} of which came with the session"
            )
        checkpoint, self._checkpoint = self._checkpoint, None
        improved = list(record.improved)
        for number, episode in enumerate(record.episodes):
            while improved and improved[0][0] == number:
                self._improve_again(improved.pop(0)[1])
            if number < came:
                continue
            numbered = self._standing.numbered
            if not EXCITED <= episode.acted < numbered:
                raise CheckpointError(
                    f"{path} is not the checkpoint of a session: in episode {number} version "
                    f"{episode.acted} of {numbered} acted"
                )
            self._take(episode)
        for _, taken in improved:
            self._improve_again(taken)
        self._drawn, self._checkpoint = record.drawn, checkpoint

    def _improve_again(self, taken: int) -> None:
        """An improvement of so many updates, as it was, or as it failed."""
        if taken == FAILED:
            self._improved.append([len(self._episodes), ALL])
            self._failed(len(self._improved) - 1)
            return
        try:
            self._improve_until(_Limit(updates=taken))
        except FloatingPointError as error:  # it was at work when its process died
            _logger.warning("An improvement of the session that is taken up fails: %s", error)


def session_after(
    agent: Agent,
    config: AdaptConfig,
    found: Identified,
    kept: PolicyCandidate,
    diagnosis: Diagnosis | None,
    *,
    seed: int,
    rounds: ContinueConfig,
    termination_fn: TerminationFn | None,
    checkpoint: Path | None,
) -> AdaptationSession:
    """A session that goes on from what :func:`.adapt` found, made and kept."""
    made = AdaptationSession(
        agent,
        config,
        seed=seed,
        rounds=rounds,
        termination_fn=termination_fn,
        logged=found.real,
    )
    made._episodes = [Episode(found.real, found.truncated)]
    made._standing.go_on(found, kept, diagnosis)
    made._checkpoint = checkpoint
    if checkpoint is not None and checkpoint.is_file():
        made._restore(checkpoint)
    return made


class _Limit:
    """Asked before each update, whether it is one too many.

    Args:
        seconds: From now on, after which it is.
        updates: After how many it is.
    """

    def __init__(self, *, seconds: float | None = None, updates: int = ALL) -> None:
        self.taken = 0
        """Updates so far."""
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._most = updates

    def __call__(self) -> bool:
        if self.taken == self._most or (self._ends and time.monotonic() >= self._ends):
            return True
        self.taken += 1
        return False


def _actor(acting: Version | Actor) -> Actor:
    return acting.candidate if isinstance(acting, Version) else acting
