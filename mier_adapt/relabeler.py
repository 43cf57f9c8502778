"""ExperienceRelabeler: what would other tasks' experience have been in the new task?"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import Size, checked, require_actions, require_tensor, shown
from mier_adapt._typing import Float, Tensor
from mier_adapt.protocols import TaskModel, TerminationFn
from mier_adapt.transitions import OneTask, Transitions


class ExperienceRelabeler:
    """Re-predicts transitions of other tasks as they would happen in the new task.

    Where dynamics vary, every stored observation gets an action (the policy's, or the
    stored one), and reward, next observation and termination are predicted. Where only
    rewards vary (``model.varies == "reward"``), observation, action, next observation and
    termination are kept, and the reward alone is predicted.

    Example:
        >>> import torch
        >>> from mier_adapt import ContextModel
        >>> model = ContextModel(3, 2, 5, hidden_sizes=(32, 32), varies="reward")
        >>> stored = Transitions(
        ...     obs=torch.randn(100, 3),
        ...     act=torch.rand(100, 2),
        ...     rew=torch.zeros(100),
        ...     obs_next=torch.randn(100, 3),
        ...     terminated=torch.zeros(100, dtype=torch.bool),
        ... )
        >>> relabeled = ExperienceRelabeler(model, model.initial_context).relabel(stored)
        >>> bool((relabeled.obs_next == stored.obs_next).all())
        True

    Args:
        model: The model, adapted to the new task: any :class:`.TaskModel`.
        context: The new task's context, shape ``(C,)``.
        policy: Maps observations ``(B, O)`` to actions ``(B, A)`` in [-1, 1]; bind a
            context-conditioned policy to its context first. ``None`` keeps stored actions.
        termination_fn: The environment's batched rule for the end of an episode, needed
            where dynamics vary.
        chunk_size: Transitions predicted at once; bounds the memory of any request.
        generator: Draws the samples; torch's global one when ``None``.

    Raises:
        TypeError: If the model lacks a part, or a function cannot be called.
        ValueError: If the context's shape does not fit the model or is not finite, or
            options contradict what the model varies.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, section 5 and Algorithm 2.
    """

    @checked
    def __init__(
        self,
        model: TaskModel,
        context: Float[Tensor, " C"],
        *,
        policy: Callable[[Tensor], Tensor] | None = None,
        termination_fn: TerminationFn | None = None,
        chunk_size: Size = 16_384,
        generator: torch.Generator | None = None,
    ) -> None:
        require_tensor("ExperienceRelabeler", "context", context, (model.context_dim,))
        if model.varies == "reward" and policy is not None:
            raise ValueError(
                "ExperienceRelabeler expected no policy for a model of rewards alone: stored next "
                "observations follow from stored actions."
            )
        if model.varies != "reward" and termination_fn is None:
            raise ValueError(
                "ExperienceRelabeler expected termination_fn, since next observations are "
                "predicted. If none ends: lambda obs, act, obs_next: np.zeros(len(obs), bool)."
            )
        self.model = model
        self.context = context.detach()
        self.policy = policy
        self.termination_fn = termination_fn
        self.chunk_size = chunk_size
        self.generator = generator

    @checked
    def relabel(self, transitions: OneTask) -> Transitions:
        """Relabel ``(B, ...)`` transitions, in chunks, into one set of the same size."""
        return Transitions.cat(list(self.stream([transitions])))

    def stream(self, source: Iterable[Transitions]) -> Iterator[Transitions]:
        """Relabel any number of transitions, one chunk in memory at a time.

        Args:
            source: Sets of ``(B, ...)`` transitions, taken one by one.

        Yields:
            Relabeled sets of at most ``chunk_size``, in the source's order.

        Raises:
            ValueError: If a set's shape does not fit, or the policy's or the termination
                rule's answer has the wrong shape or range.
            FloatingPointError: If a prediction is not finite.
        """
        for transitions in source:
            for start in range(0, len(transitions), self.chunk_size):
                yield self._relabel_chunk(transitions[start : start + self.chunk_size])

    @torch.no_grad()
    def _relabel_chunk(self, stored: Transitions) -> Transitions:
        stored = stored.detach()
        obs = stored.obs
        act = stored.act
        if self.policy is not None:
            act = self.policy(obs.clone())  # which may write into what it is given
            require_actions("ExperienceRelabeler", act, tuple(stored.act.shape))
            act = act.to(obs, copy=True)  # it may also write into what it gave
        rew, obs_next = self.model.sample(obs, act, self.context, generator=self.generator)
        for name, value in (("reward", rew), ("next observation", obs_next)):
            if value is not None and not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"ExperienceRelabeler: the model predicts a {name} that is not finite for "
                    f"transition {int((~value.isfinite()).nonzero()[0][0])} of this chunk. The "
                    "model diverged, or the stored observation is far from all that it was "
                    "trained on."
                )
        if obs_next is None or self.termination_fn is None:
            return Transitions._trusted(obs, act, rew, stored.obs_next, stored.terminated)
        ended = ends_by("ExperienceRelabeler", self.termination_fn, obs, act, obs_next)
        return Transitions(obs, act, rew, obs_next, torch.tensor(ended, device=obs.device))


def ends_by(
    owner: str, termination_fn: TerminationFn, obs: Tensor, act: Tensor, obs_next: Tensor
) -> NDArray[np.bool_]:
    """Which transitions, ``(B, ...)``, end their episode by a rule, ``(B,)``.

    Raises:
        TypeError: If it does not take these.
        ValueError: If its answer has another shape or type.
    """
    columns = (each.detach().clone().cpu().numpy() for each in (obs, act, obs_next))
    try:
        ended = np.asarray(termination_fn(*columns))
    except TypeError as error:
        raise TypeError(
            f"{owner} expected termination_fn to take (obs (B, O), act (B, A), obs_next (B, O)), "
            f"got {shown(termination_fn)}: {error}"
        ) from error
    if ended.shape != (len(obs),) or ended.dtype != np.bool_:
        raise ValueError(
            f"{owner} expected termination_fn to return bool of shape ({len(obs)},), got "
            f"{ended.dtype} of shape {ended.shape}."
        )
    return ended
