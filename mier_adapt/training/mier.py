"""Mier: the library's own way to meta-train, as a :class:`.Method` beside others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mier_adapt._checks import Device, checked, checked_fields
from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig
from mier_adapt.agents.run import Run, load_run
from mier_adapt.training.meta_training import meta_train


@dataclass(frozen=True, kw_only=True)
class Mier:
    """Algorithm 1 with one configuration, ready to be run with any seed.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 1.
    """

    config: MetaTrainConfig
    """What is trained."""
    adapt_config: AdaptConfig = field(default_factory=AdaptConfig)
    """How such a run meets new tasks."""
    device: Device = "cpu"
    """Where networks live and learn."""

    def __post_init__(self) -> None:
        checked_fields(self)

    def meta_train(
        self, directory: Path, *, seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """As :meth:`.Method.meta_train`, by :func:`.meta_train`."""
        return meta_train(
            self.config,
            directory,
            adapt_config=self.adapt_config,
            seed=seed,
            device=self.device,
            should_stop=should_stop,
        )

    @checked
    def load(self, directory: Path) -> Run:
        """As :meth:`.Method.load`."""
        return load_run(directory, device=self.device)
