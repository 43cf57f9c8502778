"""Gymnasium wrappers: observations that end with a context, and robots behind a compensation."""

from mier_adapt.wrappers import vector
from mier_adapt.wrappers.compensated_action import CompensatedAction
from mier_adapt.wrappers.context_observation import ContextObservation

__all__ = ["CompensatedAction", "ContextObservation", "vector"]
