import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import Transitions
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.agents import FamilyEnvs, evaluate, load_run
from mier_adapt.agents.run_file import OtherMethodError
from mier_adapt.baselines import Pearl, PearlConfig
from mier_adapt.baselines import runs as runs_module
from mier_adapt.baselines.pearl import (
    Encoder,
    LatentActor,
    PearlNetworks,
    PearlTrainer,
    actor_loss,
    critic_loss,
    draw_latent,
    kl_from_unit,
    product_of_gaussians,
)
from mier_adapt.baselines.runs import descend
from mier_adapt.protocols import Actor, MetaPolicy, Method
from mier_adapt.training import meta_train
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import (
    ACT_DIM,
    OBS_DIM,
    assert_same_tree,
    random_transitions,
    tiny_config,
)
from .lever import BLIND_RETURN, EPISODE, SEEDS, LeverVectorEnv, Spaces


def lever_config(**changes) -> PearlConfig:
    values = {
        "family": "Lever",
        "updates": 300,
        "updates_per_iteration": 20,
        "tasks_per_iteration": 6,
        "initial_episodes": 4,
        "episode_steps": EPISODE,
        "latent_dim": 2,
        "encoder_hidden_sizes": (16,),
        "hidden_sizes": (32,),
        "tasks_per_batch": 6,
        "batch_size": 16,
        "context_size": 8,
        "lr": 3e-3,
        "gamma": 0.1,
        "replay_per_task": 1000,
        "evaluate_every": 100,
        "evaluated_tasks": 2,
    }
    return PearlConfig(**{**values, **changes})


SMALL = PearlConfig(
    family="HalfCheetahVel",
    latent_dim=3,
    encoder_hidden_sizes=(8,),
    hidden_sizes=(8, 8),
    gamma=0.9,
    reward_scale=2.0,
)


def small_networks(seed: int = 0, **changes) -> PearlNetworks:
    torch.manual_seed(seed)
    return PearlNetworks(dataclasses.replace(SMALL, **changes), Spaces())


# Inference ----------------------------------------------------------------------------------


def test_a_product_of_gaussians_by_hand():
    """N(1, 1) N(4, 1/2): the precisions 1 and 2 add up to 3, and (1 * 1 + 4 * 2) / 3 = 3."""
    mean, var = product_of_gaussians(torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(mean, torch.tensor([3.0]))
    torch.testing.assert_close(var, torch.tensor([1 / 3]))


@given(st.integers(0, 10**6), st.integers(1, 7))
def test_a_product_of_gaussians_has_the_product_of_their_densities(seed, factors):
    """Up to a constant, so differences of log-densities are those of the sums."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(2, factors, 3, generator=generator, dtype=torch.float64)
    var = torch.rand(2, factors, 3, generator=generator, dtype=torch.float64) + 0.05
    where = torch.randn(5, 2, 1, 3, generator=generator, dtype=torch.float64)
    summed = torch.distributions.Normal(mean, var.sqrt()).log_prob(where).sum(-2)
    one_mean, one_var = product_of_gaussians(mean, var)
    one = torch.distributions.Normal(one_mean, one_var.sqrt()).log_prob(where.squeeze(-2))
    torch.testing.assert_close(one - one[0], summed - summed[0])


def test_the_divergence_from_the_unit_gaussian():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    var = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, var.sqrt()), normal(torch.zeros_like(mean), torch.ones_like(var))
    )
    torch.testing.assert_close(kl_from_unit(mean, var), expected.sum(-1))
    # By hand: (2 + 9 - 1 - log 2) / 2.
    one = kl_from_unit(torch.tensor([3.0]), torch.tensor([2.0]))
    assert float(one) == pytest.approx((10 - math.log(2)) / 2)
    assert float(kl_from_unit(torch.zeros(3), torch.ones(3))) == 0.0


def test_a_drawn_latent_has_its_moments_and_passes_gradients():
    torch.manual_seed(0)
    mean = torch.tensor([2.0, -1.0], requires_grad=True)
    var = torch.tensor([0.25, 4.0], requires_grad=True)
    drawn = draw_latent(mean.expand(200_000, 2), var.expand(200_000, 2))
    torch.testing.assert_close(drawn.mean(0), mean.detach(), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.var(0), var.detach(), atol=0.0, rtol=0.05)
    drawn.square().mean(0).sum().backward()  # E z^2 = mean^2 + var
    torch.testing.assert_close(mean.grad, 2 * mean.detach(), atol=0.1, rtol=0)
    torch.testing.assert_close(var.grad, torch.ones(2), atol=0.05, rtol=0)


@pytest.mark.parametrize("next_obs", [False, True])
def test_the_posterior_knows_no_order_and_no_other_task(next_obs):
    torch.manual_seed(0)
    dim = OBS_DIM * (1 + next_obs) + ACT_DIM + 1
    encoder = Encoder(dim, 4, hidden_sizes=(8, 8), next_obs=next_obs)
    context = random_transitions(3, 10)
    both = torch.stack(encoder(context))
    order = torch.randperm(10)
    shuffled = Transitions.stack([context[task][order] for task in range(3)])
    torch.testing.assert_close(torch.stack(encoder(shuffled)), both)
    for task in range(3):
        alone = torch.stack(encoder(context[task : task + 1]))
        torch.testing.assert_close(alone[:, 0], both[:, task])
    fewer = encoder(Transitions.stack([context[task][:5] for task in range(3)]))
    assert (both[1] < fewer[1]).all()  # more transitions, less doubt
    moved = dataclasses.replace(context, obs_next=context.obs_next + 1)
    assert torch.equal(torch.stack(encoder(moved)), both) != next_obs


# Losses -------------------------------------------------------------------------------------


def reached(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


@pytest.fixture
def inferred():
    """Networks, a batch, and a latent with its graph."""
    networks = small_networks()
    latent = draw_latent(*networks.encoder(random_transitions(3, 10)))
    return networks, random_transitions(3, 7, seed=1), latent


def test_the_critics_loss_teaches_the_encoder(inferred):
    networks, batch, latent = inferred
    critic_loss(networks, batch, latent, SMALL).backward()
    assert reached(networks.encoder)
    assert all(reached(critic) for critic in networks.critics)
    assert not reached(networks.policy)
    assert not reached(networks.target_critics)


def test_the_actors_loss_does_not(inferred):
    networks, batch, latent = inferred
    actor_loss(networks, batch, latent)[0].backward()
    assert reached(networks.policy)
    assert not reached(networks.encoder)


def test_a_step_of_the_actor_moves_it_alone(lever):
    with FamilyEnvs(lever) as envs:
        trainer = PearlTrainer(lever_config(), envs, seed=0)
        trainer.step()
        networks, before = trainer.networks, {}
        batch = trainer.replay.sample_transitions(np.arange(3), 5, adaptation=False)
        for name, parameter in networks.named_parameters():
            before[name] = parameter.detach().clone()
        latent = draw_latent(*networks.encoder(batch))
        descend(trainer.optimizers["actor"], actor_loss(networks, batch, latent)[0])
        moved = {n for n, p in networks.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("policy.") for name in moved)


def test_the_critics_loss_is_that_of_two_regressions():
    """Added up transition by transition, some of which end their episodes."""
    networks = small_networks()
    batch = random_transitions(2, 6)
    terminated = torch.arange(12).reshape(2, 6) % 2 == 0
    batch = dataclasses.replace(batch, terminated=terminated)
    latent = torch.randn(2, 3)
    torch.manual_seed(5)
    loss = critic_loss(networks, batch, latent, SMALL)

    networks.requires_grad_(False)
    total = 0.0
    torch.manual_seed(5)
    rows = [torch.cat((batch.obs_next[t, b], latent[t])) for t in range(2) for b in range(6)]
    action, log_prob = networks.sample(torch.stack(rows))
    for row in range(12):
        t, b = divmod(row, 6)
        after = [critic(rows[row][None], action[row][None]) for critic in networks.target_critics]
        value = 0.0 if terminated[t, b] else min(map(float, after)) - float(log_prob[row])
        target = 2.0 * float(batch.rew[t, b]) + 0.9 * value
        now = torch.cat((batch.obs[t, b], latent[t]))[None]
        for critic in networks.critics:
            total += (float(critic(now, batch.act[t, b][None])) - target) ** 2 / 12
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)


def test_log_probabilities_are_those_of_a_squashed_gaussian():
    networks, inputs = small_networks(), torch.randn(50, OBS_DIM + 3)
    torch.manual_seed(3)
    action, log_prob = networks.sample(inputs)
    (loc, scale), _ = networks.policy.actor(inputs)
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(loc.double(), scale.double()),
        torch.distributions.TanhTransform(),
    )
    expected = squashed.log_prob(action.double()).sum(-1)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-3, atol=1e-3)


# Acting -------------------------------------------------------------------------------------


def test_every_episode_has_a_latent_of_its_own(inferred):
    networks, *_ = inferred
    actor = LatentActor(networks.policy, torch.zeros(2, 3), torch.ones(2, 3))
    assert isinstance(actor, Actor)
    obs = np.zeros((6, OBS_DIM))
    first = actor.act(obs, explore=False)
    assert len(np.unique(first, axis=0)) == 6
    np.testing.assert_array_equal(actor.act(obs, explore=False), first)
    starting = np.array([True, False, False, True, False, False])
    actor.start_episodes(starting)
    second = actor.act(obs, explore=False)
    assert ((second != first).any(-1) == starting).all()
    assert not np.array_equal(actor.act(obs, explore=True), second)


def test_latents_are_drawn_around_each_tasks_own_mean(inferred):
    networks, *_ = inferred
    mean = torch.tensor([[5.0, 5.0, 5.0], [-5.0, -5.0, -5.0]])
    actor = LatentActor(networks.policy, mean, torch.full((2, 3), 1e-4))
    actor.start_episodes(np.ones(6, dtype=bool))
    np.testing.assert_allclose(actor._latents, mean.repeat_interleave(3, 0), atol=0.1)


# Meta-training ------------------------------------------------------------------------------


def train(config: PearlConfig, tasks, *, seed: int = 0, cut_off: bool = False) -> float:
    """What a new agent returns on new tasks that it has met; "cut off", it saw nothing of them."""
    with FamilyEnvs(tasks) as envs:
        trainer = PearlTrainer(config, envs, seed=seed)
        if cut_off:
            trainer.networks.encoder.layers.register_forward_pre_hook(
                lambda module, inputs: (torch.zeros_like(inputs[0]),)
            )
        while not trainer.finished:
            trainer.step()
        LeverVectorEnv.seen.clear()
        evaluations = evaluate(
            trainer.policy, envs, tasks.meta_test, seed=1, adaptation_steps=8, episode_steps=EPISODE
        )
    return float(np.mean([each.returns_adapted for each in evaluations]))


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_what_cannot_be_done_without_knowing_the_task(lever, seed):
    assert train(lever_config(), lever, seed=seed) > BLIND_RETURN + 0.7 * (EPISODE - BLIND_RETURN)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_its_encoder_it_does_not(lever, seed):
    blind = train(lever_config(), lever, seed=seed, cut_off=True)
    assert blind < BLIND_RETURN + 0.2 * (EPISODE - BLIND_RETURN)


def test_meta_training_never_runs_a_meta_test_task(lever):
    with FamilyEnvs(lever) as envs:
        trainer = PearlTrainer(lever_config(updates=40, evaluate_every=1), envs, seed=0)
        while not trainer.finished:
            trainer.step()
    assert LeverVectorEnv.seen == set(lever.meta_train)
    assert not LeverVectorEnv.seen & set(lever.meta_test)


@pytest.mark.parametrize("posterior_episodes", [0, 3])
def test_the_encoder_sees_what_was_gathered_last_for_it_and_nothing_else(
    lever, monkeypatch, posterior_episodes
):
    """Rewards are replaced by the number of the collection that they come from."""
    calls = []

    def numbered(*arguments, **options):
        rollouts = collect_episodes(*arguments, **options)
        calls.append(arguments[2])
        for rollout in rollouts:
            rollout.transitions.rew.fill_(len(calls))
        return rollouts

    collect_episodes = runs_module.collect_episodes
    monkeypatch.setattr(runs_module, "collect_episodes", numbered)
    config = lever_config(updates=3, updates_per_iteration=1, posterior_episodes=posterior_episodes)
    with FamilyEnvs(lever) as envs:
        trainer = PearlTrainer(config, envs, seed=0)
        monkeypatch.setattr(trainer, "_draw_tasks", lambda count: np.arange(6)[:count])
        trainer.step()
        trainer.step()
    # 4 initial ones, then in each iteration: prior, posterior if asked for, extra.
    each = 3 if posterior_episodes else 2
    assert len(calls) == 4 + 2 * each
    last = range(5 + each, 5 + each + (2 if posterior_episodes else 1))
    for task in range(6):
        encoder = trainer.encoder_replay.task_buffer(task).transitions(
            np.arange((2 + posterior_episodes) * EPISODE)
        )
        assert set(encoder.rew.int().tolist()) == set(last)
        assert len(trainer.encoder_replay.task_buffer(task)) == len(encoder)
    stored = set(trainer.replay.stored().rew.int().tolist())
    assert stored == set(range(1, len(calls) + 1))
    from_prior = [bool((actor.mean == 0).all() and (actor.var == 1).all()) for actor in calls]
    assert from_prior == [True] * 4 + [True, *[False] * (each - 1)] * 2
    assert trainer.env_steps == 6 * EPISODE * (4 + 2 * (2 + posterior_episodes + 2))


def test_a_trainer_goes_on_from_its_state_bit_for_bit(lever):
    config = lever_config(updates=45, evaluate_every=1)

    def rows(trainer, stop):
        found = [trainer.step() for _ in range(stop - trainer.updates)]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found if row]

    with FamilyEnvs(lever) as envs:
        whole = PearlTrainer(config, envs, seed=3)
        expected = rows(whole, 45)
        assert [row["updates"] for row in expected] == [20, 40, 45]
        found, trainer = [], PearlTrainer(config, envs, seed=3)
        for stop in (13, 20, 31, 45):
            found += rows(trainer, stop)
            state = torch.utils._pytree.tree_map(
                lambda each: each.clone() if isinstance(each, torch.Tensor) else each,
                trainer.state(),
            )
            trainer = PearlTrainer(config, envs, seed=99)
            trainer.load_state(state)
        assert found == expected
        assert_same_tree(trainer.state(), whole.state(), ignore=("seconds", "columns"))
        for name, replay in trainer.replays.items():
            assert replay.state()["columns"] == whole.replays[name].state()["columns"]
        other = PearlTrainer(config, envs, seed=4)
        assert rows(other, 45) != expected


def test_what_is_not_finite_ends_a_run(lever):
    with FamilyEnvs(lever) as envs:
        trainer = PearlTrainer(lever_config(), envs, seed=0)
        trainer.step()
        with torch.no_grad():
            next(trainer.networks.critics.parameters())[0, 0] = torch.nan
        while trainer.updates < 19:
            assert trainer.step() is None
        with pytest.raises(FloatingPointError, match="critic_loss is nan over the updates up to"):
            trainer.step()


def test_the_policy_is_a_meta_policy(lever):
    with FamilyEnvs(lever) as envs:
        trainer = PearlTrainer(lever_config(), envs, seed=0)
    assert isinstance(trainer.policy, MetaPolicy)


# The method ---------------------------------------------------------------------------------

QUICK = {"updates": 45, "evaluate_every": 1}


def run_in(directory, *stops, seed: int = 3, **changes) -> bool:
    """Train, stopped after so many steps each time, and then to the end."""
    method = Pearl(config=lever_config(**{**QUICK, **changes}))
    for stop in stops:
        steps = iter(range(stop))
        finished = method.meta_train(
            directory, seed=seed, should_stop=lambda steps=steps: next(steps, None) is None
        )
        assert not finished
    return method.meta_train(directory, seed=seed)


def returns(policy, envs, tasks) -> list[np.ndarray]:
    how = {"seed": 1, "adaptation_steps": 8, "episode_steps": EPISODE}
    return [each.returns_adapted for each in evaluate(policy, envs, tasks, **how)]


def test_it_is_a_method_whose_runs_leave_what_all_runs_do(lever, tmp_path):
    method = Pearl(config=lever_config(**QUICK))
    assert isinstance(method, Method)
    global_generators = torch.get_rng_state()
    assert run_in(tmp_path)
    assert torch.equal(torch.get_rng_state(), global_generators)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", CHECKPOINT, "metrics.jsonl", "tensorboard", "learning_curve.png"} <= names
    said = json.loads((tmp_path / "run.json").read_text())
    assert (said["method"], said["seed"], said["task_set_hash"]) == ("pearl", 3, lever.hash)
    assert said["config"] == json.loads(json.dumps(method.config.to_dict()))
    rows = read_metrics(tmp_path)
    assert [row["updates"] for row in rows] == [20, 40, 45]
    for row in rows:
        assert {"critic_loss", "kl", "actor_loss", "seconds", "return_adapted"} <= set(row)
        assert not {"loss_initial", "loss_adapted"} & set(row)
        assert len(row["returns_adapted"]) == 2
    policy = method.load(tmp_path)
    assert isinstance(policy, MetaPolicy)
    assert policy.config == method.config
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert run_in(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_a_run_that_stops_anywhere_ends_bit_for_bit_alike(lever, tmp_path):
    assert run_in(tmp_path / "whole")
    assert run_in(tmp_path / "parts", 0, 7, 13, 11)
    whole, parts = (load_tree(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert_same_tree(whole, parts, ignore=("seconds",))
    rows = [
        [{**row, "seconds": 0} for row in read_metrics(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    assert run_in(tmp_path / "other", seed=4)
    other = load_tree(tmp_path / "other" / CHECKPOINT)
    name = "encoder.layers.0.weight"
    assert not torch.equal(other["networks"][name], whole["networks"][name])


def test_at_test_nothing_is_known_but_what_was_explored(lever, tmp_path):
    """Experience of meta-training may be anything, and other exploration gives another policy."""
    assert run_in(tmp_path)
    method = Pearl(config=lever_config(**QUICK))
    with FamilyEnvs(lever) as envs:
        before = returns(method.load(tmp_path), envs, lever.meta_test)
        tree = load_tree(tmp_path / CHECKPOINT)
        for replay in tree["replays"].values():
            replay["columns"]["rew"].fill_(123.0)
        save_tree(tmp_path / CHECKPOINT, tree)
        policy = method.load(tmp_path)
        np.testing.assert_array_equal(returns(policy, envs, lever.meta_test), before)
    explored = random_transitions(2, 8, obs_dim=1, act_dim=1)
    (first, second), other = (
        policy.adapt(each).mean
        for each in (explored, dataclasses.replace(explored, rew=explored.rew + 1))
    )
    assert not torch.equal(first, second)
    assert not torch.equal(other[0], first)


def test_a_new_task_is_met_with_the_prior_alone(lever, tmp_path, monkeypatch):
    assert run_in(tmp_path)
    policy, explored = Pearl(config=lever_config(**QUICK)).load(tmp_path), []
    adapt = policy.adapt

    def watched(transitions):
        explored.append(transitions)
        return adapt(transitions)

    monkeypatch.setattr(policy, "adapt", watched)
    LeverVectorEnv.seen.clear()
    with FamilyEnvs(lever) as envs:
        returns(policy, envs, lever.meta_test)
    (transitions,) = explored
    assert transitions.rew.shape == (4, 8)
    assert LeverVectorEnv.seen == set(lever.meta_test)
    actor = policy.initial_actor(4)
    assert (actor.mean == 0).all()
    assert (actor.var == 1).all()


def test_directories_of_other_runs_are_refused_and_left_alone(lever, tmp_path, velocity_run):
    assert run_in(tmp_path / "mine")
    before = (tmp_path / "mine" / "run.json").read_bytes()
    with pytest.raises(ValueError, match="of another run: latent_dim differ"):
        run_in(tmp_path / "mine", latent_dim=3)
    with pytest.raises(ValueError, match="of another run: seed differ"):
        run_in(tmp_path / "mine", seed=4)
    with pytest.raises(ValueError, match="has taken 45 updates"):
        run_in(tmp_path / "mine", updates=40)
    method = Pearl(config=lever_config(**QUICK))
    ours = "is a run of method 'mier', not of 'pearl'"
    with pytest.raises(OtherMethodError, match=ours):
        method.meta_train(velocity_run, seed=1)
    with pytest.raises(OtherMethodError, match=ours):
        method.load(velocity_run)
    theirs = "is a run of method 'pearl', not of 'mier'"
    with pytest.raises(OtherMethodError, match=theirs):
        load_run(tmp_path / "mine")
    with pytest.raises(OtherMethodError, match=theirs):
        meta_train(tiny_config(), tmp_path / "mine")
    with pytest.raises(FileNotFoundError):
        method.load(tmp_path)
    assert (tmp_path / "mine" / "run.json").read_bytes() == before


def spoiled(spoil):
    def write(directory):
        tree = load_tree(directory / CHECKPOINT)
        spoil(tree)
        save_tree(directory / CHECKPOINT, tree)

    return write


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree["networks"].pop("encoder.layers.0.weight"),
        lambda tree: tree["networks"].update({"encoder.layers.0.weight": torch.zeros(2)}),
        lambda tree: tree.pop("manifest"),
        lambda tree: tree["manifest"].update(seed=99),
        lambda tree: tree["manifest"]["config"].update(latent_dim=2**30),
        lambda tree: tree.update(updates="many"),
        lambda tree: tree.update(updates=-1),
        lambda tree: tree["replays"].pop("encoder_replay"),
        lambda tree: tree["optimizers"].pop("actor"),
        lambda tree: tree.update(generator={}),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(lever, tmp_path, spoil):
    assert not Pearl(config=lever_config(**QUICK)).meta_train(
        tmp_path, seed=3, should_stop=iter([False, True]).__next__
    )
    spoiled(spoil)(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit its run"):
        run_in(tmp_path)


def test_networks_of_any_size_are_not_made_because_a_file_says_so(lever, tmp_path):
    assert run_in(tmp_path)
    path = tmp_path / "run.json"
    tree, said = load_tree(tmp_path / CHECKPOINT), json.loads(path.read_text())
    for contents in (said, tree["manifest"]):
        contents["config"]["hidden_sizes"] = [2**20, 2**20]
    path.write_text(json.dumps(said))
    tree["manifest"]["config"]["hidden_sizes"] = (2**20, 2**20)
    save_tree(tmp_path / CHECKPOINT, tree)
    with pytest.raises(CheckpointError, match="does not fit its run: networks"):
        Pearl(config=lever_config(**QUICK)).load(tmp_path)


def test_a_configuration_is_checked_and_goes_through_json():
    assert PearlConfig.from_dict(SMALL.to_dict()) == SMALL
    assert PearlConfig.from_dict({**SMALL.to_dict(), "hidden_sizes": [8, 8]}) == SMALL
    assert SMALL.adaptation_steps == 400
    with pytest.raises(ValueError, match="PearlConfig expected kl_weight >= 0"):
        dataclasses.replace(SMALL, kl_weight=-1.0)
    with pytest.raises(ValueError, match="family must be one of"):
        PearlConfig(family="Nonsense")
    with pytest.raises(ValueError, match="Not a configuration of this version"):
        PearlConfig.from_dict({"family": "HalfCheetahVel", "nonsense": 1})
