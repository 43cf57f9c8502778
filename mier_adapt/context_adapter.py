"""GradientContextAdapter: the inner loop and the meta-loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mier_adapt import _meta_gradient
from mier_adapt._checks import Count, Positive, checked
from mier_adapt._typing import Float, Tensor
from mier_adapt.context_model import ContextModel
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import Transitions


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

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, equation 3. The rescaling follows the
        authors' released code (norm 10).
    """
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
        loss = loss_fn(context).sum()
        if not loss.requires_grad:
            raise ValueError(
                "Expected a model whose loss torch can differentiate by the context, got one "
                "without a graph. Have it compute in torch, outside of no_grad and inference mode."
            )
        (grad,) = torch.autograd.grad(
            loss, context, create_graph=second_order, retain_graph=second_order
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


class GradientContextAdapter:
    """Identifies tasks by gradient steps on a model's context.

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
        model: The model whose context is adapted: a :class:`ContextModel`, or any
            :class:`.TaskModel`. Never modified here.
        steps: Context steps of :meth:`adapt` and :meth:`meta_loss`.
        lr: Size of a step; or one size for each step, the last of which is repeated.
            Released code at meta-test: ``(0.01, 0.01, 0.001)``.
        max_grad_norm: Longer context gradients are rescaled to this L2 norm, each task's
            by itself. ``None`` for no limit.

    Raises:
        ValueError: If ``steps`` is negative or a size or norm is not positive.
    """

    @checked
    def __init__(
        self,
        model: TaskModel,
        *,
        steps: Count = 2,
        lr: Positive | Sequence[Positive] = 0.01,
        max_grad_norm: Positive | None = 10.0,
    ) -> None:
        lrs = tuple(lr) if isinstance(lr, Sequence) else (lr,)
        if not lrs:
            raise ValueError(f"GradientContextAdapter expected at least one lr, got {lr!r}.")
        self.model = model
        self.steps = steps
        self.lrs = lrs
        self.max_grad_norm = max_grad_norm

    @checked
    @torch.inference_mode(False)  # also where the caller evaluates in it
    def adapt(
        self,
        adaptation: Transitions,
        *,
        steps: Count | None = None,
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
        context = self._start(adaptation, initial_context)
        adapter = self if steps is None else self.with_steps(steps)
        if not self.model.context_dim:  # nothing to identify, and a loss without a gradient
            return context.detach()
        return adapt_context(
            loss_function(self.model, adaptation.detach()),
            context,
            lrs=adapter.schedule(),
            max_grad_norm=self.max_grad_norm,
        )

    @checked
    @torch.no_grad()
    def cross_losses(
        self, fresh: Transitions, contexts: Float[Tensor, "T C"]
    ) -> Float[Tensor, "T T"]:
        """Does the context identify the task? Every task's loss under every task's context.

        Where it does, a row is lowest on the diagonal: nothing predicts a task's transitions as
        well as the context that was found for it. A falling training loss does not tell: a model
        can also learn what all tasks share.

        Args:
            fresh: Transitions of T tasks, ``(T, B, ...)``, that the contexts were not found from.
            contexts: As :meth:`adapt` found them from other transitions of these tasks.

        Returns:
            The model's loss of task i's transitions under the context of task j, at ``[i, j]``.

        Raises:
            ValueError: If the two differ in their tasks, or a shape does not fit.
        """
        shape = (fresh.obs.shape[0], self.model.context_dim)
        if fresh.obs.ndim != 3 or tuple(contexts.shape) != shape:
            raise ValueError(
                "cross_losses expected fresh transitions of T tasks, (T, B, dim), and a context of "
                f"{self.model.context_dim} dimensions for each, got obs {tuple(fresh.obs.shape)} "
                f"and contexts {tuple(contexts.shape)}."
            )
        loss = loss_function(self.model, fresh)
        return torch.stack([loss(context.expand_as(contexts)) for context in contexts], dim=1)

    @checked
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
            The loss, the adapted contexts, and each task's evaluation loss. Where gradients are
            disabled, by ``no_grad`` or in inference mode, the loss is a constant.

        Raises:
            ValueError: If the two differ in their tasks, or a shape does not fit.

        Source:
            Mendonca et al. (2020), arXiv:2006.07178, equation 4.
        """
        shapes = [each.obs.shape for each in (adaptation, evaluation)]
        if any(len(shape) != 3 for shape in shapes) or shapes[0][0] != shapes[1][0]:
            raise ValueError(
                "meta_loss expected adaptation and evaluation sets of the same T tasks, "
                f"(T, B, dim), got obs {tuple(shapes[0])} and {tuple(shapes[1])}."
            )
        differentiated = torch.is_grad_enabled()
        # The inner loop takes gradients also where the caller, who evaluates, takes none.
        with torch.inference_mode(False), torch.set_grad_enabled(differentiated):
            return self._meta_loss(adaptation.detach(), evaluation.detach(), first_order)

    def _meta_loss(
        self, adaptation: Transitions, evaluation: Transitions, first_order: bool
    ) -> MetaLoss:
        model, lrs = self.model, self.schedule()
        # The derivatives by hand are those of exactly this class: a subclass may predict otherwise.
        if type(model) is ContextModel and model.slope is not None and model.hidden_sizes:
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
                loss_function(model, adaptation),
                self._start(adaptation, None),
                lrs=lrs,
                max_grad_norm=self.max_grad_norm,
                create_graph=True,
                detach_grads=first_order,
            )
            loss_T = model.loss(evaluation, contexts_TC)
            loss = loss_T.mean()
        return MetaLoss(
            loss=loss + penalty(model),
            contexts=contexts_TC.detach(),
            evaluation_loss=loss_T.detach(),
        )

    @checked
    def with_steps(
        self, steps: Count, *, later_lr: Positive | None = None
    ) -> "GradientContextAdapter":
        """The same adapter with another number of steps.

        Args:
            steps: How many.
            later_lr: Size of those beyond the adapter's own; by default what ``lr`` says of them.
        """
        return GradientContextAdapter(
            self.model,
            steps=steps,
            lr=self.lrs if later_lr is None else (*self.schedule(), later_lr),
            max_grad_norm=self.max_grad_norm,
        )

    def schedule(self) -> tuple[float, ...]:
        """The size of each step."""
        return (*self.lrs, *(self.lrs[-1:] * max(0, self.steps - len(self.lrs))))[: self.steps]

    def _start(self, adaptation: Transitions, start: Tensor | None) -> Tensor:
        if start is None:
            start = self.model.initial_context
        tasks, dim = adaptation.obs.shape[:-2], self.model.context_dim
        if tuple(start.shape) not in ((dim,), (*tasks, dim)) or not bool(start.isfinite().all()):
            raise ValueError(
                f"adapt expected initial_context of shape ({dim},) or {(*tasks, dim)} with finite "
                f"values, got {start}."
            )
        return (start.clone() if start.is_inference() else start).expand(*tasks, -1)


def loss_function(model: TaskModel, transitions: Transitions) -> Callable[[Tensor], Tensor]:
    """A model's loss as a function of the context."""
    if type(model) is ContextModel:
        return model.loss_function(transitions)
    return lambda context: model.loss(transitions, context)


def penalty(model: TaskModel) -> Tensor | float:
    """What a model adds to its loss in training, where it has anything to add."""
    added: Callable[[], Tensor] | None = getattr(model, "bound_penalty", None)
    return 0.0 if added is None else added()
