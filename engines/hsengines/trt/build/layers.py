"""What TensorRT made of a graph, layer by layer, for an audit of dtypes against the ONNX nodes.

TensorRT's parser notes in each layer's metadata which ONNX node it comes from: "[ONNX Layer: node_linear_3]". The
layer's own name is the node's, but for the second and later layers of one node, which get a number appended
("node_linear_3_80"), and for attention ("..._AttentionOutput"): so names are taken from the metadata. As parsed,

- MatMul is one MATRIX_MULTIPLY, Gemm with a bias a MATRIX_MULTIPLY and an ELEMENTWISE of one name;
- Conv is one CONVOLUTION, Attention one ATTENTION_OUTPUT (the inputs' half has no metadata), Cast one CAST;
- LayerNormalization and GroupNormalization are one NORMALIZATION; RMSNormalization is taken apart into ELEMENTWISE,
  REDUCE and UNARY in float32, of which the last one has the node's own dtype;
- constants and what shapes are computed with may have no node, and are left out.

In a built engine one layer may stand for many nodes: their names are joined with " + ".
"""

from __future__ import annotations

import json
import re
from typing import Any

from hsengines.build import NODE_SEPARATOR, Layer
from hsengines.trt.dtypes import numpy_name, numpy_name_of_printed

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def network_layers(network: Any) -> tuple[Layer, ...]:
    """The layers of a parsed network that come from nodes of the graph, in order."""
    every = (network.get_layer(index) for index in range(network.num_layers))
    return tuple(_parsed(layer) for layer in every if _NODE.search(layer.metadata))


def _parsed(layer: Any) -> Layer:
    outputs = (layer.get_output(index) for index in range(layer.num_outputs))
    dtypes = tuple(numpy_name(output.dtype) for output in outputs if output is not None)
    return Layer(nodes_in(layer.metadata), layer.type.name, dtypes)


def engine_layers(library: Any, engine: Any) -> tuple[Layer, ...]:
    """The layers of a built engine that its inspector can trace to nodes; none where it tells too little."""
    inspector = engine.create_engine_inspector()
    printed = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    try:
        told = json.loads(printed).get("Layers", [])
    except (ValueError, AttributeError):
        return ()
    detailed = [entry for entry in told if isinstance(entry, dict) and _NODE.search(entry.get("Metadata", ""))]
    return tuple(_printed(entry) for entry in detailed)


def _printed(entry: dict[str, Any]) -> Layer:
    outputs = entry.get("Outputs", [])
    dtypes = tuple(numpy_name_of_printed(str(output.get("Format/Datatype", ""))) for output in outputs)
    return Layer(nodes_in(entry["Metadata"]), str(entry.get("LayerType", "")), dtypes)


def nodes_in(metadata: str) -> str:
    """The names of the ONNX nodes in a layer's metadata, each once."""
    return NODE_SEPARATOR.join(dict.fromkeys(_NODE.findall(metadata)))
