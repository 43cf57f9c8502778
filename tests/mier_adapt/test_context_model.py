import copy
import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from mier_adapt import ContextModel, GradientContextAdapter, Transitions
from mier_adapt.context_model import Prediction

from .doubles import ACT_DIM, CONTEXT_DIM, OBS_DIM, random_model, random_transitions

VARIES = ("reward", "reward_and_dynamics")
seeds = st.integers(0, 2**31 - 1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Likelihood ---------------------------------------------------------------------------------


@given(seed=seeds, batch=st.integers(1, 6), varies=st.sampled_from(VARIES), scaled=st.booleans())
def test_loss_is_twice_the_negative_log_likelihood_without_its_constant(
    seed, batch, varies, scaled
):
    model = random_model(varies=varies, seed=seed)
    transitions = random_transitions(batch, seed=seed, dtype=torch.float64)
    if scaled:
        model.fit_normalization(random_transitions(9, seed=seed + 1, dtype=torch.float64))
    context = normal(CONTEXT_DIM, seed=seed)
    rew_mean, rew_log_var, delta_mean, delta_log_var = model(
        transitions.obs, transitions.act, context
    )
    rew_loss, state_loss = model.loss_terms(transitions, context)

    def expected(mean, log_var, target):
        likelihood = torch.distributions.Normal(mean, torch.exp(0.5 * log_var))
        return (-2 * likelihood.log_prob(target)).mean() - math.log(2 * math.pi)

    torch.testing.assert_close(rew_loss, expected(rew_mean, rew_log_var, transitions.rew))
    if varies == "reward":
        assert delta_mean is None
        assert delta_log_var is None
        assert state_loss == 0
    else:
        delta = transitions.obs_next - transitions.obs
        torch.testing.assert_close(state_loss, expected(delta_mean, delta_log_var, delta))
    torch.testing.assert_close(model.loss(transitions, context), rew_loss + state_loss)


def test_bound_penalty_is_a_hundredth_of_the_distance_between_the_limits():
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM)
    assert model.bound_penalty().item() == pytest.approx((1 + OBS_DIM) * 0.01 * 10.5)
    reward_only = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, varies="reward")
    assert reward_only.bound_penalty().item() == pytest.approx(0.01 * 10.5)


@given(
    seed=seeds,
    scale=st.sampled_from([1.0, 1e2, 1e6]),
    low=st.floats(-12, 0),
    width=st.floats(0.5, 12),
)
def test_log_variances_stay_between_their_limits(seed, scale, low, width):
    model = random_model(seed=seed)
    with torch.no_grad():
        model.layers[-1].weight.mul_(scale)
        model.min_log_var.fill_(low)
        model.max_log_var.fill_(low + width)
    transitions = random_transitions(20, seed=seed, dtype=torch.float64)
    _, rew, _, delta = model(transitions.obs, transitions.act, normal(CONTEXT_DIM, seed=seed))
    # The second, lower limit is soft at the upper end too: it adds at most this.
    overshoot = F.softplus(torch.tensor(-width, dtype=torch.float64)).item()
    for log_var in (rew, delta):
        assert bool((log_var >= low).all())
        assert bool((log_var <= low + width + overshoot + 1e-9).all())


# Normalisation ------------------------------------------------------------------------------


@given(seed=seeds, varies=st.sampled_from(VARIES))
def test_normalisation_leaves_units_as_they_are(seed, varies):
    """A model with statistics predicts what the raw one with rescaled weights predicts."""
    model = random_model(varies=varies, seed=seed)
    data = random_transitions(12, seed=seed, dtype=torch.float64)
    data = Transitions(
        3 + 7 * data.obs, data.act, 100 * data.rew - 5, 4 * data.obs_next, data.terminated
    )
    model.fit_normalization(data)
    assert not torch.equal(model.target_std, torch.ones_like(model.target_std))

    raw = copy.deepcopy(model)
    inputs, outputs = OBS_DIM + ACT_DIM, len(model.target_mean)
    with torch.no_grad():
        first, last = raw.layers[0], raw.layers[-1]
        first.weight[:, :inputs] /= model.input_std
        first.bias -= first.weight[:, :inputs] @ model.input_mean
        last.weight[:outputs] *= model.target_std[:, None]
        last.bias[:outputs] = last.bias[:outputs] * model.target_std + model.target_mean
        last.bias[outputs:] += 2 * model.target_std.log()
        for limit in (raw.min_log_var, raw.max_log_var):
            limit += 2 * model.target_std.log()
        for kind in ("input", "target"):
            getattr(raw, f"{kind}_mean").zero_()
            getattr(raw, f"{kind}_std").fill_(1.0)

    context = normal(CONTEXT_DIM, seed=seed)
    for mine, theirs in zip(
        model(data.obs, data.act, context), raw(data.obs, data.act, context), strict=True
    ):
        if mine is not None:
            torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(model.loss(data, context), raw.loss(data, context))


@given(seed=seeds, axes=st.sampled_from([(7,), (2, 4)]))
def test_statistics_are_those_of_the_data(seed, axes):
    data = random_transitions(*axes, seed=seed, dtype=torch.float64)
    model = random_model()
    model.fit_normalization(data)
    flat = data.flatten()
    inputs = np.concatenate((flat.obs, flat.act), axis=1)
    targets = np.concatenate((flat.rew[:, None], flat.obs_next - flat.obs), axis=1)
    for kind, values in (("input", inputs), ("target", targets)):
        np.testing.assert_allclose(getattr(model, f"{kind}_mean"), values.mean(0), atol=1e-12)
        np.testing.assert_allclose(getattr(model, f"{kind}_std"), values.std(0, ddof=1))


def test_a_dimension_that_does_not_vary_is_scaled_by_its_size():
    data = random_transitions(10)
    obs, obs_next = data.obs.clone(), data.obs_next.clone()
    obs[:, 1], obs_next[:, 1] = 1234.567, 1234.567
    obs[:, 2], obs_next[:, 2] = 0.0, 0.0
    data = Transitions(obs, data.act, torch.full((10,), -2.0), obs_next, data.terminated)
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(8,))
    model.fit_normalization(data)
    torch.testing.assert_close(model.input_std[1:3], torch.tensor([1234.567, 1.0]))
    torch.testing.assert_close(model.target_std[2:4], torch.tensor([1234.567, 1.0]))
    assert model.target_std[0] == 2
    assert model.target_mean[0] == -2
    varying = data.obs[:, 0].std()
    torch.testing.assert_close(model.input_std[0], varying)
    assert math.isfinite(model.loss(data, model.initial_context).item())


# Units --------------------------------------------------------------------------------------


def in_units(data: Transitions, obs: torch.Tensor, rew: float) -> Transitions:
    """The same transitions, with observations and rewards in other units."""
    return Transitions(
        data.obs * obs, data.act, data.rew * rew, data.obs_next * obs, data.terminated
    )


def structured(count: int) -> Transitions:
    """Something to learn, with noise."""
    data, noise = random_transitions(count), 0.1 * random_transitions(count, seed=1).obs
    change = 0.1 * (data.act[:, [0, 1, 1]] + noise)
    rew = data.obs[:, 0] + 2 * data.act[:, 1] + noise[:, -1]
    return Transitions(data.obs, data.act, rew, data.obs + change, data.terminated)


def trained_loss(data: Transitions, varies: str) -> float:
    """What 200 steps reach, in z-scored units."""
    generator = torch.Generator().manual_seed(0)
    options = {"hidden_sizes": (16, 16), "varies": varies, "generator": generator}
    model = ContextModel(OBS_DIM, ACT_DIM, 0, **options)
    model.fit_normalization(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model.loss(data, model.initial_context)
        loss.backward()
        optimizer.step()
    units = 2 * model.target_std.log() @ model.loss_weight()[: len(model.target_std)]
    return float(loss.detach() - units)


@functools.cache
def loss_in_plain_units(varies: str) -> float:
    return trained_loss(structured(512), varies)


powers = st.integers(-12, 12).map(lambda power: 10.0**power)


@pytest.mark.parametrize("varies", VARIES)
@settings(max_examples=6, deadline=None)
@given(obs=st.lists(powers, min_size=OBS_DIM, max_size=OBS_DIM), rew=powers)
@example(obs=[1e-5] * OBS_DIM, rew=1e-5)
@example(obs=[1e-12] * OBS_DIM, rew=1e-12)
@example(obs=[1e12] * OBS_DIM, rew=1e12)
def test_a_model_learns_as_well_in_any_units(varies, obs, rew):
    data = in_units(structured(512), torch.tensor(obs), rew)
    assert trained_loss(data, varies) == pytest.approx(loss_in_plain_units(varies), abs=0.05)


@given(
    seed=seeds,
    obs=st.lists(powers, min_size=OBS_DIM, max_size=OBS_DIM),
    rew=powers,
    offset=st.sampled_from([0.0, 1.0, 50.0]),
)
def test_statistics_are_in_the_units_of_the_data(seed, obs, rew, offset):
    data = random_transitions(20, seed=seed)
    # A dimension that varies by rounding alone does so in any units.
    plain = Transitions(
        torch.cat((data.obs[:, :2] + offset, 1 + 1e-7 * data.obs[:, 2:]), -1),
        data.act,
        data.rew + offset,
        torch.cat((data.obs_next[:, :2] + offset, 1 + 1e-7 * data.obs_next[:, 2:]), -1),
        data.terminated,
    )
    scale = torch.tensor(obs)
    models = []
    for each in (plain, in_units(plain, scale, rew)):
        models.append(ContextModel(OBS_DIM, ACT_DIM, 0, hidden_sizes=(4,)))
        models[-1].fit_normalization(each)
    first, second = models
    inputs = torch.cat((scale, torch.ones(ACT_DIM)))
    targets = torch.cat((torch.tensor([rew]), scale))
    torch.testing.assert_close(second.input_std, first.input_std * inputs, rtol=1e-3, atol=0)
    torch.testing.assert_close(second.target_std, first.target_std * targets, rtol=1e-3, atol=0)
    assert first.input_std[2] == pytest.approx(1)
    assert first.target_std[3] == pytest.approx(1)


def test_statistics_are_saved_and_restored():
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(8,))
    data = random_transitions(10, seed=3)
    model.fit_normalization(data)
    other = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(8,))
    other.load_state_dict(model.state_dict())
    context = torch.randn(CONTEXT_DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.loss(data, context), model.loss(data, context))
    assert torch.equal(other.target_std, model.target_std)


# Prediction ---------------------------------------------------------------------------------


@given(seed=seeds, varies=st.sampled_from(VARIES), tasks=st.integers(1, 3), batch=st.integers(1, 4))
def test_all_forms_of_a_context_agree(seed, varies, tasks, batch):
    model = random_model(varies=varies, seed=seed)
    data = random_transitions(tasks, batch, seed=seed, dtype=torch.float64)
    one_C = normal(CONTEXT_DIM, seed=seed)
    per_task_TC = one_C.expand(tasks, -1)
    per_transition_TBC = one_C.expand(tasks, batch, -1)
    predictions = [
        model(data.obs, data.act, context) for context in (one_C, per_task_TC, per_transition_TBC)
    ]
    for other in predictions[1:]:
        for mine, theirs in zip(predictions[0], other, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs)
    assert model.loss(data, one_C).shape == (tasks,)

    different_TC = normal(tasks, CONTEXT_DIM, seed=seed + 1)
    together = model.loss(data, different_TC)
    for task in range(tasks):
        torch.testing.assert_close(together[task], model.loss(data[task], different_TC[task]))
        torch.testing.assert_close(
            together[task], model.loss(data[task], different_TC[task].expand(batch, -1))
        )


def test_represents_a_network_trained_elsewhere():
    """Raw inputs, leaky ReLU of slope 0.2, output order reward, change, log-variances."""
    torch.manual_seed(0)
    foreign = nn.Sequential(
        nn.Linear(OBS_DIM + ACT_DIM + CONTEXT_DIM, 16),
        nn.LeakyReLU(0.2),
        nn.Linear(16, 16),
        nn.LeakyReLU(0.2),
        nn.Linear(16, 2 * (1 + OBS_DIM)),
    )
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(16, 16))
    weights = model.state_dict()
    for position, index in enumerate((0, 2, 4)):
        weights[f"layers.{position}.weight"] = foreign[index].weight
        weights[f"layers.{position}.bias"] = foreign[index].bias
    model.load_state_dict(weights)

    data = random_transitions(6)
    context = torch.tensor([0.4, -1.3])
    out = foreign(torch.cat((data.obs, data.act, context.expand(6, -1)), dim=1))
    rew_mean, delta_mean, rew_log_var, delta_log_var = out.split([1, OBS_DIM, 1, OBS_DIM], dim=1)

    def bounded(log_var):
        log_var = 0.5 - F.softplus(0.5 - log_var)
        return -10.0 + F.softplus(log_var + 10.0)

    prediction = model(data.obs, data.act, context)
    torch.testing.assert_close(prediction.rew_mean, rew_mean[:, 0])
    torch.testing.assert_close(prediction.delta_mean, delta_mean)
    torch.testing.assert_close(prediction.rew_log_var, bounded(rew_log_var[:, 0]))
    torch.testing.assert_close(prediction.delta_log_var, bounded(delta_log_var))
    rew, obs_next = model.mean(data.obs, data.act, context)
    torch.testing.assert_close(rew, rew_mean[:, 0])
    torch.testing.assert_close(obs_next, data.obs + delta_mean)


def test_samples_have_the_predicted_mean_and_spread():
    model = random_model()
    obs, act, context = normal(1, OBS_DIM), normal(1, ACT_DIM), normal(CONTEXT_DIM)
    rew_mean, rew_log_var, delta_mean, delta_log_var = model(obs, act, context)
    count = 20_000
    rew, obs_next = model.sample(
        obs.expand(count, -1),
        act.expand(count, -1),
        context,
        generator=torch.Generator().manual_seed(0),
    )
    for drawn, mean, log_var in (
        (rew[:, None], rew_mean, rew_log_var),
        (obs_next - obs, delta_mean[0], delta_log_var[0]),
    ):
        std = torch.exp(0.5 * log_var)
        # Five standard errors of a mean and of a standard deviation.
        assert bool(((drawn.mean(0) - mean).abs() < 5 * std / count**0.5).all())
        assert bool(((drawn.std(0) - std).abs() < 5 * std / (2 * count) ** 0.5).all())


@given(seed=seeds, varies=st.sampled_from(VARIES))
def test_the_generator_fixes_a_sample(seed, varies):
    model = random_model(varies=varies)
    data = random_transitions(4, dtype=torch.float64)

    def draw(number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        before = torch.get_rng_state()
        drawn = model.sample(
            data.obs,
            data.act,
            model.initial_context,
            generator=torch.Generator().manual_seed(number),
        )
        assert torch.equal(torch.get_rng_state(), before)
        return drawn

    first, again, other = draw(seed), draw(seed), draw(seed + 1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    if varies == "reward":
        assert first[1] is None
        assert model.mean(data.obs, data.act, model.initial_context)[1] is None
    else:
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[1], other[1])


@given(varies=st.sampled_from(VARIES), batch=st.integers(1, 5))
def test_without_a_context_it_is_an_ordinary_model(varies, batch):
    model = random_model(context_dim=0, varies=varies)
    data = random_transitions(2, batch, dtype=torch.float64)
    assert model.initial_context.shape == (0,)
    loss = model.loss(data, torch.zeros(2, 0, dtype=torch.float64))
    torch.testing.assert_close(loss, model.loss(data, model.initial_context))
    with torch.no_grad():
        model.layers[0].bias.add_(1.0)
    assert not torch.allclose(loss, model.loss(data, model.initial_context))


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "elu", "silu", "tanh"])
def test_activations_are_torchs(activation):
    modules = {
        "leaky_relu": nn.LeakyReLU(0.2),
        "relu": nn.ReLU(),
        "elu": nn.ELU(),
        "silu": nn.SiLU(),
        "tanh": nn.Tanh(),
    }
    model = random_model(activation=activation, context_dim=0)
    hidden = torch.cat((obs := normal(3, OBS_DIM), act := normal(3, ACT_DIM, seed=1)), 1)
    for position, layer in enumerate(model.layers):
        hidden = layer(modules[activation](hidden) if position else hidden)
    torch.testing.assert_close(model(obs, act, model.initial_context).rew_mean, hidden[:, 0])


class CostOfActions(ContextModel):
    """Knows a part of the reward beforehand, and learns the rest."""

    def forward(self, obs: torch.Tensor, act: torch.Tensor, context: torch.Tensor) -> Prediction:
        prediction = super().forward(obs, act, context)
        return prediction._replace(rew_mean=prediction.rew_mean - act.square().sum(-1))


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
@pytest.mark.parametrize("varies", VARIES)
def test_the_losses_of_a_subclass_are_those_of_its_own_prediction(varies, activation, steps):
    model, plain = (
        random_model(kind, varies=varies, activation=activation)
        for kind in (CostOfActions, ContextModel)
    )
    adaptation, evaluation = (random_transitions(3, 6, seed=s, dtype=torch.float64) for s in (1, 2))
    for each in (model, plain):
        each.fit_normalization(adaptation)
    meta = GradientContextAdapter(model, steps=steps, lr=0.1).meta_loss(adaptation, evaluation)
    rew_loss, state_loss = model.loss_terms(evaluation, meta.contexts)
    for loss in (model.loss(evaluation, meta.contexts), meta.evaluation_loss):
        torch.testing.assert_close(loss, rew_loss + state_loss)
    loss = model.loss_function(evaluation)(meta.contexts)
    torch.testing.assert_close(loss, rew_loss + state_loss)
    torch.testing.assert_close(meta.loss, (rew_loss + state_loss).mean() + model.bound_penalty())

    # The same weights without the known part say this of rewards that are without it.
    cost = evaluation.act.square().sum(-1)
    bare = dataclasses.replace(evaluation, rew=evaluation.rew + cost)
    torch.testing.assert_close(plain.loss(bare, meta.contexts), rew_loss + state_loss)
    assert not torch.allclose(plain.loss(evaluation, meta.contexts), rew_loss + state_loss)
    rew, obs_next = model.mean(evaluation.obs, evaluation.act, meta.contexts)
    plain_rew, plain_obs_next = plain.mean(evaluation.obs, evaluation.act, meta.contexts)
    torch.testing.assert_close(rew, plain_rew - cost)
    assert (obs_next is None) == (plain_obs_next is None)


# Construction, copies -----------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
def test_the_initial_context_is_a_parameter_only_if_learned(learned):
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, learn_initial_context=learned)
    assert ("initial_context" in dict(model.named_parameters())) == learned
    assert "initial_context" in model.state_dict()
    assert torch.equal(model.initial_context.detach(), torch.zeros(CONTEXT_DIM))
    fixed = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM)
    fixed.load_state_dict(model.state_dict())  # either kind reads the other's


def test_a_copy_is_independent():
    model = random_model()
    data = random_transitions(4, dtype=torch.float64)
    model.fit_normalization(data)
    twin = copy.deepcopy(model)
    loss = model.loss(data, model.initial_context).item()
    assert twin.loss(data, twin.initial_context).item() == loss
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.add_(1.0)
    assert model.loss(data, model.initial_context).item() == loss


def test_the_generator_fixes_the_initial_weights_and_is_the_only_one_drawn_from():
    def build(seed: int) -> ContextModel:
        return ContextModel(
            OBS_DIM, ACT_DIM, CONTEXT_DIM, generator=torch.Generator().manual_seed(seed)
        )

    before = torch.get_rng_state()
    first, again, other = build(0), build(0), build(1)
    assert torch.equal(first.layers[0].weight, again.layers[0].weight)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_are_xaviers():
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(100, 100))
    for layer in model.layers:
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.9 * limit < layer.weight.abs().max().item() <= limit
        assert not layer.bias.any()


# Errors -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs_dim": 0}, "obs_dim >= 1, got 0"),
        ({"act_dim": -1}, "act_dim >= 1, got -1"),
        ({"context_dim": -1}, "context_dim >= 0, got -1"),
        ({"obs_dim": 2.0}, "obs_dim >= 1 and whole, got 2.0"),
        ({"obs_dim": True}, "obs_dim >= 1 and whole, got True"),
        ({"hidden_sizes": (8, 0)}, r"hidden_sizes\[1\] >= 1, got 0"),
        ({"activation": "gelu"}, "activation in .*'leaky_relu'.* got 'gelu'"),
        ({"varies": "dynamics"}, "varies in .*'reward_and_dynamics'.* got 'dynamics'"),
    ],
)
def test_construction_names_the_argument_that_does_not_fit(change, message):
    arguments = {"obs_dim": OBS_DIM, "act_dim": ACT_DIM, "context_dim": CONTEXT_DIM, **change}
    with pytest.raises(ValueError, match=message):
        ContextModel(**arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("obs", "act", "context", "message"),
    [
        ((4, 2), (4, ACT_DIM), (CONTEXT_DIM,), r"obs of shape \(\.\.\., 3\), got \(4, 2\)"),
        ((4, OBS_DIM), (4, 5), (CONTEXT_DIM,), r"act of shape \(4, 2\), got \(4, 5\)"),
        ((4, OBS_DIM), (5, ACT_DIM), (CONTEXT_DIM,), r"act of shape \(4, 2\), got \(5, 2\)"),
        ((4, OBS_DIM), (4, ACT_DIM), (3,), r"context of shape \(2,\), got \(3,\)"),
        ((4, OBS_DIM), (4, ACT_DIM), (), r"context of shape \(4, 2\), got \(\)"),
        ((4, OBS_DIM), (4, ACT_DIM), (3, CONTEXT_DIM), r"context of shape \(4, 2\), got \(3, 2\)"),
        (
            (2, 4, OBS_DIM),
            (2, 4, ACT_DIM),
            (4, CONTEXT_DIM),
            r"context of shape \(2, 2\), got \(4, 2\)",
        ),
        ((4, OBS_DIM), (4, ACT_DIM), (1, 4, CONTEXT_DIM), r"got \(1, 4, 2\)"),
    ],
)
def test_a_call_names_the_argument_that_does_not_fit(obs, act, context, message):
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM, hidden_sizes=(4,))
    for method in (model, model.mean, model.sample):
        with pytest.raises(ValueError, match=message):
            method(torch.zeros(obs), torch.zeros(act), torch.zeros(context))


def test_fitting_statistics_names_what_does_not_fit():
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM)
    with pytest.raises(ValueError, match=r"obs of shape \(\.\.\., 3\)"):
        model.fit_normalization(random_transitions(4, obs_dim=5))
    with pytest.raises(ValueError, match="at least 2 transitions"):
        model.fit_normalization(random_transitions(1))
