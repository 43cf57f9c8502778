"""Adapt a reinforcement-learning policy to a changed task from a few hundred transitions.

The components work alone, on plain tensors: :class:`ContextModel`,
:class:`GradientContextAdapter`, :class:`ExperienceRelabeler`, :class:`Transitions`, and the
:class:`ContextObservation` wrapper. ``mier_adapt.integration`` plugs them into Tianshou;
``mier_adapt.workflows`` meta-trains and adapts end to end; :func:`load_pretrained` gives a run that
was meta-trained already, :func:`adapt_algorithm` takes a policy of your own to a changed task.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mier_adapt._version import __version__
from mier_adapt.context_adapter import FineTuneResult, GradientContextAdapter, MetaLoss
from mier_adapt.context_model import ContextModel, Prediction
from mier_adapt.relabeler import ExperienceRelabeler
from mier_adapt.transitions import Transitions

if TYPE_CHECKING:
    from mier_adapt.workflows.own_policy import adapt_algorithm
    from mier_adapt.workflows.pretrained import load_pretrained
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
    "adapt_algorithm",
    "load_pretrained",
]


def __getattr__(name: str) -> Any:
    # Gymnasium takes as long to import as the rest of this package, Tianshou and MuJoCo longer:
    # load them when asked for.
    rooms = {
        "ContextObservation": "wrappers",
        "adapt_algorithm": "workflows.own_policy",
        "load_pretrained": "workflows.pretrained",
    }
    if name in rooms:
        return getattr(importlib.import_module(f"mier_adapt.{rooms[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
