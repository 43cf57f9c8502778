"""Other ways to meta-train, to compare with: each a :class:`.Method` in a file of its own."""

from mier_adapt.baselines.maml import Maml, MamlConfig
from mier_adapt.baselines.pearl import Pearl, PearlConfig
from mier_adapt.baselines.promp import Promp, PrompConfig

__all__ = ["Maml", "MamlConfig", "Pearl", "PearlConfig", "Promp", "PrompConfig"]
