import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import (
    ContextModel,
    ExperienceRelabeler,
    FittedModel,
    GradientContextAdapter,
    Transitions,
    fit_model,
)

from .doubles import (
    ACT_DIM,
    CONTEXT_DIM,
    OBS_DIM,
    LinearModel,
    assert_same_tree,
    random_model,
    random_transitions,
)

seeds = st.integers(0, 2**31 - 1)


def small_model(context_dim: int = CONTEXT_DIM, **options) -> ContextModel:
    generator = torch.Generator().manual_seed(0)
    options = {"hidden_sizes": (16,), "generator": generator, **options}
    return ContextModel(OBS_DIM, ACT_DIM, context_dim, **options)


def fitted(
    model=None, count=40, *, split_seed=0, context_steps=3, adapter_options=None, **options
) -> tuple[ContextModel, Transitions, FittedModel]:
    model = model or small_model()
    data = random_transitions(count, seed=5)
    adapter = GradientContextAdapter(model, **(adapter_options or {})).with_steps(context_steps)
    options = {"weight_steps": 10, **options}
    generator = torch.Generator().manual_seed(split_seed)
    return model, data, fit_model(adapter, data, generator=generator, **options)


def plain_losses(
    model: ContextModel, data: Transitions, result: FittedModel, steps: int, lr: float
) -> list[float]:
    """The held-out loss after none, one, two... of the weight steps, as the paper writes them."""
    model = copy.deepcopy(model)
    train, validation = data[result.train_indices], data[result.validation_indices]
    optimizer = torch.optim.Adam(
        [value for name, value in model.named_parameters() if name != "initial_context"], lr=lr
    )
    losses = [model.loss(validation, result.context).item()]
    for _ in range(steps):
        optimizer.zero_grad()
        (model.loss(train, result.context) + model.bound_penalty()).backward()
        optimizer.step()
        losses.append(model.loss(validation, result.context).item())
    return losses


# The split ----------------------------------------------------------------------------------


@given(
    count=st.integers(2, 30),
    fraction=st.floats(0.01, 0.99),
    seed=seeds,
)
def test_the_split_is_disjoint_and_complete(count, fraction, seed):
    _, _, result = fitted(
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
        _, _, result = fitted(count=40, split_seed=seed, weight_steps=0)
        assert len(result.validation_indices) == 8
        splits.append(result.validation_indices.tolist())
    assert splits[0] == splits[1] != splits[2]


def test_the_same_seed_gives_the_same_result():
    first, again, other = (
        fitted(split_seed=seed, batch_size=7, weight_lr=0.02)[2] for seed in (0, 0, 1)
    )
    names = [each.name for each in dataclasses.fields(first) if "loss" in each.name]
    losses = [[getattr(each, name) for name in names] for each in (first, again, other)]
    assert len(names) == 6
    assert losses[0] == losses[1]
    assert all(one != another for one, another in zip(losses[0], losses[2], strict=True))
    assert torch.equal(first.context, again.context)
    assert_same_tree(dict(first.model.state_dict()), dict(again.model.state_dict()))


# Weights ------------------------------------------------------------------------------------


def test_the_model_that_came_in_is_unchanged():
    before = random_model(learn_initial_context=True).float()
    model, _, result = fitted(copy.deepcopy(before))
    assert_same_tree(dict(model.state_dict()), dict(before.state_dict()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert result.model is not model
    assert not torch.equal(result.model.layers[0].weight, model.layers[0].weight)
    assert all(parameter.grad is None for parameter in result.model.parameters())
    # The context is its own; where contexts start is not a weight.
    assert torch.equal(result.model.initial_context, model.initial_context)


def test_without_weight_steps_the_model_itself_is_returned():
    model, _, result = fitted(weight_steps=0)
    assert result.model is model
    assert result.weight_steps == 0
    assert result.train_loss_final == result.train_loss_context
    assert result.validation_loss_final == result.validation_loss_context


def test_losses_are_those_of_what_is_returned():
    model, data, result = fitted(weight_steps=40, weight_lr=0.02)
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
    model, data, result = fitted(weight_steps=60, weight_lr=0.05)
    losses = plain_losses(model, data, result, 60, 0.05)
    assert result.validation_loss_context == pytest.approx(losses[0], rel=1e-6)
    assert result.validation_loss_final == pytest.approx(min(losses), rel=1e-4)
    assert result.weight_steps == int(np.argmin(losses))
    assert 0 < result.weight_steps < 60  # it over-fits in the end: the last are not the best


@given(every=st.integers(1, 12))
def test_validation_is_looked_at_as_often_as_asked_and_at_the_end(every):
    model, data, result = fitted(
        context_steps=0, weight_steps=10, weight_lr=0.1, validate_every=every
    )
    losses = plain_losses(model, data, result, 10, 0.1)
    steps = sorted({0, *range(every, 10, every), 10})
    assert result.weight_steps == min(steps, key=losses.__getitem__)
    assert result.validation_loss_final == pytest.approx(losses[result.weight_steps], rel=1e-4)


def test_without_improvement_the_weights_stay():
    model, _, result = fitted(weight_steps=5, weight_lr=10.0)
    assert result.weight_steps == 0
    assert result.validation_loss_final == result.validation_loss_context
    assert_same_tree(dict(result.model.state_dict()), dict(model.state_dict()))


def test_rehearsal_keeps_what_the_model_knew_of_other_tasks():
    """Two tasks that differ in their reward; the model has learned the first."""
    first, second = random_transitions(200, seed=1), random_transitions(200, seed=2)
    first = dataclasses.replace(first, rew=first.obs[:, 0])
    second = dataclasses.replace(second, obs=second.obs + 3, rew=-second.obs[:, 0])
    _, _, learned = fitted(weight_steps=1)
    known = fit_model(
        GradientContextAdapter(learned.model, steps=0),
        first,
        weight_steps=300,
        weight_lr=0.01,
        generator=torch.Generator().manual_seed(0),
    ).model
    contexts = known.initial_context.expand(len(first), -1)
    calls = []

    def rehearsal():
        calls.append(1)
        return first, contexts

    results = {
        name: fit_model(
            GradientContextAdapter(known, steps=0),
            second,
            weight_steps=200,
            weight_lr=0.01,
            batch_size=50,
            rehearsal=given,
            generator=torch.Generator().manual_seed(0),
        )
        for name, given in (("alone", None), ("rehearsed", rehearsal))
    }
    assert len(calls) == 200
    loss = {name: each.model.loss(first, contexts).item() for name, each in results.items()}
    before = known.loss(first, contexts).item()
    assert loss["rehearsed"] - before < 0.2 * (loss["alone"] - before)
    for each in results.values():
        assert each.validation_loss_final < each.validation_loss_initial


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_rehearsal_is_refused():
    data = random_transitions(10)
    for nonsense in (data, (data, None), (data, torch.zeros(10, CONTEXT_DIM), 1)):
        with pytest.raises(TypeError, match="rehearsal to give transitions and their contexts"):
            fitted(weight_steps=1, rehearsal=lambda drawn=nonsense: drawn)


class LearnedScale(ContextModel):
    """A subclass with a weight of its own."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.action_scale = torch.nn.Parameter(torch.ones(self.act_dim))

    def forward(self, obs, act, context):
        return super().forward(obs, act * self.action_scale, context)


def test_a_subclass_is_fitted_with_all_of_its_weights():
    model = LearnedScale(
        OBS_DIM,
        ACT_DIM,
        CONTEXT_DIM,
        hidden_sizes=(16,),
        generator=torch.Generator().manual_seed(0),
    )
    _, data, result = fitted(model, weight_steps=20, weight_lr=0.02)
    losses = plain_losses(model, data, result, 20, 0.02)
    assert result.validation_loss_final == pytest.approx(min(losses), rel=1e-4)
    assert isinstance(result.model, LearnedScale)
    assert result.weight_steps > 0
    assert (result.model.action_scale != 1).all()


# Context ------------------------------------------------------------------------------------


def test_the_context_goes_on_beside_the_weights_where_it_is_asked_to():
    _, data, still = fitted(weight_steps=20, weight_lr=0.01)
    _, _, moving = fitted(weight_steps=20, weight_lr=0.01, context_lr=0.05)
    assert moving.weight_steps > 0
    assert not torch.equal(still.context, moving.context)
    validation = data[moving.validation_indices]
    loss = moving.model.loss(validation, moving.context).item()
    assert loss == pytest.approx(moving.validation_loss_final, rel=1e-5)


def test_weight_steps_do_not_move_the_context():
    options = {"steps": 1, "lr": (0.1, 0.1, 0.01), "max_grad_norm": 1.0}
    model, data, result = fitted(context_steps=5, weight_steps=20, adapter_options=options)
    train = data[result.train_indices]
    adapted = GradientContextAdapter(model, **options).adapt(train, steps=5)
    torch.testing.assert_close(result.context, adapted)
    assert not result.context.requires_grad
    assert not torch.equal(result.context, model.initial_context)


def test_a_model_of_rewards_without_context_is_fitted_too():
    model = small_model(0, hidden_sizes=(8,), varies="reward")
    _, _, result = fitted(model, weight_steps=20, weight_lr=0.01)
    assert result.context.shape == (0,)
    assert result.train_loss_final < result.train_loss_initial


# Any model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("varies", ["reward", "reward_and_dynamics"])
@pytest.mark.parametrize("context_dim", [0, CONTEXT_DIM])
def test_a_model_that_is_no_network_goes_all_the_way(context_dim, varies):
    model = LinearModel(context_dim=context_dim, varies=varies, std=0.5)
    own = torch.tensor([0.7, -1.2])[:context_dim]
    data = random_transitions(40)
    rew, obs_next = model.sample(
        data.obs, data.act, own, generator=torch.Generator().manual_seed(0)
    )
    obs_next = data.obs_next if obs_next is None else obs_next
    data = Transitions(data.obs, data.act, rew, obs_next, data.terminated)
    adapter = GradientContextAdapter(model, steps=300, lr=0.02, max_grad_norm=None)
    result = fit_model(adapter, data, weight_steps=0, generator=torch.Generator().manual_seed(0))
    assert result.model is model
    assert result.weight_steps == 0
    train, validation = data[result.train_indices], data[result.validation_indices]
    torch.testing.assert_close(result.context, adapter.adapt(train))
    assert result.validation_loss_initial == model.loss(validation, model.initial_context).item()
    assert result.validation_loss_final == model.loss(validation, result.context).item()
    if context_dim:
        assert result.train_loss_final < 0.5 * result.train_loss_initial
        assert result.validation_loss_final < 0.5 * result.validation_loss_initial
    if context_dim and varies != "reward":  # one number does not tell two dimensions apart
        torch.testing.assert_close(result.context, own, rtol=0, atol=0.3)

    relabeled = ExperienceRelabeler(
        result.model,
        result.context,
        termination_fn=lambda obs, act, obs_next: np.zeros(len(obs), dtype=bool),
        generator=torch.Generator().manual_seed(1),
    ).relabel(stored := random_transitions(50, seed=3))
    rew, obs_next = model.sample(
        stored.obs, stored.act, result.context, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(relabeled.rew, rew)
    assert torch.equal(relabeled.obs_next, stored.obs_next if obs_next is None else obs_next)


@pytest.mark.parametrize("weightless", [LinearModel(), torch.nn.Flatten()])
def test_a_model_without_weights_cannot_have_them_fitted(weightless):
    for name in ("obs_dim", "act_dim", "context_dim", "varies", "initial_context"):
        setattr(weightless, name, getattr(LinearModel(), name))
    for name in ("loss", "mean", "sample"):
        setattr(weightless, name, getattr(LinearModel(), name))
    adapter = GradientContextAdapter(weightless)
    with pytest.raises(
        TypeError,
        match=r"fit_model expected a model with weights .*since weight_steps > 0.*"
        r"Set weight_steps=0 to keep the model as it is\.",
    ):
        fit_model(adapter, random_transitions(10), weight_steps=1)
    fit_model(adapter, random_transitions(10), weight_steps=0)


# Gradients that others take or leave ---------------------------------------------------------


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_fits_where_the_caller_takes_no_gradients(caller):
    earlier, contexts = random_transitions(6, seed=2), torch.zeros(6, CONTEXT_DIM)
    options = {"context_lr": 0.1, "rehearsal": lambda: (earlier, contexts)}
    _, _, expected = fitted(**options)
    with caller():
        made = {**options, "rehearsal": lambda: (random_transitions(6, seed=2), contexts + 0)}
        results = [fitted(**each)[2] for each in (options, made)]
    for result in results:
        assert_same_tree(result.model.state_dict(), expected.model.state_dict())
        assert torch.equal(result.context, expected.context)


def test_transitions_within_a_graph_are_constants():
    model, data, expected = fitted()
    for name in ("obs", "act", "rew", "obs_next"):
        getattr(data, name).requires_grad_()
    graphs = Transitions(
        *(getattr(data, name) * 1 for name in ("obs", "act", "rew", "obs_next")), data.terminated
    )
    adapter = GradientContextAdapter(model).with_steps(3)
    result = fit_model(adapter, graphs, weight_steps=10, generator=torch.Generator().manual_seed(0))
    assert_same_tree(result.model.state_dict(), expected.model.state_dict())
    assert data.obs.grad is None


def test_frozen_weights_stay_and_a_frozen_model_cannot_be_fitted():
    model = small_model()
    model.layers[0].requires_grad_(False)
    _, _, result = fitted(model)
    before, after = model.state_dict(), result.model.state_dict()
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert [name for name in unchanged if name.startswith("layers")] == [
        "layers.0.weight",
        "layers.0.bias",
    ]
    model.requires_grad_(False)
    with pytest.raises(
        TypeError, match=r"model with weights .*, not frozen\), since weight_steps > 0"
    ):
        fitted(model)
    _, _, result = fitted(model, weight_steps=0)
    assert result.context.any()


# Errors -------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_stage_and_step():
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(4,))
    data = random_transitions(10)
    huge = Transitions(data.obs, data.act, data.rew * 1e30, data.obs_next, data.terminated)
    adapter = GradientContextAdapter(model)
    with pytest.raises(FloatingPointError, match="not finite after context step 0"):
        fit_model(adapter, huge)
    with pytest.raises(
        FloatingPointError, match=r"not finite after weight step 1:.*Lower weight_lr"
    ):
        fit_model(adapter, data, weight_steps=3, weight_lr=1e30)
    wild = GradientContextAdapter(model, steps=5, lr=1e30, max_grad_norm=None)
    with pytest.raises(FloatingPointError, match=r"not finite after context step [1-5]"):
        fit_model(wild, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction > 0 and <= 1, got 0.0"),
        ({"validation_fraction": 1.1}, "validation_fraction > 0 and <= 1, got 1.1"),
        ({"validation_fraction": math.nan}, "validation_fraction > 0 and <= 1, got nan"),
        ({"weight_steps": -1}, "weight_steps >= 0, got -1"),
        ({"weight_lr": 0.0}, "weight_lr > 0, got 0.0"),
        ({"context_lr": -0.1}, "context_lr >= 0, got -0.1"),
        ({"batch_size": 0}, "batch_size >= 1, got 0"),
        ({"validate_every": 0}, "validate_every >= 1, got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_names_the_option_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=f"fit_model expected {message}"):
        fitted(**options)


def test_context_steps_below_none_are_refused():
    with pytest.raises(ValueError, match="steps >= 0, got -1"):
        fitted(context_steps=-1)


def test_needs_two_transitions_of_one_task():
    adapter = GradientContextAdapter(ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM))
    for data, message in (
        (random_transitions(1), "at least 2 transitions, got 1"),
        (random_transitions(2, 4), r"transitions of one task, .*\(B, \.\.\.\)"),
    ):
        with pytest.raises(ValueError, match=f"fit_model expected {message}"):
            fit_model(adapter, data)
