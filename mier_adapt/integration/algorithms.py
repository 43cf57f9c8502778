"""Context-conditioned algorithms from stock Tianshou parts, and all of their state."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from gymnasium import spaces
from tianshou.algorithm.algorithm_base import Algorithm, OffPolicyAlgorithm
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha, FixedAlpha, SACPolicy
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn

from mier_adapt._checks import (
    require_device,
    require_int,
    require_ints,
    require_number,
    require_type,
    require_types,
    shown,
)
from mier_adapt._state import require_keys, require_like, require_optimizer_state
from mier_adapt._typing import Float, Tensor
from mier_adapt.integration.collection import require_finite_parameters

__all__ = [
    "algorithm_state",
    "build_sac",
    "check_algorithm_state",
    "forget_optimizers",
    "imitate_actor",
    "load_algorithm_state",
    "refresh_actor",
    "require_actor_critic",
    "restart_optimizers",
    "set_lr",
    "set_target_entropy",
    "update",
]

_COUNTERS = ("_cnt", "_last", "critic_gradient_step", "_last_actor_loss")
"""Plain attributes of TD3 and REDQ that steer their updates and that state_dict misses."""


def build_sac(
    observation_space: spaces.Box,
    action_space: spaces.Box,
    context_dim: int,
    *,
    hidden_sizes: Sequence[int] = (256, 256),
    critic_layer_norm: bool = False,
    lr: float = 3e-4,
    gamma: float = 0.99,
    tau: float = 0.005,
    target_entropy: float = -1.0,
    device: torch.device | str = "cpu",
    algorithm_class: type[SAC[Any]] = SAC,
) -> SAC[Any]:
    """A Tianshou SAC whose actor and critics see ``[obs, context]``.

    Args:
        observation_space: The environment's own, without a context.
        action_space: The environment's; the policy acts in [-1, 1] and Tianshou scales.
        context_dim: Dimensions of the context; 0 for an ordinary SAC.
        hidden_sizes: Widths of the hidden layers of actor and critics (ReLU).
        critic_layer_norm: Normalise each hidden layer of the critics (``LayerNorm``).
        lr: Adam's step size for actor, critics and temperature.
        gamma: Discount factor per environment step.
        tau: Share of the critics that enters their targets with every update.
        target_entropy: In nats; the temperature starts at 1 and is learned.
        device: Where the networks live.
        algorithm_class: Tianshou's ``SAC``, or a subclass such as :class:`FastSAC`, which takes
            the same steps in less time.

    Raises:
        ValueError: If a space is not a ``Box`` of one axis or the context's dimension is
            negative.
        TypeError: If ``algorithm_class`` is no SAC.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, appendix; the released configurations use
        two hidden layers of 256 for negated joints, ant direction and walker.
    """
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"build_sac expected {name} to be a Box of one axis, got {space}.")
    require_int("build_sac", "context_dim", context_dim, least=0)
    require_ints("build_sac", "hidden_sizes", hidden_sizes, least=1)
    require_type("build_sac", "critic_layer_norm", critic_layer_norm, bool)
    require_number("build_sac", "lr", lr, above=0)
    require_number("build_sac", "gamma", gamma, above=0, most=1)
    require_number("build_sac", "tau", tau, above=0, most=1)
    require_number("build_sac", "target_entropy", target_entropy)
    device = require_device("build_sac", device)
    if not (isinstance(algorithm_class, type) and issubclass(algorithm_class, SAC)):
        raise TypeError(f"build_sac expected algorithm_class to be a SAC, got {algorithm_class!r}.")
    obs_dim = observation_space.shape[0] + context_dim
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=(obs_dim,), hidden_sizes=hidden_sizes),
        action_shape=action_space.shape,
        unbounded=True,
        conditioned_sigma=True,
    )
    policy = SACPolicy(actor=actor, action_space=action_space)

    def critic() -> ContinuousCritic:
        return ContinuousCritic(
            preprocess_net=Net(
                state_shape=(obs_dim,),
                action_shape=action_space.shape,
                hidden_sizes=hidden_sizes,
                norm_layer=nn.LayerNorm if critic_layer_norm else None,
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
        alpha=AutoAlpha(target_entropy, 0.0, optimizer),
    )
    return algorithm.to(device)


def update(
    algorithm: OffPolicyAlgorithm[Any], buffer: ReplayBuffer, batch_size: int
) -> dict[str, float]:
    """One of the algorithm's own updates on ``batch_size`` transitions; its losses by name."""
    require_types(
        "update", algorithm=(algorithm, OffPolicyAlgorithm), buffer=(buffer, ReplayBuffer)
    )
    require_int("update", "batch_size", batch_size, least=1)
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
    require_type(owner, "algorithm", algorithm, OffPolicyAlgorithm)
    if not hasattr(algorithm, "policy_optim"):
        raise TypeError(
            f"{owner} expected algorithm to be an actor-critic such as SAC, TD3 or REDQ, got "
            f"{type(algorithm).__name__}."
        )


def set_lr(algorithm: OffPolicyAlgorithm[Any], lr: float) -> None:
    """Set the step size of all of an algorithm's optimizers, a learned temperature's included.

    Raises:
        ValueError: If it is not positive.
    """
    require_type("set_lr", "algorithm", algorithm, OffPolicyAlgorithm)
    require_number("set_lr", "lr", lr, above=0)
    for optimizer in _all_optimizers(algorithm):
        for group in optimizer.param_groups:
            group["lr"] = lr


def restart_optimizers(
    algorithm: OffPolicyAlgorithm[Any],
    *,
    actor_lr: float,
    critic_lr: float,
    temperature: float | None = None,
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

    Raises:
        TypeError: If the algorithm has no actor of its own.
        ValueError: If a number is out of range.
    """
    require_actor_critic("restart_optimizers", algorithm)
    require_number("restart_optimizers", "actor_lr", actor_lr, least=0)
    require_number("restart_optimizers", "critic_lr", critic_lr, above=0)
    if temperature is not None:
        require_number("restart_optimizers", "temperature", temperature, least=0)
    actor_critic: Any = algorithm
    for optimizer in algorithm._optimizers:
        optimizer._optim.state.clear()
        for group in optimizer._optim.param_groups:
            group["lr"] = actor_lr if optimizer is actor_critic.policy_optim else critic_lr
    if hasattr(algorithm, "alpha"):
        value = actor_critic.alpha.value if temperature is None else temperature
        del actor_critic.alpha  # a learned one is a module, which a plain value cannot replace
        actor_critic.alpha = FixedAlpha(float(value))


def set_target_entropy(algorithm: SAC[Any], target_entropy: float) -> None:
    """Set the entropy, in nats, that a learned temperature steers to.

    Raises:
        ValueError: If it is not finite, or the temperature is a fixed one.
    """
    require_type("set_target_entropy", "algorithm", algorithm, SAC)
    require_number("set_target_entropy", "target_entropy", target_entropy)
    if not isinstance(algorithm.alpha, AutoAlpha):
        raise ValueError(
            "set_target_entropy expected an algorithm that learns its temperature, got a fixed one."
        )
    algorithm.alpha._target_entropy = target_entropy


def refresh_actor(algorithm: SAC[Any], observations: Iterable[Float[Tensor, "B O"]]) -> float:
    """Train a SAC's actor alone, against critics that stay as they are.

    Under the context of a new task, critics that were trained on many tasks often judge actions
    better than the actor chooses them. This needs no transitions of the new task at all, so it is
    the control that relabeling has to beat.

    Args:
        algorithm: Tianshou's ``SAC`` or a subclass; its actor and that optimizer are changed.
        observations: One batch for each update, the new task's context appended.

    Returns:
        The last update's loss.

    Raises:
        ValueError: If a batch is not finite or of another shape.
        TypeError: If ``observations`` are not batches.
        FloatingPointError: If a loss is not finite; names the update.

    Source:
        SAC's policy loss (Haarnoja et al. 2018, arXiv:1812.05905, equation 7). Ours.
    """
    require_type("refresh_actor", "algorithm", algorithm, SAC)
    require_type("refresh_actor", "observations", observations, Iterable)
    try:
        batches = iter(observations)
    except TypeError as error:  # a tensor without axes
        raise TypeError(
            f"refresh_actor expected observations to be batches, got {shown(observations)}."
        ) from error
    critics = (algorithm.critic, algorithm.critic2)
    loss = math.nan
    for critic in critics:
        critic.requires_grad_(False)
    try:
        for number, obs in enumerate(batches):
            require_type("refresh_actor", "each of observations", obs, Tensor)
            if obs.ndim != 2 or not len(obs) or not bool(obs.isfinite().all()):
                raise ValueError(
                    "refresh_actor expected observations to be finite and of shape (B, O), got "
                    f"{shown(obs)} of shape {tuple(obs.shape)}."
                )
            with policy_within_training_step(algorithm.policy):
                chosen = algorithm.policy(Batch(obs=obs, info=Batch()))
            q = torch.minimum(*(critic(obs, chosen.act).flatten() for critic in critics))
            actor_loss = (algorithm.alpha.value * chosen.log_prob.flatten() - q).mean()
            loss = float(actor_loss.detach())
            if not math.isfinite(loss):
                raise FloatingPointError(f"refresh_actor: the loss of update {number} is {loss}.")
            algorithm.policy_optim.step(actor_loss)
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise ValueError(
            "refresh_actor expected observations that the actor takes, contexts included, got "
            f"shape {tuple(obs.shape)}."
        ) from error
    finally:
        for critic in critics:
            critic.requires_grad_(True)
    return loss


def imitate_actor(
    algorithm: OffPolicyAlgorithm[Any],
    batches: Sequence[tuple[Float[Tensor, "B O"], Float[Tensor, "B A"]]]
    | Iterator[tuple[Float[Tensor, "B O"], Float[Tensor, "B A"]]],
) -> float:
    """Train an algorithm's actor alone, to act as it is shown.

    A stochastic actor (SAC, REDQ) learns the likelihood of the actions before their squashing, so
    noise in them becomes its own; a deterministic one (TD3) their mean.

    Args:
        algorithm: Its actor and that optimizer are changed.
        batches: Observations and actions in [-1, 1], one batch for each update.

    Returns:
        The last update's loss.

    Raises:
        TypeError: If ``batches`` are something else.
        ValueError: If a shape does not fit.
        FloatingPointError: If a loss is not finite; names the update.
    """
    require_actor_critic("imitate_actor", algorithm)
    require_type("imitate_actor", "batches", batches, (Sequence, Iterator))
    actor_critic: Any = algorithm
    loss = math.nan
    for number, pair in enumerate(batches):
        if not isinstance(pair, tuple) or [type(each) for each in pair] != [Tensor, Tensor]:
            raise TypeError(
                f"imitate_actor expected batches of observations and actions, got {shown(pair)}."
            )
        obs, act = pair
        try:
            try:
                chosen = algorithm.policy(Batch(obs=obs, info=Batch()))
            except ValueError:  # by which torch's distributions refuse a network's NaN
                require_finite_parameters(algorithm.policy, "The imitating actor")
                raise
            if "dist" in chosen.get_keys():
                before_squashing = torch.atanh(act.clamp(-1 + 1e-3, 1 - 1e-3))
                actor_loss = -chosen.dist.log_prob(before_squashing).mean()
            else:
                actor_loss = (chosen.act - act).square().mean()
        except RuntimeError as error:  # by which torch says that shapes do not fit
            raise ValueError(
                "imitate_actor expected observations and actions that the actor takes and gives, "
                f"got shapes {tuple(obs.shape)} and {tuple(act.shape)}."
            ) from error
        loss = float(actor_loss.detach())
        if not math.isfinite(loss):
            raise FloatingPointError(f"imitate_actor: the loss of update {number} is {loss}.")
        actor_critic.policy_optim.step(actor_loss)
    return loss


def forget_optimizers(algorithm: Algorithm[Any, Any]) -> None:
    """Drop all optimizers' moments: what only further training of the same kind needs."""
    require_type("forget_optimizers", "algorithm", algorithm, Algorithm)
    for optimizer in _all_optimizers(algorithm):
        optimizer.state.clear()


def _all_optimizers(algorithm: Algorithm[Any, Any]) -> list[torch.optim.Optimizer]:
    """An algorithm's optimizers, a learned temperature's included."""
    optimizers = [optimizer._optim for optimizer in algorithm._optimizers]
    alpha = getattr(algorithm, "alpha", None)
    return [*optimizers, alpha._optim] if isinstance(alpha, AutoAlpha) else optimizers


def algorithm_state(algorithm: Algorithm[Any, Any]) -> dict[str, Any]:
    """Everything that an algorithm's further updates depend on.

    Beyond ``state_dict()`` that is a learned temperature's optimizer and the counters by
    which TD3 and REDQ delay their actors. The global generators of NumPy and torch, from
    which Tianshou draws, are the caller's to keep.

    Returns:
        A tree of dictionaries, lists, tensors and plain numbers. Tensors are the
        algorithm's own, not copies.
    """
    require_type("algorithm_state", "algorithm", algorithm, Algorithm)
    state: dict[str, Any] = {
        "algorithm": dict(algorithm.state_dict()),  # type: ignore[no-untyped-call]
        "counters": {
            name: getattr(algorithm, name) for name in _COUNTERS if hasattr(algorithm, name)
        },
    }
    alpha = getattr(algorithm, "alpha", None)
    if isinstance(alpha, AutoAlpha):
        state["alpha_optimizer"] = alpha._optim.state_dict()
    return state


def load_algorithm_state(algorithm: Algorithm[Any, Any], state: dict[str, Any]) -> None:
    """Restore what :func:`algorithm_state` gave, into an algorithm built the same way.

    Raises:
        ValueError: If the state belongs to an algorithm with other parts; nothing is
            changed then.
    """
    check_algorithm_state(algorithm, state)
    given = state["algorithm"]
    algorithm.load_state_dict(dict(given))  # it pops from what it is given
    for name, value in state["counters"].items():
        setattr(algorithm, name, value)
    if "alpha_optimizer" in state:
        algorithm.alpha._optim.load_state_dict(state["alpha_optimizer"])  # type: ignore[union-attr]


def check_algorithm_state(algorithm: Algorithm[Any, Any], state: Any) -> None:
    """Check that :func:`mier_adapt.integration.load_algorithm_state` would take this state.

    Raises:
        ValueError: If it would not; the message says where the two differ.
    """
    expected = algorithm_state(algorithm)
    try:
        require_keys(expected, state, "state")
        mine, given = expected["algorithm"], state["algorithm"]
        require_keys(mine, given, "algorithm")
        for name, value in mine.items():
            if name != algorithm._STATE_DICT_KEY_OPTIMIZERS:
                require_like(value, given[name], f"algorithm/{name}")
        optimizers = given[algorithm._STATE_DICT_KEY_OPTIMIZERS]
        if not isinstance(optimizers, list) or len(optimizers) != len(algorithm._optimizers):
            raise ValueError(f"optimizers: expected {len(algorithm._optimizers)}.")
        for number, (optimizer, one) in enumerate(
            zip(algorithm._optimizers, optimizers, strict=True)
        ):
            require_optimizer_state(optimizer._optim, one, f"optimizers/{number}")
        require_like(expected["counters"], state["counters"], "counters")
        if "alpha_optimizer" in expected:
            alpha: Any = algorithm.alpha
            require_optimizer_state(alpha._optim, state["alpha_optimizer"], "alpha_optimizer")
    except ValueError as error:
        raise ValueError(
            f"load_algorithm_state expected the state of a {type(algorithm).__name__} built with "
            f"the same options; it differs: {error}"
        ) from error
