"""Reads a graph; its weights stay on the disk until someone looks at one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir


def load_graph(path: Path) -> ir.Model:
    """A graph of our own store, its weights mapped into memory.

    onnx_ir would read them as lazily, but it refuses files with several hard links, which hardly matters for models
    from elsewhere and breaks ours: the store and the bundles made from it share their files (hsengines.link).
    """
    model = ir.load(path)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _mapped(value.const_value, path.parent)
    return model


def _mapped(tensor: ir.ExternalTensor, folder: Path) -> ir.Tensor:
    shape = tensor.shape.numpy()
    array: np.ndarray
    if 0 in shape:  # which mmap(2) refuses
        array = np.empty(shape, tensor.dtype.numpy())
    else:
        array = np.memmap(folder / tensor.location, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
