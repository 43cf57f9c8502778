"""Standing: what is known of a task as it is now, and the policies that were made for it."""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mier_adapt.adaptation.episode import EXCITED, Episode
from mier_adapt.adaptation.identification import Identified, adapter_for, novelty
from mier_adapt.adaptation.known_terms import as_wanted, in_known_terms, refine_behind, within_reach
from mier_adapt.adaptation.learner import LastWeights, Learner
from mier_adapt.adaptation.progress import Progress
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
    nearest_candidate,
    refine,
    sources_of_models,
    suffices,
    train_on_synthetic,
)
from mier_adapt.adaptation.surprise import SURPRISING, Expectation
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
from mier_adapt.agents.metering import Spent
from mier_adapt.compensation import Compensation
from mier_adapt.diagnosis import FEWEST, Diagnosis
from mier_adapt.integration.actors import require_finite_parameters
from mier_adapt.model_fitting import FittedModel
from mier_adapt.protocols import Actor, TerminationFn
from mier_adapt.transitions import Transitions

_ALIKE = 0.1
"""Difference of two compensations that is not worth an episode."""
_MOST_REAL = 100_000
"""Real transitions that are learned from, the latest ones."""


class Standing:
    """How things stand with a task; every improvement makes of it what its episodes allow.

    An improvement works on a :meth:`copy`, so that one that fails, or episodes that end meanwhile,
    change nothing of what it goes by.

    Args:
        agent: What is adapted.
        config: How it gathers, looks for what changed, and fits its model.
        rounds: How it goes on after that.
        ends: When episodes end.
    """

    def __init__(
        self,
        agent: Agent,
        config: AdaptConfig,
        rounds: ContinueConfig,
        ends: TerminationFn | None,
    ) -> None:
        self._agent, self._config, self._rounds, self._ends = agent, config, rounds, ends
        self._contexts: torch.Tensor | None = None
        self._looked_at = 0  # episodes, for surprises
        self._numbered = 0  # versions of policies before those of the progress
        self._begin_anew(agent.initial_actor(1))

    def _begin_anew(
        self,
        gathering: Actor,
        since: int = 0,
        proven: tuple[PolicyCandidate, list[float]] | None = None,
    ) -> None:
        self.gathering = gathering
        """What acts until there are enough transitions to go by."""
        self._since = since  # so many episodes were of another task
        self._proven = proven  # the safe policy from then on, and what it has returned since
        self.progress: Progress | None = None
        """Which policies there are; None while it gathers."""
        self.diagnosis: Diagnosis | None = None
        """What changed, once that was looked for."""
        self.diagnosed_at = 0
        """Transitions it was looked for in."""
        self._settled = self._relabeled = False
        self._expects: Expectation | None = None
        self._surprises: dict[int, float] = {}
        self.learner: Learner | None = None
        """What goes on learning; made anew where it is None."""
        self.start: int | None = None
        """The number of the version that it began with."""
        self._learned_from = 0  # episodes

    def copy(self) -> "Standing":
        """One that goes on by itself, with the same policies and the same learner."""
        other = copy.copy(self)
        other.progress = self.progress and self.progress.copy()
        other._surprises = dict(self._surprises)
        return other

    @property
    def kept(self) -> PolicyCandidate | None:
        """The candidate that is handed back if all ends now; None before there is one."""
        # Where the task has changed, what gathers is what was kept before.
        kept = self.progress.kept.candidate if self.progress else self.gathering
        return kept if isinstance(kept, PolicyCandidate) else None

    @property
    def numbered(self) -> int:
        """Versions of policies so far, those for other tasks included."""
        return self.progress.numbered if self.progress else self._numbered

    def take(self, episode: Episode) -> None:
        """Judge the version that acted by what it returned, if it still counts."""
        version = self.progress.version(episode.acted) if self.progress else None
        if version is not None:
            version.returns.append(episode.returned)

    def go_on(self, found: Identified, kept: PolicyCandidate, diagnosis: Diagnosis | None) -> None:
        """Begin with what an adaptation found, made and kept."""
        self.progress = self._progress_of([kept])
        self._relabeled = True  # or left out with a reason
        if diagnosis is not None:
            self._believe(diagnosis, found)

    def improve(
        self,
        episodes: Sequence[Episode],
        generator: np.random.Generator,
        should_stop: Callable[[], bool],
    ) -> str:
        """Make what can be made of the episodes so far; what was done, in words.

        Args:
            episodes: All of them, logged transitions first.
            generator: Draws whatever is drawn.
            should_stop: Asked before each update of a policy.

        Raises:
            FloatingPointError: If a loss, a prediction or a parameter stops being finite.
        """
        said = self._look_for_surprise(episodes, generator)
        current = episodes[self._since :]
        if not current:
            return "no episode has ended yet"
        real = Transitions.cat([each.real for each in current])
        truncated = np.concatenate([each.truncated for each in current])
        found = Identified(real, truncated, real.obs[0], Spent())
        if self._contexts is None:
            self._contexts = self._agent.earlier_contexts(self._config.adaptation_steps, generator)
        if self.progress is None:
            adapter = adapter_for(self._agent, self._config)
            found = dataclasses.replace(found, context=adapter.adapt(real))
            if len(real) < self._config.adaptation_steps:
                if self._since == 0:
                    self.gathering = self._agent.actor(found.context)
                return f"{said}{len(real)} of {self._config.adaptation_steps} transitions gathered"
            said += self._identify(found, current, generator)
        elif not self._settled and self.progress.untried is None:
            said += self._diagnose_again(found, generator)
        progress = self.progress
        assert progress is not None
        if (untried := progress.untried) is not None:
            return f"{said}{untried.candidate.name} is to play an episode"
        if self._settled:
            return f"{said}nothing is left to be learned"
        if not (self._relabeled or self._real_alone) and self._config.relabel_rounds:
            progress.offer(self._relabel(progress.base.candidate, found, generator, should_stop))
            return f"{said}relabeled is to play an episode"
        return f"{said}{self._learn(progress, found, current, generator, should_stop)}"

    # What changed -----------------------------------------------------------------------------

    def _identify(
        self, found: Identified, episodes: Sequence[Episode], generator: np.random.Generator
    ) -> str:
        agent, config, contexts = self._agent, self._config, self._contexts
        assert contexts is not None
        start = first_candidate(agent, found.context)
        first, said = [start], ""
        if diagnoses(agent, config):
            alike = not agent.conditioned and all(
                each.policy and each.acted != EXCITED for each in episodes
            )
            same_policy = alike and self._since == 0
            diagnosis = self._diagnose(found, generator, same_policy=same_policy)
            if (undone := compensated(agent, start, diagnosis)) is not None:
                first.append(undone)
            elif (nearest := nearest_candidate(agent, diagnosis, start)) is not None:
                first = [nearest]
            said = f"{'; '.join(diagnosis.sentences)}; "
        excess = novelty(agent, found.real, found.context, contexts)
        outside = is_outside(agent, config, excess)
        if outside:  # in place of a policy under a context that none was trained under
            fitted = refine(agent, config, found.real, contexts, generator)
            first = [known_candidate(agent, found, contexts, fitted)]
        returns: Sequence[float] = ()
        if self._proven is not None:
            safe, returns = self._proven
            first.insert(0, safe)
        elif outside:
            first.insert(0, initial_candidate(agent))
            returns = self._gathered(episodes)[:1]
        elif not agent.conditioned:
            returns = self._gathered(episodes)
        self.progress = self._progress_of(first, returns)
        return said

    def _progress_of(
        self, first: Sequence[PolicyCandidate], returns: Sequence[float] = ()
    ) -> Progress:
        return Progress(
            first,
            window=self._rounds.window,
            margin=self._rounds.margin,
            returns=returns,
            numbered=self._numbered,
        )

    def _gathered(self, episodes: Sequence[Episode]) -> list[float]:
        """Returns of the episodes that gathered with the policy that came, noise apart.

        Where it knows a context, only the first one is sure to be under the initial one.
        """
        logged = any(not each.policy for each in episodes)
        if self._agent.conditioned and logged:
            return []
        return [each.returned for each in episodes if each.policy and each.acted != EXCITED]

    def _diagnose(
        self, found: Identified, generator: np.random.Generator, *, same_policy: bool = False
    ) -> Diagnosis:
        assert self._contexts is not None
        diagnosis = explain(
            self._agent,
            self._config,
            found,
            self._contexts,
            generator,
            same_policy=same_policy,
        )
        before = self.diagnosis
        if before is not None and before.p_value is not None and not diagnosis.changed:
            diagnosis = before  # which was asked of the mean error, too
        self._believe(diagnosis, found)
        return diagnosis

    def _believe(self, diagnosis: Diagnosis, found: Identified) -> None:
        """Take what was found out about these transitions, here or by :func:`.adapt`."""
        self.diagnosis, self.diagnosed_at = diagnosis, len(found.real)
        self._settled = suffices(diagnosis, found) and not self._config.learn_always
        chosen = diagnosis.chosen
        self._expects = Expectation.of(chosen.model, chosen.context, found.real)

    def _diagnose_again(self, found: Identified, generator: np.random.Generator) -> str:
        """Where there are twice as many transitions as the last time: what was too little then?"""
        if not diagnoses(self._agent, self._config) or len(found.real) < 2 * self.diagnosed_at:
            return ""
        progress = self.progress
        assert progress is not None
        diagnosis = self._diagnose(found, generator)
        undone = compensated(self._agent, initial_candidate(self._agent), diagnosis)
        tried = [each.candidate.compensation for each in progress.first]
        if undone is None or any(_alike(undone.compensation, each) for each in tried):
            self._settled = False  # what was tried did not suffice
            return ""
        progress.offer(undone)
        return f"{'; '.join(diagnosis.sentences)}; "

    # Learning ---------------------------------------------------------------------------------

    @property
    def _beyond(self) -> bool:
        """Whether the algorithm learns on as it did before, from what is real."""
        if self.diagnosis is None or self.progress is None:
            return False
        return is_beyond(self._agent, self.diagnosis, self.progress.base.candidate)

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
        should_stop: Callable[[], bool],
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
            should_stop=should_stop,
        )
        self._relabeled = True
        return made

    def _learn(
        self,
        progress: Progress,
        found: Identified,
        episodes: Sequence[Episode],
        generator: np.random.Generator,
        should_stop: Callable[[], bool],
    ) -> str:
        rounds = self._rounds
        learner = self._going_on(progress, generator)
        start = progress.base.candidate
        said = ""
        if progress.lost:
            learner.go_on_from(progress.restore().algorithm)
            said = "went back to what was best; "
        learner.redraw(generator)
        for episode in episodes[self._learned_from :]:
            wanted = as_wanted(
                in_known_terms(episode.real, start.compensation), start.compensation, generator
            )
            learner.add_real(wanted, episode.truncated)
            self._learned_from += 1
        known = in_known_terms(found.real, start.compensation)
        fitted = self._fit(self._round_config, known, start, generator)
        if not learner.real_alone:
            sources = self._sources(fitted, start, generator)(learner.policy)
            learner.relabel(sources, rounds.relabel_size)
        averaged = LastWeights(
            learner.algorithm.policy, updates=rounds.updates, share=rounds.averaged_share
        )
        taken = learner.update(
            rounds.updates,
            self._config.batch_size,
            after=averaged.take,
            should_stop=should_stop,
        )
        require_finite_parameters(learner.algorithm, "The policy that learned on")
        algorithm = copy.deepcopy(learner.algorithm)
        averaged.load_into(algorithm.policy)
        progress.learn(start.evolved("continued", algorithm))
        model, context = fitted[0].model, fitted[0].context
        self._expects = Expectation.of(model, context, found.real, start.compensation)
        cut = f", by {taken} of {rounds.updates} updates" if taken < rounds.updates else ""
        return f"{said}learned from {len(known):,} real transitions{cut}"

    def _going_on(self, progress: Progress, generator: np.random.Generator) -> Learner:
        """What learns on, or one that begins with the best of the first policies."""
        rounds, agent, alone = self._rounds, self._agent, self._real_alone
        tau = getattr(agent.algorithm, "tau", None) if self._beyond else rounds.tau
        learner, base = self.learner, progress.base
        same = learner is not None and (learner.real_alone, learner.tau) == (alone, tau)
        if learner is None or self.start != base.number or not same:
            newest = base.candidate
            kept = progress.kept.candidate
            anew = learner is None or self.start == base.number
            if anew and kept.compensation is newest.compensation:
                newest = kept  # where an improvement failed, or another diagnosis came
            self.start, self._learned_from = base.number, 0
            self.learner = learner = Learner(
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
        return learner

    # Another change ---------------------------------------------------------------------------

    def _look_for_surprise(
        self, episodes: Sequence[Episode], generator: np.random.Generator
    ) -> str:
        """Begin anew where the latest episodes are of another task.

        Surprising are also states where the robot had not been yet. A changed task says by itself
        what changed, or goes on to surprise when the model has seen an episode of it; where no
        diagnosis could say, in every part of the episodes, some of which pass through known states.
        """
        unseen = range(max(self._looked_at, self._since), len(episodes))
        self._looked_at = len(episodes)
        if self._expects is None or not unseen:
            return ""
        for number in unseen:
            share = 0.0 if self.diagnosis is None else 0.5
            self._surprises[number] = self._expects.surprise(episodes[number].real, share)
        since = len(episodes)  # surprising episodes in a row, the latest ones
        while self._surprises.get(since - 1, -np.inf) >= SURPRISING:
            since -= 1
        fresh = episodes[since:]
        if not fresh or (len(fresh) == 1 and not self._is_another(fresh[0].real, generator)):
            return ""
        self._begin_anew_after(since, fresh)
        return "the task has changed again; "

    def _begin_anew_after(self, since: int, fresh: Sequence[Episode]) -> None:
        """What acted last, or is kept, is the safe one from now on, by its episodes since then."""
        progress = self.progress
        assert progress is not None
        last = fresh[-1].acted
        version, kept = progress.version(last), progress.kept.candidate
        acted = version.candidate if version else None  # None where it no longer counts
        returns = [each.returned for each in fresh if acted and each.acted == last]
        self._numbered = progress.numbered
        self._begin_anew(kept, since, (acted or kept, returns))

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


def _alike(one: Compensation | None, other: Compensation | None) -> bool:
    """Whether two compensations are the same to a policy."""
    if one is None or other is None:
        return one is other
    return all(
        np.abs(getattr(one, name) - getattr(other, name)).max(initial=0) < _ALIKE
        for name in ("act_matrix", "act_offset", "obs_matrix", "obs_offset")
        if getattr(one, name).shape == getattr(other, name).shape
    )
