import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.redq import REDQ
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha
from tianshou.algorithm.modelfree.td3 import TD3
from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactory
from tianshou.data import ReplayBuffer
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from mier_adapt import GradientContextAdapter, Transitions
from mier_adapt._storage.checkpoints import load_tree, save_tree
from mier_adapt._storage.randomness import (
    global_generator_state,
    seed_global_generators,
    set_global_generator_state,
)
from mier_adapt.integration import (
    ContextReplayBuffer,
    FastSAC,
    MixedReplayBuffer,
    algorithm_state,
    build_sac,
    load_algorithm_state,
    update,
)
from mier_adapt.integration.algorithms import (
    one_step_targets,
    restart_optimizers,
    set_lr,
)

from ..doubles import (
    ACT_DIM,
    ALGORITHMS,
    CONTEXT_DIM,
    OBS_DIM,
    assert_same_tree,
    built_sac,
    random_model,
    random_transitions,
    small_sac,
)

GAMMA = 0.99

each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_buffer = pytest.mark.parametrize("kind", ["contexts", "mixed"])


def context_replay(seed: int = 0) -> ContextReplayBuffer:
    buffer = ContextReplayBuffer(
        2,
        30,
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        context_dim=CONTEXT_DIM,
        generator=np.random.default_rng(seed),
    )
    for task in range(2):
        buffer.extend(task, random_transitions(25, seed=task), initial_context=True)
    buffer.set_contexts(np.arange(2), torch.tensor([[0.5, -1.0], [-0.7, 0.2]]))
    return buffer


def mixed_replay(seed: int = 0) -> MixedReplayBuffer:
    buffer = MixedReplayBuffer(
        10,
        40,
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        context=torch.tensor([0.5, -1.0]),
        real_fraction=0.25,
        generator=np.random.default_rng(seed),
    )
    buffer.extend_real(random_transitions(10))
    buffer.extend_synthetic(random_transitions(30, seed=1))
    return buffer


def replay(kind: str) -> ReplayBuffer:
    return context_replay() if kind == "contexts" else mixed_replay()


def returns(algorithm, buffer, indices) -> torch.Tensor:
    """The TD targets that an update on these transitions would fit the critics to."""
    seed_global_generators(0)
    with policy_within_training_step(algorithm.policy):
        batch = algorithm._preprocess_batch(buffer[indices], buffer, indices)
    return torch.as_tensor(batch.returns).flatten()


def tensors(algorithm) -> dict[str, torch.Tensor]:
    """Parameters and buffers, lagged networks included."""
    return {
        name: value.clone()
        for name, value in algorithm.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


# Stock algorithms on our buffers ------------------------------------------------------------


def test_the_doubles_are_stock_algorithms():
    assert [type(build()) for name, build in ALGORITHMS.items() if name != "build_sac"] == [
        SAC,
        TD3,
        REDQ,
    ]
    assert isinstance(built_sac(), SAC)


@each_algorithm
@each_buffer
def test_trains_from_the_buffer_through_its_own_update(name, kind):
    seed_global_generators(0)
    algorithm, buffer = ALGORITHMS[name](), replay(kind)
    before = tensors(algorithm)
    for _ in range(6):
        losses = update(algorithm, buffer, 16)
        assert losses
        assert all(np.isfinite(loss) for loss in losses.values())
    assert not algorithm.policy.is_within_training_step
    after = tensors(algorithm)
    unchanged = [key for key in before if torch.equal(before[key], after[key])]
    assert unchanged == []


@each_algorithm
@each_buffer
def test_targets_are_made_of_the_buffers_rewards(name, kind):
    """Relabeling the buffer moves every TD target by exactly the change of its reward."""
    seed_global_generators(1)
    algorithm, buffer = ALGORITHMS[name](), replay(kind)
    for _ in range(3):
        update(algorithm, buffer, 16)
    _, indices = buffer.sample(20)
    assert buffer.terminated[indices].any()
    assert not buffer.terminated[indices].all()
    before = returns(algorithm, buffer, indices)

    seed_global_generators(0)
    with policy_within_training_step(algorithm.policy), torch.no_grad():
        # Tianshou's own target, from the lagged networks on the buffer's next observations.
        target = algorithm._target_q(buffer, indices).flatten()
    going_on = torch.as_tensor(~buffer.terminated[indices])
    expected = torch.as_tensor(buffer.rew[indices]) + GAMMA * going_on * target
    torch.testing.assert_close(before.double(), expected.double(), rtol=1e-5, atol=1e-5)

    change = np.zeros(len(buffer.rew))
    change[indices] = np.random.default_rng(0).normal(size=len(indices))
    buffer.rew[:] = buffer.rew + change
    moved = returns(algorithm, buffer, indices) - before
    torch.testing.assert_close(
        moved.double(), torch.as_tensor(change[indices]), rtol=1e-4, atol=1e-5
    )


@each_algorithm
def test_targets_see_the_context_of_the_moment(name):
    seed_global_generators(1)
    algorithm, buffer = ALGORITHMS[name](), context_replay()
    _, indices = buffer.sample(20)
    before = returns(algorithm, buffer, indices)
    buffer.set_contexts(np.array([1]), torch.tensor([[3.0, -2.0]]))
    after = returns(algorithm, buffer, indices)
    sees_it = (indices >= 30) & ~buffer.terminated[indices]
    assert sees_it.any()
    np.testing.assert_array_equal((before != after).numpy(), sees_it)


# Gradients ----------------------------------------------------------------------------------

PARTS = {
    "build_sac": ("policy", "critic", "critic2", "alpha"),
    "SAC": ("policy", "critic", "critic2", "alpha"),
    "TD3": ("policy", "critic", "critic2"),
    "REDQ": ("policy", "critic", "alpha"),
}


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, parts in PARTS.items() for part in parts]
)
def test_each_loss_moves_its_own_parameters_and_no_others(name, part):
    seed_global_generators(0)
    algorithm, buffer = ALGORITHMS[name](), context_replay()
    optimizers = {
        key: getattr(algorithm, key)._optim
        if key == "alpha"
        else getattr(algorithm, f"{key}_optim")
        for key in PARTS[name]
    }
    for key, optimizer in optimizers.items():
        for group in getattr(optimizer, "_optim", optimizer).param_groups:
            group["lr"] = 0.1 if key == part else 0.0

    def trained() -> dict[str, torch.Tensor]:
        return {key: value for key, value in tensors(algorithm).items() if "_old." not in key}

    before = trained()
    for _ in range(3):  # REDQ moves its actor with every third update
        update(algorithm, buffer, 16)
    after = trained()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith(f"{part}.")} != set()


@each_algorithm
def test_no_gradient_passes_between_the_model_and_the_algorithm(name):
    seed_global_generators(0)
    algorithm, buffer = ALGORITHMS[name](), context_replay()
    model = random_model(learn_initial_context=True).float()
    adapter = GradientContextAdapter(model)
    tasks = np.arange(2)
    sets = [
        buffer.sample_transitions(tasks, 8, adaptation=adaptation) for adaptation in (True, False)
    ]
    before = tensors(algorithm)
    meta = adapter.meta_loss(*sets)
    meta.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in algorithm.parameters())
    assert_same_tree(tensors(algorithm), before)

    model.zero_grad()
    weights = copy.deepcopy(dict(model.state_dict()))
    buffer.set_contexts(tasks, meta.contexts)
    for _ in range(3):
        update(algorithm, buffer, 16)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert_same_tree(dict(model.state_dict()), weights)


# All of an algorithm's state ----------------------------------------------------------------


@each_algorithm
@pytest.mark.parametrize(("done", "elsewhere"), [(0, 0), (0, 3), (5, 0), (5, 3)])
def test_a_restored_algorithm_goes_on_bit_for_bit(name, done, elsewhere, tmp_path):
    seed_global_generators(3)
    algorithm, buffer = ALGORITHMS[name](), context_replay()
    for _ in range(done):  # five: in the middle of TD3's and REDQ's delays
        update(algorithm, buffer, 16)
    save_tree(
        tmp_path / "state",
        {
            "algorithm": algorithm_state(algorithm),
            "buffer": buffer.state(),
            "generator": buffer.generator.bit_generator.state,
            "global": global_generator_state(),
        },
    )
    losses = [update(algorithm, buffer, 16) for _ in range(7)]

    seed_global_generators(99)
    fresh, fresh_buffer = ALGORITHMS[name](), context_replay(seed=99)
    fresh_buffer.extend(0, random_transitions(7, seed=9))
    for _ in range(elsewhere):  # whatever it did before is gone
        update(fresh, fresh_buffer, 16)
    state = load_tree(tmp_path / "state")
    load_algorithm_state(fresh, state["algorithm"])
    fresh_buffer.load_state(state["buffer"])
    fresh_buffer.generator.bit_generator.state = state["generator"]
    set_global_generator_state(state["global"])
    assert [update(fresh, fresh_buffer, 16) for _ in range(7)] == losses
    assert_same_tree(algorithm_state(fresh), algorithm_state(algorithm))


OBS_SCALE = torch.arange(1.0, OBS_DIM + 1)


def fast_sac(*, scaled: bool = False) -> FastSAC:
    algorithm = built_sac(algorithm_class=FastSAC)
    if scaled:
        algorithm.scale_obs(OBS_SCALE)
        algorithm.scale_rewards(0.1)
    return algorithm


@pytest.mark.parametrize("scaled_elsewhere", [False, True])
def test_a_restored_algorithm_goes_on_scaling_what_it_learns_from(scaled_elsewhere, tmp_path):
    seed_global_generators(3)
    algorithm, losses = fast_sac(scaled=True), []
    update(algorithm, context_replay(), 16)
    save_tree(tmp_path / "state", algorithm_state(algorithm))
    fresh = fast_sac(scaled=scaled_elsewhere)
    load_algorithm_state(fresh, load_tree(tmp_path / "state"))
    for each in (algorithm, fresh):
        seed_global_generators(4)
        buffer = context_replay()
        losses.append([update(each, buffer, 16) for _ in range(5)])
    assert losses[0] == losses[1]
    assert_same_tree(algorithm_state(fresh), algorithm_state(algorithm))


def test_a_state_without_scales_is_learned_from_as_it_is():
    plain, scaled = fast_sac(), fast_sac(scaled=True)
    assert "scales" not in algorithm_state(plain)  # as files have always been
    load_algorithm_state(scaled, algorithm_state(plain))
    assert (scaled.obs_scale, scaled.reward_scale) == (None, 1.0)


@pytest.mark.parametrize(
    "scales",
    [
        None,
        {"obs_scale": None},
        {"obs_scale": [1.0] * OBS_DIM, "reward_scale": 0.1},
        {"obs_scale": torch.ones(0), "reward_scale": 0.1},
        {"obs_scale": torch.ones(OBS_DIM + CONTEXT_DIM + 1), "reward_scale": 0.1},
        {"obs_scale": torch.ones(1, OBS_DIM), "reward_scale": 0.1},
        {"obs_scale": torch.ones(OBS_DIM, dtype=torch.int64), "reward_scale": 0.1},
        {"obs_scale": torch.tensor([1.0, -1.0]), "reward_scale": 0.1},
        {"obs_scale": torch.tensor([1.0, math.nan]), "reward_scale": 0.1},
        {"obs_scale": None, "reward_scale": 0.0},
        {"obs_scale": None, "reward_scale": math.inf},
        {"obs_scale": None, "reward_scale": "1"},
    ],
    ids=str,
)
def test_scales_that_nothing_can_be_scaled_by_are_refused_and_change_nothing(scales):
    algorithm = fast_sac(scaled=True)
    before = copy.deepcopy(algorithm_state(algorithm))
    with pytest.raises(ValueError, match=r"load_algorithm_state expected .* differs: scales"):
        load_algorithm_state(algorithm, {**before, "scales": scales})
    assert_same_tree(algorithm_state(algorithm), before)


def test_an_algorithm_that_cannot_scale_refuses_a_state_with_scales():
    with pytest.raises(ValueError, match=r"scales \(unexpected\)"):
        load_algorithm_state(built_sac(), algorithm_state(fast_sac(scaled=True)))


@each_algorithm
def test_loading_leaves_the_given_state_alone(name):
    algorithm = ALGORITHMS[name]()
    update(algorithm, context_replay(), 16)
    state = copy.deepcopy(algorithm_state(algorithm))
    keys = {part: set(value) for part, value in state.items()}
    for _ in range(2):
        load_algorithm_state(ALGORITHMS[name](), state)
    assert {part: set(value) for part, value in state.items()} == keys


def test_a_state_of_another_algorithm_is_refused_and_changes_nothing():
    states = {name: algorithm_state(build()) for name, build in ALGORITHMS.items()}
    for name, build in ALGORITHMS.items():
        algorithm = build()
        before = tensors(algorithm)
        for other, state in states.items():
            if {name, other} == {"SAC", "build_sac"} or name == other:
                continue
            with pytest.raises(ValueError, match=f"state of a {type(algorithm).__name__} built"):
                load_algorithm_state(algorithm, state)
        with pytest.raises(ValueError, match=r"expected .*\(8, 5\), got .*\(8, 6\)"):
            load_algorithm_state(algorithm, algorithm_state(build(context_dim=CONTEXT_DIM + 1)))
        assert_same_tree(tensors(algorithm), before)


# Learning-rate schedules --------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "StepLR": lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5),
    "MultiStepLR": lambda optimizer: MultiStepLR(optimizer, [2, 6, 9], gamma=0.5),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, T_max=20),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=40),
    "SequentialLR": lambda optimizer: SequentialLR(
        optimizer, [StepLR(optimizer, 2), MultiStepLR(optimizer, [3, 5])], [4]
    ),
}

# Of SequentialLR's own making.
quiet_schedulers = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


class Schedule(LRSchedulerFactory):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def create_scheduler(self, optim):
        return SCHEDULERS[self.kind](optim)


def scheduled(kind: str) -> SAC:
    """A SAC whose actor and critics have schedules of stock Tianshou's kind."""
    parts, lr = small_sac(), 1e-2
    factories = [
        AdamOptimizerFactory(lr=lr).with_lr_scheduler_factory(Schedule(kind)) for _ in range(2)
    ]
    algorithm = SAC(
        policy=parts.policy,
        policy_optim=factories[0],
        critic=parts.critic,
        critic_optim=factories[1],
        critic2=parts.critic2,
        alpha=AutoAlpha(-1.0, 0.0, AdamOptimizerFactory(lr=lr)),
    )
    assert len(algorithm.lr_schedulers) == 3
    return algorithm


def step_sizes(algorithm) -> list[float]:
    return [
        group["lr"]
        for optimizer in algorithm._optimizers
        for group in optimizer._optim.param_groups
    ]


@quiet_schedulers
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedules_go_on_where_they_were(kind, tmp_path):
    seed_global_generators(3)
    algorithm, buffer = scheduled(kind), context_replay()
    for _ in range(5):
        update(algorithm, buffer, 16)
    given = algorithm_state(algorithm)
    save_tree(tmp_path / "state", {"algorithm": given, "global": global_generator_state()})
    torch.save(given, tmp_path / "torch")
    draws = copy.deepcopy(buffer.generator.bit_generator.state)
    sizes, losses = [], []
    for _ in range(7):
        losses.append(update(algorithm, buffer, 16))
        sizes.append(step_sizes(algorithm))
    assert len({each[0] for each in sizes}) > 1
    tree = load_tree(tmp_path / "state")
    for state in (tree["algorithm"], torch.load(tmp_path / "torch", weights_only=True)):
        seed_global_generators(99)
        fresh = scheduled(kind)
        for _ in range(2):
            update(fresh, context_replay(), 16)
        before = copy.deepcopy(state)
        load_algorithm_state(fresh, state)
        assert_same_tree(state, before)
        buffer.generator.bit_generator.state = draws
        set_global_generator_state(tree["global"])
        for size, loss in zip(sizes, losses, strict=True):
            assert update(fresh, buffer, 16) == loss
            assert step_sizes(fresh) == size


def test_a_state_with_other_schedules_is_refused_and_changes_nothing():
    states = {kind: algorithm_state(scheduled(kind)) for kind in ("StepLR", "LambdaLR")}
    states["none"] = algorithm_state(small_sac())
    assert "lr_schedulers" not in states["none"]  # as files without schedules have always been
    for algorithm, others in (
        (scheduled("StepLR"), ("LambdaLR", "none")),
        (small_sac(), ("StepLR",)),
    ):
        before = copy.deepcopy(algorithm_state(algorithm))
        for other in others:
            with pytest.raises(ValueError, match=r"load_algorithm_state expected .* differs"):
                load_algorithm_state(algorithm, states[other])
        assert_same_tree(algorithm_state(algorithm), before)


@quiet_schedulers
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize(("actor_lr", "critic_lr"), [(3e-4, 1e-4), (0.0, 3e-4)])
def test_a_restarted_copy_steps_as_it_is_asked_to(kind, actor_lr, critic_lr):
    algorithm, buffer = scheduled(kind), context_replay()
    for _ in range(3):
        update(algorithm, buffer, 16)
    before = copy.deepcopy(algorithm_state(algorithm))
    adapted = copy.deepcopy(algorithm)
    restart_optimizers(adapted, actor_lr=actor_lr, critic_lr=critic_lr)
    weights = tensors(adapted)
    for _ in range(4):
        update(adapted, buffer, 16)
        assert step_sizes(adapted) == [actor_lr, critic_lr, critic_lr]
    after = tensors(adapted)
    actor = [name for name in weights if name.startswith("policy.actor")]
    assert all(torch.equal(weights[name], after[name]) for name in actor) == (actor_lr == 0)
    # The caller's own goes on as it was.
    assert len(algorithm.lr_schedulers) == 3
    assert_same_tree(algorithm_state(algorithm), before)
    update(algorithm, buffer, 16)
    epochs = [each["last_epoch"] for each in algorithm_state(algorithm)["lr_schedulers"]]
    assert epochs == [4, 4, 4]


# build_sac ----------------------------------------------------------------------------------


def box(dim: int, low: float = -1.0, high: float = 1.0) -> spaces.Box:
    return spaces.Box(low, high, (dim,), np.float32)


def test_builds_a_sac_that_sees_observation_and_context():
    algorithm = build_sac(
        box(OBS_DIM),
        box(ACT_DIM, -3.0, 5.0),
        4,
        hidden_sizes=(8, 6),
        lr=1e-4,
        gamma=0.9,
        tau=0.1,
        target_entropy=-2.5,
    )
    assert isinstance(algorithm, SAC)
    widths = [
        [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)]
        for network in (algorithm.policy.actor, algorithm.critic, algorithm.critic2)
    ]
    assert widths == [[8, 6, ACT_DIM, ACT_DIM], [8, 6, 1], [8, 6, 1]]
    first = next(algorithm.policy.actor.parameters())
    assert first.shape == (8, OBS_DIM + 4)
    assert algorithm.critic is not algorithm.critic2
    assert not torch.equal(
        next(algorithm.critic.parameters()), next(algorithm.critic2.parameters())
    )
    assert (algorithm.gamma, algorithm.tau) == (0.9, 0.1)
    assert isinstance(algorithm.alpha, AutoAlpha)
    assert algorithm.alpha.value == 1.0
    assert algorithm.alpha._target_entropy == -2.5
    for optimizer in (algorithm.policy_optim, algorithm.critic_optim, algorithm.critic2_optim):
        assert [group["lr"] for group in optimizer._optim.param_groups] == [1e-4]
    np.testing.assert_allclose(algorithm.policy.map_action(np.array([[-1.0, 1.0]])), [[-3.0, 5.0]])


@pytest.mark.parametrize("temperature", [0.01, 1.0, 20.0])
def test_the_temperature_starts_where_it_is_told_to_and_learns_from_there(temperature):
    algorithm = build_sac(
        box(OBS_DIM), box(ACT_DIM), CONTEXT_DIM, hidden_sizes=(8,), temperature=temperature
    )
    assert algorithm.alpha.value == pytest.approx(temperature)
    update(algorithm, context_replay(), 16)
    assert algorithm.alpha.value != pytest.approx(temperature, rel=1e-6)
    assert algorithm.alpha.value == pytest.approx(temperature, rel=0.1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("observation", "action", "options", "error", "message"),
    [
        (None, box(2), {}, TypeError, "observation_space to be of type Space, got None"),
        (spaces.Discrete(3), box(2), {}, ValueError, r"observation_space .*Discrete\(3\).*Flatten"),
        (spaces.Dict(a=box(2)), box(2), {}, ValueError, "observation_space .* a Dict, .*Flatten"),
        (box(2), spaces.Discrete(3), {}, ValueError, "action_space .* Discrete, .*TransformAction"),
        (spaces.Box(-1, 1, (2, 2)), box(2), {}, ValueError, "observation_space to be a Box of one"),
        (box(2), spaces.Box(-1, 1, (2, 2)), {}, ValueError, "action_space to be a Box of one"),
        (box(2), box(2), {"context_dim": -1}, ValueError, "context_dim >= 0, got -1"),
        (box(2), box(2), {"hidden_sizes": (8, 0)}, ValueError, r"hidden_sizes\[1\] >= 1, got 0"),
        (box(2), box(2), {"temperature": 0.0}, ValueError, "temperature > 0, got 0.0"),
        (box(2), box(2), {"gamma": 1.5}, ValueError, "gamma > 0 and <= 1, got 1.5"),
        (box(2), box(2), {"device": "gpu"}, ValueError, "device to be one of this machine's"),
        (box(2), box(2), {"algorithm_class": TD3}, TypeError, "algorithm_class to be a .*SAC"),
    ],
)
def test_build_sac_names_the_argument_that_does_not_fit(
    observation, action, options, error, message
):
    with pytest.raises(error, match=f"build_sac expected {message}"):
        build_sac(observation, action, **{"context_dim": 0, **options})


def test_step_sizes_are_set_for_every_optimizer():
    algorithm = built_sac()
    set_lr(algorithm, 0.5)
    state = algorithm_state(algorithm)
    optimizers = state["algorithm"][algorithm._STATE_DICT_KEY_OPTIMIZERS]
    groups = [each["param_groups"] for each in (*optimizers, state["alpha_optimizer"])]
    assert [[group["lr"] for group in each] for each in groups] == [[0.5]] * 4


def test_restarted_optimizers_forget_and_the_temperature_is_fixed():
    seed_global_generators(0)
    algorithm, buffer = built_sac(), context_replay()
    for _ in range(5):
        update(algorithm, buffer, 16)
    before, temperature = tensors(algorithm), algorithm.alpha.value
    assert temperature != 1.0
    for actor_lr, critic_lr in ((0.5, 0.25), (1e-4, 3e-4)):  # again, too
        restart_optimizers(algorithm, actor_lr=actor_lr, critic_lr=critic_lr)
        for optimizer, lr in (
            (algorithm.policy_optim, actor_lr),
            (algorithm.critic_optim, critic_lr),
            (algorithm.critic2_optim, critic_lr),
        ):
            assert not optimizer._optim.state
            assert [group["lr"] for group in optimizer._optim.param_groups] == [lr]
    after = tensors(algorithm)
    assert_same_tree(after, {key: before[key] for key in after})
    assert {key for key in before if key not in after} == {"alpha._log_alpha"}
    stats = update(algorithm, buffer, 16)
    assert stats["alpha"] == algorithm.alpha.value == temperature


def test_a_temperature_that_was_learned_may_be_learned_on():
    seed_global_generators(0)
    algorithm, buffer = built_sac(), context_replay()
    for _ in range(5):
        update(algorithm, buffer, 16)
    temperature, optimizer = algorithm.alpha.value, algorithm.alpha._optim
    (before,) = [group["lr"] for group in optimizer.param_groups]
    restart_optimizers(algorithm, actor_lr=0.5, critic_lr=0.25, learn_temperature=True)
    assert algorithm.alpha.value == temperature
    assert not optimizer.state
    update(algorithm, buffer, 16)
    step = abs(math.log(algorithm.alpha.value / temperature))
    assert step == pytest.approx(before, rel=1e-3)
    fixed = small_sac(alpha=0.3)
    restart_optimizers(fixed, actor_lr=0.5, critic_lr=0.25, learn_temperature=True)
    assert fixed.alpha.value == 0.3


def test_targets_of_several_steps_look_one_step_ahead_where_rows_have_no_successors():
    """Every reward is 10 and critics are zero: the targets say how many of them they sum up."""
    algorithm = small_sac(n_step_return_horizon=3, gamma=1.0, alpha=0.0)
    with torch.no_grad():
        for critic in (algorithm.critic_old, algorithm.critic2_old):
            for parameter in critic.parameters():
                parameter.zero_()
    buffer = mixed_replay()
    data = random_transitions(40, seed=1)
    buffer.extend_synthetic(
        dataclasses.replace(
            data,
            rew=torch.full_like(data.rew, 10.0),
            terminated=torch.zeros_like(data.terminated),
        )
    )
    first = int(buffer._offset[1])
    indices = np.arange(first, first + 20)  # before the newest
    three = returns(algorithm, buffer, indices)
    torch.testing.assert_close(three, torch.full_like(three, 30.0))
    with one_step_targets(algorithm):
        assert algorithm.n_step_return_horizon == 1
        one = returns(algorithm, buffer, indices)
        torch.testing.assert_close(one, torch.full_like(one, 10.0))
        losses = update(algorithm, buffer, 16)
        assert all(np.isfinite(loss) for loss in losses.values())
    assert algorithm.n_step_return_horizon == 3
    with pytest.raises(KeyError), one_step_targets(algorithm):
        raise KeyError
    assert algorithm.n_step_return_horizon == 3


def test_an_update_reports_its_losses_by_name():
    losses = update(built_sac(), context_replay(), 16)
    assert {"actor_loss", "critic1_loss", "critic2_loss", "alpha", "alpha_loss"} <= set(losses)
    assert all(isinstance(value, float) for value in losses.values())


def test_relabeled_rewards_reach_the_critics():
    """Two equal algorithms part ways as soon as one's synthetic rewards are relabeled."""
    twins = []
    for shift in (0.0, 50.0):
        seed_global_generators(0)
        algorithm, buffer = built_sac(), mixed_replay()
        data = random_transitions(30, seed=1)
        buffer.extend_synthetic(
            Transitions(data.obs, data.act, data.rew + shift, data.obs_next, data.terminated)
        )
        twins.append([update(algorithm, buffer, 16)["critic1_loss"] for _ in range(3)])
    assert twins[1][0] > twins[0][0] + 100
