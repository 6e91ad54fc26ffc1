"""The harm encoder's network as an ONNX file, written node by node with onnxruntime's fused operators.

What is written: int8 matrices with one fp32 scale per output (of the word table: per row), which onnxruntime folds to fp32 when
it loads; the arithmetic is fp32. The rounded weights are the model: it is calibrated, measured and compared as it ships.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
FUSED = "com.microsoft"
LAYERS, HEADS, EPSILON = 6, 12, 1e-12


def write(state: Mapping[str, Floats], file: Path) -> None:
    """`state` has transformers' names for BERT beneath `body.`, and `head.weight`, `head.bias`."""
    graph = _Graph(state)
    logit = graph.network()
    ends = [helper.make_tensor_value_info(logit, TensorProto.FLOAT, ["pairs", len(state["head.bias"])])]
    names = ("input_ids", "attention_mask", "token_type_ids")
    starts = [helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs", "tokens"]) for name in names]
    body = helper.make_graph(graph.nodes, "harm", starts, ends, graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)], ir_version=9)
    onnx.save(model, str(file))


def rounded(matrix: Floats, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 values and the scales along `axis` that give the matrix back, to within half a step."""
    scale = (np.abs(matrix).max(axis, keepdims=True) / 127).astype(np.float32)
    return np.round(matrix / np.where(scale == 0, 1, scale)).astype(np.int8), scale


class _Graph:
    def __init__(self, state: Mapping[str, Floats]) -> None:
        self.state, self.nodes, self.constants = state, list[Any](), list[Any]()

    def network(self) -> str:
        """Embeddings, layers, mean over tokens, heads; the name of the output."""
        x = self.embedded()
        mask = self.node("Cast", ["attention_mask"], to=TensorProto.INT32)
        for n in range(LAYERS):
            x = self.layer(f"body.encoder.layer.{n}.", x, mask)
        share = self.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        row = self.node("Unsqueeze", [share, self.constant("first", np.array([1]))])
        total = self.node("Squeeze", [self.node("MatMul", [row, x]), "first"])
        mean = self.node("Div", [total, self.node("ReduceSum", [share, "first"], keepdims=1)])
        self.nodes.append(
            helper.make_node("Gemm", [mean, self.named("head.weight"), self.named("head.bias")], ["logit"], transB=1)
        )
        return "logit"

    def embedded(self) -> str:
        table = "body.embeddings."
        values, scale = rounded(self.state[f"{table}word_embeddings.weight"], 1)
        parts = [self.constant(f"{table}word_embeddings.weight.{n}", part) for n, part in (("int8", values), ("scale", scale))]
        rows = [self.node("Gather", [part, "input_ids"]) for part in parts]
        word = self.node("Mul", [self.node("Cast", [rows[0]], to=TensorProto.FLOAT), rows[1]])
        kind = self.node("Gather", [self.named(f"{table}token_type_embeddings.weight"), "token_type_ids"])
        ends = [self.constant("zero", np.array([0])), self.node("Slice", [self.node("Shape", ["input_ids"]), *self.second()])]
        place = self.node("Slice", [self.named(f"{table}position_embeddings.weight"), *ends])
        summed = self.node("Add", [self.node("Add", [word, kind]), place])
        norm = [self.named(f"{table}LayerNorm.{part}") for part in ("weight", "bias")]
        return self.node("LayerNormalization", [summed, *norm], axis=-1, epsilon=EPSILON)

    def second(self) -> list[str]:
        return [self.constant("one", np.array([1])), self.constant("two", np.array([2]))]

    def layer(self, name: str, x: str, mask: str) -> str:
        own = [f"{name}attention.self.{part}." for part in ("query", "key", "value")]
        weight = self.matrix(f"{name}attention.self.qkv", np.concatenate([self.state[f"{o}weight"].T for o in own], 1))
        bias = self.constant(f"{name}attention.self.qkv.bias", np.concatenate([self.state[f"{o}bias"] for o in own]))
        mixed = self.node("Attention", [x, weight, bias, mask], FUSED, num_heads=HEADS)
        x = self.closed(f"{name}attention.output.", mixed, x)
        inner = self.node("MatMul", [x, self.weight(f"{name}intermediate.dense")])
        active = self.node("BiasGelu", [inner, self.named(f"{name}intermediate.dense.bias")], FUSED)
        return self.closed(f"{name}output.", active, x)

    def closed(self, name: str, inner: str, x: str) -> str:
        """A projection, its bias, the sum with what went in, and the norm."""
        out = self.node("MatMul", [inner, self.weight(f"{name}dense")])
        given = [self.named(name + part) for part in ("LayerNorm.weight", "LayerNorm.bias", "dense.bias")]
        return self.node("SkipLayerNormalization", [out, x, *given], FUSED, epsilon=EPSILON)

    def weight(self, name: str) -> str:
        return self.matrix(name, self.state[f"{name}.weight"].T)

    def matrix(self, name: str, values: Floats) -> str:
        """[in, out] as int8 and scales."""
        small, scale = rounded(values, 0)
        parts = [self.constant(f"{name}.weight.int8", small), self.constant(f"{name}.weight.scale", scale)]
        return self.node("Mul", [self.node("Cast", parts[:1], to=TensorProto.FLOAT), parts[1]])

    def named(self, name: str) -> str:
        return self.constant(name, self.state[name])

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        out = f"{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], domain=domain, **attributes))
        return out
