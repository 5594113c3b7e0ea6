"""Half-precision graphs on a CPU: what stands in for engines that this machine builds and cannot run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from hsengines.ort.cpu import run_graph
from hsengines.spec import EngineSpec
from hsengines.weights import UNQUANTIZED
from hsexport.build.stages.stage import Product
from hsexport.build.verify.compare import largest_difference
from hsexport.onnx.graph_files import load_graph, save_graph
from hsexport.onnx.passes.cast_back import CastBack
from hsexport.onnx.passes.dequantise import Dequantise
from hsexport.onnx.passes.expose_blocks import ExposeBlocks
from hsexport.onnx.passes.graph_pass import GraphPass, apply
from hsexport.onnx.passes.prepare import prepare
from hsexport.onnx.weights import attach_weights
from hsruntime.bundle.golden import load_golden


@contextmanager
def cast_back_graph(product: Product) -> Iterator[tuple[Path, EngineSpec]]:
    """A file with the graph in fp32, every value rounded to its precision, and its I/O signature; gone afterwards.

    An fp32 graph is its own stand-in, unless its weights are quantised: those become the numbers they stand for.
    """
    if product.precision == "fp32" and product.weights == UNQUANTIZED:
        yield product.graph, product.spec
        return
    model = load_graph(product.graph)
    apply(model, *_in_fp32(product))
    with _saved(model, product) as file:
        yield file, product.network.spec_at("fp32")


def _in_fp32(product: Product) -> list[GraphPass]:
    """What makes an fp32 graph of a product's, with its rounding."""
    return [Dequantise(), *([] if product.precision == "fp32" else [CastBack(product.precision)])]


def block_values(product: Product) -> dict[str, np.ndarray]:
    """What each block hands on over the golden's input, every value rounded to the graph's precision."""
    return _blocks_of(load_graph(product.graph), product, _in_fp32(product))


def block_errors(product: Product, backend: str) -> dict[str, float]:
    """How far what each block hands on lies from what fp32 makes of it: largest error over largest value."""
    reference = load_graph(product.onnx)
    attach_weights(reference, product.network.weights)
    prepare(reference, backend, "fp32")
    wanted, found = _blocks_of(reference, product, []), block_values(product)
    return {block: largest_difference(found[block], wanted[block]) for block in wanted if block in found}


def _blocks_of(model: ir.Model, product: Product, passes: Sequence[GraphPass]) -> dict[str, np.ndarray]:
    blocks = ExposeBlocks()
    apply(model, blocks, *passes)
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
