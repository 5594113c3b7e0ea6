"""What TensorRT tells of networks and engines: dtypes, I/O signatures, and layers for the audit against ONNX nodes.

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
from collections.abc import Mapping
from typing import Any

from hsengines.build import NODE_SEPARATOR, Layer
from hsengines.spec import signature

_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}

TRT_NAMES = {name: theirs for theirs, name in _NAMES.items()}
"""numpy's names of element types, and TensorRT's."""

# "Half", "FP16" or, from older releases, "Row major linear FP16 format".
_PRINTED = {"FP32": "float32", "FP16": "float16", "BFLOAT16": "bfloat16", **_NAMES}


def numpy_name(dtype: Any) -> str:
    """What numpy calls a TensorRT DataType; the fp8 and fp4 kinds keep TensorRT's, in lower case."""
    return _NAMES.get(dtype.name, dtype.name.lower())


def numpy_name_of_printed(words: str) -> str:
    """What numpy calls the dtype that an inspector's "Format/Datatype" tells of, or the words themselves."""
    for word in re.findall(r"\w+", words.upper()):
        if word in _PRINTED:
            return _PRINTED[word]
    return words


def signature_of_network(network: Any) -> dict[str, str]:
    """What a parsed network has, by name."""
    inputs = map(network.get_input, range(network.num_inputs))
    outputs = map(network.get_output, range(network.num_outputs))
    return signature(*([(t.name, numpy_name(t.dtype), len(t.shape)) for t in each] for each in (inputs, outputs)))


def signature_of_engine(library: Any, engine: Any) -> dict[str, str]:
    """What a built engine has, by name."""
    modes = library.TensorIOMode.INPUT, library.TensorIOMode.OUTPUT
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs, outputs = ([name for name in names if engine.get_tensor_mode(name) == mode] for mode in modes)

    def described(name: str) -> tuple[str, str, int]:
        return name, numpy_name(engine.get_tensor_dtype(name)), len(engine.get_tensor_shape(name))

    return signature(map(described, inputs), map(described, outputs))


_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def network_layers(network: Any) -> tuple[Layer, ...]:
    """The layers of a parsed network that come from nodes of the graph, in order."""
    every = list(map(network.get_layer, range(network.num_layers)))
    stored: dict[str, str] = {}
    for layer in every:
        if layer.type.name == "DEQUANTIZE":
            stored[layer.get_output(0).name] = numpy_name(layer.get_input(0).dtype)
        elif layer.type.name == "SHUFFLE" and layer.get_input(0).name in stored:  # to as many dimensions as the other
            stored[layer.get_output(0).name] = stored[layer.get_input(0).name]
    return tuple(_parsed(layer, stored) for layer in every if _NODE.search(layer.metadata))


def _parsed(layer: Any, stored: Mapping[str, str]) -> Layer:
    """`stored`: the types behind tensors that were quantised, by name."""
    outputs = map(layer.get_output, range(layer.num_outputs))
    dtypes = tuple(numpy_name(output.dtype) for output in outputs if output is not None)
    inputs = filter(None, map(layer.get_input, range(layer.num_inputs)))
    reads = tuple(stored[each.name] for each in inputs if each.name in stored)
    return Layer(nodes_in(layer.metadata), layer.type.name, dtypes, reads)


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
