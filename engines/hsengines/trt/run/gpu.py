"""The GPU at hand, for builders that build for nothing else; CUDA's binding is looked for only when asked."""

from __future__ import annotations

from typing import NamedTuple

from hsengines.errors import EngineBuildError


class Gpu(NamedTuple):
    """A GPU model; `capability` is 89 for 8.9."""

    name: str
    capability: int


def why_no_gpu() -> str:
    """Why nothing can run on a GPU here, in words; empty if it can."""
    try:
        from hsengines.cuda.machine import why_no_cuda
    except ImportError as err:
        return f"CUDA's Python binding cannot be used here: {err}"
    return why_no_cuda()


def gpu_at_hand(backend: str) -> Gpu:
    """The GPU that `backend` would build for. Raises EngineBuildError without one."""
    if why := why_no_gpu():
        raise EngineBuildError(
            f"backend '{backend}' builds on a GPU only, and {why}", "backend tensorrt-rtx builds anywhere"
        )
    from hsengines.cuda.api import call

    properties = call("cudaGetDeviceProperties", 0, doing="asking what the GPU is")
    return Gpu(properties.name.decode(), 10 * int(properties.major) + int(properties.minor))
