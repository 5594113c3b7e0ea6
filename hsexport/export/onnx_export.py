"""One network to one ONNX file, weights beside it."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hsengines.errors import HSError
from hsengines.spec import TensorSpec
from hsexport.network import Network
from hsexport.passes.name_by_module import name_by_module
from hsexport.passes.strip_metadata import strip_metadata

OPSET = 23  # the first with Attention


class ExportError(HSError):
    """A network that torch could not turn into ONNX."""


def export_onnx(network: Network, module: torch.nn.Module, out: Path) -> Path:
    """Writes `<name>.onnx` and, if it has weights, `<name>.onnx.data` into `out`; returns the former.

    Weights go to the data file once, in one copy. Raises ExportError with the exporter's own first line.
    """
    path = out / f"{network.name}.onnx"
    inputs = network.sample_inputs(dims=network.trace_dims)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                tuple(torch.from_numpy(inputs[t.name]) for t in network.spec.inputs),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes(network, module),
                input_names=[t.name for t in network.spec.inputs],
                output_names=[t.name for t in network.spec.outputs],
                verbose=False,
            )
            assert program is not None
            name_by_module(program.model)
            strip_metadata(program.model)
            has_weights = any(value.const_value is not None for value in program.model.graph.initializers.values())
            program.save(str(path), external_data=has_weights)
    except Exception as err:
        if isinstance(err, OSError):
            raise
        raise ExportError(f"network '{network.name}' cannot be exported: {_cause(err)}") from err
    return path


def dynamic_shapes(network: Network, module: torch.nn.Module) -> tuple[Any, ...]:
    """The spec's symbolic dimensions as torch.export wants them: by argument, a tuple's worth for *args."""
    parameters = inspect.signature(module.forward).parameters.values()
    shapes = [_symbols(tensor) for tensor in network.spec.inputs]
    plain = sum(p.kind is not p.VAR_POSITIONAL for p in parameters)
    rest = shapes[plain:]
    return (*shapes[:plain], tuple(rest)) if rest else tuple(shapes)


def _symbols(tensor: TensorSpec) -> dict[int, Any]:
    return {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}


def _cause(err: BaseException) -> str:
    """The first line of the error at the bottom of the chain: the exporter wraps it in pages of advice."""
    while err.__cause__ is not None:
        err = err.__cause__
    return str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's chatter off the terminal, where progress is shown."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
