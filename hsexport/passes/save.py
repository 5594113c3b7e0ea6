"""Writes a graph and its weights, one weight at a time."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from hsexport.passes.errors import PassError


def save_graph(model: ir.Model, path: Path) -> None:
    """Writes `path`, and beside it `<name>.data` if the graph has weights; `path` must not be what it was loaded from.

    Weights that a pass has changed are computed here, one after the other, so memory holds the largest of them.
    Raises PassError if one of them cannot be (a value beyond fp16); what was written by then is to be thrown away.
    """
    has_weights = any(value.const_value is not None for value in model.graph.initializers.values())
    try:
        ir.save(model, path, external_data=f"{path.name}.data" if has_weights else None)
    except Exception as err:
        # onnx_ir wraps what goes wrong while it writes, several times over.
        cause: BaseException | None = err
        while cause is not None and not isinstance(cause, PassError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
