"""A plan opened on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from hsengines.backend import Engine, check_binding
from hsengines.device import Tensor
from hsengines.errors import EngineLoadError
from hsengines.spec import EngineSpec
from hsengines.trt.run.bound import TrtBinding, complete_context
from hsengines.trt.run.contexts import Contexts
from hsengines.trt.run.loading import OpenPlan

if TYPE_CHECKING:
    from hsengines.cuda.device import CudaDevice


class TrtEngine(Engine):
    """An engine whose weights lie on the GPU; each binding has a context of its own."""

    def __init__(
        self, library: Any, spec: EngineSpec, device: CudaDevice, opened: OpenPlan, contexts: Contexts
    ) -> None:
        self.spec = spec
        self._library = library
        self._device = device
        self._opened: OpenPlan | None = opened
        self._contexts = contexts
        self._bindings: WeakSet[TrtBinding] = WeakSet()

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> TrtBinding:
        """Fixes profile, shapes, addresses and scratch of a new context; the binding keeps the tensors alive.

        Raises ShapeError, DeviceMemoryError, and DeviceError where TensorRT refuses.
        """
        if self._opened is None:
            raise EngineLoadError(f"engine '{self.spec.name}' is closed")
        dims = check_binding(self.spec, inputs, outputs)
        profile = self.spec.profile_index(dims) if self.spec.profiles else 0
        context, scratch = complete_context(
            self._library, self.spec.name, self._device, self._contexts, profile, inputs, outputs
        )
        kept = [*inputs.values(), *outputs.values(), scratch]
        binding = TrtBinding(self._library, self.spec.name, self._device.stream, context, kept)
        self._bindings.add(binding)
        return binding

    def close(self) -> None:
        """Closes the bindings that are left, then the engine; replays must be closed before. May be called again."""
        for binding in tuple(self._bindings):
            binding.close()
        if self._opened is not None:
            self._contexts.close()
            self._opened.close()
            self._opened = None
