import copy
import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typing_extensions import get_protocol_members

from mier_adapt import ContextModel, GradientContextAdapter, Transitions
from mier_adapt.context_adapter import adapt_context
from mier_adapt.context_model import Prediction
from mier_adapt.protocols import TaskModel

from .doubles import (
    ACT_DIM,
    CONTEXT_DIM,
    OBS_DIM,
    LinearGaussianTask,
    LinearModel,
    assert_same_tree,
    plain_meta_loss,
    random_model,
    random_transitions,
)

VARIES = ("reward", "reward_and_dynamics")
PARTS = tuple(sorted(get_protocol_members(TaskModel)))
seeds = st.integers(0, 2**31 - 1)


def double(*axes: int, **kwargs) -> Transitions:
    return random_transitions(*axes, dtype=torch.float64, **kwargs)


# Batches of tasks ---------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    tasks=st.integers(1, 4),
    batch=st.integers(1, 5),
    context_dim=st.integers(0, 3),
    obs_dim=st.integers(1, 3),
    act_dim=st.integers(1, 2),
    steps=st.integers(0, 4),
    lr=st.sampled_from([0.01, 0.3, (0.1, 0.01)]),
    max_grad_norm=st.sampled_from([None, 0.5, 1e6]),
    varies=st.sampled_from(VARIES),
    own_starts=st.booleans(),
    seed=seeds,
)
def test_a_batch_of_tasks_adapts_as_each_task_by_itself(
    tasks,
    batch,
    context_dim,
    obs_dim,
    act_dim,
    steps,
    lr,
    max_grad_norm,
    varies,
    own_starts,
    seed,
):
    model = random_model(
        obs_dim=obs_dim, act_dim=act_dim, context_dim=context_dim, varies=varies, seed=seed
    )
    adapter = GradientContextAdapter(model, steps=steps, lr=lr, max_grad_norm=max_grad_norm)
    sets = [
        double(tasks, size, obs_dim=obs_dim, act_dim=act_dim, seed=seed + size)
        for size in (batch, batch + 1)
    ]
    starts = [None] * tasks
    if own_starts:
        starts = torch.randn(
            tasks, context_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
    together = adapter.adapt(sets[0], initial_context=starts if own_starts else None)
    one_by_one = [
        adapter.adapt(sets[0][task], initial_context=starts[task]) for task in range(tasks)
    ]
    assert together.shape == (tasks, context_dim)
    torch.testing.assert_close(together, torch.stack(one_by_one), rtol=1e-9, atol=1e-9)

    if not own_starts:
        meta = adapter.meta_loss(*sets)
        torch.testing.assert_close(meta.contexts, together)
        losses = [model.loss(sets[1][task], one_by_one[task]) for task in range(tasks)]
        torch.testing.assert_close(meta.evaluation_loss, torch.stack(losses).detach())
        torch.testing.assert_close(meta.loss, torch.stack(losses).mean() + model.bound_penalty())


# Meta-gradients -----------------------------------------------------------------------------


def meta_gradient(adapter, adaptation, evaluation, **options):
    return gradients(adapter, adapter.meta_loss(adaptation, evaluation, **options).loss)


def gradients(adapter, loss):
    adapter.model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in adapter.model.named_parameters()
    }


def finite_difference(adapter, adaptation, evaluation, parameter, index, step=1e-6):
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[index] += sign * step
        values.append(adapter.meta_loss(adaptation, evaluation).loss.item())
        with torch.no_grad():
            parameter[index] -= sign * step
    return (values[0] - values[1]) / (2 * step)


def limited(model, adaptation, max_grad_norm):
    """Whether the limit changes every task's adaptation, or none's."""
    free, held = (
        GradientContextAdapter(model, steps=2, lr=0.1, max_grad_norm=limit).adapt(adaptation)
        for limit in (None, max_grad_norm)
    )
    changed = (free != held).any(dim=1)
    assert changed.all() or not changed.any()
    return bool(changed.all())


@pytest.mark.parametrize("max_grad_norm", [0.04, None])  # the first limits some of the tasks
@pytest.mark.parametrize("learn_initial_context", [False, True])
@pytest.mark.parametrize("varies", VARIES)
def test_loss_and_gradients_are_those_of_a_plain_loop_over_tasks(
    varies, learn_initial_context, max_grad_norm
):
    """At the sizes of HalfCheetah, in the floats of training."""
    model = ContextModel(
        20,
        6,
        10,
        varies=varies,
        learn_initial_context=learn_initial_context,
        generator=torch.Generator().manual_seed(0),
    )
    adaptation, evaluation = (
        random_transitions(10, 64, obs_dim=20, act_dim=6, seed=seed) for seed in (1, 2)
    )
    model.fit_normalization(adaptation)
    adapter = GradientContextAdapter(model, lr=1.0, max_grad_norm=max_grad_norm)
    ours = adapter.meta_loss(adaptation, evaluation).loss
    plain = plain_meta_loss(adapter, adaptation, evaluation)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    one, other = gradients(adapter, ours), gradients(adapter, plain)
    for name, expected in other.items():
        tolerance = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(one[name], expected, rtol=0, atol=tolerance)


def assert_finite_differences(
    gradient: dict[str, torch.Tensor],
    checked: dict[str, list[tuple[int, ...]]],
    adapter: GradientContextAdapter,
    adaptation: Transitions,
    evaluation: Transitions,
) -> None:
    """The gradient at the places of each parameter that ``checked`` names."""
    parameters = dict(adapter.model.named_parameters())
    for name, indices in checked.items():
        for index in indices:
            expected = finite_difference(adapter, adaptation, evaluation, parameters[name], index)
            assert gradient[name][index].item() == pytest.approx(expected, rel=2e-5, abs=2e-8), (
                name,
                index,
            )


@pytest.mark.parametrize("varies", VARIES)
@pytest.mark.parametrize("learn_initial_context", [False, True])
@pytest.mark.parametrize(("max_grad_norm", "active"), [(0.02, True), (1e3, False), (None, False)])
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
def test_second_order_meta_gradients_match_finite_differences(
    varies, learn_initial_context, max_grad_norm, active, activation
):
    model = random_model(
        varies=varies, learn_initial_context=learn_initial_context, activation=activation
    )
    adaptation, evaluation = double(3, 5, seed=1), double(3, 4, seed=2)
    model.fit_normalization(adaptation)
    assert limited(model, adaptation, max_grad_norm) == active
    adapter = GradientContextAdapter(model, steps=2, lr=0.1, max_grad_norm=max_grad_norm)
    gradient = meta_gradient(adapter, adaptation, evaluation)
    first_input, first_context = (0, 0), (1, OBS_DIM + ACT_DIM)
    checked = {
        "layers.0.weight": [first_input, (2, 3), first_context, (3, OBS_DIM + ACT_DIM + 1)],
        "layers.0.bias": [(0,), (4,)],
        "layers.2.weight": [(0, 0), (-1, 3)],
        "layers.2.bias": [(0,), (-1,)],
        "min_log_var": [(0,), (-1,)],
        "max_log_var": [(0,), (-1,)],
    }
    if learn_initial_context:
        checked["initial_context"] = [(0,), (1,)]
    assert_finite_differences(gradient, checked, adapter, adaptation, evaluation)


class ScaledActions(ContextModel):
    """Sees every dimension of an action in a scale of its own, which is learned."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.action_scale = torch.nn.Parameter(torch.ones(self.act_dim))

    def forward(self, obs: torch.Tensor, act: torch.Tensor, context: torch.Tensor) -> Prediction:
        return super().forward(obs, act * self.action_scale, context)


class ScaledInputs(ScaledActions):
    """The same by another hook."""

    forward = ContextModel.forward

    def _inputs(self, obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        return super()._inputs(obs, act * self.action_scale)


@pytest.mark.parametrize("model_class", [ScaledActions, ScaledInputs])
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])  # by hand in the class itself
@pytest.mark.parametrize("varies", VARIES)
def test_a_subclass_meta_trains_with_the_gradient_of_its_own_prediction(
    varies, activation, model_class
):
    model = random_model(
        model_class, varies=varies, activation=activation, learn_initial_context=True
    )
    adaptation, evaluation = double(3, 5, seed=1), double(3, 4, seed=2)
    model.fit_normalization(adaptation)
    adapter = GradientContextAdapter(model, steps=2, lr=0.1)
    gradient = meta_gradient(adapter, adaptation, evaluation)
    checked = {
        "action_scale": [(0,), (1,)],
        "layers.0.weight": [(0, OBS_DIM), (1, OBS_DIM + ACT_DIM)],
        "layers.2.bias": [(0,), (-1,)],
        "max_log_var": [(0,)],
        "initial_context": [(0,), (1,)],
    }
    assert_finite_differences(gradient, checked, adapter, adaptation, evaluation)
    assert gradient["action_scale"].abs().min() > 1e-3

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        meta = adapter.meta_loss(adaptation, evaluation)
        meta.loss.backward()
        optimizer.step()
        losses.append(meta.loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert (model.action_scale != 1).all()
    expected = plain_meta_loss(adapter, adaptation, evaluation)
    torch.testing.assert_close(adapter.meta_loss(adaptation, evaluation).loss, expected)


@pytest.mark.parametrize("varies", VARIES)
def test_a_model_that_is_no_network_identifies_tasks(varies):
    model = LinearModel(varies=varies, std=1.0, dtype=torch.float64)
    own = torch.tensor([[0.7, -1.2], [-0.4, 0.3], [0.0, 2.0]], dtype=torch.float64)
    data = double(3, 30)
    rew, obs_next = model.mean(data.obs, data.act, own)
    data = Transitions(
        data.obs, data.act, rew, data.obs_next if obs_next is None else obs_next, data.terminated
    )
    adapter = GradientContextAdapter(model, steps=400, lr=0.1, max_grad_norm=None)
    if varies == "reward":  # one number does not tell two dimensions apart
        directions = model.weight_YX[:, OBS_DIM + ACT_DIM :].T
        torch.testing.assert_close(adapter.adapt(data) @ directions, own @ directions)
    else:
        torch.testing.assert_close(adapter.adapt(data), own, rtol=0, atol=1e-4)
    meta = adapter.with_steps(3).meta_loss(data, data)
    torch.testing.assert_close(meta.evaluation_loss, model.loss(data, meta.contexts))
    torch.testing.assert_close(meta.loss.detach(), meta.evaluation_loss.mean())
    assert model.initial_context.eq(0).all()


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_cross_losses_are_each_tasks_under_each_context(kind):
    if kind == "linear":
        model: Any = LinearModel(std=1.0, dtype=torch.float64)
        contexts = torch.tensor([[0.7, -1.2], [-0.4, 0.3], [0.0, 2.0]], dtype=torch.float64)
    else:
        model = random_model()
        contexts = torch.randn(3, CONTEXT_DIM, dtype=torch.float64)
    data = double(3, 30)
    rew, obs_next = model.mean(data.obs, data.act, contexts)
    data = Transitions(data.obs, data.act, rew.detach(), obs_next.detach(), data.terminated)
    losses = GradientContextAdapter(model).cross_losses(data, contexts)
    assert not losses.requires_grad
    for i in range(3):
        for j in range(3):
            torch.testing.assert_close(losses[i, j], model.loss(data[i], contexts[j]).detach())
    if kind == "linear":  # a network's deviations depend on contexts as well
        assert losses.argmin(1).tolist() == [0, 1, 2]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("missing", ["loss", "sample", "initial_context", "varies"])
def test_what_is_no_model_is_refused_by_what_it_lacks(missing):
    model: Any = SimpleNamespace(
        **{name: getattr(LinearModel(), name) for name in PARTS if name != missing}
    )
    with pytest.raises(
        TypeError,
        match=rf"GradientContextAdapter expected model to be a TaskModel.*has no {missing}\.$",
    ):
        GradientContextAdapter(model)


@pytest.mark.parametrize("max_grad_norm", [0.05, None])
@pytest.mark.parametrize("learn_initial_context", [False, True])
def test_first_order_holds_the_inner_steps_constant(max_grad_norm, learn_initial_context):
    model = random_model(learn_initial_context=learn_initial_context)
    adaptation, evaluation = double(3, 5, seed=1), double(3, 4, seed=2)
    adapter = GradientContextAdapter(model, steps=2, lr=0.1, max_grad_norm=max_grad_norm)
    first = meta_gradient(adapter, adaptation, evaluation, first_order=True)
    second = meta_gradient(adapter, adaptation, evaluation)
    assert not torch.allclose(first["layers.0.weight"], second["layers.0.weight"], rtol=1e-3)

    steps = adapter.adapt(adaptation) - model.initial_context.detach()
    model.zero_grad()
    loss = model.loss(evaluation, model.initial_context + steps).mean() + model.bound_penalty()
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(first[name], parameter.grad)


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3, 10.0])
@pytest.mark.parametrize("first_order", [False, True])
def test_gradients_stay_finite_where_the_context_does_not_matter(max_grad_norm, first_order):
    """A network that ignores its context has context gradients of exactly zero."""
    model = random_model(learn_initial_context=True)
    with torch.no_grad():
        model.layers[0].weight[:, OBS_DIM + ACT_DIM :] = 0.0
    adapter = GradientContextAdapter(model, steps=2, lr=0.1, max_grad_norm=max_grad_norm)
    data = double(2, 4)
    assert torch.equal(adapter.adapt(data), model.initial_context.detach().expand(2, -1))
    gradient = meta_gradient(adapter, data, double(2, 4, seed=1), first_order=first_order)
    assert all(bool(value.isfinite().all()) for value in gradient.values())
    assert gradient["layers.0.weight"].any()


def test_meta_learning_lowers_the_loss_after_adaptation():
    model = random_model(learn_initial_context=True)
    adapter = GradientContextAdapter(model, steps=2, lr=0.1)
    adaptation, evaluation = double(3, 8, seed=1), double(3, 8, seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        meta = adapter.meta_loss(adaptation, evaluation)
        meta.loss.backward()
        optimizer.step()
        losses.append(meta.evaluation_loss.mean().item())
    assert losses[-1] < losses[0] - 0.5
    assert not torch.equal(model.initial_context, torch.zeros_like(model.initial_context))


# Adaptation ---------------------------------------------------------------------------------


@given(seed=seeds, varies=st.sampled_from(VARIES))
def test_adaptation_approaches_the_best_context_in_closed_form(seed, varies):
    task = LinearGaussianTask(seed=seed, varies=varies)
    assume(task.curvature > 1e-3)
    data = task.draw(torch.tensor([0.7, -1.2], dtype=torch.float64), 40, seed=seed)
    best = task.best_context(data)
    adapter = GradientContextAdapter(task.model, lr=1 / task.curvature, max_grad_norm=None)
    loss = task.model.loss
    losses, distances = [], []
    for steps in (0, 1, 2, 5, 20):
        context = adapter.adapt(data, steps=steps)
        losses.append(loss(data, context).item())
        distances.append((context - best).norm().item())
    for values in (losses, distances):
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))
    assert losses[-1] >= loss(data, best).item() - 1e-9


def test_adaptation_reaches_the_best_context_and_that_is_the_tasks_own():
    task = LinearGaussianTask(seed=2)
    own = torch.tensor([0.7, -1.2], dtype=torch.float64)
    data = task.draw(own, 4000)
    adapter = GradientContextAdapter(task.model, lr=1 / task.curvature, max_grad_norm=None)
    context = adapter.adapt(data, steps=500)
    torch.testing.assert_close(context, task.best_context(data), rtol=1e-6, atol=1e-6)
    assert (context - own).norm() < 0.1


@given(
    seed=seeds,
    steps=st.integers(0, 6),
    share=st.floats(0.05, 1.0),
    max_grad_norm=st.sampled_from([None, 0.1, 10.0]),
)
def test_adaptation_never_worsens_a_convex_loss(seed, steps, share, max_grad_norm):
    task = LinearGaussianTask(seed=seed)
    assume(task.curvature > 1e-6)
    data = task.draw(torch.tensor([3.0, -3.0], dtype=torch.float64), 10, seed=seed)
    adapter = GradientContextAdapter(
        task.model, steps=steps, lr=share / task.curvature, max_grad_norm=max_grad_norm
    )
    before = task.model.loss(data, task.model.initial_context).item()
    assert task.model.loss(data, adapter.adapt(data)).item() <= before + 1e-9


def test_no_steps_leave_the_context_unchanged():
    adapter = GradientContextAdapter(random_model(), steps=0)
    start = torch.tensor([0.3, -0.2], dtype=torch.float64)
    assert torch.equal(adapter.adapt(double(4), initial_context=start), start)
    adapter = GradientContextAdapter(random_model(), steps=3)
    assert torch.equal(adapter.adapt(double(4), steps=0, initial_context=start), start)
    assert not torch.equal(adapter.adapt(double(4), initial_context=start), start)


@given(steps=st.integers(1, 6), sizes=st.lists(st.floats(0.001, 0.3), min_size=1, max_size=4))
def test_each_step_has_its_size_and_the_last_is_repeated(steps, sizes):
    model = random_model()
    data = double(5)
    context = model.initial_context
    for lr in itertools.islice(itertools.chain(sizes, itertools.repeat(sizes[-1])), steps):
        context = context.detach().requires_grad_()
        (grad,) = torch.autograd.grad(model.loss(data, context), context)
        context = context - lr * grad
    adapter = GradientContextAdapter(model, steps=steps, lr=sizes, max_grad_norm=None)
    torch.testing.assert_close(adapter.adapt(data), context.detach())
    # The adapter's own number of steps is a default.
    other = GradientContextAdapter(model, steps=0, lr=tuple(sizes), max_grad_norm=None)
    torch.testing.assert_close(other.adapt(data, steps=steps), context.detach())
    torch.testing.assert_close(other.with_steps(steps).adapt(data), context.detach())


def test_the_same_adapter_with_other_steps_may_take_later_ones_in_another_size():
    adapter = GradientContextAdapter(random_model(), steps=2, lr=(0.3, 0.2, 0.1), max_grad_norm=0.7)
    assert adapter.schedule() == (0.3, 0.2)
    assert adapter.with_steps(5).schedule() == (0.3, 0.2, 0.1, 0.1, 0.1)
    other = adapter.with_steps(4, later_lr=0.01)
    assert other.schedule() == (0.3, 0.2, 0.01, 0.01)
    assert adapter.with_steps(1, later_lr=0.01).schedule() == (0.3,)
    assert adapter.with_steps(0).schedule() == ()
    assert (other.model, other.max_grad_norm) == (adapter.model, 0.7)
    assert adapter.steps == 2


@given(seed=seeds, limit=st.floats(1e-3, 10))
def test_longer_gradients_are_rescaled_to_the_limit_each_tasks_by_itself(seed, limit):
    model = random_model(seed=seed)
    data = double(3, 4, seed=seed)
    one_step = {"steps": 1, "lr": 1.0}
    free, held = (
        GradientContextAdapter(model, max_grad_norm=norm, **one_step).adapt(data)
        - model.initial_context
        for norm in (None, limit)
    )
    lengths = free.norm(dim=1, keepdim=True)
    expected = free * torch.clamp(limit / lengths, max=1.0)
    torch.testing.assert_close(held, expected)


def test_starts_from_the_models_context_one_for_all_or_one_for_each_task():
    model = random_model(learn_initial_context=True)
    adapter = GradientContextAdapter(model)
    data = double(3, 4)
    own = adapter.adapt(data)
    given_one = adapter.adapt(data, initial_context=model.initial_context.detach())
    given_all = adapter.adapt(data, initial_context=model.initial_context.detach().expand(3, -1))
    assert torch.equal(own, given_one)
    assert torch.equal(own, given_all)
    assert not torch.equal(own, adapter.adapt(data, initial_context=torch.ones_like(own[0])))


def test_adaptation_changes_nothing_but_its_result():
    model = random_model(learn_initial_context=True)
    before = copy.deepcopy(model.state_dict())
    start = torch.ones(CONTEXT_DIM, dtype=torch.float64)
    adapter = GradientContextAdapter(model)
    context = adapter.adapt(double(2, 4), initial_context=start)
    assert not context.requires_grad
    assert torch.equal(start, torch.ones_like(start))
    assert not start.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert_same_tree(dict(model.state_dict()), dict(before))
    meta = adapter.meta_loss(double(2, 4), double(2, 4, seed=1))
    assert meta.loss.requires_grad
    assert not meta.contexts.requires_grad
    assert not meta.evaluation_loss.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_meta_gradient_of_adapt_context_matches_finite_differences():
    start = torch.tensor([[0.3, -0.7], [2.0, 0.1]], dtype=torch.float64, requires_grad=True)

    def adapt(context):
        return adapt_context(
            lambda c: (3 * c).sin().sum(-1),
            context,
            lrs=(0.1, 0.05),
            max_grad_norm=4.0,
            create_graph=True,
        )

    assert torch.autograd.gradcheck(adapt, (start,))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps >= 0, got -1"),
        ({"lr": 0.0}, "lr > 0, got 0.0"),
        ({"lr": float("nan")}, "lr > 0, got nan"),
        ({"lr": float("inf")}, "lr > 0, got inf"),
        ({"lr": ()}, r"lr, got \(\)"),
        ({"lr": (0.1, -0.1)}, r"lr\[1\] > 0, got -0.1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm > 0, got 0.0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm > 0, got nan"),
    ],
)
def test_construction_names_the_option_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        GradientContextAdapter(random_model(), **options)


@pytest.mark.usefixtures("unchecked")
def test_calls_name_the_argument_that_does_not_fit():
    adapter = GradientContextAdapter(random_model())
    data = double(2, 4)
    for shape in ((3,), (), (3, CONTEXT_DIM), (1, 2, CONTEXT_DIM)):
        with pytest.raises(ValueError, match="initial_context of shape"):
            adapter.adapt(data, initial_context=torch.zeros(shape, dtype=torch.float64))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="initial_context"):
            adapter.adapt(
                data, initial_context=torch.full((CONTEXT_DIM,), value, dtype=torch.float64)
            )
    with pytest.raises(ValueError, match="steps >= 0, got -1"):
        adapter.adapt(data, steps=-1)
    with pytest.raises(ValueError, match="obs of shape"):
        adapter.adapt(double(4, obs_dim=5))
    for adaptation, evaluation in ((double(4), double(4)), (double(2, 4), double(3, 4))):
        with pytest.raises(ValueError, match="adaptation and evaluation sets of the same T tasks"):
            adapter.meta_loss(adaptation, evaluation)
    for fresh, shape in (((4,), (1, CONTEXT_DIM)), ((2, 4), (3, CONTEXT_DIM)), ((2, 4), (2, 1))):
        with pytest.raises(ValueError, match="cross_losses expected fresh transitions of T tasks"):
            adapter.cross_losses(double(*fresh), torch.zeros(shape, dtype=torch.float64))


class WithoutGraph(LinearModel):
    """As a simulator's."""

    @torch.no_grad()
    def loss(self, transitions, context):
        return super().loss(transitions, context)


def test_a_model_whose_loss_has_no_gradient_is_told_so():
    with pytest.raises(ValueError, match="loss torch can differentiate by the context"):
        GradientContextAdapter(WithoutGraph()).adapt(random_transitions(4))
    adapter = GradientContextAdapter(WithoutGraph(context_dim=0))  # where there is nothing to find
    assert adapter.adapt(random_transitions(4)).shape == (0,)


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("model_class", [ContextModel, ScaledActions])
def test_adapting_works_where_the_caller_takes_no_gradients(caller, frozen, model_class):
    model = random_model(model_class).requires_grad_(not frozen)
    adapter = GradientContextAdapter(model)
    transitions, start = random_transitions(20, dtype=torch.float64), torch.zeros(2).double()
    expected = adapter.adapt(transitions)
    assert expected.any()
    with caller():
        made, begun = random_transitions(20, dtype=torch.float64), torch.zeros(2).double()
        for data in (transitions, made):
            for initial in (None, start, begun):
                adapted = adapter.adapt(data, initial_context=initial)
                assert torch.equal(adapted, expected)
    for name in ("obs", "act", "rew", "obs_next"):
        getattr(transitions, name).requires_grad_()
    adapted = adapter.adapt(transitions)
    assert torch.equal(adapted, expected)
    assert not adapted.requires_grad
    assert transitions.obs.grad is None


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["by hand", "by torch", "another's"])
def test_the_meta_loss_is_known_where_the_caller_takes_no_gradients(caller, kind):
    model = {
        "by hand": lambda: random_model(activation="leaky_relu"),
        "by torch": lambda: random_model(ScaledActions),
        "another's": lambda: LinearModel(dtype=torch.float64),
    }[kind]()
    adapter = GradientContextAdapter(model)
    sets = double(3, 8), double(3, 6, seed=1)
    expected = adapter.meta_loss(*sets)
    with caller():
        for data in (sets, (double(3, 8), double(3, 6, seed=1))):
            found = adapter.meta_loss(*data)
            assert not found.loss.requires_grad
            for name in ("loss", "contexts", "evaluation_loss"):
                assert torch.equal(getattr(found, name), getattr(expected, name))
                assert not getattr(found, name).is_inference()
    again = adapter.meta_loss(*data)  # of what was made there
    assert torch.equal(again.loss, expected.loss)
    again.loss.backward()
    assert data[0].obs.grad is None
