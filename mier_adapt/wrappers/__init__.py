"""Gymnasium wrappers that condition observations on a context."""

from mier_adapt.wrappers import vector
from mier_adapt.wrappers.context_observation import ContextObservation

__all__ = ["ContextObservation", "vector"]
