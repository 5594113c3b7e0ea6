"""Whether the installed ONNX Runtime can reach a GPU."""

from __future__ import annotations

import ctypes
import io
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import onnxruntime as ort

# The order and the scopes in which ONNX Runtime itself loads them.
LIBRARIES = (
    ("libonnxruntime_providers_shared.so", ctypes.RTLD_GLOBAL),
    ("libonnxruntime_providers_cuda.so", ctypes.RTLD_LOCAL),
)


def why_no_provider(provider: str) -> str:
    """Why the installed ONNX Runtime lacks `provider`, in words; empty if it has it."""
    if provider in ort.get_available_providers():
        return ""
    return f"the onnxruntime {ort.__version__} that is installed has no {provider}, which onnxruntime-gpu has"


@cache
def why_no_libraries() -> str:
    """Why ONNX Runtime's CUDA provider cannot be loaded, in the loader's words; empty if it can.

    Asked before a session is opened: ONNX Runtime prints the reason, returns a session on the CPU, and goes on.
    """
    # Finds CUDA's libraries where pip put them, and prints what it does not find.
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    try:
        for library, scope in LIBRARIES:
            if (folder / library).exists():
                ctypes.CDLL(str(folder / library), mode=scope)
    except OSError as err:
        return f"ONNX Runtime's CUDA provider cannot be loaded: {err}"
    return ""
