"""Agents and their tasks: what adapts, to what, how it is configured, stored and measured."""

from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import (
    AdaptConfig,
    ContinueConfig,
    MetaTrainConfig,
    ModelConfig,
    PolicyConfig,
)
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.evaluation import evaluate
from mier_adapt.agents.new_task import NewTask
from mier_adapt.agents.presets import preset
from mier_adapt.agents.rollouts import collect
from mier_adapt.agents.run import Run, load_run

__all__ = [
    "AdaptConfig",
    "Agent",
    "ContinueConfig",
    "FamilyEnvs",
    "MetaTrainConfig",
    "ModelConfig",
    "NewTask",
    "PolicyConfig",
    "Run",
    "collect",
    "evaluate",
    "load_run",
    "preset",
]
