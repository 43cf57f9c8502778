"""Networks that methods share."""

import itertools
from collections.abc import Sequence

from torch import nn


def perceptron(input_dim: int, output_dim: int, hidden_sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    widths = (input_dim, *hidden_sizes)
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], output_dim))
