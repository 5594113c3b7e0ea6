"""Reads a graph; its weights stay on the disk until someone looks at one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.attach import is_placeholder


def load_graph(path: Path) -> ir.Model:
    """A graph of our own store, its weights read from their files one at a time, whenever they are looked at.

    onnx_ir would read them as lazily, but it refuses files with several hard links, which hardly matters for models
    from elsewhere and breaks ours: the store and the bundles made from it share their files (hsengines.link).
    """
    model = ir.load(path)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and not is_placeholder(tensor):
            value.const_value = _lazy(tensor, path.parent)
    return model


def _lazy(tensor: ir.ExternalTensor, folder: Path) -> ir.LazyTensor:
    shape = tensor.shape.numpy()

    def read() -> ir.TensorProtocol:
        array: np.ndarray
        if 0 in shape:  # which mmap(2) refuses
            array = np.empty(shape, tensor.dtype.numpy())
        else:
            # Mapped for as long as it is looked at: mapped pages count as this process's memory.
            array = np.memmap(folder / tensor.location, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)

    return ir.LazyTensor(read, tensor.dtype, ir.Shape(shape), name=tensor.name)
