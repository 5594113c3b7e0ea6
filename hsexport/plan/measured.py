"""What the predictions rest on and cannot be counted: bytes of resident memory and of disk.

`scripts/measure plan` measures the first four again and prints them beside these.
"""

from __future__ import annotations

EXPORT_PROCESS = 600_000_000
"""A process that exports, before what it holds for each weight: torch, diffusers, transformers and the exporter."""

EXPORT_PER_TENSOR = 350_000
"""What tracing and translating hold for each weight of a network, its numbers aside."""

QUANTISING = 3
"""For each number of the largest weight while it is quantised: in 8 bits, as the last one still is, and as it is
written."""

GRAPH_PER_TENSOR = 1_700
"""An ONNX file without its weights, for each weight that it names: of real pairs, whose many cache tensors count;
the tiny pair of the script has 600."""

RUNNER_PROCESS = 80_000_000
"""A process that runs pictures on the CPU, before it loads an engine: numpy, tokenizers, ONNX Runtime."""

BUILDER_COPIES = 2.1
"""How often a TensorRT builder holds a network's weights at once, beside the mapped file: laid out for the engine, and
in the plan. From `scripts/measure slices` with TensorRT-RTX 1.7.1 and 2 to 20 layers of a width of 2432."""

DEVICE_PROCESS = 600_000_000
"""A CUDA context and the libraries' own memory on a GPU. An estimate: no GPU has run this yet."""
