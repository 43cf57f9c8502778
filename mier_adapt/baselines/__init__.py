"""Other ways to meta-train, and references, to compare with: each a :class:`.Method`."""

from mier_adapt.baselines.grbal import Grbal, GrbalConfig
from mier_adapt.baselines.maml import Maml, MamlConfig
from mier_adapt.baselines.mql import Mql, MqlConfig
from mier_adapt.baselines.pearl import Pearl, PearlConfig
from mier_adapt.baselines.promp import Promp, PrompConfig
from mier_adapt.baselines.references import Random, RandomConfig, Sac, SacConfig
from mier_adapt.baselines.rl2 import Rl2, Rl2Config
from mier_adapt.baselines.runs import BaselineMethod

__all__ = [
    "Grbal",
    "GrbalConfig",
    "Maml",
    "MamlConfig",
    "Mql",
    "MqlConfig",
    "Pearl",
    "PearlConfig",
    "Promp",
    "PrompConfig",
    "Random",
    "RandomConfig",
    "Rl2",
    "Rl2Config",
    "Sac",
    "SacConfig",
]

BASELINES: dict[str, type[BaselineMethod]] = {
    each.run_file.method: each for each in (Grbal, Maml, Mql, Pearl, Promp, Random, Rl2, Sac)
}
"""By the names that runs' files have for them."""
