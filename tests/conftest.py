from collections.abc import Callable, Iterator

import pytest

from tests.forking import Ended, Forker


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ended]]:
    """Run a program in a process of its own that has loaded torch, Tianshou and MuJoCo already."""
    with Forker(tmp_path_factory.mktemp("forked")) as forker:
        yield forker.run
