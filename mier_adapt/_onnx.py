"""An adapted policy as an ONNX graph, for robots without Python."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mier_adapt.compensation import STEPS, Compensation

_OPSET, _IR = 17, 9
"""What onnxruntime has understood since 2023."""
_ELEMENTWISE: dict[type[nn.Module], tuple[str, Callable[[Any], dict[str, float]]]] = {
    nn.ReLU: ("Relu", lambda layer: {}),
    nn.LeakyReLU: ("LeakyRelu", lambda layer: {"alpha": layer.negative_slope}),
    nn.ELU: ("Elu", lambda layer: {"alpha": layer.alpha}),
    nn.Tanh: ("Tanh", lambda layer: {}),
    nn.Sigmoid: ("Sigmoid", lambda layer: {}),
}


class _Graph:
    """Nodes in their order, and the constants that they take."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str | NDArray[Any], output: str = "", **options: Any) -> str:
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, names, [output], **options))
        return output

    def cast(self, value: str, dtype: Any) -> str:
        return self.add(
            "Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )

    def affine(self, value: str, matrix: NDArray[Any], offset: NDArray[Any]) -> str:
        return self.add("Add", self.add("MatMul", value, np.ascontiguousarray(matrix.T)), offset)

    def clip(self, value: str) -> str:
        return self.add("Clip", value, np.array(-1.0), np.array(1.0))


def onnx_model(
    layers: Sequence[nn.Module],
    context: NDArray[np.float32],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    undone: Compensation | None,
) -> Any:
    """The graph of a policy whose network is a sequence of layers, the first a linear one.

    Raises:
        ImportError: If onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "Writing ONNX needs the package onnx: pip install 'mier-adapt[onnx]'."
        ) from error
    graph = _Graph(onnx)
    first: Any = layers[0]
    value = "obs"
    if undone is not None and len(undone.obs_offset):
        known = graph.affine(graph.cast(value, np.float64), undone.obs_matrix, undone.obs_offset)
        value = graph.cast(known, np.float32)
    if len(context):
        # As many rows of it as there are observations: 0 times their first column, and it added.
        column = graph.add("Slice", value, *(np.array([each], np.int64) for each in (0, 1, 1)))
        nothing = graph.add("Mul", column, np.zeros((1, len(context)), np.float32))
        value = graph.add("Concat", value, graph.add("Add", nothing, context), axis=1)
    for layer in layers:
        value = _add_layer(graph, layer, value)
    value = graph.cast(value, np.float64)
    if undone is not None:
        value = _add_compensation(graph, undone, graph.clip(value))
    least, most = (each.astype(np.float64) for each in (low, high))
    scaled = graph.affine(value, np.diag((most - least) / 2), (most + least) / 2)
    bounded = graph.add("Min", graph.add("Max", scaled, least), most)
    kind = onnx.helper.np_dtype_to_tensor_dtype(low.dtype)
    graph.add("Cast", bounded, output="act", to=kind)
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, dtype, ["batch", size])]
        for name, dtype, size in (
            ("obs", onnx.TensorProto.FLOAT, first.in_features - len(context)),
            ("act", kind, len(low)),
        )
    )
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "adapted policy", inputs, outputs, initializer=graph.constants
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="mier-adapt",
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def _add_layer(graph: _Graph, layer: Any, value: str) -> str:
    if isinstance(layer, nn.Linear):
        weight, bias = (each.detach().cpu().numpy() for each in (layer.weight, layer.bias))
        return graph.affine(value, weight, bias)
    if isinstance(layer, nn.LayerNorm):
        scale, shift = (each.detach().cpu().numpy() for each in (layer.weight, layer.bias))
        return graph.add("LayerNormalization", value, scale, shift, axis=-1, epsilon=layer.eps)
    if isinstance(layer, nn.SiLU):
        return graph.add("Mul", value, graph.add("Sigmoid", value))
    kind, options = _ELEMENTWISE[type(layer)]
    attributes: dict[str, Any] = options(layer)
    return graph.add(kind, value, **attributes)


def _add_compensation(graph: _Graph, undone: Compensation, wanted: str) -> str:
    """As ``Compensation.action``."""
    matrix, offset = undone.act_matrix, undone.act_offset
    if np.array_equal(matrix, np.eye(len(matrix))) and not offset.any():
        return wanted
    exact = graph.affine(graph.add("Sub", wanted, offset), undone.inverse, np.zeros(len(offset)))
    clipped = nearest = graph.clip(exact)
    for _ in range(STEPS):
        error = graph.add("Sub", graph.affine(nearest, matrix, offset), wanted)
        step = graph.add("MatMul", error, undone.rate * matrix)
        nearest = graph.clip(graph.add("Sub", nearest, step))
    distance = graph.add("Abs", graph.add("Sub", exact, clipped))
    farthest = graph.add("ReduceMax", distance, axes=[-1], keepdims=1)
    return graph.add("Where", graph.add("Greater", farthest, np.array(0.0)), nearest, clipped)
