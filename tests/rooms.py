"""What is public: the names that the rooms list. One walk, for every test that asks."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, NamedTuple

import mier_adapt
import mier_adapt_envs

PACKAGES = (mier_adapt, mier_adapt_envs)
ONE_FILE_ROOMS = (
    "mier_adapt.changes",
    "mier_adapt.compensation",
    "mier_adapt.diagnosis",
    "mier_adapt.figures",
    "mier_adapt.protocols",
    "mier_adapt.statistics",
    "mier_adapt.wrappers.vector",
)


class Public(NamedTuple):
    """A public object."""

    room: str
    """The first room that lists it."""
    name: str
    """What it is called there."""
    value: Any
    """Itself."""

    @property
    def path(self) -> str:
        """Room and name."""
        return f"{self.room}.{self.name}"


def modules() -> dict[str, ModuleType]:
    """All modules of both packages but the private ones, by name."""
    names = [package.__name__ for package in PACKAGES] + [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not any(part.startswith("_") for part in module.name.split("."))
    ]
    return {name: importlib.import_module(name) for name in names}


def rooms() -> dict[str, ModuleType]:
    """The packages and the rooms of one file, by name; a package before what is in it."""
    return {
        name: module
        for name, module in modules().items()
        if hasattr(module, "__path__") or name in ONE_FILE_ROOMS
    }


def public_names() -> list[Public]:
    """What the rooms list, each object once; rooms in rooms are not names."""
    seen: dict[int, Public] = {}
    for room, module in rooms().items():
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value):
                seen.setdefault(id(value), Public(room, name, value))
    return list(seen.values())
