"""SessionRecord: what a session is computed again from, and the file that keeps it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mier_adapt._checks import shown
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt._storage.files import FOREIGN_ERRORS, require_kinds
from mier_adapt._storage.randomness import check_global_generator_state
from mier_adapt.adaptation.episode import Episode
from mier_adapt.transitions import Transitions

ALL = -1
"""In place of a number of updates, as long as an improvement is not over: it is no limit."""
FAILED = -2
"""In its place where an improvement ended with an error."""

_KINDS = {
    "session": dict,
    "improved": [[int]],
    "lengths": [int],
    "acted": [int],
    "policies": [str],
    "drawn": dict,
}
"""What the file holds beside the transitions."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionRecord:
    """All that a session cannot compute again, and what it has to be the same for."""

    identity: dict[str, Any]
    """Of agent, configuration and seed, part by part."""
    episodes: Sequence[Episode]
    """Real ones, logged transitions first."""
    improved: list[list[int]]
    """After how many episodes, by how many updates, :data:`ALL` or :data:`FAILED`."""
    drawn: dict[str, Any]
    """The state of the generators that the robot's actions are drawn from."""

    def save(self, path: Path) -> None:
        """Replace the file as a whole.

        Raises:
            OSError: If it cannot be written.
        """
        tree = {
            "session": self.identity,
            "lengths": [len(each.real) for each in self.episodes],
            "acted": [each.acted for each in self.episodes],
            "policies": [each.policy for each in self.episodes if each.policy],
            "improved": self.improved,
            "drawn": self.drawn,
        }
        if self.episodes:
            real = Transitions.cat([each.real for each in self.episodes])
            tree["real"] = {
                each.name: getattr(real, each.name) for each in dataclasses.fields(real)
            }
            cuts = np.concatenate([each.truncated for each in self.episodes])
            tree["truncated"] = torch.from_numpy(cuts)
        save_tree(path, tree)

    @classmethod
    def load(cls, path: Path, identity: dict[str, Any]) -> Self:
        """The record that :meth:`save` wrote.

        Args:
            path: The file.
            identity: Of the session that is to take it up.

        Raises:
            CheckpointError: If it is damaged, or of something else.
            ValueError: If it is of another session.
        """
        tree = load_tree(path)
        try:
            require_kinds(_KINDS, tree, "it")
            own, improved, lengths, acted, policies, drawn = (tree[name] for name in _KINDS)
            check_global_generator_state(drawn)
            for after, taken in improved:
                if not (0 <= after <= len(lengths) and taken >= FAILED):
                    raise ValueError(f"it was improved after {shown(improved)} episodes")
            if not len(policies) <= len(acted) == len(lengths):
                raise ValueError(
                    f"it says of {len(acted)} episodes by number, and of {len(policies)} by name, "
                    f"who acted in {len(lengths)}"
                )
            episodes: list[Episode] = []
            if lengths:
                real, cuts = Transitions(**tree["real"]), tree["truncated"].numpy()
                ends = np.cumsum(lengths).tolist()
                names = [""] * (len(acted) - len(policies)) + policies
                episodes = [
                    Episode(real[end - length : end], cuts[end - length : end], version, name)
                    for length, end, version, name in zip(lengths, ends, acted, names, strict=True)
                ]
        except (RuntimeError, *FOREIGN_ERRORS) as error:
            raise CheckpointError(f"{path} is not the checkpoint of a session: {error}") from error
        if differing := [name for name in identity if own.get(name) != identity[name]]:
            raise ValueError(
                f"{path} is of another session: {', '.join(differing)} differ. Delete it, or "
                "choose another checkpoint."
            )
        return cls(identity=own, episodes=episodes, improved=improved, drawn=drawn)
