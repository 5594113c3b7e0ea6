"""Half-precision graphs on a CPU: what stands in for engines that this machine builds and cannot run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from hsengines.ort.cpu import run_graph
from hsengines.spec import EngineSpec
from hsexport.build.stages.stage import Product
from hsexport.onnx.graph_files import load_graph, save_graph
from hsexport.onnx.passes.cast_back import CastBack
from hsexport.onnx.passes.expose_blocks import ExposeBlocks
from hsexport.onnx.passes.graph_pass import apply
from hsruntime.bundle.golden import load_golden


@contextmanager
def cast_back_graph(product: Product) -> Iterator[tuple[Path, EngineSpec]]:
    """A file with the graph in fp32, every value rounded to its precision, and its I/O signature; gone afterwards.

    An fp32 graph is its own stand-in.
    """
    if product.precision == "fp32":
        yield product.graph, product.spec
        return
    model = load_graph(product.graph)
    apply(model, CastBack(product.precision))
    with _saved(model, product) as file:
        yield file, product.network.spec_at("fp32")


def block_values(product: Product) -> dict[str, np.ndarray]:
    """What each block hands on over the golden's input, every value rounded to the graph's precision."""
    model = load_graph(product.graph)
    blocks = ExposeBlocks()
    apply(model, blocks, *([] if product.precision == "fp32" else [CastBack(product.precision)]))
    inputs, _ = load_golden(product.golden)
    with _saved(model, product) as file:
        found = run_graph(file, inputs)
    return {block: found[output] for block, output in blocks.outputs.items()}


def first_infinite_block(product: Product) -> str:
    """The first block that hands on a number that is not finite; "" if none does or there are no blocks."""
    return next((name for name, value in block_values(product).items() if not np.isfinite(value).all()), "")


@contextmanager
def _saved(model: ir.Model, product: Product) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hsexport-") as folder:
        file = Path(folder) / product.graph.name
        save_graph(model, file)
        yield file
