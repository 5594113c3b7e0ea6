"""What the predictions rest on and cannot be counted: bytes of resident memory and of disk.

`scripts/measure_plan.py` measures the first four again and prints them beside these.
"""

from __future__ import annotations

EXPORT_PROCESS = 600_000_000
"""A process that exports, before what it holds for each weight: torch, diffusers, transformers and the exporter."""

EXPORT_PER_TENSOR = 350_000
"""What tracing and translating hold for each weight of a network, its numbers aside."""

GRAPH_PER_TENSOR = 1_700
"""An ONNX file without its weights, for each weight that it names: SD3.5's, whose many cache tensors count, too; the
tiny pair of the script has 600."""

RUNNER_PROCESS = 80_000_000
"""A process that runs pictures on the CPU, before it loads an engine: numpy, tokenizers, ONNX Runtime."""

BUILDER_COPIES = 2
"""How often a TensorRT builder holds a network's weights at once, as parsed and as laid out for the engine: what its
documentation says, not measured."""

DEVICE_PROCESS = 600_000_000
"""A CUDA context and the libraries' own memory on a GPU. An estimate: no GPU has run this yet."""
