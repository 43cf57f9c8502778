"""What plugs in, as structural types: an object fits by what it has, and needs no base class.

Relabeling, model fitting, adaptation, evaluation and figures take any object of these shapes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._typing import Float, Tensor
from mier_adapt.transitions import Transitions

__all__ = [
    "Actor",
    "Candidate",
    "Gate",
    "MetaPolicy",
    "Method",
    "SyntheticSource",
    "TaskModel",
    "TerminationFn",
]

Varies = Literal["reward", "reward_and_dynamics"]
"""What differs between the tasks of a family, and so what a model predicts."""

TerminationFn = Callable[
    [NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]], NDArray[np.bool_]
]
"""``(obs (B, O), act (B, A), obs_next (B, O)) -> terminated (B,)``, in NumPy.

The same as the environments' batched ``termination_fn``.
"""


class TaskModel(Protocol):
    """Predicts rewards and next observations under a context, and says how likely real ones are.

    :class:`.ContextModel` is one; so is a simulator, or an ensemble. Contexts are identified by
    gradients of :meth:`loss`, which a model without a context need not have; weights are fitted
    where the model is a ``torch.nn.Module``.

    ``isinstance`` does not ask for it: since Python 3.12 that overlooks what a ``__getattr__``
    gives, as modules give their buffers. What takes a model asks it for each of these itself.
    """

    obs_dim: int
    """Dimensions of an observation."""
    act_dim: int
    """Dimensions of an action."""
    context_dim: int
    """Dimensions of the context; 0 for none."""
    varies: Varies
    """Whether next observations are predicted, or rewards alone."""
    initial_context: Tensor
    """Where identification begins, ``(C,)``."""

    def loss(
        self, transitions: Transitions, context: Float[Tensor, "*some C"]
    ) -> Float[Tensor, "*tasks"]:
        """Mean loss of one task's ``(B, ...)``, or of each of ``(T, B, ...)`` under ``(T, C)``."""
        ...

    def mean(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes O"] | None]:
        """Expected reward and next observation (``None`` in a model of rewards alone)."""
        ...

    def sample(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes O"] | None]:
        """A reward and a next observation, drawn (``None`` in a model of rewards alone).

        Args:
            obs: Any leading axes.
            act: In [-1, 1], with the same leading axes.
            context: ``(C,)``, or one for each task or transition.
            generator: Draws them; torch's global one when ``None``.
        """
        ...


@runtime_checkable
class SyntheticSource(Protocol):
    """Makes transitions of a new task out of stored ones of others."""

    def stream(self, source: Iterable[Transitions]) -> Iterator[Transitions]:
        """Synthetic sets of ``(B, ...)`` for sets of stored ones, taken one by one."""
        ...


@runtime_checkable
class Actor(Protocol):
    """Acts.

    One that begins something anew with an episode also has ``start_episodes``: :func:`.collect`
    calls it with a boolean ``(N,)`` of the slots in which one begins. One that remembers what its
    actions bring also has ``remember``: it is called after every step with the actions that were
    executed, ``(N, A)``, and their rewards, ``(N,)``.
    """

    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """Actions in [-1, 1]; one actor of T tasks has its N slots in order, N / T for each."""
        ...


@runtime_checkable
class MetaPolicy(Protocol):
    """What meta-training ends with: it acts before it knows a task, and then adapts to it."""

    def initial_actor(self, num_tasks: int) -> Actor:
        """How it gathers the transitions of T tasks that it does not know."""
        ...

    def adapt(self, transitions: Transitions) -> Actor:
        """How it acts in T tasks whose transitions ``(T, B, ...)`` it was given."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way to meta-train, ready to be run with any seed."""

    def meta_train(
        self, directory: Path, *, seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train into a directory, or go on with what it holds; whether that is finished."""
        ...

    def load(self, directory: Path) -> MetaPolicy:
        """What was trained there."""
        ...


@runtime_checkable
class Candidate(Actor, Protocol):
    """A policy for the new task, and how it was made."""

    @property
    def name(self) -> str:
        """The stage that made it, as reports call it."""
        ...


@runtime_checkable
class Gate(Protocol):
    """Decides which candidate is handed back."""

    def choose(
        self, candidates: Sequence[Any], play: Callable[[Any, int], tuple[float, ...]]
    ) -> tuple[Any, str]:
        """Pick one.

        Args:
            candidates: In the order in which they were made; the first is the safe one.
            play: Plays so many more real episodes with a candidate, from starts that all share, and
                gives their undiscounted returns. Every one is counted in the report.

        Returns:
            The one that is handed back, and why, as a clause that follows a colon in the report.
        """
        ...
