import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt._storage.checkpoints import load_tree, save_tree
from mier_adapt._storage.randomness import (
    global_generator_state,
    seed_global_generators,
    set_global_generator_state,
)


def draw(count: int) -> list[float]:
    values = [np.random.normal(), np.random.randint(100)]  # noqa: NPY002
    return [*map(float, values), *torch.randn(count).tolist()]


@given(seed=st.integers(0, 2**63 - 1), count=st.integers(0, 20))
def test_the_seed_fixes_both_global_generators(seed, count):
    seed_global_generators(seed)
    first = draw(count)
    seed_global_generators(seed)
    assert draw(count) == first


@given(count=st.integers(0, 20))
def test_a_state_goes_through_a_file(count, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "generators"
    draw(count)  # an odd number of normals leaves one in NumPy's generator
    save_tree(path, global_generator_state())
    expected = draw(count)
    seed_global_generators(0)
    set_global_generator_state(load_tree(path))
    assert draw(count) == expected
