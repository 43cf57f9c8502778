import copy
import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mier_adapt import ContextModel, GradientContextAdapter, Transitions
from mier_adapt.context_adapter import adapt_context

from .doubles import (
    ACT_DIM,
    CONTEXT_DIM,
    OBS_DIM,
    LinearGaussianTask,
    assert_same_tree,
    plain_meta_loss,
    random_model,
    random_transitions,
)

VARIES = ("reward", "reward_and_dynamics")
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
    parameters = dict(model.named_parameters())
    for name, indices in checked.items():
        for index in indices:
            expected = finite_difference(adapter, adaptation, evaluation, parameters[name], index)
            assert gradient[name][index].item() == pytest.approx(expected, rel=2e-5, abs=2e-8), (
                name,
                index,
            )


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
        ({"lr": (0.1, -0.1)}, "lr > 0, got -0.1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm > 0 or None, got 0.0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm > 0 or None, got nan"),
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


# Fine-tuning --------------------------------------------------------------------------------


def fine_tune(model=None, count=40, *, split_seed=0, adapter_options=None, **options):
    model = model or ContextModel(
        OBS_DIM,
        ACT_DIM,
        CONTEXT_DIM,
        hidden_sizes=(16,),
        generator=torch.Generator().manual_seed(0),
    )
    data = random_transitions(count, seed=5)
    adapter = GradientContextAdapter(model, **(adapter_options or {}))
    options = {"context_steps": 3, "weight_steps": 10, **options}
    generator = torch.Generator().manual_seed(split_seed)
    return model, data, adapter.fine_tune(data, generator=generator, **options)


@given(
    count=st.integers(2, 30),
    fraction=st.floats(0.01, 0.99),
    seed=seeds,
)
def test_the_split_is_disjoint_and_complete(count, fraction, seed):
    _, _, result = fine_tune(
        count=count,
        split_seed=seed,
        validation_fraction=fraction,
        context_steps=0,
        weight_steps=0,
    )
    train, validation = result.train_indices.tolist(), result.validation_indices.tolist()
    assert sorted(train + validation) == list(range(count))
    assert train
    assert validation
    assert abs(len(validation) - fraction * count) <= 1


def test_a_fifth_validates_and_the_generator_fixes_which():
    splits = []
    for seed in (0, 0, 1):
        _, _, result = fine_tune(count=40, split_seed=seed, weight_steps=0)
        assert len(result.validation_indices) == 8
        splits.append(result.validation_indices.tolist())
    assert splits[0] == splits[1] != splits[2]


def test_the_same_seed_gives_the_same_result():
    (_, _, first), (_, _, again), (_, _, other) = (fine_tune(split_seed=s) for s in (0, 0, 1))
    assert first.trace == again.trace
    assert torch.equal(first.context, again.context)
    assert_same_tree(dict(first.model.state_dict()), dict(again.model.state_dict()))
    assert first.trace != other.trace


def test_the_model_that_came_in_is_unchanged():
    before = random_model(learn_initial_context=True).float()
    model, _, result = fine_tune(copy.deepcopy(before))
    assert_same_tree(dict(model.state_dict()), dict(before.state_dict()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert result.model is not model
    assert not torch.equal(result.model.layers[0].weight, model.layers[0].weight)
    # The context is its own; where contexts start is not a weight.
    assert torch.equal(result.model.initial_context, model.initial_context)


def test_losses_are_those_of_what_is_returned():
    model, data, result = fine_tune(weight_steps=40, weight_lr=0.02)
    train, validation = data[result.train_indices], data[result.validation_indices]
    start = model.initial_context
    for part, name in ((train, "train"), (validation, "validation")):
        for used_model, context, stage in (
            (model, start, "initial"),
            (model, result.context, "context"),
            (result.model, result.context, "final"),
        ):
            expected = used_model.loss(part, context).item()
            assert getattr(result, f"{name}_loss_{stage}") == pytest.approx(expected, rel=1e-6)


def test_the_best_weights_on_validation_are_returned():
    _, _, result = fine_tune(weight_steps=60, weight_lr=0.05)
    weights = [entry for entry in result.trace if entry.stage != "context"]
    best = min(weights, key=lambda entry: entry.validation_loss)
    assert result.validation_loss_final == best.validation_loss
    assert result.weight_steps == best.step
    assert 0 < best.step < 60  # it over-fits in the end, so the last weights are not the best


def test_without_improvement_the_weights_stay():
    model, _, result = fine_tune(weight_steps=5, weight_lr=10.0)
    assert result.weight_steps == 0
    assert result.validation_loss_final == result.validation_loss_context
    assert_same_tree(dict(result.model.state_dict()), dict(model.state_dict()))


@given(context_steps=st.integers(0, 4), weight_steps=st.integers(0, 4))
def test_the_trace_has_every_step(context_steps, weight_steps):
    _, _, result = fine_tune(context_steps=context_steps, weight_steps=weight_steps)
    stages = [(entry.stage, entry.step) for entry in result.trace]
    assert stages == (
        [("context", step) for step in range(context_steps)]
        + [("weights", step) for step in range(weight_steps)]
        + [("end", weight_steps)]
    )
    assert result.train_loss_initial == result.trace[0].train_loss
    assert result.validation_loss_context == result.trace[context_steps].validation_loss


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience_stops_early(patience):
    _, _, result = fine_tune(weight_steps=80, weight_lr=0.05, patience=patience)
    last = result.trace[-1]
    assert last.step == result.weight_steps + patience < 80
    _, _, patient = fine_tune(weight_steps=80, weight_lr=0.05)
    assert patient.trace[-1].step == 80
    assert patient.validation_loss_final <= result.validation_loss_final


def test_rehearsal_keeps_what_the_model_knew_of_other_tasks():
    """Two tasks that differ in their reward; the model has learned the first."""
    torch.manual_seed(0)
    first, second = random_transitions(200, seed=1), random_transitions(200, seed=2)
    first = dataclasses.replace(first, rew=first.obs[:, 0])
    second = dataclasses.replace(second, obs=second.obs + 3, rew=-second.obs[:, 0])
    _, _, learned = fine_tune(weight_steps=1)
    adapter = GradientContextAdapter(learned.model, steps=0)
    known = adapter.fine_tune(
        first,
        weight_steps=300,
        weight_lr=0.01,
        context_steps=0,
        generator=torch.Generator().manual_seed(0),
    ).model
    contexts = known.initial_context.expand(len(first), -1)
    calls = []

    def rehearsal():
        calls.append(1)
        return first, contexts

    options = {"context_steps": 0, "weight_steps": 200, "weight_lr": 0.01, "batch_size": 50}
    fitted = {
        name: GradientContextAdapter(known).fine_tune(
            second, rehearsal=given, generator=torch.Generator().manual_seed(0), **options
        )
        for name, given in (("alone", None), ("rehearsed", rehearsal))
    }
    assert len(calls) == 200
    loss = {name: each.model.loss(first, contexts).item() for name, each in fitted.items()}
    before = known.loss(first, contexts).item()
    assert loss["rehearsed"] - before < 0.2 * (loss["alone"] - before)
    for each in fitted.values():
        assert each.validation_loss_final < each.validation_loss_initial


def test_the_context_goes_on_beside_the_weights_where_it_is_asked_to():
    _, data, still = fine_tune(weight_steps=20, weight_lr=0.01)
    _, _, moving = fine_tune(weight_steps=20, weight_lr=0.01, context_lr=0.05)
    assert moving.weight_steps > 0
    assert not torch.equal(still.context, moving.context)
    validation = data[moving.validation_indices]
    loss = moving.model.loss(validation, moving.context).item()
    assert loss == pytest.approx(moving.validation_loss_final, rel=1e-5)


@given(every=st.integers(1, 12))
def test_validation_is_looked_at_as_often_as_asked_and_at_the_end(every):
    _, _, result = fine_tune(context_steps=0, weight_steps=10, validate_every=every)
    steps = [entry.step for entry in result.trace]
    assert steps == sorted({0, *range(every, 10, every), 10})


def test_weight_steps_do_not_move_the_context():
    options = {"steps": 1, "lr": (0.1, 0.1, 0.01), "max_grad_norm": 1.0}
    model, data, result = fine_tune(context_steps=5, weight_steps=20, adapter_options=options)
    train = data[result.train_indices]
    adapted = GradientContextAdapter(model, **options).adapt(train, steps=5)
    torch.testing.assert_close(result.context, adapted)
    assert not result.context.requires_grad
    assert not torch.equal(result.context, model.initial_context)


def test_a_loss_that_is_not_finite_names_stage_and_step():
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(4,))
    data = random_transitions(10)
    huge = Transitions(data.obs, data.act, data.rew * 1e30, data.obs_next, data.terminated)
    with pytest.raises(FloatingPointError, match="not finite at context step 0"):
        GradientContextAdapter(model).fine_tune(huge)
    with pytest.raises(FloatingPointError, match=r"not finite at weights step 1.*Lower weight_lr"):
        GradientContextAdapter(model).fine_tune(data, weight_steps=3, weight_lr=1e30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, r"validation_fraction in \(0, 1\), got 0.0"),
        ({"validation_fraction": 1.0}, r"validation_fraction in \(0, 1\), got 1.0"),
        ({"validation_fraction": math.nan}, "validation_fraction to be a finite number, got nan"),
        ({"context_steps": -1}, "context_steps >= 0, got -1"),
        ({"weight_steps": -1}, "weight_steps >= 0, got -1"),
        ({"weight_lr": 0.0}, "weight_lr > 0, got 0.0"),
        ({"patience": 0}, "patience >= 1, got 0"),
    ],
)
def test_fine_tuning_names_the_option_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        fine_tune(**options)


def test_fine_tuning_needs_two_transitions_of_one_task():
    adapter = GradientContextAdapter(ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM))
    for data in (random_transitions(1), random_transitions(2, 4)):
        with pytest.raises(ValueError, match="at least 2 transitions of one task"):
            adapter.fine_tune(data)


def test_a_model_of_rewards_without_context_is_fitted_too():
    generator = torch.Generator().manual_seed(0)
    model = ContextModel(
        OBS_DIM, ACT_DIM, 0, hidden_sizes=(8,), varies="reward", generator=generator
    )
    _, _, result = fine_tune(model, weight_steps=20, weight_lr=0.01)
    assert result.context.shape == (0,)
    assert result.train_loss_final < result.train_loss_initial


def test_adapting_works_where_the_caller_takes_no_gradients():
    model = random_model()
    adapter = GradientContextAdapter(model)
    transitions = random_transitions(20, dtype=torch.float64)
    expected = adapter.adapt(transitions)
    with torch.no_grad():
        assert torch.equal(adapter.adapt(transitions), expected)
