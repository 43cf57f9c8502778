"""The components in Tianshou 2: replay buffers, algorithms, collection."""

from mier_adapt.integration.algorithms import (
    algorithm_state,
    build_sac,
    forget_optimizers,
    imitate_actor,
    load_algorithm_state,
    refresh_actor,
    restart_optimizers,
    set_lr,
    set_target_entropy,
    update,
)
from mier_adapt.integration.collection import Rollout, act, collect, relabeling_policy
from mier_adapt.integration.context_replay import ContextReplayBuffer
from mier_adapt.integration.fast_sac import FastSAC
from mier_adapt.integration.mixed_replay import MixedReplayBuffer
from mier_adapt.integration.task_replay import TaskReplayBuffer
from mier_adapt.integration.tianshou_replay import from_tianshou

__all__ = [
    "ContextReplayBuffer",
    "FastSAC",
    "MixedReplayBuffer",
    "Rollout",
    "TaskReplayBuffer",
    "act",
    "algorithm_state",
    "build_sac",
    "collect",
    "forget_optimizers",
    "from_tianshou",
    "imitate_actor",
    "load_algorithm_state",
    "refresh_actor",
    "relabeling_policy",
    "restart_optimizers",
    "set_lr",
    "set_target_entropy",
    "update",
]
