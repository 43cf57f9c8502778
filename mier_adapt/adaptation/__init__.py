"""Adaptation to one new task: the front door, its stages and gates, and what they report."""

from mier_adapt.adaptation.comparison import compare
from mier_adapt.adaptation.front_door import adapt
from mier_adapt.adaptation.identification import identify
from mier_adapt.adaptation.own_policy import adapt_algorithm, adapt_sb3
from mier_adapt.adaptation.report import AdaptationReport
from mier_adapt.adaptation.session import AdaptationSession
from mier_adapt.adaptation.stages import (
    compensated,
    explain,
    first_candidate,
    refine,
    refresh,
    relabelers,
    train_on_synthetic,
)
from mier_adapt.gates import AlwaysGate, MarginGate, NeverGate

__all__ = [
    "AdaptationReport",
    "AdaptationSession",
    "AlwaysGate",
    "MarginGate",
    "NeverGate",
    "adapt",
    "adapt_algorithm",
    "adapt_sb3",
    "compare",
    "compensated",
    "explain",
    "first_candidate",
    "identify",
    "refine",
    "refresh",
    "relabelers",
    "train_on_synthetic",
]
