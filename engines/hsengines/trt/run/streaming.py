"""Weights that stay in host memory and are copied to the GPU as they are needed."""

from __future__ import annotations

from typing import Any

from hsengines.errors import EngineLoadError


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
