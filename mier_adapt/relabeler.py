"""ExperienceRelabeler: what would other tasks' experience have been in the new task?"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import require_int, require_type
from mier_adapt._typing import Float, Tensor
from mier_adapt.context_model import ContextModel
from mier_adapt.transitions import Transitions

__all__ = ["ExperienceRelabeler", "TerminationFn"]

TerminationFn = Callable[
    [NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]], NDArray[np.bool_]
]
"""``(obs (B, O), act (B, A), obs_next (B, O)) -> terminated (B,)``, in NumPy.

The same as the environments' batched ``termination_fn``.
"""

PredictionMode = Literal["sample", "mean"]


class ExperienceRelabeler:
    """Re-predicts transitions of other tasks as they would happen in the new task.

    Where dynamics vary, every stored observation gets an action (the policy's, or the
    stored one), and reward, next observation and termination are predicted. Where only
    rewards vary (``model.varies == "reward"``), observation, action, next observation and
    termination are kept, and the reward alone is predicted.

    Example:
        >>> import torch
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
        model: The model, adapted to the new task.
        context: The new task's context, shape ``(C,)``.
        policy: Maps observations ``(B, O)`` to actions ``(B, A)`` in [-1, 1]; bind a
            context-conditioned policy to its context first. ``None`` keeps stored actions.
        termination_fn: The environment's batched rule for the end of an episode, needed
            where dynamics vary.
        prediction: ``"sample"`` draws from the model's Gaussian, ``"mean"`` takes its mean.
        chunk_size: Transitions predicted at once; bounds the memory of any request.
        generator: Draws the samples; torch's global one when ``None``.

    Raises:
        TypeError: If ``policy`` or ``termination_fn`` cannot be called.
        ValueError: If the context's shape does not fit the model or is not finite, an
            option is unknown, or options contradict what the model varies.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, section 5 and Algorithm 2.
    """

    def __init__(
        self,
        model: ContextModel,
        context: Float[Tensor, " C"],
        *,
        policy: Callable[[Tensor], Tensor] | None = None,
        termination_fn: TerminationFn | None = None,
        prediction: PredictionMode = "sample",
        chunk_size: int = 16_384,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, function in (("policy", policy), ("termination_fn", termination_fn)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"ExperienceRelabeler expected {name} to be a callable or None, "
                    f"got {type(function)}."
                )
        require_type("ExperienceRelabeler", "model", model, ContextModel)
        require_type("ExperienceRelabeler", "context", context, Tensor)
        require_type("ExperienceRelabeler", "prediction", prediction, str)
        require_int("ExperienceRelabeler", "chunk_size", chunk_size, least=1)
        require_type("ExperienceRelabeler", "generator", generator, (torch.Generator, type(None)))
        if tuple(context.shape) != (model.context_dim,) or not bool(context.isfinite().all()):
            raise ValueError(
                f"ExperienceRelabeler expected context of shape ({model.context_dim},) with "
                f"finite values, got {context}."
            )
        if prediction not in get_args(PredictionMode):
            raise ValueError(
                f"ExperienceRelabeler expected prediction in {list(get_args(PredictionMode))}, "
                f"got {prediction!r}."
            )
        if model.varies == "reward" and policy is not None:
            raise ValueError(
                "ExperienceRelabeler got a policy for a model of rewards alone: the stored next "
                "observation follows from the stored action. Leave policy out."
            )
        if model.varies != "reward" and termination_fn is None:
            raise ValueError(
                "ExperienceRelabeler expected termination_fn, since the model predicts next "
                "observations. Pass the environment's batched rule; if its episodes never "
                "terminate: lambda obs, act, obs_next: np.zeros(len(obs), dtype=bool)."
            )
        self.model = model
        self.context = context.detach()
        self.policy = policy
        self.termination_fn = termination_fn
        self.prediction: PredictionMode = prediction
        self.chunk_size = chunk_size
        self.generator = generator

    def relabel(self, transitions: Transitions) -> Transitions:
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
            require_type("ExperienceRelabeler", "transitions", transitions, Transitions)
            if transitions.obs.ndim != 2:
                raise ValueError(
                    "ExperienceRelabeler expected transitions of shape (B, dim), got obs "
                    f"{tuple(transitions.obs.shape)}."
                )
            for start in range(0, len(transitions), self.chunk_size):
                yield self._relabel_chunk(transitions[start : start + self.chunk_size])

    @torch.no_grad()
    def _relabel_chunk(self, stored: Transitions) -> Transitions:
        obs = stored.obs
        act = stored.act if self.policy is None else self._act(stored)
        if self.prediction == "sample":
            rew, obs_next = self.model.sample(obs, act, self.context, generator=self.generator)
        else:
            rew, obs_next = self.model.mean(obs, act, self.context)
        for name, value in (("reward", rew), ("next observation", obs_next)):
            if value is not None and not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"ExperienceRelabeler: the model predicts a {name} that is not finite for "
                    f"transition {int((~value.isfinite()).nonzero()[0][0])} of this chunk. The "
                    "model diverged, or the stored observation is far from all that it was "
                    "trained on."
                )
        if obs_next is None or self.termination_fn is None:
            return Transitions(obs, act, rew, stored.obs_next, stored.terminated)
        ended = np.asarray(
            self.termination_fn(obs.cpu().numpy(), act.cpu().numpy(), obs_next.cpu().numpy())
        )
        if ended.shape != (len(obs),) or ended.dtype != np.bool_:
            raise ValueError(
                f"ExperienceRelabeler expected termination_fn to return bool of shape "
                f"({len(obs)},), got {ended.dtype} of shape {ended.shape}."
            )
        return Transitions(obs, act, rew, obs_next, torch.from_numpy(ended).to(obs.device))

    def _act(self, stored: Transitions) -> Tensor:
        assert self.policy is not None
        act = self.policy(stored.obs)
        if not isinstance(act, Tensor) or act.shape != stored.act.shape:
            came = tuple(act.shape) if isinstance(act, Tensor) else type(act)
            raise ValueError(
                f"ExperienceRelabeler expected policy to return a tensor of shape "
                f"{tuple(stored.act.shape)}, got {came}."
            )
        if not bool((act.abs() <= 1).all()):
            raise ValueError(
                "ExperienceRelabeler expected policy to return actions in [-1, 1], got values "
                f"from {float(act.min())} to {float(act.max())}. Undo the scaling to the "
                "environment's action space."
            )
        return act.to(stored.obs)
