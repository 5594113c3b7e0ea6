"""TensorRT's refusals as errors of one line: network, layer, what it said, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hsengines.errors import EngineBuildError
from hsengines.trt.build.layers import nodes_in
from hsengines.trt.build.log import Log, is_noise
from hsengines.trt.build.remedies import ATTENTION_WITHOUT_KERNEL, in_short, remedy_for
from hsengines.trt.dtypes import numpy_name

_SHOWN = 3  # names of layers in one line


def parse_refusal(title: str, name: str, parser: Any, log: Log) -> EngineBuildError:
    """The error for a graph that the parser of `title` does not take; `name` is the network's."""
    if not parser.num_errors:
        return _refusal(title, name, "", _first_error(log), log)
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
    said = _first_error(log)
    return _refusal(title, name, _where(said, network), said, log)


def _refusal(title: str, name: str, where: str, said: str, log: Log) -> EngineBuildError:
    remedy = remedy_for(said)
    words = remedy.said or in_short(said)
    return EngineBuildError(f"{title} refuses network '{name}'{where}: {words}", remedy.hint, log.text())


def _first_error(log: Log) -> str:
    told = [text for text in log.errors if not is_noise(text)]
    return told[0] if told else "it gives no reason"


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
