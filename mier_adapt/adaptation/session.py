"""AdaptationSession: every further episode of a robot makes its policy better."""

import copy
import dataclasses
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.optim.swa_utils import AveragedModel

from mier_adapt._checks import Positive, Seed, checked, require_array, shown
from mier_adapt._products import quick_products
from mier_adapt._storage.checkpoints import CheckpointError
from mier_adapt._storage.randomness import (
    forked_global_generators,
    global_generator_state,
    own_global_generators,
)
from mier_adapt.adaptation.excitation import Excited
from mier_adapt.adaptation.identification import (
    Identified,
    adapter_for,
    as_gathered,
    identity_of,
    moving,
    novelty,
)
from mier_adapt.adaptation.known_terms import as_wanted, in_known_terms, refine_behind, within_reach
from mier_adapt.adaptation.learner import Learner
from mier_adapt.adaptation.progress import Progress, Version
from mier_adapt.adaptation.readiness import require_adaptable
from mier_adapt.adaptation.session_file import ALL, FAILED, SessionRecord
from mier_adapt.adaptation.stages import (
    PolicyCandidate,
    SourcesOf,
    as_far,
    compensated,
    diagnoses,
    explain,
    first_candidate,
    initial_candidate,
    is_beyond,
    is_outside,
    known_candidate,
    refine,
    sources_of_models,
    suffices,
    train_on_synthetic,
)
from mier_adapt.adaptation.surprise import SURPRISING, Expectation
from mier_adapt.adapted_policy import AdaptedPolicy
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
from mier_adapt.agents.metering import Spent
from mier_adapt.diagnosis import FEWEST, Diagnosis
from mier_adapt.integration.actors import require_finite_parameters
from mier_adapt.integration.algorithms import trained_on
from mier_adapt.model_fitting import FittedModel
from mier_adapt.protocols import Actor, TerminationFn
from mier_adapt.transitions import OneTask, Transitions

_logger = logging.getLogger(__name__)

_NO_VERSION = -1
"""In place of a version's number, where something else acted, or what no longer counts."""
_EXCITED = -2
"""In its place where noise moved a robot that had come to rest while it gathered."""
_STANDING = (
    *("_gathering", "_since", "_proven", "_progress", "_start", "_learned_from", "_surprises"),
    *("_settled", "_relabeled", "_diagnosed_at", "_expects", "diagnosis", "_contexts"),
    "_looked_at",
)
"""What an improvement changes, but for what learns."""
_ALIKE = 0.1
"""Difference of two compensations that is not worth an episode."""
_MOST_REAL = 100_000
"""Real transitions that are learned from, the latest ones."""


class AdaptationSession:
    """Adaptation in a robot's own loop: it acts, you observe, and in between it improves.

    Gathers first, as :func:`.adapt` does; then finds the context and what changed; and then goes
    round: an episode with the newest policy, the model fitted anew to all real transitions,
    experience relabeled afresh, and the algorithm's own updates on that and on what is real. The
    episodes that gather are also what says which policy is kept, so that a safeguard costs nothing.
    Where undoing a change suffices nothing is learned. Where nothing undoes other dynamics, or
    undoing returned no more, a policy that knows no context learns from real transitions alone.
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
            machine's CPU; it computes them again, at the price of some seconds for each
            :meth:`improve`.
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
        self._seed, self._ends, self._checkpoint = int(seed), termination_fn, checkpoint
        with forked_global_generators(self._seed):
            self._drawn = global_generator_state()
        self._lock = threading.RLock()  # around what act, observe and improve share
        self._saving = threading.Lock()
        self._episodes: list[tuple[Transitions, NDArray[np.bool_]]] = []
        self._acted: list[int] = []  # in each, by which version
        self._known = 0  # episodes that the improvement at work goes by; others end meanwhile
        self._improved: list[list[int]] = []  # after how many episodes, by how many updates
        self._rows: list[tuple[Any, ...]] = []
        self._acting: Version | Actor | None = None
        self._contexts: torch.Tensor | None = None
        self._looked_at = 0
        self._learner: Learner | None = None
        self.log: list[dict[str, Any]] = []
        """For every episode the real ``transitions`` before it, its ``steps`` and ``return``, the
        ``policy`` that acted, and what was made of it, as ``said``."""
        self._begin_anew(agent.initial_actor(1))
        if logged is not None:
            self._take(logged, np.zeros(len(logged), np.bool_))
        if checkpoint is not None and checkpoint.is_file():
            self._restore(checkpoint)

    # What a robot's loop calls ----------------------------------------------------------------

    @property
    def transitions(self) -> int:
        """Real ones so far, logged ones included."""
        return sum(len(real) for real, _ in self._episodes) + len(self._rows)

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
        number = len(self._improved)
        generator = np.random.default_rng([self._seed, number])
        with self._lock:
            self._known = len(self._episodes)
            self._improved.append([self._known, ALL])
            log = self.log[-1:]
            before = {name: getattr(self, name) for name in _STANDING}
            before["_progress"] = self._progress and self._progress.copy()
            before["_surprises"] = dict(self._surprises)
        try:
            with forked_global_generators(int(generator.integers(2**31))):
                said = self._improve(generator, limit)
        except BaseException:
            # As before, but for what learns, which begins anew from what is kept.
            with self._lock:
                vars(self).update(before)
                self._learner = None
                self._improved[number][1] = FAILED
            self._save()
            raise
        self._improved[number][1] = limit.taken
        if log and said != log[0].get("said"):
            log[0]["said"] = said
        self._save()
        return said

    @property
    def kept(self) -> PolicyCandidate | None:
        """The candidate that is handed back if all ends now; None before there is one."""
        # Where the task has changed, what gathers is what was kept before.
        standing: Any = self._progress.kept.candidate if self._progress else self._gathering
        return standing if isinstance(standing, PolicyCandidate) else None

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
        with self._lock:
            version, versions = _NO_VERSION, self._progress.versions if self._progress else []
            if isinstance(acted, Excited):
                version = _EXCITED if acted.moved else _NO_VERSION
                acted = acted.actor
            elif isinstance(acted, Version) and acted in versions:
                version = versions.index(acted)
            self._log_episode(real, truncated, version, getattr(_actor(acted), "name", "gathering"))
        self._save()

    def _log_episode(
        self, real: Transitions, truncated: NDArray[np.bool_], version: int, policy: str
    ) -> None:
        """Take an episode that a version of a policy played, by its number."""
        returned = float(real.rew.sum())
        entry = {"transitions": self.transitions, "steps": len(real), "return": returned}
        self.log.append({**entry, "policy": policy})
        self._take(real, truncated, version)
        if version >= 0:
            assert self._progress is not None
            self._progress.versions[version].returns.append(returned)

    def _take(
        self, real: Transitions, truncated: NDArray[np.bool_], version: int = _NO_VERSION
    ) -> None:
        self._episodes.append((real.to(self._agent.device), truncated))
        self._acted.append(version)

    @property
    def acting(self) -> Any:
        """What the next episode is played with, as :meth:`add_episode` takes it."""
        if self._progress:
            return self._progress.acting
        generator = np.random.default_rng([self._seed, len(self._episodes), 0])
        return moving(self._agent, self._gathering, self._config, generator)

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

    # Improving --------------------------------------------------------------------------------

    def _begin_anew(self, gathering: Actor, since: int = 0, proven: Version | None = None) -> None:
        self._gathering, self._since, self._proven = gathering, since, proven
        self._progress: Progress | None = None
        self._learner = None
        self._start: Version | None = None
        self._learned_from = 0
        self._surprises: dict[int, float] = {}
        self._settled = self._relabeled = False
        self._diagnosed_at = 0
        self._expects: Expectation | None = None
        self.diagnosis: Diagnosis | None = None
        """What changed, once that was looked for."""

    def _improve(self, generator: np.random.Generator, limit: "_Limit") -> str:
        said = self._look_for_surprise(generator)
        episodes = self._episodes[self._since : self._known]
        if not episodes:
            return "no episode has ended yet"
        real = Transitions.cat([each for each, _ in episodes])
        found = Identified(real, np.concatenate([cut for _, cut in episodes]), real.obs[0], Spent())
        if self._contexts is None:
            self._contexts = self._agent.earlier_contexts(self._config.adaptation_steps, generator)
        if self._progress is None:
            adapter = adapter_for(self._agent, self._config)
            found = dataclasses.replace(found, context=adapter.adapt(real))
            if len(real) < self._config.adaptation_steps:
                if self._since == 0:
                    self._gathering = self._agent.actor(found.context)
                return f"{said}{len(real)} of {self._config.adaptation_steps} transitions gathered"
            said += self._identify(found, generator)
        elif not self._settled and self._progress.untried is None:
            said += self._diagnose_again(found, generator)
        progress = self._progress
        assert progress is not None
        if (untried := progress.untried) is not None:
            return f"{said}{untried.candidate.name} is to play an episode"
        if self._settled:
            return f"{said}nothing is left to be learned"
        if not (self._relabeled or self._real_alone) and self._config.relabel_rounds:
            made = self._relabel(progress.base.candidate, found, generator, limit)
            progress.first.append(Version(made))
            return f"{said}relabeled is to play an episode"
        return f"{said}{self._learn(progress, found, generator, limit)}"

    def _identify(self, found: Identified, generator: np.random.Generator) -> str:
        start = first_candidate(self._agent, found.context)
        first, said = [start], ""
        if diagnoses(self._agent, self._config):
            diagnosis = self._diagnose(found, generator)
            if (undone := compensated(self._agent, start, diagnosis)) is not None:
                first.append(undone)
            said = f"{'; '.join(diagnosis.sentences)}; "
        assert self._contexts is not None
        excess = novelty(self._agent, found.real, found.context, self._contexts)
        outside = is_outside(self._agent, self._config, excess)
        if outside:  # in place of a policy under a context that none was trained under
            fitted = refine(self._agent, self._config, found.real, self._contexts, generator)
            first = [known_candidate(self._agent, found, self._contexts, fitted)]
        progress = Progress(first, window=self._rounds.window, margin=self._rounds.margin)
        if self._proven is not None:
            progress.first.insert(0, self._proven)
        elif outside:
            played = self._gathered()[:1]
            progress.first.insert(0, Version(initial_candidate(self._agent), played))
        elif not self._agent.conditioned:
            progress.first[0].returns += self._gathered()
        self._progress = progress
        return said

    def _gathered(self) -> list[float]:
        """Returns of the episodes that gathered with the policy that came, noise apart.

        Where it knows a context, only the first one is sure to be under the initial one.
        """
        if self._agent.conditioned and self._logged is not None:
            return []
        acted = self._acted[self._logged is not None : self._known]
        return [
            each["return"]
            for each, version in zip(self.log, acted, strict=False)
            if version != _EXCITED
        ]

    def _diagnose(self, found: Identified, generator: np.random.Generator) -> Diagnosis:
        assert self._contexts is not None
        alike = not self._agent.conditioned and self._logged is None and self._since == 0
        alike = alike and _EXCITED not in self._acted[: self._known]
        diagnosis = explain(
            self._agent,
            self._config,
            found,
            self._contexts,
            generator,
            same_policy=alike and self._progress is None,
        )
        before = self.diagnosis
        if before is not None and before.p_value is not None and not diagnosis.changed:
            diagnosis = before  # which was asked of the mean error, too
        self._believe(diagnosis, found)
        return diagnosis

    def _believe(self, diagnosis: Diagnosis, found: Identified) -> None:
        """Take what was found out about these transitions, here or by :func:`.adapt`."""
        self.diagnosis, self._diagnosed_at = diagnosis, len(found.real)
        self._settled = suffices(diagnosis, found) and not self._config.learn_always
        chosen = diagnosis.chosen
        self._expects = Expectation.of(chosen.model, chosen.context, found.real)

    def _diagnose_again(self, found: Identified, generator: np.random.Generator) -> str:
        """Where there are twice as many transitions as the last time: what was too little then?"""
        if not diagnoses(self._agent, self._config) or len(found.real) < 2 * self._diagnosed_at:
            return ""
        progress = self._progress
        assert progress is not None
        diagnosis = self._diagnose(found, generator)
        undone = compensated(self._agent, initial_candidate(self._agent), diagnosis)
        tried = [each.candidate.compensation for each in progress.first]
        if undone is None or any(_alike(undone.compensation, each) for each in tried):
            self._settled = False  # what was tried did not suffice
            return ""
        progress.first.append(Version(undone))
        return f"{'; '.join(diagnosis.sentences)}; "

    @property
    def _beyond(self) -> bool:
        """Whether the algorithm learns on as it did before, from what is real."""
        if self.diagnosis is None or self._progress is None:
            return False
        return is_beyond(self._agent, self.diagnosis, self._progress.base.candidate)

    @property
    def _real_alone(self) -> bool:
        """Whether synthetic transitions are left out."""
        return self._beyond or self._rounds.real_fraction == 1

    @property
    def _round_config(self) -> AdaptConfig:
        """How a round fits its models."""
        steps = self._rounds.weight_steps if self._config.weight_steps else 0
        return dataclasses.replace(
            self._config, num_models=self._rounds.num_models, weight_steps=steps
        )

    def _fit(
        self,
        config: AdaptConfig,
        real: Transitions,
        start: PolicyCandidate,
        generator: np.random.Generator,
    ) -> list[FittedModel]:
        assert self._contexts is not None
        return refine_behind(
            self._agent, config, start, self.diagnosis, real, self._contexts, generator
        )

    def _sources(
        self, fitted: list[FittedModel], start: PolicyCandidate, generator: np.random.Generator
    ) -> SourcesOf:
        reached = within_reach(fitted, start.compensation)
        return sources_of_models(reached, self._ends, generator)

    def _relabel(
        self,
        start: PolicyCandidate,
        found: Identified,
        generator: np.random.Generator,
        limit: "_Limit",
    ) -> PolicyCandidate:
        """As :func:`.adapt` does it once."""
        known = dataclasses.replace(found, real=in_known_terms(found.real, start.compensation))
        fitted = self._fit(self._config, known.real, start, generator)
        wanted = as_wanted(known.real, start.compensation, generator)
        made = train_on_synthetic(
            self._agent,
            as_far(self._config, self.diagnosis),
            start,
            dataclasses.replace(known, real=wanted),
            self._sources(fitted, start, generator),
            generator,
            should_stop=limit,
        )
        self._relabeled = True
        return made

    def _learn(
        self,
        progress: Progress,
        found: Identified,
        generator: np.random.Generator,
        limit: "_Limit",
    ) -> str:
        rounds, agent, alone = self._rounds, self._agent, self._real_alone
        tau = getattr(agent.algorithm, "tau", None) if self._beyond else rounds.tau
        learner = self._learner
        same = learner is not None and (learner.real_alone, learner.tau) == (alone, tau)
        if learner is None or self._start is not progress.base or not same:
            newest = progress.base.candidate
            kept = progress.kept.candidate
            anew = learner is None or self._start is progress.base
            if anew and kept.compensation is newest.compensation:
                newest = kept  # where an improvement failed, or another diagnosis came
            self._start, self._learned_from = progress.base, 0
            self._learner = learner = Learner(
                agent,
                newest.algorithm,
                newest.actor.contexts,
                actor_lr=rounds.actor_lr,
                critic_lr=rounds.critic_lr,
                tau=tau,
                real_size=_MOST_REAL,
                synthetic_size=rounds.kept_rounds * rounds.relabel_size,
                real_fraction=1.0 if alone else rounds.real_fraction,
                generator=generator,
            )
        start = self._start.candidate
        said = ""
        if progress.lost:
            learner.go_on_from(progress.restore().algorithm)
            said = "went back to what was best; "
        learner.redraw(generator)
        for real, truncated in self._episodes[self._since + self._learned_from : self._known]:
            wanted = as_wanted(
                in_known_terms(real, start.compensation), start.compensation, generator
            )
            learner.add_real(wanted, truncated)
            self._learned_from += 1
        known = in_known_terms(found.real, start.compensation)
        fitted = self._fit(self._round_config, known, start, generator)
        if not alone:
            sources = self._sources(fitted, start, generator)(learner.policy)
            learner.relabel(sources, rounds.relabel_size)
        averaged = AveragedModel(learner.algorithm.policy)

        def average(made: int) -> None:
            if made >= rounds.updates * (1 - rounds.averaged_share):
                averaged.update_parameters(learner.algorithm.policy)

        batch_size = self._config.batch_size
        taken = learner.update(rounds.updates, batch_size, after=average, should_stop=limit)
        require_finite_parameters(learner.algorithm, "The policy that learned on")
        algorithm = copy.deepcopy(learner.algorithm)
        if averaged.n_averaged:
            algorithm.policy.load_state_dict(averaged.module.state_dict())
        made = start.evolved("continued", algorithm)
        expects = Expectation.of(fitted[0].model, fitted[0].context, found.real, start.compensation)
        with self._lock:
            progress.learn(made)
            self._expects = expects
        cut = f", by {taken} of {rounds.updates} updates" if taken < rounds.updates else ""
        return f"{said}learned from {len(known):,} real transitions{cut}"

    def _look_for_surprise(self, generator: np.random.Generator) -> str:
        """Begin anew where the latest episodes are of another task.

        Surprising are also states where the robot had not been yet. A changed task says by itself
        what changed, or goes on to surprise when the model has seen an episode of it; where no
        diagnosis could say, in every part of the episodes, some of which pass through known states.
        """
        unseen = range(max(self._looked_at, self._since), self._known)
        self._looked_at = self._known
        if self._expects is None or not unseen:
            return ""
        for number in unseen:
            fresh = self._episodes[number][0]
            share = 0.0 if self.diagnosis is None else 0.5
            self._surprises[number] = self._expects.surprise(fresh, share)
        new = 0  # surprising episodes in a row
        while self._surprises.get(self._known - 1 - new, -np.inf) >= SURPRISING:
            new += 1
        latest = self._episodes[self._known - 1][0]
        if not new or (new == 1 and not self._is_another(latest, generator)):
            return ""
        kept, since = self.kept, self._known - new
        assert kept is not None
        self._begin_anew(kept, since, self._proven_since(since))
        return "the task has changed again; "

    def _proven_since(self, since: int) -> Version:
        """What acted last, or is kept, by its episodes since then: the safe one from now on."""
        progress = self._progress
        assert progress is not None
        number = self._acted[self._known - 1]
        acted = progress.versions[number].candidate if number >= 0 else None
        if acted is None:
            return Version(progress.kept.candidate)
        fresh = zip(self._acted[since:], self._episodes[since : self._known], strict=False)
        return Version(acted, [float(real.rew.sum()) for by, (real, _) in fresh if by == number])

    def _is_another(self, fresh: Transitions, generator: np.random.Generator) -> bool:
        """Whether another known task, or another change to it, explains what surprises."""
        if self.diagnosis is None or self._contexts is None or len(fresh) < FEWEST:
            return False
        assert self._expects is not None  # since it was surprised
        found = Identified(fresh, np.zeros(len(fresh), np.bool_), fresh.obs[0], Spent())
        told = explain(self._agent, self._config, found, self._contexts, generator)
        now, before = told.chosen.known_task, self.diagnosis.chosen.known_task
        other = now != before or not _alike(told.compensation, self.diagnosis.compensation)
        return now is not None and other and self._expects.is_explained_by(told.chosen.loss, fresh)

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
                    acted=list(self._acted),
                    policies=[each["policy"] for each in self.log],
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
        came = len(self._episodes)  # with the session
        if came + len(record.policies) != len(record.episodes):
            raise CheckpointError(
                f"{path} is not the checkpoint of a session: it names who acted in "
                f"{len(record.policies)} of {len(record.episodes)} episodes, {came} of which came "
                "with the session"
            )
        checkpoint, self._checkpoint = self._checkpoint, None
        improved = list(record.improved)
        for number, (real, cut) in enumerate(record.episodes):
            while improved and improved[0][0] == number:
                self._improve_again(improved.pop(0)[1])
            if number >= came:
                versions = self._progress.versions if self._progress else []
                acted = record.acted[number]
                if not _EXCITED <= acted < len(versions):
                    raise CheckpointError(
                        f"{path} is not the checkpoint of a session: in episode {number} version "
                        f"{acted} of {len(versions)} acted"
                    )
                self._log_episode(real, cut, acted, record.policies[number - came])
        for _, taken in improved:
            self._improve_again(taken)
        self._drawn, self._checkpoint = record.drawn, checkpoint

    def _improve_again(self, taken: int) -> None:
        """An improvement of so many updates, as it was, or as it failed."""
        if taken == FAILED:
            self._improved.append([len(self._episodes), FAILED])
            self._learner = None
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
    made._episodes = [(found.real, found.truncated)]
    made._progress = Progress([kept], window=rounds.window, margin=rounds.margin)
    made._relabeled = True  # or left out with a reason
    if diagnosis is not None:
        made._believe(diagnosis, found)
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


def _alike(one: Any, other: Any) -> bool:
    """Whether two compensations are the same to a policy."""
    if one is None or other is None:
        return one is other
    return all(
        np.abs(getattr(one, name) - getattr(other, name)).max(initial=0) < _ALIKE
        for name in ("act_matrix", "act_offset", "obs_matrix", "obs_offset")
        if getattr(one, name).shape == getattr(other, name).shape
    )
