"""fit_model: a copy of a model fitted to one task, context first, then weights."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from mier_adapt._checks import Count, NonNegative, Positive, Range, Size, checked, shown
from mier_adapt._products import quick_products
from mier_adapt._typing import Float, Int, Tensor
from mier_adapt.context_adapter import (
    GradientContextAdapter,
    adapt_context,
    loss_function,
    penalty,
)
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import OneTask, Transitions

Rehearsal = Callable[[], tuple[Transitions, Tensor]]
"""Gives transitions of earlier tasks, ``(B, ...)``, and the context of each, ``(B, C)``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedModel:
    """A model fitted to one task, with the evidence for it.

    Losses are in the units of the model's own.
    """

    model: TaskModel
    """A copy, where weights were fitted; the model that came otherwise."""
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


@checked
@torch.inference_mode(False)  # also where the caller evaluates in it, or without gradients
@quick_products()
def fit_model(
    adapter: GradientContextAdapter,
    transitions: OneTask,
    *,
    weight_steps: Count = 100,
    weight_lr: Positive = 1e-3,
    context_lr: NonNegative = 0.0,
    batch_size: Size | None = None,
    rehearsal: Rehearsal | None = None,
    validation_fraction: Annotated[float, Range(above=0, most=1)] = 0.2,
    validate_every: Size = 1,
    generator: torch.Generator | None = None,
) -> FittedModel:
    """Fit context, then weights, to one task, watched on held-out transitions.

    Takes the adapter's steps on the context alone, then ``weight_steps`` Adam steps on all weights
    of a copy of the model, but frozen ones, and returns the weights that were best on the
    validation part. Without ``rehearsal`` the few transitions of one task soon cost the model what
    it knew of all states that they do not visit.

    Args:
        adapter: The model, and N of the paper's Algorithm 2: ``adapter.with_steps(10)``.
        transitions: The task's ``(B, ...)``.
        weight_steps: M of the paper's Algorithm 2; 0 leaves the weights as they are, and takes
            any :class:`.TaskModel`.
        weight_lr: Adam's step size for the weights.
        context_lr: Adam's step size for the context beside them; 0 (paper) leaves the context as
            the first stage found it.
        batch_size: Transitions of the new task in a weight step, drawn with replacement; ``None``
            (paper) takes all that are trained on.
        rehearsal: Called before every weight step for transitions of earlier tasks, ``(B', ...)``,
            and their contexts, ``(B', C)``, which the step's loss then averages in. ``None``
            (paper) for none.
        validation_fraction: Share of the transitions that is held out, between 0 and 1; at least
            one is held out, and one is not.
        validate_every: Weight steps between looks at the validation part.
        generator: Draws split and batches; torch's global one when ``None``.

    Returns:
        The fitted copy and context, with losses before and after.

    Raises:
        ValueError: If there are fewer than two transitions or a number is out of range.
        TypeError: If there are to be weight steps and the model has no weights, or ``rehearsal``
            gives something else.
        FloatingPointError: If a loss stops being finite; names stage and step.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 2; the 80/20 split and Adam follow the
        released code; keeping the best weights, rehearsal and the context's further steps are
        ours.
    """
    if weight_steps:
        require_weights("fit_model", "weight_steps", adapter.model)
    if len(transitions) < 2:
        raise ValueError("fit_model expected at least 2 transitions, got 1.")
    count = len(transitions)
    num_validation = min(max(1, round(validation_fraction * count)), count - 1)
    order = torch.randperm(
        count, generator=generator, device=generator.device if generator else None
    ).to(transitions.obs.device)
    validation_indices, train_indices = order[:num_validation], order[num_validation:]
    transitions = transitions.detach()
    train, validation = transitions[train_indices], transitions[validation_indices]
    model = copy.deepcopy(adapter.model) if weight_steps else adapter.model

    @torch.no_grad()
    def losses(stage: str, step: int) -> tuple[float, float]:
        found = float(model.loss(train, context)), float(model.loss(validation, context))
        if not math.isfinite(sum(found)):
            raise FloatingPointError(
                f"fit_model reached a loss that is not finite after {stage} step {step}: training "
                f"{found[0]}, validation {found[1]}. Lower weight_lr, context_lr or the adapter's "
                "lr."
            )
        return found

    context = model.initial_context.detach().clone()
    initial = adapted = losses("context", 0)
    if model.context_dim:
        loss_fn = loss_function(model, train)
        for step, lr in enumerate(adapter.schedule(), start=1):
            context = adapt_context(
                loss_fn, context, lrs=(lr,), max_grad_norm=adapter.max_grad_norm
            )
            adapted = losses("context", step)

    best, best_step, best_context = adapted, 0, context
    if weight_steps:
        network: Any = model
        best_weights = copy.deepcopy(network.state_dict())
        context = context.clone().requires_grad_(context_lr > 0)
        groups = [{"params": _weights(network), "lr": weight_lr}]
        if context_lr > 0:
            groups.append({"params": [context], "lr": context_lr})
        optimizer = torch.optim.Adam(groups, fused=True)
        for step in range(1, weight_steps + 1):
            batch, batch_context = train, context
            if batch_size is not None:
                batch = train[torch.randint(len(train), (batch_size,), generator=generator)]
            if rehearsal is not None:
                batch, batch_context = _with_rehearsal(batch, context, rehearsal())
            optimizer.zero_grad()
            loss = model.loss(batch, batch_context) + penalty(model)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % validate_every and step < weight_steps:
                continue
            found = losses("weight", step)
            if found[1] < best[1]:
                best, best_step = found, step
                best_weights = copy.deepcopy(network.state_dict())
                best_context = context.detach().clone()
        network.load_state_dict(best_weights)
        optimizer.zero_grad()
    return FittedModel(
        model=model,
        context=best_context,
        train_indices=train_indices,
        validation_indices=validation_indices,
        train_loss_initial=initial[0],
        train_loss_context=adapted[0],
        train_loss_final=best[0],
        validation_loss_initial=initial[1],
        validation_loss_context=adapted[1],
        validation_loss_final=best[1],
        weight_steps=best_step,
    )


def _with_rehearsal(batch: Transitions, context: Tensor, drawn: Any) -> tuple[Transitions, Tensor]:
    """Behind a batch what a rehearsal gave, which is a user's, and the context of each."""
    if not isinstance(drawn, tuple) or [type(each) for each in drawn] != [Transitions, Tensor]:
        raise TypeError(
            "fit_model expected rehearsal to give transitions and their contexts, got "
            f"{drawn!r:.80}."
        )
    earlier, contexts = drawn
    each = torch.cat((context.expand(len(batch), -1), contexts.detach()))
    return Transitions.cat([batch, earlier.detach()]), each


def require_weights(owner: str, name: str, model: TaskModel) -> None:
    """Check that a model has weights that can be fitted.

    Raises:
        TypeError: If it has none.
    """
    if not isinstance(model, torch.nn.Module) or not _weights(model):
        raise TypeError(
            f"{owner} expected a model with weights (a torch.nn.Module, not frozen), since "
            f"{name} > 0, got {shown(model)}. Set {name}=0 to keep the model as it is."
        )


def _weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [
        each
        for name, each in model.named_parameters()
        if name != "initial_context" and each.requires_grad
    ]
