"""Other ways to meta-train, to compare with: each a :class:`.Method` in a file of its own."""

from mier_adapt.baselines.maml import Maml, MamlConfig
from mier_adapt.baselines.pearl import Pearl, PearlConfig
from mier_adapt.baselines.promp import Promp, PrompConfig
from mier_adapt.baselines.rl2 import Rl2, Rl2Config
from mier_adapt.baselines.runs import BaselineMethod

__all__ = [
    "Maml",
    "MamlConfig",
    "Pearl",
    "PearlConfig",
    "Promp",
    "PrompConfig",
    "Rl2",
    "Rl2Config",
]

BASELINES: dict[str, type[BaselineMethod]] = {
    each.run_file.method: each for each in (Maml, Pearl, Promp, Rl2)
}
"""By the names that runs' files have for them."""
