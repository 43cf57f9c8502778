"""The components in Tianshou 2: replay buffers, algorithms, actors; nothing else imports it."""

from tianshou.algorithm import algorithm_base
from tianshou.data.buffer import manager

from mier_adapt.integration.actors import PolicyActor, relabeling_policy
from mier_adapt.integration.algorithm_state import algorithm_state, load_algorithm_state
from mier_adapt.integration.algorithms import build_sac, update
from mier_adapt.integration.compilation import keep_compiled
from mier_adapt.integration.context_replay import ContextReplayBuffer
from mier_adapt.integration.fast_sac import FastSAC
from mier_adapt.integration.minari import from_minari, to_minari
from mier_adapt.integration.mixed_replay import MixedReplayBuffer
from mier_adapt.integration.stable_baselines3 import from_sb3, sb3_transitions, to_sb3
from mier_adapt.integration.tianshou_replay import from_tianshou

__all__ = [
    "ContextReplayBuffer",
    "FastSAC",
    "MixedReplayBuffer",
    "PolicyActor",
    "algorithm_state",
    "build_sac",
    "from_minari",
    "from_sb3",
    "from_tianshou",
    "load_algorithm_state",
    "relabeling_policy",
    "sb3_transitions",
    "to_minari",
    "to_sb3",
    "update",
]

keep_compiled((algorithm_base, manager))
