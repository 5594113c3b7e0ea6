"""A torch module read by OpenVINO itself, without a graph of a build: what users do who know no better way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino as ov

TYPES = {"fp32": "f32", "bf16": "bf16"}


def compiled_module(
    module: Any, example: Mapping[str, Any], threads: int, precision: str
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The module's first output as a function of its inputs by name; `example` are torch's tensors of fixed shapes."""
    shapes = {name: list(tensor.shape) for name, tensor in example.items()}
    graph = ov.convert_model(module, example_input=dict(example), input=shapes)
    options = {"INFERENCE_PRECISION_HINT": TYPES[precision], "INFERENCE_NUM_THREADS": threads}
    model = ov.Core().compile_model(graph, "CPU", options)
    return lambda inputs: np.array(model(dict(inputs))[0])
