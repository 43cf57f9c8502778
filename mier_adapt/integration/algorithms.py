"""Context-conditioned algorithms from stock Tianshou parts, and their updates."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from tianshou.algorithm.algorithm_base import Algorithm, OffPolicyAlgorithm
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha, FixedAlpha, SACPolicy
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import ReplayBuffer
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step

from mier_adapt._checks import (
    Count,
    Device,
    Number,
    Positive,
    PositiveShare,
    Size,
    checked,
)
from mier_adapt._spaces import vector_space


@checked
def build_sac(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    context_dim: Count,
    *,
    hidden_sizes: Sequence[Size] = (256, 256),
    lr: Positive = 3e-4,
    gamma: PositiveShare = 0.99,
    tau: PositiveShare = 0.005,
    target_entropy: Number = -1.0,
    temperature: Positive = 1.0,
    device: Device = "cpu",
    algorithm_class: type[SAC[Any]] = SAC,
) -> SAC[Any]:
    """A Tianshou SAC whose actor and critics see ``[obs, context]``.

    Args:
        observation_space: The environment's own, without a context; of vectors.
        action_space: The environment's, of vectors; the policy acts in [-1, 1] and Tianshou scales.
        context_dim: Dimensions of the context; 0 for an ordinary SAC.
        hidden_sizes: Widths of the hidden layers of actor and critics (ReLU).
        lr: Adam's step size for actor, critics and temperature.
        gamma: Discount factor per environment step.
        tau: Share of the critics that enters their targets with every update.
        target_entropy: In nats; the temperature is learned.
        temperature: Where it starts, in units of reward per nat.
        device: Where the networks live.
        algorithm_class: Tianshou's ``SAC``, or a subclass such as :class:`FastSAC`, which takes
            the same steps in less time.

    Raises:
        ValueError: If a space is none of vectors, or a number is out of range.
        TypeError: If an argument is of another type, or ``algorithm_class`` no SAC.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, appendix; the released configurations use
        two hidden layers of 256 for negated joints, ant direction and walker.
    """
    observations = vector_space("build_sac", "observation_space", observation_space)
    actions = vector_space("build_sac", "action_space", action_space)
    obs_dim = observations.shape[0] + context_dim
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=(obs_dim,), hidden_sizes=hidden_sizes),
        action_shape=actions.shape,
        unbounded=True,
        conditioned_sigma=True,
    )
    policy = SACPolicy(actor=actor, action_space=actions)

    def critic() -> ContinuousCritic:
        return ContinuousCritic(
            preprocess_net=Net(
                state_shape=(obs_dim,),
                action_shape=actions.shape,
                hidden_sizes=hidden_sizes,
                concat=True,
            )
        )

    optimizer = TorchOptimizerFactory(torch.optim.Adam, lr=lr, fused=True)
    algorithm = algorithm_class(
        policy=policy,
        policy_optim=optimizer,
        critic=critic(),
        critic_optim=optimizer,
        critic2=critic(),
        gamma=gamma,
        tau=tau,
        alpha=AutoAlpha(target_entropy, math.log(temperature), optimizer),
    )
    return algorithm.to(device)


@checked
def update(
    algorithm: OffPolicyAlgorithm[Any], buffer: ReplayBuffer, batch_size: Size
) -> dict[str, float]:
    """One of the algorithm's own updates on ``batch_size`` transitions; its losses by name."""
    with policy_within_training_step(algorithm.policy):
        return algorithm.update(buffer, batch_size).get_loss_stats_dict()


def require_actor_critic(owner: str, algorithm: Any) -> None:
    """Check that an algorithm learns off policy and has an actor: SAC, TD3, REDQ or their like.

    Args:
        owner: Who asks; the message begins with it.
        algorithm: What came.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(algorithm, OffPolicyAlgorithm) or not hasattr(algorithm, "policy_optim"):
        raise TypeError(
            f"{owner} expected algorithm to be an actor-critic such as SAC, TD3 or REDQ, got "
            f"{type(algorithm).__name__}."
        )


def set_lr(algorithm: OffPolicyAlgorithm[Any], lr: float) -> None:
    """Set the step size of all of an algorithm's optimizers, a learned temperature's included."""
    for optimizer in all_optimizers(algorithm):
        for group in optimizer.param_groups:
            group["lr"] = lr


def restart_optimizers(
    algorithm: OffPolicyAlgorithm[Any],
    *,
    actor_lr: float,
    critic_lr: float,
    temperature: float | None = None,
    learn_temperature: bool = False,
) -> None:
    """Forget the optimizers' moments, set their step sizes, and fix a learned temperature.

    Fine-tuning on another task starts from here: moments of the old tasks' gradients would
    push the first steps, and a temperature that is learned anew would first undo the policy.

    Args:
        algorithm: A SAC, TD3 or REDQ.
        actor_lr: Step size of the actor; 0 keeps it as it is.
        critic_lr: Step size of the critics.
        temperature: What to fix a temperature at, in units of reward per nat; ``None`` for where
            it stands.
        learn_temperature: Go on learning one that was learned instead, by its own step size.
    """
    actor_critic: Any = algorithm
    algorithm.lr_schedulers.clear()  # they would set other step sizes with the next update
    for optimizer in algorithm._optimizers:
        optimizer._optim.state.clear()
        for group in optimizer._optim.param_groups:
            group.pop("initial_lr", None)  # a schedule's
            group["lr"] = actor_lr if optimizer is actor_critic.policy_optim else critic_lr
    if isinstance(alpha := getattr(algorithm, "alpha", None), AutoAlpha) and learn_temperature:
        alpha._optim.state.clear()
    elif alpha is not None:
        value = alpha.value if temperature is None else temperature
        del actor_critic.alpha  # a learned one is a module, which a plain value cannot replace
        actor_critic.alpha = FixedAlpha(float(value))


def trained_on(algorithm: OffPolicyAlgorithm[Any], as_before: Any) -> Any:
    """A copy of an algorithm with another's networks: temperature and optimizers are its own.

    Undoes what :func:`restart_optimizers` did, for training on in the ordinary way.

    Args:
        algorithm: Has the networks.
        as_before: What is copied; built the same way.
    """
    made = copy.deepcopy(as_before)
    tensors = {**dict(algorithm.named_parameters()), **dict(algorithm.named_buffers())}
    with torch.no_grad():
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            if name.partition(".")[0] != "alpha":
                tensor.copy_(tensors[name])
    return made


def set_target_entropy(algorithm: SAC[Any], target_entropy: float) -> None:
    """Set the entropy, in nats, that a learned temperature steers to."""
    alpha: Any = algorithm.alpha
    alpha._target_entropy = target_entropy


@contextmanager
def one_step_targets(algorithm: Any) -> Iterator[None]:
    """A block in which targets look one step ahead.

    Rows of synthetic data have no successors, and nothing says where logged episodes were cut.
    """
    horizon = algorithm.n_step_return_horizon
    algorithm.n_step_return_horizon = 1
    try:
        yield
    finally:
        algorithm.n_step_return_horizon = horizon


def forget_optimizers(algorithm: Algorithm[Any, Any]) -> None:
    """Drop all optimizers' moments: what only further training of the same kind needs."""
    for optimizer in all_optimizers(algorithm):
        optimizer.state.clear()


def all_optimizers(algorithm: Algorithm[Any, Any]) -> list[torch.optim.Optimizer]:
    """An algorithm's optimizers, a learned temperature's included."""
    optimizers = [optimizer._optim for optimizer in algorithm._optimizers]
    alpha = getattr(algorithm, "alpha", None)
    return [*optimizers, alpha._optim] if isinstance(alpha, AutoAlpha) else optimizers
