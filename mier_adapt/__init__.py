"""Adapt a reinforcement-learning policy to a changed task from a few hundred transitions.

The components work alone, on plain tensors: :class:`ContextModel`,
:class:`GradientContextAdapter`, :class:`ExperienceRelabeler`, :class:`Transitions`, and the
:class:`ContextObservation` wrapper. ``mier_adapt.integration`` plugs them into Tianshou;
``mier_adapt.workflows`` meta-trains and adapts end to end.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mier_adapt._version import __version__
from mier_adapt.context_adapter import FineTuneResult, GradientContextAdapter, MetaLoss
from mier_adapt.context_model import ContextModel, Prediction
from mier_adapt.relabeler import ExperienceRelabeler
from mier_adapt.transitions import Transitions

if TYPE_CHECKING:
    from mier_adapt.wrappers import ContextObservation

__all__ = [
    "ContextModel",
    "ContextObservation",
    "ExperienceRelabeler",
    "FineTuneResult",
    "GradientContextAdapter",
    "MetaLoss",
    "Prediction",
    "Transitions",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Gymnasium takes as long to import as the rest of this package: load it when asked for.
    if name == "ContextObservation":
        return importlib.import_module("mier_adapt.wrappers").ContextObservation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
