"""Stable-Baselines3's SAC and TD3 as Tianshou's, with the very weights, and back; its buffers."""

import copy
import importlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha, FixedAlpha, SACPolicy
from tianshou.algorithm.modelfree.td3 import TD3
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.exploration import BaseNoise
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import (
    ContinuousActorDeterministic,
    ContinuousActorProbabilistic,
    ContinuousCritic,
)
from torch import nn

from mier_adapt._checks import checked, shown
from mier_adapt._spaces import vector_space
from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt.integration.deterministic import stock_layers
from mier_adapt.transitions import Transitions

_logger = logging.getLogger(__name__)


@checked
def from_sb3(model: Any) -> SAC[Any] | TD3:
    """A Tianshou SAC or TD3 with all that a SAC or TD3 of Stable-Baselines3 has learned.

    Actor, critics and their targets have the model's weights and give its numbers; temperature,
    target entropy, gamma, tau, ``n_steps``, exploration noise, the optimizers' kind and current
    step sizes, and TD3's policy delay and target noise are the model's as well. Its optimizers
    begin without moments. What belongs to SB3's own loop stays there: ``train_freq``,
    ``gradient_steps``, ``batch_size`` and ``target_update_interval``.

    Args:
        model: A ``SAC`` or ``TD3`` with an ``MlpPolicy``, any ``net_arch`` and activation, on
            observations of one axis. Not changed.

    Raises:
        ImportError: If stable-baselines3 is not installed.
        TypeError: If it is no SAC and no TD3 of Stable-Baselines3.
        ValueError: If it uses gSDE, a features extractor, other networks than SB3's own, another
            number of critics than two, ``VecNormalize``, or spaces that are none of vectors.
    """
    _require_plain("from_sb3", model)
    policy, noise = model.policy, _noise(model.action_noise)
    obs_dim, act_dim = model.observation_space.shape[0], model.action_space.shape[0]

    def net(sizes: Sequence[int], **options: Any) -> Net:
        activation = policy.activation_fn
        return Net(state_shape=(obs_dim,), hidden_sizes=sizes, activation=activation, **options)

    def critic() -> ContinuousCritic:
        sizes = policy.critic_kwargs["net_arch"]
        return ContinuousCritic(preprocess_net=net(sizes, action_shape=(act_dim,), concat=True))

    def optimizer(own: torch.optim.Optimizer, **options: Any) -> TorchOptimizerFactory:
        return TorchOptimizerFactory(type(own), lr=own.param_groups[0]["lr"], **options)

    with forked_global_generators(0):  # first weights are drawn, and written over
        trunk = net(policy.actor.net_arch)
        shared: dict[str, Any] = {
            "policy_optim": optimizer(policy.actor.optimizer, **policy.optimizer_kwargs),
            "critic": critic(),
            "critic_optim": optimizer(policy.critic.optimizer, **policy.optimizer_kwargs),
            "critic2": critic(),
            "gamma": model.gamma,
            "tau": model.tau,
            "n_step_return_horizon": model.n_steps,
        }
        algorithm: SAC[Any] | TD3
        if _is_sac(model):
            algorithm = SAC(
                policy=SACPolicy(
                    actor=ContinuousActorProbabilistic(
                        preprocess_net=trunk,
                        action_shape=(act_dim,),
                        unbounded=True,
                        conditioned_sigma=True,
                    ),
                    exploration_noise=noise,
                    action_space=model.action_space,
                ),
                alpha=FixedAlpha(float(model.ent_coef_tensor))
                if model.ent_coef_optimizer is None
                else AutoAlpha(
                    model.target_entropy,
                    model.log_ent_coef.item(),
                    optimizer(model.ent_coef_optimizer),
                ),
                **shared,
            )
        else:
            clip = model.target_noise_clip  # which Tianshou takes for no bound where it is 0
            algorithm = TD3(
                policy=ContinuousDeterministicPolicy(
                    actor=ContinuousActorDeterministic(
                        preprocess_net=trunk, action_shape=(act_dim,)
                    ),
                    exploration_noise=noise,
                    action_space=model.action_space,
                ),
                policy_noise=model.target_policy_noise if clip > 0 else 0.0,
                noise_clip=clip,
                update_actor_freq=model.policy_delay,
                **shared,
            )
    mine, theirs = _layers(algorithm), _layers_of_sb3(model)
    if differ := _differences(mine, theirs):
        raise ValueError(
            f"from_sb3 expected model to have the networks that SB3 makes of its net_arch and "
            f"activation_fn, got others: {differ}. Imitate it (mier_adapt.training.imitate)."
        )
    _copy(theirs, mine)
    return algorithm.to(model.device)


@checked
def to_sb3(algorithm: SAC[Any] | TD3, model: Any) -> None:
    """Put an algorithm's weights into a model of Stable-Baselines3: what :func:`from_sb3` took out.

    Actor, critics, targets and, of a SAC, the temperature are written over; all of them or, where
    something does not fit, none. SB3's optimizers forget their moments, which belong to the old
    weights. Everything else, ``gamma``, step sizes and the replay buffer among it, stays.

    Args:
        algorithm: As :func:`from_sb3` made it, or built like it, however long it has learned since:
            ``adapt_sb3(...).algorithm``.
        model: A ``SAC`` or ``TD3`` of the same ``net_arch``; changed in place.

    Raises:
        ImportError: If stable-baselines3 is not installed.
        TypeError: If an argument is of another type, or one is a SAC and the other a TD3.
        ValueError: If networks or temperatures differ in kind or shape; names what does.
    """
    _require_plain("to_sb3", model)
    if isinstance(algorithm, SAC) != _is_sac(model) or stock_layers(algorithm.policy) is None:
        raise TypeError(
            "to_sb3 expected algorithm and model to be both SACs or both TD3s, of stock networks, "
            f"got a {type(algorithm).__name__} with a {type(algorithm.policy.actor).__name__} and "
            f"a {type(model).__name__}."
        )
    mine, theirs = _layers(algorithm), _layers_of_sb3(model)
    alpha = getattr(algorithm, "alpha", None)
    learned = getattr(model, "ent_coef_optimizer", None)
    differ = _differences(mine, theirs)
    if isinstance(alpha, AutoAlpha) != (learned is not None):
        differ += "; temperatures: one is learned, the other fixed"
    if differ:
        raise ValueError(
            f"to_sb3 expected model to be built as algorithm is, which differ: "
            f"{differ.removeprefix('; ')}. Give the model that went into from_sb3, or one with the "
            "same policy_kwargs and ent_coef. Nothing was changed."
        )
    _copy(mine, theirs)
    if isinstance(alpha, AutoAlpha):
        model.log_ent_coef.detach().copy_(alpha._log_alpha.detach())
    elif alpha is not None:
        model.ent_coef_tensor.fill_(alpha.value)
    for optimizer in (model.policy.actor.optimizer, model.policy.critic.optimizer, learned):
        if optimizer is not None:
            optimizer.state.clear()


@checked
def sb3_transitions(model: Any) -> Transitions:
    """The replay buffer of a model of Stable-Baselines3 as transitions, ``(B, ...)``.

    In the order of time, one environment after the other, as float32. Actions are in [-1, 1] as SB3
    stores them; a time limit is no termination.

    A buffer with ``optimize_memory_usage`` holds no next observation of a step that ended an
    episode, and a full one has lost the observation of its oldest steps: these are left out, and a
    warning says how many.

    Args:
        model: Any off-policy model on observations and actions of one axis: SAC, TD3, DDPG, or
            sb3-contrib's TQC.

    Raises:
        ImportError: If stable-baselines3 is not installed.
        TypeError: If it has no replay buffer, or one that is not SB3's own (that of HER among
            them).
        ValueError: If the buffer is empty, as that of a loaded model is; its spaces are none of
            vectors; it was told to take time limits for terminations and episodes ended in it; or
            no step is left.
    """
    off_policy = _sb3("sb3_transitions", "common.off_policy_algorithm").OffPolicyAlgorithm
    if not isinstance(model, off_policy):
        raise TypeError(
            "sb3_transitions expected model to be one of Stable-Baselines3 with a replay buffer, "
            f"such as SAC or TD3, got {shown(model)}."
        )
    return transitions_of("sb3_transitions", "model", model.replay_buffer)


def transitions_of(owner: str, name: str, buffer: Any) -> Transitions:
    """What a replay buffer of Stable-Baselines3 holds; as :func:`sb3_transitions`."""
    buffers = _sb3(owner, "common.buffers")
    if buffer is None or (isinstance(buffer, buffers.ReplayBuffer) and not buffer.size()):
        raise ValueError(
            f"{owner} expected {name} to hold transitions, got an empty replay buffer. SB3 saves "
            "it apart from the model: model.load_replay_buffer(path), or give earlier "
            "transitions yourself."
        )
    # Others may store what they like under the same names.
    if type(buffer) not in (buffers.ReplayBuffer, buffers.NStepReplayBuffer):
        raise TypeError(
            f"{owner} expected {name} to have SB3's ReplayBuffer or NStepReplayBuffer, got a "
            f"{type(buffer).__name__}. Make mier_adapt.Transitions of what it holds."
        )
    vector_space(owner, f"{name}'s observations", buffer.observation_space)
    vector_space(owner, f"{name}'s actions", buffer.action_space)
    size, first = buffer.size(), buffer.pos if buffer.full else 0
    order = (first + np.arange(size)) % buffer.buffer_size
    ended = buffer.dones[order] > 0
    kept = np.ones_like(ended)
    if buffer.optimize_memory_usage:
        # The newest step's next observation lies where the oldest step's was. Behind a step that
        # ended an episode comes the next one's start.
        kept = ~ended
        kept[0] &= not buffer.full
        obs_next = buffer.observations[(order + 1) % buffer.buffer_size]
        if not kept.all():
            _logger.warning(
                "%s left out %d of %d transitions, of whose two observations a buffer with "
                "optimize_memory_usage holds one; %d of them ended an episode, for good or not.",
                owner,
                (~kept).sum(),
                kept.size,
                ended.sum(),
            )
    elif ended.any() and not buffer.handle_timeout_termination:
        raise ValueError(
            f"{owner} expected {name} to tell terminations from time limits, got a buffer with "
            f"handle_timeout_termination=False in which {ended.sum()} episodes ended. Train with "
            "True, SB3's default, or make mier_adapt.Transitions of it, which say what terminated."
        )
    else:
        obs_next = buffer.next_observations[order]
    if not kept.any():
        raise ValueError(
            f"{owner} expected {name} to hold transitions whose observations are known, got none "
            f"in {size} rows of a buffer with optimize_memory_usage."
        )

    def column(rows: NDArray[Any]) -> torch.Tensor:
        """Of the steps that are kept, one environment after the other."""
        return torch.from_numpy(rows.swapaxes(0, 1)[kept.T].astype(np.float32))

    ended_for_good = ended & (buffer.timeouts[order] == 0) & kept
    return Transitions(
        obs=column(buffer.observations[order]),
        act=column(buffer.actions[order]).clamp(-1, 1),
        rew=column(buffer.rewards[order]),
        obs_next=column(obs_next),
        terminated=column(ended_for_good) > 0,
    )


def is_of_sb3(value: Any) -> bool:
    """Whether something is of Stable-Baselines3, or derives from what is."""
    return any(each.__module__.startswith("stable_baselines3.") for each in type(value).__mro__)


class _Noise(BaseNoise):
    """SB3's exploration noise, drawn for each row; it has no scale but [-1, 1] either."""

    def __init__(self, noise: Any) -> None:
        self._noise = noise

    def __call__(self, size: Sequence[int]) -> NDArray[Any]:
        return np.stack([self._noise() for _ in range(size[0])])

    def reset(self) -> None:
        self._noise.reset()


def _noise(noise: Any) -> _Noise | None:
    # SB3 makes one for each environment of the one that it was given.
    own = getattr(noise, "base_noise", noise)
    return None if own is None else _Noise(copy.deepcopy(own))


def _sb3(owner: str, module: str) -> Any:
    try:
        return importlib.import_module(f"stable_baselines3.{module}")
    except ImportError as error:
        raise ImportError(
            f"{owner} needs stable-baselines3: pip install 'mier-adapt[sb3]'"
        ) from error


def _is_sac(model: Any) -> bool:
    return isinstance(model, _sb3("from_sb3", "sac").SAC)


def _require_plain(owner: str, model: Any) -> None:
    """Check that a model is a SAC or TD3 all of whose parts Tianshou's has as well."""
    kinds = _sb3(owner, "sac").SAC, _sb3(owner, "td3").TD3
    if not isinstance(model, kinds):
        raise TypeError(
            f"{owner} expected model to be a SAC or TD3 of Stable-Baselines3, got {shown(model)} "
            f"of type {type(model).__name__}."
        )
    vector_space(owner, "model's observations", model.observation_space)
    vector_space(owner, "model's actions", model.action_space)
    policy = model.policy
    own = _sb3(owner, "sac.policies" if isinstance(model, kinds[0]) else "td3.policies")
    critic, flat = own.ContinuousCritic, own.FlattenExtractor
    parts = policy.actor, policy.critic
    extractors = {type(each.features_extractor) for each in parts}
    networks = [type(each).__name__ for each in parts if type(each) not in (own.Actor, critic)]
    count = len(policy.critic.q_networks)
    found = {
        "use_sde=True, noise that depends on the state; train without": model.use_sde,
        f"n_critics={count}, where two are needed (DDPG has one: train a TD3)": count != 2,
        f"features extractors {sorted(each.__name__ for each in extractors)}; compute features in "
        "the environment (gymnasium.wrappers.TransformObservation)": extractors != {flat},
        f"networks of other classes, {networks}; imitate it (mier_adapt.training.imitate)": (
            bool(networks)
        ),
        "VecNormalize, which stands between its environment and the policy; put it into the "
        "environment, TransformObservation(env, vec_normalize.normalize_obs, None), call "
        "model.set_env with that, and normalize earlier observations alike": (
            model.get_vec_normalize_env() is not None
        ),
    }
    if problems := [text for text, holds in found.items() if holds]:
        raise ValueError(
            f"{owner} expected model to have a plain MlpPolicy on its environment's own "
            f"observations, got {'. It also has '.join(problems)}."
        )


def _leaves(*networks: nn.Module) -> list[nn.Module]:
    """Layers and activations in the order in which they are asked."""
    each = (module for network in networks for module in network.modules())
    return [one for one in each if not [*one.children()] and not isinstance(one, nn.Sequential)]


def _layers(algorithm: SAC[Any] | TD3) -> dict[str, list[nn.Module]]:
    """Of a Tianshou algorithm, by network."""
    found = {"actor": _leaves(algorithm.policy.actor)}
    if isinstance(algorithm, TD3):
        found["actor's target"] = _leaves(algorithm.actor_old)
    return {
        **found,
        "critic 1": _leaves(algorithm.critic),
        "critic 2": _leaves(algorithm.critic2),
        "critic 1's target": _leaves(algorithm.critic_old),
        "critic 2's target": _leaves(algorithm.critic2_old),
    }


def _layers_of_sb3(model: Any) -> dict[str, list[nn.Module]]:
    """The same of a model."""
    policy = model.policy
    if _is_sac(model):
        actor = policy.actor
        found = {"actor": _leaves(actor.latent_pi, actor.mu, actor.log_std)}
    else:  # their last layer, a Tanh, is a function in Tianshou's
        found = {
            "actor": _leaves(policy.actor.mu[:-1]),
            "actor's target": _leaves(policy.actor_target.mu[:-1]),
        }
    for suffix, critic in (("", policy.critic), ("'s target", policy.critic_target)):
        for number, network in enumerate(critic.q_networks, 1):
            found[f"critic {number}{suffix}"] = _leaves(network)
    return found


def _differences(mine: dict[str, list[nn.Module]], theirs: dict[str, list[nn.Module]]) -> str:
    """Which networks are not alike, and how; empty where all are."""

    def kinds(layers: list[nn.Module]) -> list[Any]:
        return [
            (repr(each), [value.shape for value in each.state_dict().values()]) for each in layers
        ]

    def said(layers: list[nn.Module]) -> str:
        return " ".join(map(repr, layers))

    return "; ".join(
        f"{name}: {said(theirs[name])} in SB3, {said(mine[name])} in Tianshou"
        for name in theirs
        if kinds(mine[name]) != kinds(theirs[name])
    )


def _copy(source: dict[str, list[nn.Module]], target: dict[str, list[nn.Module]]) -> None:
    for name, layers in source.items():
        for one, other in zip(layers, target[name], strict=True):
            other.load_state_dict(one.state_dict())
