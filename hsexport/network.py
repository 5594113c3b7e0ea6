"""A network on its way to an engine: a torch module, its outside, and inputs to trace and compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from hsengines.spec import EngineSpec, TensorSpec


@dataclass(frozen=True)
class Network:
    """What the export, compile and verify stages know of one network of a bundle.

    `module` takes the spec's inputs in order and returns its outputs in order. `trace_dims` are extents to trace
    and compare with; every one differs from 0, 1 and from the others, so that the tracer mistakes none for a
    constant or for its neighbour. `limits` bounds integer inputs from above (exclusive); a name of a dimension or
    a product of names ("B*N") stands for its extent.
    """

    spec: EngineSpec
    module: torch.nn.Module
    trace_dims: Mapping[str, int]
    limits: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.spec.name

    def sample_inputs(self, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """Random inputs at `dims` (default: the traced ones): normal floats, uniform integers below their limits."""
        rng = np.random.default_rng(seed)
        extents = dict(dims or self.trace_dims)
        return {tensor.name: self._sample(tensor, extents, rng) for tensor in self.spec.inputs}

    def _sample(self, tensor: TensorSpec, dims: dict[str, int], rng: np.random.Generator) -> np.ndarray:
        shape = tensor.resolve(dims)
        if np.dtype(tensor.dtype).kind == "f":
            return rng.standard_normal(shape).astype(tensor.dtype)
        limit = self.limits[tensor.name]
        top = limit if isinstance(limit, int) else TensorSpec("", "", (limit,)).resolve(dims)[0]
        return rng.integers(0, top, shape).astype(tensor.dtype)

    @torch.inference_mode()
    def reference(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the torch module answers."""
        outputs = self.module(*(torch.from_numpy(inputs[t.name]) for t in self.spec.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {t.name: o.numpy() for t, o in zip(self.spec.outputs, outputs, strict=True)}
