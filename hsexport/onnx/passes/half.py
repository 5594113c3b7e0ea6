"""Tensors turned to half precision and back, one at a time and only while they are being saved."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.attach import CheckpointTensor
from hsexport.onnx.passes.errors import PassError

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""A precision that is narrower than fp32, as users name it, to its element type."""


def half_type(precision: str, wanted_by: str) -> ir.DataType:
    """The element type of "fp16" or "bf16". Raises PassError for another precision."""
    if precision not in HALVES:
        raise PassError(f"{wanted_by}: precision {precision} is no half precision", "choose fp16 or bf16")
    return HALVES[precision]


def narrowed(tensor: ir.TensorProtocol, name: str, dtype: ir.DataType) -> ir.LazyTensor:
    """An fp32 tensor in `dtype`, converted whenever it is read.

    float32's own lowest and highest number mean "as far as it goes" (masks are filled with them) and become
    `dtype`'s. A checkpoint's tensor that is in `dtype` already is taken as it is. Reading raises PassError if another
    value is beyond `dtype`'s range; infinities stay what they are.
    """
    if isinstance(tensor, CheckpointTensor) and tensor.in_type(dtype).is_as_stored:
        return tensor.in_type(dtype)

    def convert() -> ir.TensorProtocol:
        return ir.Tensor(_narrow_array(tensor.numpy(), name, dtype), dtype=dtype, name=name)

    return ir.LazyTensor(convert, dtype, ir.Shape(tensor.shape.numpy()), name=name)


def widened(tensor: ir.TensorProtocol, name: str) -> ir.LazyTensor:
    """A half tensor's values in fp32, converted whenever it is read."""

    def convert() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=name)

    return ir.LazyTensor(convert, ir.DataType.FLOAT, ir.Shape(tensor.shape.numpy()), name=name)


def _narrow_array(array: np.ndarray, name: str, dtype: ir.DataType) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(dtype.numpy())
    lost = ~np.isfinite(half) & np.isfinite(array)
    if not lost.any():
        return half
    limits = np.finfo(np.float32)
    extreme = lost & ((array == limits.min) | (array == limits.max))
    if (lost & ~extreme).any():
        worst = array.flat[int(np.argmax(np.abs(np.where(lost & ~extreme, array, 0))))]
        raise PassError(
            f"tensor '{name}' holds {worst:.4g}, beyond the reach of {dtype.name.lower()}",
            "keep the module that reads it in fp32 (--fp32 PATTERN), or choose bf16",
        )
    return np.where(extreme, np.nextafter(half, np.zeros_like(half)), half)
