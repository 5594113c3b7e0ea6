"""Reads and writes graphs; a weight is on the disk until someone looks at it, and read or computed one at a time."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import raise_own
from hsexport.onnx.weights import CheckpointTensor, is_placeholder
from hsexport.progress import OnBytes

INLINE_BYTES = 256
"""Tensors up to this size lie in the graph's own file."""


def load_graph(path: Path) -> ir.Model:
    """A graph of our own store, its weights read from their files one at a time, whenever they are looked at.

    onnx_ir would read them as lazily, but it refuses files with several hard links, which hardly matters for models
    from elsewhere and breaks ours: the store and the bundles made from it share their files (hsengines.files).
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
            if tensor.dtype.bitwidth < 8:
                packed = np.memmap(folder / tensor.location, np.uint8, "r", tensor.offset or 0, (tensor.nbytes,))
                return ir.PackedTensor(packed, tensor.dtype, shape=shape, name=tensor.name)
            array = np.memmap(folder / tensor.location, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)

    return ir.LazyTensor(read, tensor.dtype, ir.Shape(shape), name=tensor.name)


def save_graph(
    model: ir.Model,
    path: Path,
    *,
    refer: bool = False,
    beside: Collection[str] = (),
    on_bytes: OnBytes | None = None,
) -> dict[str, int]:
    """Writes `path`, and beside it `<name>.data` if the graph has weights; `path` must not be what it was loaded from.

    Weights that a pass has changed are computed here, one after the other, so memory holds the largest of them.
    `refer`: weights that the checkpoint has in the very same bytes are not written; its files are linked beside the
    graph, `<name>.0.safetensors` and so on, where the file system allows it. Neither may be edited afterwards.
    `beside`: weights that do not lie in the graph's own file, however small. Returns where in the data file each weight
    begins. Raises PassError if a weight cannot be written (a value beyond fp16); what was written by then is to be
    thrown away. The graph in memory stays as it is.
    """
    before = {value: value.const_value for value in model.graph.initializers.values()}
    try:
        if refer:
            _refer(model, path)
        offsets = _externalise(model, path, beside, on_bytes)
        ir.save(model, path)
    except Exception as err:
        raise_own(err)
        raise
    finally:
        for value, tensor in before.items():
            value.const_value = tensor
    return offsets


def _refer(model: ir.Model, path: Path) -> None:
    linked: dict[Path, Path | None] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not (isinstance(tensor, CheckpointTensor) and tensor.is_as_stored and tensor.nbytes > INLINE_BYTES):
            continue
        header = tensor.weight.stored
        assert header is not None
        if header.file not in linked:
            linked[header.file] = _linked(header.file, path.with_name(f"{path.name}.{len(linked)}.safetensors"))
        if file := linked[header.file]:
            ((offset, size),) = header.pieces
            value.const_value = ir.ExternalTensor(
                file.name, offset, size, tensor.dtype, shape=tensor.shape, name=value.name or "", base_dir=path.parent
            )


def _linked(source: Path, target: Path) -> Path | None:
    """A second name for the file; None on another disk, and where files have but one name."""
    try:
        os.link(source.resolve(strict=True), target)
    except OSError:
        return None
    return target


def _externalise(model: ir.Model, path: Path, beside: Collection[str], on_bytes: OnBytes | None) -> dict[str, int]:
    """Writes the data file and leaves references to it; where each begins there, by name."""
    found = ((value, value.const_value) for value in model.graph.initializers.values())
    # An external tensor is a placeholder, or in a file that was just linked.
    ours = {v: t for v, t in found if t is not None and not isinstance(t, ir.ExternalTensor)}
    away = {v: t for v, t in ours.items() if t.nbytes > INLINE_BYTES or (v.name in beside and t.nbytes)}
    if not away:
        return {}
    total, done = sum(tensor.nbytes for tensor in away.values()), 0

    def told(tensor: ir.TensorProtocol, _: object) -> None:
        nonlocal done
        done += tensor.nbytes
        if on_bytes:
            on_bytes(done, total)

    data = f"{path.name}.data"
    written = ir.external_data.convert_tensors_to_external([*away.values()], path.parent, data, callback=told)
    for value, tensor in zip(away, written, strict=True):
        value.const_value = tensor
    return {value.name or "": tensor.offset or 0 for value, tensor in zip(away, written, strict=True)}
