"""One tensor of a network: where it lies, or how it follows from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.shards import TensorHeader, read_into

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The element types of safetensors that weights may have."""


class Weight(Protocol):
    """A tensor that is read anew each time: nothing of it stays in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def stored(self) -> TensorHeader | None:
        """Where these very numbers lie as one run of bytes, in that type; None if they lie nowhere so."""

    def read(self) -> np.ndarray:
        """The numbers in the type that the checkpoint has them in, bfloat16 as ml_dtypes'."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint as it is."""

    header: TensorHeader

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file's header says."""
        return self.header.shape

    @property
    def stored(self) -> TensorHeader | None:
        """Where it lies, if in one piece."""
        return self.header if len(self.header.pieces) == 1 else None

    def read(self) -> np.ndarray:
        """Raises PairError for a type that no network has (quantised checkpoints)."""
        dtype = DTYPES.get(self.header.dtype)
        if dtype is None:
            raise PairError(
                f"{self.header.file}: tensor {self.header.name} is {self.header.dtype}, expected one of "
                f"{', '.join(DTYPES)}",
                "quantised checkpoints are not read; give the original",
            )
        # Read, not mapped: pages of a mapped file count as this process's memory until they are unmapped.
        data = np.empty(self.header.size_bytes, np.uint8)
        read_into(data.data, self.header)
        return data.view(dtype).reshape(self.shape)


@dataclass(frozen=True)
class Changed:
    """A tensor computed from another one: cropped, permuted, or with something added."""

    of: Weight
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray]

    @property
    def stored(self) -> TensorHeader | None:
        """Nowhere."""
        return None

    def read(self) -> np.ndarray:
        """What `change` makes of the other one, which it must not write to."""
        return self.change(self.of.read())
