"""State trees: large tensors without copies, and checks before anything is changed.

A state tree is what ``state()`` methods give and ``load_state()`` methods take: dictionaries,
lists, tuples, tensors and plain values.
"""

from collections.abc import Sequence
from typing import Any

import torch

from mier_adapt._storage.files import require_kinds
from mier_adapt._typing import Tensor


class Pieces:
    """A tensor given as pieces along its first axis, which may be views of someone's memory.

    A replay buffer of gigabytes so needs no copy to be saved. Files hold the joined tensor.

    Args:
        parts: At least one tensor; all share dtype and further axes.

    Raises:
        ValueError: If they do not.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        kinds = {(part.dtype, tuple(part.shape[1:])) for part in parts}
        if len(kinds) != 1 or any(part.ndim == 0 for part in parts):
            raise ValueError(
                "Pieces expected parts with a first axis that share dtype and further axes, got "
                f"{len(parts)} parts of kinds {sorted(map(str, kinds))}."
            )
        self.parts = tuple(parts)

    def joined(self) -> Tensor:
        """The whole tensor, copied together."""
        return torch.cat(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pieces) and torch.equal(self.joined(), other.joined())

    __hash__ = None  # type: ignore[assignment]  # equal by contents, which may change


def require_like(expected: Any, given: Any, where: str) -> None:
    """Check that a tree has another's structure, shapes, dtypes and kinds of plain values.

    Args:
        expected: The live object's own tree.
        given: The tree that is to be loaded.
        where: The tree's name in messages.

    Raises:
        ValueError: If they differ; the message says where.
    """
    if isinstance(expected, Tensor):
        if not isinstance(given, Tensor):
            raise ValueError(f"{where}: expected a tensor, got {type(given).__name__}.")
        mine, came = (f"{v.dtype} of shape {tuple(v.shape)}" for v in (expected, given))
        if mine != came:
            raise ValueError(f"{where}: expected {mine}, got {came}.")
    elif isinstance(expected, dict):
        require_keys(expected, given, where)
        for key, value in expected.items():
            require_like(value, given[key], f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        if type(given) is not type(expected) or len(given) != len(expected):
            raise ValueError(
                f"{where}: expected a {type(expected).__name__} of {len(expected)} entries, got "
                f"{type(given).__name__} of {len(given) if hasattr(given, '__len__') else 0}."
            )
        for position, value in enumerate(expected):
            require_like(value, given[position], f"{where}/{position}")
    elif type(given) is not type(expected) and not (
        type(expected) in (int, float) and type(given) in (int, float)
    ):
        raise ValueError(
            f"{where}: expected {type(expected).__name__}, got {type(given).__name__}."
        )


def require_keys(expected: dict[Any, Any], given: Any, where: str) -> None:
    """Check that ``given`` is a dictionary with exactly these keys."""
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected a dictionary, got {type(given).__name__}.")
    problems = [
        f"{key} ({'missing' if key in expected else 'unexpected'})"
        for key in expected.keys() ^ given.keys()
    ]
    if problems:
        raise ValueError(f"{where}: differs in {'; '.join(sorted(problems)[:5])}.")


def require_optimizer_state(optimizer: torch.optim.Optimizer, given: Any, where: str) -> None:
    """Check that a state dict fits an optimizer, whether or not it has taken steps.

    ``Optimizer.load_state_dict`` checks counts alone, and would fail at the next step.

    Raises:
        ValueError: If it does not fit; the message says where.
    """
    own = optimizer.state_dict()
    require_keys(own, given, where)
    groups = given["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError(f"{where}/param_groups: belongs to other parameters.")
    parameters: dict[int, Tensor] = {}
    for mine, theirs, live in zip(own["param_groups"], groups, optimizer.param_groups, strict=True):
        require_kinds({"params": [int]}, theirs, f"{where}/param_groups")
        if mine["params"] != theirs["params"]:
            raise ValueError(f"{where}/param_groups: belongs to other parameters.")
        # Releases of torch add flags, and flags do not change what a step means.
        flags = {name for name, value in mine.items() if value is None or isinstance(value, bool)}
        require_keys(
            mine,
            {**dict.fromkeys(flags), **theirs},
            f"{where}/param_groups",
        )
        for name in theirs.keys() - flags:
            require_like(mine[name], theirs[name], f"{where}/param_groups/{name}")
        for name in theirs.keys() & flags:
            if not (theirs[name] is None or isinstance(theirs[name], bool)):
                raise ValueError(f"{where}/param_groups/{name}: expected a bool or None.")
        parameters |= dict(zip(mine["params"], live["params"], strict=True))
    if not isinstance(given["state"], dict):
        raise ValueError(f"{where}/state: expected a dictionary, got {type(given['state'])}.")
    for index, entries in given["state"].items():
        at = f"{where}/state/{index}"
        if index not in parameters or not isinstance(entries, dict):
            raise ValueError(f"{at}: belongs to no parameter.")
        if isinstance(optimizer, torch.optim.Adam):
            wanted = dict.fromkeys(("step", "exp_avg", "exp_avg_sq"))
            if optimizer.defaults["amsgrad"]:
                wanted["max_exp_avg_sq"] = None
            require_keys(wanted, entries, at)
        parameter = parameters[index]
        for name, value in entries.items():
            if name == "step":
                require_like(torch.tensor(0.0), value, f"{at}/{name}")
            else:
                require_like(parameter, value, f"{at}/{name}")
