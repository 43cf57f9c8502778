"""AdaptationReport: what an adaptation spent, what each stage achieved, what it decided and why."""

import dataclasses
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

_NEEDS = {
    "initial context": (),
    "unchanged": (),
    "adapted context": ("identify",),
    "known task": ("identify",),
    "compensated": ("identify", "diagnose"),
    "actor only": ("identify", "refresh"),
}
"""What has to be done for a stage's policy; for any other, all but that."""


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """What an adaptation cost and what each of its stages achieved.

    ``print(report)`` shows it as a table; :func:`.plot_adaptation` draws it. Losses are in the
    units of :meth:`.ContextModel.loss`, returns undiscounted.
    """

    task: str
    """The new task's label."""
    parameters: tuple[float, ...]
    """The new task's parameters."""
    environment: dict[str, Any] | None = None
    """Keywords with which ``gymnasium.make`` makes its environment; None if not known."""
    seed: int
    """What fixed the adaptation, together with ``threads``."""
    threads: int
    """Of torch, on which the order of sums and so the last bits depend."""
    decision: str
    """Which stage's policy was handed back: ``unchanged`` (one that knows no context), ``adapted
    context``, ``known task``, ``compensated``, ``actor only`` or ``relabeled``, or even ``initial
    context``."""
    reason: str
    """Why."""
    real_transitions: int
    """Environment steps that identification spent."""
    logged_transitions: int = 0
    """Real transitions that were there already and identified the task with these; nothing was
    spent on them."""
    gate_transitions: int
    """Environment steps that the gate spent."""
    evaluation_transitions: int
    """Environment steps spent on ``returns``, which steer nothing."""
    resets: dict[str, int]
    """Resets of the environment in ``identify``, ``gate`` and ``evaluate``."""
    returns: dict[str, tuple[float, ...]]
    """Returns of deterministic episodes from common starts after each stage that ran: ``initial
    context`` and ``adapted context``, or ``unchanged``; ``known task``, ``compensated``, ``actor
    only`` and ``relabeled``."""
    gate_returns: dict[str, tuple[float, ...]]
    """Returns of the episodes that the gate compared, by stage; empty without a gate."""
    novelty: float | None
    """How much worse the model explains the task than those that it knows: its loss under the
    context that was found, less the mean of theirs, in standard deviations of theirs. Tens say that
    no context makes the model right; None with fewer than three known tasks."""
    diagnosis: dict[str, Any] | None
    """What changed, as :meth:`.Diagnosis.to_dict` gives it; None where that was not asked."""
    train_loss: tuple[float, float, float] | None = None
    """Model loss on the identification data: at first, with the adapted context, and with refined
    weights (mean over the models); None, as the next three, where nothing had to be learned."""
    validation_loss: tuple[float, float, float] | None = None
    """The same on the held-out fifth."""
    earlier_tasks_loss: tuple[float, float] | None = None
    """Model loss on earlier tasks' transitions under their own contexts, before and after
    refinement: what the model forgot about the states that are to be relabeled."""
    disagreement: float | None = None
    """Standard deviation between the refined models' predictions of next observations and reward
    on relabeled states, in standard deviations of the model's targets, mean over dimensions; 0
    where there is one model."""
    weight_steps: tuple[int, ...]
    """Weight steps behind each model that was kept."""
    synthetic_transitions: int
    """Transitions that were relabeled, or made by sources of one's own."""
    updates: int
    """The algorithm's updates on them."""
    continued: tuple[dict[str, Any], ...] = ()
    """The episodes after the gate, where there was a budget for some: the real ``transitions``
    before each, its ``steps`` and ``return``, the ``policy`` that acted, and what was ``said``."""
    continued_transitions: int = 0
    """Environment steps of these."""
    seconds: dict[str, float]
    """Wall-clock time of each stage."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        episodes = max(map(len, self.returns.values()), default=0)
        rows = [("", f"return, {episodes} episodes", "real transitions", "seconds")]
        for stage, returns in self.returns.items():
            needs = set(_NEEDS.get(stage, self.seconds.keys() - {"refresh", "gate", "continue"}))
            transitions = self.real_transitions if needs else 0
            if stage == "continued":
                needs |= {"continue"}
                transitions += self.continued_transitions
            rows.append(
                (
                    stage,
                    f"{np.mean(returns):.0f} ± {np.std(returns):.0f}",
                    f"{transitions:,}",
                    f"{sum(self.seconds.get(each, 0.0) for each in needs):.0f}",
                )
            )
        if self.gate_returns:
            told = " → ".join(f"{np.mean(returns):.0f}" for returns in self.gate_returns.values())
            seconds = self.seconds.get("gate", 0.0)
            rows.append(("gate", told, f"{self.gate_transitions:,}", f"{seconds:.0f}"))
        if self.continued:
            told = f"{self.continued[0]['return']:.0f} → {self.continued[-1]['return']:.0f}"
            seconds = self.seconds.get("continue", 0.0)
            rows.append(
                ("its episodes", told, f"{self.continued_transitions:,} further", f"{seconds:.0f}")
            )
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{self.task}, seed {self.seed}. Kept {self.decision}: {self.reason}."]
        if self.diagnosis is not None:
            lines += textwrap.wrap(f"What changed: {'; '.join(self.diagnosis['sentences'])}.", 80)
        if self.logged_transitions:
            lines.append(f"{self.logged_transitions:,} real transitions were logged before.")
        for name, *cells in rows if len(rows) > 1 else ():  # a heading alone says nothing
            padded = (cell.rjust(width) for cell, width in zip(cells, others, strict=True))
            lines.append("   ".join((name.ljust(first), *padded)))
        if self.novelty is not None:
            lines.append(f"novelty: {self.novelty:.1f} (known tasks: 0 ± 1)")
        losses = {
            "new task": self.train_loss,
            "held out": self.validation_loss,
            "earlier tasks": self.earlier_tasks_loss,
        }
        if told := "; ".join(
            f"{name} {' → '.join(f'{loss:.2f}' for loss in each)}"
            for name, each in losses.items()
            if each is not None
        ):
            lines.append(f"model loss: {told}")
            lines.append(
                f"relabeled: {self.synthetic_transitions:,} transitions for {self.updates:,} "
                f"updates; models disagree by {self.disagreement:.2f}"
            )
        else:
            lines.append("nothing had to be learned")
        return "\n".join(lines)
