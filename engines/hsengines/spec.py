"""An engine's I/O signature: named typed tensors over symbolic dimensions, and shape profiles; JSON by msgspec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
from msgspec import Struct

from hsengines.errors import ShapeError

FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""A precision, as users name it, to the dtype that its tensors carry."""


def numpy_dtype(name: str) -> np.dtype:
    """The dtype called `name`; ml_dtypes is imported only where it is needed. Raises TypeError for an unknown name."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


Dim = int | str
"""A fixed extent, the name of a symbolic one ("G", "M", ...), or a product of these ("8*h")."""


class TensorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One named input or output; `dtype` is numpy's name of it ("float32", "int32", "int64")."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def resolve(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape under `dims`. Raises ShapeError for a name that `dims` lacks."""
        return tuple(self._extent(dim, dims) for dim in self.shape)

    def _extent(self, dim: Dim, dims: Mapping[str, int]) -> int:
        if isinstance(dim, int):
            return dim
        factors = dim.split("*")
        missing = [f for f in factors if not f.isdecimal() and f not in dims]
        if missing:
            raise ShapeError(f"tensor '{self.name}' has the dimension {missing[0]}, for which no extent was given")
        return prod(int(f) if f.isdecimal() else dims[f] for f in factors)


class DimRange(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The extents one dimension may take, and the one to tune for; as JSON, these three in a list."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not self.minimum <= self.optimum <= self.maximum:
            raise ShapeError(f"range {self.minimum}..{self.optimum}..{self.maximum} is not in ascending order")

    def __contains__(self, extent: int) -> bool:
        return self.minimum <= extent <= self.maximum


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """A named set of extents that an engine is tuned for."""

    name: str
    dims: dict[str, DimRange]

    def admits(self, dims: Mapping[str, int]) -> bool:
        """Whether every extent in `dims` that the profile knows lies in its range."""
        return all(extent in self.dims[name] for name, extent in dims.items() if name in self.dims)


class EngineSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """An engine's whole I/O signature."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...] = ()

    def dims_of(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The extents that concrete input shapes imply. Raises ShapeError where they contradict the spec."""
        dims: dict[str, int] = {}
        for tensor in self.inputs:
            if tensor.name not in shapes:
                raise ShapeError(f"engine '{self.name}' wants an input '{tensor.name}' that was not given")
            shape = shapes[tensor.name]
            if len(shape) != len(tensor.shape):
                raise ShapeError(f"engine '{self.name}', input '{tensor.name}': shape {shape}, expected {tensor.shape}")
            for want, extent in zip(tensor.shape, shape, strict=True):
                known = want if isinstance(want, int) else dims.setdefault(want, extent)
                if known != extent:
                    raise ShapeError(
                        f"engine '{self.name}', input '{tensor.name}': dimension {want} is {extent}, expected {known}"
                    )
        return dims

    def difference(self, found: Mapping[str, str]) -> str:
        """The first thing in which an engine's signature `found` differs, to follow "has"; empty if nothing."""
        inputs, outputs = ([(t.name, t.dtype, len(t.shape)) for t in each] for each in (self.inputs, self.outputs))
        expected = signature(inputs, outputs)
        if found.keys() != expected.keys():
            return f"other tensors than its spec: {', '.join(sorted(found.keys() ^ expected.keys()))}"
        for name, tensor in expected.items():
            if found[name] != tensor:
                return f"another tensor '{name}' than its spec: found {found[name]}, expected {tensor}"
        return ""

    def profile_index(self, dims: Mapping[str, int]) -> int:
        """Which profile serves `dims`: the first that admits them; 0 without any. Raises ShapeError, naming ranges."""
        for index, profile in enumerate(self.profiles):
            if profile.admits(dims):
                return index
        if not self.profiles:
            return 0
        ranges = " or ".join(
            f"{p.name}(" + ", ".join(f"{n} {r.minimum}..{r.maximum}" for n, r in p.dims.items()) + ")"
            for p in self.profiles
        )
        given = ", ".join(f"{n}={e}" for n, e in dims.items())
        raise ShapeError(f"engine '{self.name}': {given} lies outside its profiles {ranges}")


def signature(inputs: Iterable[tuple[str, str, int]], outputs: Iterable[tuple[str, str, int]]) -> dict[str, str]:
    """Each tensor, given as name, dtype and rank, in words by name."""
    kinds = (("input", inputs), ("output", outputs))
    return {name: f"{kind} {dtype} of {rank} dimensions" for kind, each in kinds for name, dtype, rank in each}
