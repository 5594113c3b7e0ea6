"""Whether this machine has a GPU that CUDA can use."""

from __future__ import annotations

from hsengines.cuda.api import CudaError, call
from hsengines.cuda.device import CudaDevice
from hsengines.errors import BackendUnavailable, DeviceError


def open_device(graphs: bool = True, kind: type[CudaDevice] = CudaDevice) -> CudaDevice:
    """The GPU. Raises BackendUnavailable, in CUDA's own words, if there is none to be had."""
    if why := why_no_cuda():
        raise BackendUnavailable(why, "run the bundle on a machine with an NVIDIA GPU, or build one for ort-cpu")
    try:
        return kind(graphs)
    except DeviceError as err:
        raise BackendUnavailable(f"the GPU cannot be used: {err.message}", "see what nvidia-smi says of it") from err


def why_no_cuda() -> str:
    """Why CUDA cannot be used here, in words; empty if it finds a GPU. Takes no hold of the GPU."""
    try:
        if call("cudaGetDeviceCount", doing="counting GPUs"):
            return ""
    except CudaError as err:
        return f"there is no GPU to be used: {err.message}{_meaning(err.code)}"
    return "there is no GPU to be used: CUDA counts none"


def _meaning(code: str) -> str:
    """What cudaErrorInsufficientDriver comes from, which its own words leave open."""
    if code != "cudaErrorInsufficientDriver":
        return ""
    driver = call("cudaDriverGetVersion", doing="asking for the driver's version")
    if not driver:
        return "; this machine has no NVIDIA driver"
    needed = call("cudaRuntimeGetVersion", doing="asking for the runtime's version")
    return f"; the NVIDIA driver is for CUDA {_release(driver)}, older than CUDA {_release(needed)} needs"


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
