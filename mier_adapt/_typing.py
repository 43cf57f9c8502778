"""Shapes in annotations: the one module that imports jaxtyping."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor"]
