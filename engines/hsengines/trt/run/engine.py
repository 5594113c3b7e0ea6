"""A plan opened on the GPU, and execution contexts with everything set that a run needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from hsengines.backend import Binding, Engine, check_binding
from hsengines.device import Tensors
from hsengines.errors import DeviceError, DeviceMemoryError, EngineLoadError
from hsengines.spec import EngineSpec
from hsengines.trt.build.log import Log, last_error, listening
from hsengines.trt.build.refusals import in_short, is_out_of_memory
from hsengines.trt.run.contexts import Contexts

if TYPE_CHECKING:
    from hsengines.cuda.device import CudaDevice, Stream
    from hsengines.cuda.memory import CudaTensor


class TrtBinding(Binding):
    """A complete context; `kept` is what its addresses point to."""

    def __init__(self, library: Any, name: str, stream: int, context: Any, kept: list[Any]) -> None:
        self._library = library
        self._name = name
        self._stream = stream
        self._execute: Callable[[int], bool] = context.execute_async_v3
        self._kept = kept

    def enqueue(self) -> None:
        """One call. Raises DeviceError if TensorRT refuses to run; what fails on the GPU shows at the next wait."""
        if not self._execute(self._stream):
            raise DeviceError(f"engine '{self._name}' did not run: {in_short(last_error(self._library))}")

    def close(self) -> None:
        """Destroys the context and lets the tensors go. May be called again."""
        self._execute = _closed
        self._kept = []


class TrtEngine(Engine):
    """An engine whose weights lie on the GPU; each binding has a context of its own."""

    def __init__(self, library: Any, spec: EngineSpec, device: CudaDevice, contexts: Contexts) -> None:
        self.spec = spec
        self._library = library
        self._device = device
        self._contexts: Contexts | None = contexts
        self._bindings: WeakSet[TrtBinding] = WeakSet()

    def bind(self, inputs: Tensors, outputs: Tensors, *, beside: bool = False) -> TrtBinding:
        """A context of its own. Raises ShapeError, DeviceMemoryError, and DeviceError where TensorRT refuses."""
        if self._contexts is None:
            raise EngineLoadError(f"engine '{self.spec.name}' is closed")
        profile = self.spec.profile_index(check_binding(self.spec, inputs, outputs))
        stream = self._device.stream_for(beside=beside)
        context, scratch = self._complete_context(self._contexts, stream, profile, inputs, outputs)
        kept = [*inputs.values(), *outputs.values(), scratch]
        binding = TrtBinding(self._library, self.spec.name, stream.handle, context, kept)
        self._bindings.add(binding)
        return binding

    def close(self) -> None:
        """Closes the bindings that are left, then the engine; replays must be closed before. May be called again."""
        for binding in tuple(self._bindings):
            binding.close()
        if self._contexts is not None:
            self._contexts.close()
            self._contexts = None

    def _complete_context(
        self, contexts: Contexts, stream: Stream, profile: int, inputs: Tensors, outputs: Tensors
    ) -> tuple[Any, CudaTensor]:
        """A new context for these tensors, and the device's memory that it works in, which must be kept with it."""
        name = self.spec.name
        with listening(self._library) as log:
            context = contexts.make()
            if context is None:
                raise _no_context(name, log)
            # Shapes are checked against the profile, so it comes first; what memory is needed follows from the shapes.
            _check(context.set_optimization_profile_async(profile, stream.handle), name, f"profile {profile}", log)
            for tensor_name, tensor in inputs.items():
                accepted = context.set_input_shape(tensor_name, tensor.shape)
                _check(accepted, name, f"{tensor.shape} as the shape of '{tensor_name}'", log)
            for tensor_name, tensor in [*inputs.items(), *outputs.items()]:
                accepted = context.set_tensor_address(tensor_name, tensor.address)
                _check(accepted, name, f"the address of '{tensor_name}'", log)
            _infer_shapes(context, name)
            scratch = self._device.scratch(context.update_device_memory_size_for_shapes(), stream)
            context.set_device_memory(scratch.address, scratch.nbytes)
        return context, scratch


def _check(accepted: bool, name: str, what: str, log: Log) -> None:
    if not accepted:
        said = f": {in_short(log.errors[0])}" if log.errors else ""
        raise DeviceError(f"engine '{name}': TensorRT does not take {what}{said}")


def _infer_shapes(context: Any, name: str) -> None:
    """Raises DeviceError if TensorRT finds something missing, which a wrong spec would be the reason of."""
    try:
        missing = context.infer_shapes()
    except RuntimeError as err:
        raise DeviceError(f"engine '{name}': TensorRT cannot infer shapes: {in_short(str(err))}") from err
    if missing:
        raise DeviceError(f"engine '{name}': TensorRT misses the shapes of {', '.join(missing)}")


def _no_context(name: str, log: Log) -> DeviceError:
    if is_out_of_memory(" ".join(log.errors)):
        return DeviceMemoryError(
            f"the GPU has no room for a context of engine '{name}'", "free the GPU's memory, or ask for fewer shapes"
        )
    return DeviceError(f"engine '{name}' gets no context: {in_short(log.first_error)}")


def _closed(stream: int) -> bool:
    del stream
    raise DeviceError("a binding that is closed cannot be enqueued")
