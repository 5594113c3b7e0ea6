"""TensorRT's refusals as errors of one line (network, layer, what it said, what to do), and those it is known for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from hsengines.errors import EngineBuildError
from hsengines.trt.build.log import Log
from hsengines.trt.inspection import nodes_in, numpy_name

_LONGEST = 200  # characters of TensorRT's in one line of ours


class Known(NamedTuple):
    """`pattern` finds the refusal in TensorRT's words; `said` replaces these where they are no help."""

    pattern: str
    hint: str
    said: str = ""


ATTENTION_WITHOUT_KERNEL = "not supported by a dedicated kernel"

_OUT_OF_MEMORY = r"(?i)out ?of ?memory|bad_alloc|failed_allocation|memory allocation|insufficient memory"

KNOWN = (
    Known(
        ATTENTION_WITHOUT_KERNEL,
        "TensorRT has attention kernels for fp16 and bf16 and for some head sizes: build with --precision fp16 or bf16",
        "it has no kernel for this attention",
    ),
    Known(
        "Attention nodes with one output",
        "concatenate keys and values outside the Attention node, so that it has a single output",
        "it takes Attention nodes with one output only",
    ),
    Known("K exceeds the maximum", "take fewer elements with TopK, or choose them outside the engine"),
    Known(
        "NonZero",
        "keep shapes that depend on data out of the graph: they cannot be captured in a CUDA graph either",
        "it has no NonZero here",
    ),
    Known("Plugin not found", "replace the node by standard ONNX operators", "it knows no such operator"),
    Known(
        "must have same input types|must have the same type",
        "TensorRT converts nothing by itself: cast the node's inputs to one dtype in the graph",
    ),
    Known(
        "HW-specific datatypes: b16", "bf16 needs compute capability 80 or later: leave --arch 75 out, or build in fp16"
    ),
    Known(
        "Failed to parse the ONNX model", "the file is damaged: export the network again", "the file is no ONNX model"
    ),
    Known("cannot be found", "export the network again", "the file is missing"),
    Known(
        "Failed to import initializer|Failed to open file|out of range for file",
        "the weights' file beside the ONNX file is missing or cut short: export the network again",
    ),
    Known(
        "Found invalid weights type",
        "TensorRT reads this operator's constants as float32, float16 or integers: leave them out of the cast",
        "it cannot read a constant of this dtype",
    ),
    Known("violate shape constraints", "dimensions that must be equal need one name, or one range in each profile"),
    Known("no optimization profile has been defined", "give the engine's spec a profile"),
    Known("Dimension mismatch for tensor|dimensions but profile", "the graph and the engine's spec disagree"),
    Known(r"(?i)int64", "cast indices to int32 in the graph"),
    Known(
        _OUT_OF_MEMORY,
        "free memory, or build fewer or smaller profiles (--max-size, --max-batch)",
        "it ran out of memory",
    ),
    Known(r"(?i)insufficient workspace|could not find any implementation", "raise or drop the workspace limit"),
    Known(
        "CUDA_SUCCESS|CUDA driver version is insufficient|no CUDA-capable device",
        "build on a machine with an NVIDIA GPU and its driver",
        "it needs a GPU for this",
    ),
    Known("UNSUPPORTED_NODE", "replace the node by operators that TensorRT has"),
)


def known_refusal(text: str) -> Known:
    """The first known refusal that `text` tells of; one without a pattern where none is known."""
    found = next((known for known in KNOWN if re.search(known.pattern, text)), None)
    return found or Known("", "the builder's log has the details")


def is_out_of_memory(text: str) -> bool:
    """Whether TensorRT tells of memory that it did not get."""
    return re.search(_OUT_OF_MEMORY, text) is not None


def in_short(text: str) -> str:
    """What a message of TensorRT says, in one line, without its own file names and conditions."""
    line = text.strip().replace("\n", " ")
    line = re.sub(r"^.*?API Usage Error \(|^.*?Error Code \d+: [\w ]+ \(", "", line)
    line = re.sub(r"Parameter check failed, condition: .*?\. +(?=[A-Z])", "", line)
    line = re.sub(r"\[[\w.]+:\d+: \w+\] ", "", line)
    line = re.sub(r"^Assertion failed: .*?(?<!:):(?!:) (?=[A-Z])", "", line)
    line = re.sub(r"\s*\bIn [\w~]+ at /[^\s)]+", "", line)
    line = re.sub(r"\(See https?:[^)]*\)", "", line)
    line = re.sub(r"\s+", " ", line).strip(" .")
    # What a message was wrapped in has lost its opening bracket above.
    line = line.removesuffix(")" if line.count(")") > line.count("(") else "").rstrip(" .")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rsplit(' ', 1)[0]} ..."


_SHOWN = 3  # names of layers in one line


def parse_refusal(title: str, name: str, parser: Any, log: Log) -> EngineBuildError:
    """The error for a graph that the parser of `title` does not take; `name` is the network's."""
    if not parser.num_errors:
        return _refusal(title, name, "", log.first_error, log)
    error = parser.get_error(0)
    node, operator = error.node_name(), error.node_operator()
    # The parser's first line may only repeat the node's name; what follows is what the network said.
    said = re.sub(r"^Invalid Node - .*\n", "", error.desc()) or error.code().name
    where = f" at node '{node}' ({operator})" if operator else ""
    opened = next((text for text in log.errors if "Failed to open file" in text or "out of range for file" in text), "")
    if not operator and opened:
        said = re.sub(r"^\S+: ", "", opened)
    if said == "false":  # a bare condition
        said = f"{error.code().name}: it does not have this operator"
    return _refusal(title, name, where, said, log)


def build_refusal(title: str, name: str, network: Any, log: Log) -> EngineBuildError:
    """The error for a parsed network that the builder of `title` does not take."""
    return _refusal(title, name, _where(log.first_error, network), log.first_error, log)


def _refusal(title: str, name: str, where: str, said: str, log: Log) -> EngineBuildError:
    known = known_refusal(said)
    words = known.said or in_short(said)
    return EngineBuildError(f"{title} refuses network '{name}'{where}: {words}", known.hint, log.text())


def _where(said: str, network: Any) -> str:
    """The layers that a builder's message means, as far as it can be told."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    if ATTENTION_WITHOUT_KERNEL in said:
        names = _attention_in_question(layers)
    else:
        names = [layer.name for layer in layers if re.search(rf"(?<![\w/.]){re.escape(layer.name)}:", said)]
    return _listed(dict.fromkeys(names))


def _attention_in_question(layers: list[Any]) -> list[str]:
    """The attention nodes in float32, which TensorRT has no kernels for; all of them if there are none of these."""
    ends = [layer for layer in layers if layer.type.name == "ATTENTION_OUTPUT"]
    wide = [layer for layer in ends if numpy_name(layer.get_output(0).dtype) == "float32"]
    return [nodes_in(layer.metadata) or layer.name for layer in wide or ends]


def _listed(names: Iterable[str]) -> str:
    shown = [f"'{name}'" for name in names]
    if not shown:
        return ""
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return f" at layer {', '.join(shown[:_SHOWN])}{more}"
