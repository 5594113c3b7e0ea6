"""What of an ONNX file is looked at before a native library reads it: nothing that a build never writes gets that far.

A build's graphs are flat: no control flow, no functions, operators of ONNX itself and three of ONNX Runtime's. With
loops and functions a small file can ask for endless work or memory. The file is protocol buffers (onnx.proto); what
does not matter is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hsengines.errors import EngineLoadError

MOST_BYTES = 2**31
"""Of the file itself, protocol buffers' own limit; weights lie beside it."""
MOST_NODES = 200_000
DOMAINS = (b"", b"ai.onnx")
FOREIGN = {b"com.microsoft": (b"FastGelu", b"MatMulIntegerToFloat", b"SkipSimplifiedLayerNormalization")}
"""Operators outside ONNX that a build writes, by domain."""
_GRAPH, _FUNCTIONS, _NODE, _INITIALISER = 7, 25, 1, 5  # of ModelProto, ModelProto, GraphProto, GraphProto
_INPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 4, 5, 7  # of NodeProto
_NAME = 8  # of TensorProto
_SUBGRAPHS = (6, 11)  # of AttributeProto


def screen(onnx: Path) -> set[str]:
    """The operators of a file. Raises EngineLoadError for one that no build writes."""
    found: set[str] = set()
    if not onnx.is_file():
        return found  # who opens it says so
    size_bytes = onnx.stat().st_size
    if size_bytes > MOST_BYTES:
        _refuse(onnx, f"it has {size_bytes} bytes")
    data, nodes = memoryview(onnx.read_bytes()), 0
    try:
        for field, model_part in _fields(data):
            if field == _FUNCTIONS:
                _refuse(onnx, "it defines functions")
            if field == _GRAPH:
                for node in (part for number, part in _fields(model_part) if number == _NODE):
                    nodes += 1
                    found.add(_screened(onnx, node))
    except (IndexError, ValueError):
        _refuse(onnx, "it is no ONNX file")
    if nodes > MOST_NODES:
        _refuse(onnx, f"it has {nodes} nodes")
    return found


def _screened(onnx: Path, node: memoryview) -> str:
    """A node's operator."""
    domain = operator = b""
    for field, part in _fields(node):
        if field == _DOMAIN:
            domain = bytes(part)
        if field == _OPERATOR:
            operator = bytes(part)
        if field == _ATTRIBUTE and any(number in _SUBGRAPHS for number, _ in _fields(part)):
            _refuse(onnx, "it has control flow")
    if domain not in DOMAINS and operator not in FOREIGN.get(domain, ()):
        _refuse(onnx, f"it has the operator {operator[:60]!r} of {domain[:60]!r}")
    return operator.decode(errors="replace")


def weights_made_anew(onnx: Path) -> Iterator[str]:
    """The quantised weights that a graph makes numbers of in a node of its own, by name."""
    graphs = [part for field, part in _fields(memoryview(onnx.read_bytes())) if field == _GRAPH]
    parts = [(f, list(_fields(p))) for graph in graphs for f, p in _fields(graph) if f in (_NODE, _INITIALISER)]
    known = {bytes(p) for field, tensor in parts if field == _INITIALISER for n, p in tensor if n == _NAME}
    for field, node in parts:
        operators = [bytes(p) for n, p in node if n == _OPERATOR] if field == _NODE else []
        if operators == [b"DequantizeLinear"]:
            first = next(bytes(p) for n, p in node if n == _INPUT)
            if first in known:
                yield first.decode()


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field of a message; what is a number has none. Raises IndexError or ValueError."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind, size = key & 7, 0
        if kind == 0:
            _, place = _varint(data, place)
        elif kind == 2:
            size, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a kind that is not in use")
        if place + size > len(data):
            raise ValueError("a field ends beyond its message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number without end")


def _refuse(onnx: Path, why: str) -> None:
    raise EngineLoadError(f"{onnx.name} was not written by a build: {why}", "build the bundle again")
