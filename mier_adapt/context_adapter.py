"""GradientContextAdapter: the inner loop, the meta-loss, and fine-tuning at meta-test."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mier_adapt import _meta_gradient
from mier_adapt._checks import require_int, require_number, require_type, shown
from mier_adapt._typing import Float, Int, Tensor
from mier_adapt.context_model import ContextModel
from mier_adapt.transitions import Transitions

__all__ = [
    "FineTuneResult",
    "FineTuneStep",
    "GradientContextAdapter",
    "MetaLoss",
    "Rehearsal",
    "adapt_context",
]

Rehearsal = Callable[[], tuple[Transitions, Tensor]]
"""Gives transitions of earlier tasks, ``(B, ...)``, and the context of each, ``(B, C)``."""


def adapt_context(
    loss_fn: Callable[[Tensor], Tensor],
    context: Float[Tensor, "*tasks C"],
    *,
    lrs: Sequence[float],
    max_grad_norm: float | None = None,
    create_graph: bool = False,
    detach_grads: bool = False,
) -> Float[Tensor, "*tasks C"]:
    r"""Move each task's context down that task's loss.

    Repeats, for each step size $\alpha$ in turn,

    $$\phi \leftarrow \phi - \alpha \nabla_\phi L_{adapt}(\phi).$$

    Args:
        loss_fn: Maps contexts ``(C,)`` or ``(T, C)`` to a loss, ``()`` or ``(T,)``; a
            task's loss may depend on its own context alone.
        context: Starting point. Not modified. Must require gradients when
            ``create_graph`` is set and the start is to be learned.
        lrs: One step size for each step; empty returns the start unchanged.
        max_grad_norm: Rescale each task's longer gradients to this L2 norm.
        create_graph: Keep the graph from the start to the result, so that
            meta-training can differentiate through the steps. Leave False at meta-test.
        detach_grads: With ``create_graph``, treat the steps themselves as constants
            (first-order meta-gradients).

    Returns:
        Adapted contexts, of ``context``'s shape; detached unless ``create_graph``.

    Raises:
        TypeError: If the context is not floating point or ``lrs`` is no sequence.
        ValueError: If a step size is not finite or the norm not positive.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, equation 3. The rescaling follows the
        authors' released code (norm 10).
    """
    require_type("adapt_context", "context", context, Tensor)
    if not context.is_floating_point():
        raise TypeError(f"adapt_context expected a floating-point context, got {context.dtype}.")
    if not isinstance(lrs, Sequence):
        raise TypeError(f"adapt_context expected lrs to be a sequence, got {shown(lrs)}.")
    for lr in lrs:
        require_number("adapt_context", "lrs", lr)
    if max_grad_norm is not None:
        require_type("adapt_context", "max_grad_norm", max_grad_norm, (float, int))
        if not max_grad_norm > 0:
            raise ValueError(f"adapt_context expected max_grad_norm > 0, got {max_grad_norm}.")
    if create_graph and not context.requires_grad:
        context = context.clone().requires_grad_()
    elif not create_graph:
        context = context.detach()
    if max_grad_norm is not None:
        # Squared below, in the context's dtype; a larger limit is none.
        max_grad_norm = min(max_grad_norm, torch.finfo(context.dtype).max ** 0.5)
    for lr in lrs:
        grad = _gradient(loss_fn, context, second_order=create_graph and not detach_grads)
        if max_grad_norm is not None:
            # Where the gradient is short its norm takes no part in the result: a
            # multiplication by min(1, ...) alone would give NaN second derivatives at 0.
            squared = grad.square().sum(-1, keepdim=True)
            too_long = squared > max_grad_norm**2
            norm = torch.where(too_long, squared, torch.ones_like(squared)).sqrt()
            grad = torch.where(too_long, grad * (max_grad_norm / norm), grad)
        context = context - lr * grad
    return context if create_graph else context.detach()


def _gradient(
    loss_fn: Callable[[Tensor], Tensor], context: Float[Tensor, "*tasks C"], *, second_order: bool
) -> Float[Tensor, "*tasks C"]:
    """Of a loss by the context; a constant unless ``second_order``."""
    if not context.requires_grad:
        context = context.detach().requires_grad_()
    with torch.set_grad_enabled(True):  # also where the caller evaluates without gradients
        (grad,) = torch.autograd.grad(
            loss_fn(context).sum(), context, create_graph=second_order, retain_graph=second_order
        )
    return grad


@dataclass(frozen=True, eq=False)
class MetaLoss:
    """What one meta-batch gives: a loss to descend, and the contexts that it found."""

    loss: Float[Tensor, ""]
    """Mean evaluation loss of the tasks, plus the model's regulariser.

    Differentiable by the model's parameters. Where its activations are linear on either side of
    zero, that is so once, and the work of it is done with the loss, unless gradients are disabled.
    """
    contexts: Float[Tensor, "T C"]
    """Adapted contexts, detached."""
    evaluation_loss: Float[Tensor, " T"]
    """Each task's loss on its evaluation set under its adapted context, detached."""


@dataclass(frozen=True, kw_only=True)
class FineTuneStep:
    """Losses before one step of fine-tuning (and, in the last entry, after all)."""

    stage: Literal["context", "weights", "end"]
    """What the step that follows moves; ``"end"`` after the last."""
    step: int
    """Steps of that stage done before."""
    train_loss: float
    """Model loss on the transitions that are trained on."""
    validation_loss: float
    """Model loss on those held out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuneResult:
    """A model fitted to one task, with the evidence for it.

    Losses are in the units of :meth:`ContextModel.loss`.
    """

    model: ContextModel
    """A fine-tuned copy."""
    context: Float[Tensor, " C"]
    """The adapted context, as the model knows it."""
    train_indices: Int[Tensor, " N"]
    """Which of the given transitions were trained on."""
    validation_indices: Int[Tensor, " M"]
    """Which of them were held out."""
    train_loss_initial: float
    """Training loss with the model and context that came in."""
    train_loss_context: float
    """Training loss with the adapted context alone."""
    train_loss_final: float
    """Training loss with the returned weights as well."""
    validation_loss_initial: float
    """Held-out loss with the model and context that came in."""
    validation_loss_context: float
    """Held-out loss with the adapted context alone."""
    validation_loss_final: float
    """Held-out loss with the returned weights as well."""
    weight_steps: int
    """Weight steps behind the returned model: those before validation was best."""
    trace: tuple[FineTuneStep, ...]
    """The losses of every step that was looked at, in order."""


class GradientContextAdapter:
    """Identifies tasks by gradient steps on the context of a :class:`ContextModel`.

    Example:
        >>> import torch
        >>> model = ContextModel(3, 2, 5, hidden_sizes=(32, 32))
        >>> adapter = GradientContextAdapter(model)
        >>> tasks = Transitions(
        ...     obs=torch.randn(10, 64, 3),
        ...     act=torch.rand(10, 64, 2),
        ...     rew=torch.randn(10, 64),
        ...     obs_next=torch.randn(10, 64, 3),
        ...     terminated=torch.zeros(10, 64, dtype=torch.bool),
        ... )
        >>> adapter.adapt(tasks).shape
        torch.Size([10, 5])
        >>> meta = adapter.meta_loss(tasks, tasks)
        >>> meta.loss.backward()

    Args:
        model: The model whose context is adapted. Never modified here.
        steps: Context steps of :meth:`adapt` and :meth:`meta_loss`.
        lr: Size of a step; or one size for each step, the last of which is repeated.
            Released code at meta-test: ``(0.01, 0.01, 0.001)``.
        max_grad_norm: Longer context gradients are rescaled to this L2 norm, each task's
            by itself. ``None`` for no limit.

    Raises:
        ValueError: If ``steps`` is negative or a size or norm is not positive.
    """

    def __init__(
        self,
        model: ContextModel,
        *,
        steps: int = 2,
        lr: float | Sequence[float] = 0.01,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        require_type("GradientContextAdapter", "model", model, ContextModel)
        lrs = tuple(lr) if isinstance(lr, Sequence) else (lr,)
        require_int("GradientContextAdapter", "steps", steps, least=0)
        if not lrs:
            raise ValueError(f"GradientContextAdapter expected at least one lr, got {lr!r}.")
        for size in lrs:
            require_number("GradientContextAdapter", "lr", size, above=0)
        if max_grad_norm is not None:
            require_type("GradientContextAdapter", "max_grad_norm", max_grad_norm, (float, int))
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(
                "GradientContextAdapter expected max_grad_norm > 0 or None, "
                f"got {max_grad_norm}. To leave contexts as they are, set steps=0."
            )
        self.model = model
        self.steps = steps
        self.lrs = lrs
        self.max_grad_norm = max_grad_norm

    def adapt(
        self,
        adaptation: Transitions,
        *,
        steps: int | None = None,
        initial_context: Float[Tensor, "*start C"] | None = None,
    ) -> Float[Tensor, "*tasks C"]:
        """Fit a context to each task's adaptation set.

        Args:
            adaptation: One task's ``(B, ...)``, or a batch of tasks' ``(T, B, ...)``,
                which is solved in one graph and gives what T separate calls give.
            steps: Number of context steps, if not the adapter's own.
            initial_context: Where to start, ``(C,)`` or ``(T, C)``; the model's initial
                context by default.

        Returns:
            Contexts, ``(C,)`` or ``(T, C)``, detached.

        Raises:
            ValueError: If a shape does not fit the model, ``initial_context`` is not finite, or
                ``steps`` is negative.
        """
        require_type("adapt", "adaptation", adaptation, Transitions)
        require_type("adapt", "initial_context", initial_context, (Tensor, type(None)))
        if initial_context is not None and not bool(initial_context.isfinite().all()):
            raise ValueError(
                f"adapt expected initial_context with finite values, got {initial_context}."
            )
        start = self._start(adaptation, initial_context)
        return adapt_context(
            self.model.loss_function(adaptation),
            start,
            lrs=self._schedule(self.steps if steps is None else steps),
            max_grad_norm=self.max_grad_norm,
        )

    def meta_loss(
        self, adaptation: Transitions, evaluation: Transitions, *, first_order: bool = False
    ) -> MetaLoss:
        r"""The meta-training loss of a batch of tasks, differentiable through adaptation.

        $$\min_{\theta, \phi} \frac{1}{T} \sum_T L_{eval}^T(\theta, \phi_T), \qquad
          \phi_T = \phi - \alpha \nabla_\phi L_{adapt}^T(\theta, \phi).$$

        Args:
            adaptation: Transitions gathered with the initial context, ``(T, B, ...)``.
            evaluation: Transitions of the same tasks, in the same order, ``(T, B', ...)``.
            first_order: Treat the context's steps as constants. Cheaper; not the paper.

        Returns:
            The loss, the adapted contexts, and each task's evaluation loss.

        Raises:
            ValueError: If the two differ in their tasks, or a shape does not fit.

        Source:
            Mendonca et al. (2020), arXiv:2006.07178, equation 4.
        """
        for name, value in (("adaptation", adaptation), ("evaluation", evaluation)):
            require_type("meta_loss", name, value, Transitions)
        shapes = [each.obs.shape for each in (adaptation, evaluation)]
        if any(len(shape) != 3 for shape in shapes) or shapes[0][0] != shapes[1][0]:
            raise ValueError(
                "meta_loss expected adaptation and evaluation sets of the same T tasks, "
                f"(T, B, dim), got obs {tuple(shapes[0])} and {tuple(shapes[1])}."
            )
        model, lrs = self.model, self._schedule(self.steps)
        if model.slope is not None and model.hidden_sizes:
            loss, loss_T, contexts_TC = _meta_gradient.meta_loss(
                model,
                adaptation,
                evaluation,
                slope=model.slope,
                lrs=lrs,
                max_grad_norm=self.max_grad_norm,
                first_order=first_order,
            )
        else:
            contexts_TC = adapt_context(
                model.loss_function(adaptation),
                self._start(adaptation, None),
                lrs=lrs,
                max_grad_norm=self.max_grad_norm,
                create_graph=True,
                detach_grads=first_order,
            )
            loss_T = model.loss(evaluation, contexts_TC)
            loss = loss_T.mean()
        return MetaLoss(
            loss=loss + model.bound_penalty(),
            contexts=contexts_TC.detach(),
            evaluation_loss=loss_T.detach(),
        )

    def fine_tune(
        self,
        transitions: Transitions,
        *,
        context_steps: int = 10,
        weight_steps: int = 100,
        weight_lr: float = 1e-3,
        context_lr: float = 0.0,
        batch_size: int | None = None,
        rehearsal: Rehearsal | None = None,
        validation_fraction: float = 0.2,
        validate_every: int = 1,
        patience: int | None = None,
        generator: torch.Generator | None = None,
    ) -> FineTuneResult:
        """Fit context, then weights, to one task, watched on held-out transitions.

        Takes ``context_steps`` steps on the context alone, then ``weight_steps`` Adam steps on
        all weights of a copy of the model, and returns the weights that were best on the
        validation part. Without ``rehearsal`` the few transitions of one task soon cost the
        model what it knew of all states that they do not visit.

        Args:
            transitions: The task's ``(B, ...)``.
            context_steps: N of the paper's Algorithm 2.
            weight_steps: M of the paper's Algorithm 2; 0 leaves the weights as they are.
            weight_lr: Adam's step size for the weights.
            context_lr: Adam's step size for the context beside them; 0 (paper) leaves the
                context as the first stage found it.
            batch_size: Transitions of the new task in a weight step, drawn with replacement;
                ``None`` (paper) takes all that are trained on.
            rehearsal: Called before every weight step for transitions of earlier tasks,
                ``(B', ...)``, and their contexts, ``(B', C)``, which the step's loss then
                averages in. ``None`` (paper) for none.
            validation_fraction: Share of the transitions that is held out, in (0, 1).
            validate_every: Weight steps between looks at the validation part.
            patience: Stop after this many weight steps without a better validation loss;
                ``None`` takes all of them.
            generator: Draws split and batches; torch's global one when ``None``.

        Returns:
            The fitted copy and context, losses before and after, and the trace.

        Raises:
            ValueError: If there are fewer than two transitions or a number is out of range.
            TypeError: If ``rehearsal`` cannot be called, or gives something else.
            FloatingPointError: If a loss stops being finite; names stage and step.

        Source:
            Mendonca et al. (2020), arXiv:2006.07178, Algorithm 2; the 80/20 split and Adam
            follow the released code; keeping the best weights, rehearsal and the context's
            further steps are ours.
        """
        require_type("fine_tune", "transitions", transitions, Transitions)
        require_type("fine_tune", "generator", generator, (torch.Generator, type(None)))
        require_int("fine_tune", "context_steps", context_steps, least=0)
        require_int("fine_tune", "weight_steps", weight_steps, least=0)
        require_number("fine_tune", "weight_lr", weight_lr, above=0)
        require_number("fine_tune", "context_lr", context_lr, least=0)
        if batch_size is not None:
            require_int("fine_tune", "batch_size", batch_size, least=1)
        if rehearsal is not None and not callable(rehearsal):
            raise TypeError(
                f"fine_tune expected rehearsal to be a callable or None, got {shown(rehearsal)}."
            )
        require_number("fine_tune", "validation_fraction", validation_fraction)
        require_int("fine_tune", "validate_every", validate_every, least=1)
        if patience is not None:
            require_int("fine_tune", "patience", patience, least=1)
        if transitions.obs.ndim != 2 or len(transitions) < 2:
            raise ValueError(
                "fine_tune expected at least 2 transitions of one task, (B, dim), got obs "
                f"{tuple(transitions.obs.shape)}."
            )
        if not 0 < validation_fraction < 1:
            raise ValueError(
                f"fine_tune expected validation_fraction in (0, 1), got {validation_fraction}."
            )
        count = len(transitions)
        num_validation = min(max(1, round(validation_fraction * count)), count - 1)
        order = torch.randperm(
            count, generator=generator, device=generator.device if generator else None
        ).to(transitions.obs.device)
        validation_indices, train_indices = order[:num_validation], order[num_validation:]
        train, validation = transitions[train_indices], transitions[validation_indices]

        model = copy.deepcopy(self.model)
        trace: list[FineTuneStep] = []

        def record(context_done: int, weights_done: int) -> FineTuneStep:
            stage: Literal["context", "weights", "end"] = "end"
            step = weights_done
            if context_done < context_steps:
                stage, step = "context", context_done
            elif weights_done < weight_steps:
                stage = "weights"
            with torch.no_grad():
                entry = FineTuneStep(
                    stage=stage,
                    step=step,
                    train_loss=float(model.loss(train, context)),
                    validation_loss=float(model.loss(validation, context)),
                )
            if not math.isfinite(entry.train_loss + entry.validation_loss):
                raise FloatingPointError(
                    f"fine_tune reached a loss that is not finite at {stage} step {step}: "
                    f"training {entry.train_loss}, validation {entry.validation_loss}. "
                    "Lower weight_lr, context_lr or the adapter's lr."
                )
            trace.append(entry)
            return entry

        context = model.initial_context.detach().clone()
        initial = adapted = record(0, 0)
        loss_fn = model.loss_function(train)
        for step, lr in enumerate(self._schedule(context_steps), start=1):
            context = adapt_context(
                loss_fn,
                context,
                lrs=(lr,),
                max_grad_norm=self.max_grad_norm,
            )
            adapted = record(step, 0)

        best, best_step = adapted, 0
        best_weights, best_context = copy.deepcopy(model.state_dict()), context
        context = context.clone().requires_grad_(context_lr > 0)
        weights = [p for name, p in model.named_parameters() if name != "initial_context"]
        groups = [{"params": weights, "lr": weight_lr}]
        if context_lr > 0:
            groups.append({"params": [context], "lr": context_lr})
        optimizer = torch.optim.Adam(groups, fused=True)
        for step in range(1, weight_steps + 1):
            batch, batch_context = train, context
            if batch_size is not None:
                batch = train[torch.randint(len(train), (batch_size,), generator=generator)]
            if rehearsal is not None:
                earlier, contexts = _rehearsed(rehearsal())
                batch_context = torch.cat((context.expand(len(batch), -1), contexts))
                batch = Transitions.cat([batch, earlier])
            optimizer.zero_grad()
            loss = model.loss(batch, batch_context) + model.bound_penalty()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % validate_every and step < weight_steps:
                continue
            entry = record(context_steps, step)
            if entry.validation_loss < best.validation_loss:
                best, best_step = entry, step
                best_weights = copy.deepcopy(model.state_dict())
                best_context = context.detach().clone()
            elif patience is not None and step - best_step >= patience:
                break
        model.load_state_dict(best_weights)
        optimizer.zero_grad()
        return FineTuneResult(
            model=model,
            context=best_context,
            train_indices=train_indices,
            validation_indices=validation_indices,
            train_loss_initial=initial.train_loss,
            train_loss_context=adapted.train_loss,
            train_loss_final=best.train_loss,
            validation_loss_initial=initial.validation_loss,
            validation_loss_context=adapted.validation_loss,
            validation_loss_final=best.validation_loss,
            weight_steps=best_step,
            trace=tuple(trace),
        )

    def _schedule(self, steps: int) -> tuple[float, ...]:
        require_int("GradientContextAdapter", "steps", steps, least=0)
        return (*self.lrs, *(self.lrs[-1:] * max(0, steps - len(self.lrs))))[:steps]

    def _start(self, adaptation: Transitions, start: Tensor | None) -> Tensor:
        if start is None:
            start = self.model.initial_context
        tasks = adaptation.obs.shape[:-2]
        if start.ndim == 0 or start.shape[-1] != self.model.context_dim:
            raise ValueError(
                f"adapt expected initial_context of shape (..., {self.model.context_dim}), "
                f"got {tuple(start.shape)}."
            )
        if start.shape[:-1] not in (tasks, ()):
            raise ValueError(
                f"adapt expected initial_context of shape ({self.model.context_dim},) or "
                f"{(*tasks, self.model.context_dim)}, got {tuple(start.shape)}."
            )
        return start.expand(*tasks, -1)


def _rehearsed(drawn: Any) -> tuple[Transitions, Tensor]:
    """What a rehearsal gave, if it is what it should be."""
    if not isinstance(drawn, tuple) or [type(each) for each in drawn] != [Transitions, Tensor]:
        raise TypeError(
            "fine_tune expected rehearsal to give transitions and their contexts, got "
            f"{shown(drawn)}."
        )
    earlier, contexts = drawn
    return earlier, contexts
