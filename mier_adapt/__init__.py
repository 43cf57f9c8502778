"""Adapt a reinforcement-learning policy to a changed task from a few hundred transitions.

The components work alone, on plain tensors: :class:`ContextModel`,
:class:`GradientContextAdapter`, :func:`fit_model`, :class:`ExperienceRelabeler`,
:class:`ExactRelabeler`, :class:`Transitions`, :func:`diagnose`, and the wrappers
:class:`ContextObservation` and :class:`CompensatedAction`. ``mier_adapt.protocols`` says what plugs
in, ``mier_adapt.changes`` what may have happened to a robot, ``mier_adapt.integration`` plugs it
all into Tianshou. :func:`meta_train` makes a run, :func:`load_run` reads one (some come with the
library), :func:`adapt` takes it to a new task, :func:`adapt_algorithm` a policy of your own, and
:func:`adapt_sb3` a model of Stable-Baselines3; :class:`AdaptedPolicy` is what comes of that, as a
file.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mier_adapt._version import __version__
from mier_adapt.adapted_policy import AdaptedPolicy
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.context_model import ContextModel
from mier_adapt.diagnosis import diagnose
from mier_adapt.exact_relabeler import ExactRelabeler
from mier_adapt.model_fitting import FittedModel, fit_model
from mier_adapt.relabeler import ExperienceRelabeler
from mier_adapt.transitions import Transitions

if TYPE_CHECKING:
    from mier_adapt.adaptation import (
        AdaptationReport,
        AdaptationSession,
        adapt,
        adapt_algorithm,
        adapt_sb3,
    )
    from mier_adapt.agents import AdaptConfig, Agent, NewTask, load_run, preset
    from mier_adapt.training import meta_train, meta_train_offline
    from mier_adapt.wrappers import CompensatedAction, ContextObservation

__all__ = [
    "AdaptConfig",
    "AdaptationReport",
    "AdaptationSession",
    "AdaptedPolicy",
    "Agent",
    "CompensatedAction",
    "ContextModel",
    "ContextObservation",
    "ExactRelabeler",
    "ExperienceRelabeler",
    "FittedModel",
    "GradientContextAdapter",
    "NewTask",
    "Transitions",
    "__version__",
    "adapt",
    "adapt_algorithm",
    "adapt_sb3",
    "diagnose",
    "fit_model",
    "load_run",
    "meta_train",
    "meta_train_offline",
    "preset",
]


def __getattr__(name: str) -> Any:
    # Gymnasium takes as long to import as the rest of this package, Tianshou and MuJoCo longer:
    # load them when asked for.
    rooms = {
        "wrappers": ("CompensatedAction", "ContextObservation"),
        "agents": ("AdaptConfig", "Agent", "NewTask", "load_run", "preset"),
        "training": ("meta_train", "meta_train_offline"),
        "adaptation": (
            *("AdaptationReport", "AdaptationSession"),
            *("adapt", "adapt_algorithm", "adapt_sb3"),
        ),
    }
    for room, names in rooms.items():
        if name in names:
            return getattr(importlib.import_module(f"mier_adapt.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
