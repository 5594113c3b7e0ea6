"""From a plan to an engine on the GPU, its weights put back or streamed where it has them elsewhere; and why not."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsengines.backend import Weights
from hsengines.errors import DeviceMemoryError, EngineLoadError, HSError
from hsengines.files import link_graph, link_or_copy
from hsengines.spec import EngineSpec
from hsengines.trt.build.log import Log, last_error, listening, logger_of
from hsengines.trt.build.refusals import in_short, is_out_of_memory
from hsengines.trt.inspection import TRT_NAMES, signature_of_engine

if TYPE_CHECKING:
    from hsengines.cuda.device import CudaDevice

_HEADER_BYTES = 4096  # TensorRT-RTX reads 64 so far

AGAIN = "build the bundle again"

# In the order in which they are told; the values belong to the library.
_DIAGNOSES = {
    "MALFORMED_ENGINE": ("is damaged, or no plan of this builder", AGAIN),
    "VERSION_MISMATCH": ("was built by another version than {version}", "build it again, or install that version"),
    "UNSUPPORTED_CC": ("was not built for this GPU, {gpu}", "name it with --arch, or build for tensorrt or ort-cuda"),
    "OLD_CUDA_DRIVER": ("needs a newer NVIDIA driver", "update the driver"),
    "OLD_CUDA_RUNTIME": ("needs a newer CUDA runtime", "update CUDA"),
    "INSUFFICIENT_GPU_MEMORY": ("needs more memory than {gpu} has", "build it with weight streaming"),
    "CUDA_ERROR": ("cannot be opened, for CUDA does not work here", "see what nvidia-smi says"),
}


def open_plan(library: Any, title: str, plan: Path, spec: EngineSpec, device: CudaDevice) -> tuple[Any, Any]:
    """Deserialises `plan`: the runtime, which must outlive the engine, and the engine.

    Raises EngineLoadError, and DeviceMemoryError if the GPU has no room for the weights.
    """
    runtime = library.Runtime(logger_of(library))
    gpu = f"{device.name} (sm_{device.compute_capability})"
    with listening(library) as log:
        engine = _deserialised(library, title, runtime, plan, gpu)
        if engine is None:
            raise _refusal(library, title, plan, gpu, log)
    if wrong := spec.difference(signature_of_engine(library, engine)):
        raise EngineLoadError(f"{plan.name} has {wrong}", AGAIN)
    found, expected = engine.num_optimization_profiles, max(1, len(spec.profiles))
    if found != expected:
        raise EngineLoadError(f"{plan.name} has {found} profiles, expected {expected}", AGAIN)
    return runtime, engine


def _deserialised(library: Any, title: str, runtime: Any, plan: Path, gpu: str) -> Any:
    """The engine or None. The file is mapped, so that host memory holds no copy of it."""
    try:
        with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            # Only TensorRT-RTX can say from the header alone whether a plan will do.
            if hasattr(library.Runtime, "get_engine_validity"):
                validity, diagnostics = runtime.get_engine_validity(mapped[:_HEADER_BYTES])
                if validity == library.EngineValidity.INVALID:
                    _raise_diagnosed(library, title, plan, gpu, int(diagnostics))
            return runtime.deserialize_cuda_engine(mapped)
    except (OSError, ValueError) as err:  # ValueError: an empty file cannot be mapped
        raise EngineLoadError(f"{plan.name} cannot be read: {err}", AGAIN) from err


def _raise_diagnosed(library: Any, title: str, plan: Path, gpu: str, diagnostics: int) -> None:
    """Raises EngineLoadError for the first diagnosis that is set; none leaves it to deserialising to say why."""
    for name, (words, hint) in _DIAGNOSES.items():
        if diagnostics & int(getattr(library.EngineInvalidityDiagnostics, name)):
            told = words.format(version=f"{title} {library.__version__}", gpu=gpu)
            raise EngineLoadError(f"{plan.name} {told}", hint)


def _refusal(library: Any, title: str, plan: Path, gpu: str, log: Log) -> HSError:
    """The error for a plan that could not be deserialised, from what was logged."""
    told = " ".join(log.errors)
    if versions := re.search(r"expecting library version (\S+) got\s+(\S+?)[,.]?(?:\s|$)", told):
        found = f"was built by {title} {versions[2]}, and this is {versions[1]}"
        return EngineLoadError(f"{plan.name} {found}", "build it again, or install that version")
    if re.search(r"(?i)magic ?tag|serialization version|version ?tag|corrupt", told):
        return EngineLoadError(
            f"{plan.name} is damaged, or was built by another version than {title} {library.__version__}", AGAIN
        )
    if re.search(r"(?i)compute capability|different.* device|device model", told):
        return EngineLoadError(f"{plan.name} was not built for this GPU, {gpu}", "build it on this GPU")
    if is_out_of_memory(told):
        return DeviceMemoryError(
            f"the GPU has no room for the weights of {plan.name}",
            "free the GPU's memory, or build with weight streaming",
            needed_bytes=plan.stat().st_size,
        )
    return EngineLoadError(f"{title} cannot open {plan.name}: {in_short(log.first_error)}", AGAIN)


def graph_beside(plan: Path) -> Path:
    """The ONNX file that a stripped plan takes its weights from."""
    return plan.with_suffix(".onnx")


def keep_graph(onnx: Path, plan: Path) -> tuple[Path, ...]:
    """Links the ONNX file and its weights beside `plan`; neither may be edited afterwards.

    Both keep their names, by which the graph finds its weights. Raises EngineLoadError for a graph of another name.
    """
    if graph_beside(plan).name != onnx.name:
        raise EngineLoadError(f"{onnx.name} cannot serve {plan.name}", f"call it {graph_beside(plan).name}")
    return tuple(link_graph(onnx, plan.parent))


def weights_beside(plan: Path) -> Path:
    """The weights of a plan that takes others: the graph's own file of them, without the graph."""
    return plan.with_suffix(".weights")


def keep_weights(onnx: Path, plan: Path) -> tuple[Path, ...]:
    """Links the graph's file of weights beside `plan`; neither may be edited afterwards."""
    return (link_or_copy(onnx.with_name(f"{onnx.name}.data"), weights_beside(plan)),)


def refit(library: Any, plan: Path, engine: Any, replaced: Weights) -> None:
    """Gives an engine the weights of the graph beside its plan, where one is, and then `replaced`.

    Raises EngineLoadError.
    """
    graph = graph_beside(plan)
    if not graph.is_file() and not replaced:
        raise EngineLoadError(f"{plan.name} has no weights of its own, and {graph.name} is not beside it")
    logger = logger_of(library)
    refitter = library.Refitter(engine, logger)
    with listening(library):
        told = graph.name
        taken = not graph.is_file() or library.OnnxParserRefitter(refitter, logger).refit_from_file(str(graph))
        if taken and replaced:
            told = "an adapter"
            _set_weights(library, plan, refitter, replaced)
        if not taken or not refitter.refit_cuda_engine():
            said = in_short(last_error(library)) or "it gives no reason"
            raise EngineLoadError(f"{plan.name} cannot take its weights from {told}: {said}", AGAIN)


def _set_weights(library: Any, plan: Path, refitter: Any, replaced: Weights) -> None:
    """Names weights; the arrays must stay until the engine was refitted.

    What the builder dropped is not there to be named; what it joined with others is missing unless all are named.
    """
    known = set(refitter.get_all_weights())
    for name, array in replaced.items():
        if name not in known:
            continue
        dtype = getattr(library.DataType, TRT_NAMES[array.dtype.name])
        # By address: the binding takes no bfloat16 of numpy's.
        if not refitter.set_named_weights(name, library.Weights(dtype, array.ctypes.data, array.size)):
            said = in_short(last_error(library)) or "it gives no reason"
            raise EngineLoadError(f"{plan.name} does not take weight '{name}': {said}", AGAIN)
    if missing := refitter.get_missing_weights():
        raise EngineLoadError(f"{plan.name} cannot be refitted without weight '{missing[0]}'", AGAIN)


def set_up_streaming(name: str, engine: Any, *, graphs: bool) -> None:
    """Lets TensorRT decide how much of the weights stays on the GPU, if `engine` can stream; before its contexts.

    Raises EngineLoadError with `graphs`: the copies are decided anew at each run, which a CUDA graph cannot do.
    """
    if not engine.streamable_weights_size:
        return
    if graphs:
        raise EngineLoadError(
            f"engine '{name}' streams its weights, which cannot be captured in CUDA graphs", "run it with --no-graphs"
        )
    engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
