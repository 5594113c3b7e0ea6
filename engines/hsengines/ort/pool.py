"""One pool of threads for all engines of the process.

Pools of their own would keep spinning for a while after each run, and the next engine of the step would find the
cores taken. ONNX Runtime refuses sessions with a pool of their own once there is a shared one, so all use it.
"""

from __future__ import annotations

import warnings

import onnxruntime as ort

_pool_threads: int | None = None


def use_shared_pool(threads: int) -> None:
    """Sizes the process-wide pool once, 0 for all cores; ONNX Runtime cannot resize it later."""
    global _pool_threads
    if _pool_threads is None:
        ort.set_global_thread_pool_sizes(threads, 1)
        _pool_threads = threads
    elif threads not in (0, _pool_threads):
        kept = _pool_threads or "all"
        warnings.warn(f"{threads} threads asked for, but this process's engines already share {kept}", stacklevel=3)


def shared_options() -> ort.SessionOptions:
    """Options of a session in the shared pool, which is sized here if nobody has yet."""
    use_shared_pool(0)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options
