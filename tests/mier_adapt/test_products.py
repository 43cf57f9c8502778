"""Products by the faster kernels: as exact, for a block only, and not where they would round."""

import threading

import pytest
import torch

from mier_adapt import _products
from mier_adapt._products import quick_products

pytestmark = pytest.mark.skipif(_products._settings() is None, reason="needs torch 2.9")


@pytest.fixture
def exact(monkeypatch):
    """A processor on which they are."""
    monkeypatch.setattr(_products, "_as_exact", lambda: True)


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.usefixtures("exact")
def test_they_stand_for_a_block_or_a_function_and_are_given_back():
    before = setting()
    with quick_products():
        assert setting() == "bf16"
        with quick_products():
            pass
        assert setting() == "bf16"
    assert setting() == before
    assert quick_products()(setting)() == "bf16"
    with pytest.raises(KeyError), quick_products():
        raise KeyError
    assert setting() == before


@pytest.mark.usefixtures("exact")
def test_one_that_ends_in_another_thread_leaves_them_to_the_others():
    before = setting()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with quick_products():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    with quick_products():
        leave.set()
        thread.join()
        assert setting() == "bf16"
    assert setting() == before


def test_products_that_would_be_rounded_are_left_alone(monkeypatch):
    before = setting()
    rounded = torch.Tensor.__matmul__

    def matmul(self, other):
        if setting() == "bf16" and self.dtype == torch.float32:
            self, other = self.bfloat16().float(), other.bfloat16().float()
        return rounded(self, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", matmul)
    _products._as_exact.cache_clear()
    try:
        assert not _products._as_exact()
        with quick_products():
            assert setting() == before
    finally:
        _products._as_exact.cache_clear()
    assert setting() == before


def test_what_they_give_here_is_exact_to_float32():
    torch.manual_seed(0)
    left, right = torch.randn(320, 256), torch.randn(256, 256)
    with quick_products():
        product = left @ right
    assert (product - left.double() @ right.double()).abs().max() < 1e-3  # bfloat16's: 0.1
