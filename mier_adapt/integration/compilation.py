"""Tianshou's compiled functions, kept on disk: compiling them takes every process seconds."""

import contextlib
from collections.abc import Iterable
from types import ModuleType


def keep_compiled(modules: Iterable[ModuleType]) -> None:
    """Let modules' functions that Numba compiles be looked for on disk first, and kept there.

    Numba keeps them in ``__pycache__`` beside the module, or in the user's own cache where that
    cannot be written, or in the directory that ``NUMBA_CACHE_DIR`` names. Where none can be
    written every process compiles its own, as it would without this.

    Source:
        Ours; Tianshou compiles them when the first algorithm or buffer is made, in every process.
    """
    for module in modules:
        for function in list(vars(module).values()):
            if hasattr(function, "enable_caching"):
                with contextlib.suppress(RuntimeError):  # there is no place for it
                    function.enable_caching()
