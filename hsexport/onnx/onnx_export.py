"""One network to one ONNX file, without a weight in it: they stay where the checkpoint has them."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common
from onnxscript.rewriter import onnx_fusions, rewrite
from onnxscript.rewriter.rules import common as rules
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.onnx._internal.exporter._registration import ONNXRegistry

from hsengines.errors import HSError, first_line
from hsexport.checkpoints.weights.streamed import shapes_of
from hsexport.networks.network import Network
from hsexport.onnx.graph_files import save_graph
from hsexport.onnx.passes.graph_pass import apply
from hsexport.onnx.passes.name_by_module import NameByModule
from hsexport.onnx.passes.strip_metadata import StripMetadata
from hsexport.onnx.weights import detach_weights, place_weights

OPSET = 23  # the first with Attention
ROUNDS = 2
"""As onnxscript: what one rule leaves may be another's beginning."""
RULES = (
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.min_min_rule,
    rules.max_max_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
)


def export_onnx(network: Network, out: Path, on_step: Callable[[str, int, int], None] = lambda *_: None) -> Path:
    """Writes `<name>.onnx` into `out` and returns it; every weight in it is a placeholder (onnx.weights).

    The network is traced over fake tensors, so that memory holds its graph and nothing else. `on_step` hears which
    step begins, how many are done and how many there are. Raises PairError for a checkpoint that does not fit, HSError
    with the exporter's own first line.
    """
    path = out / f"{network.name}.onnx"
    module = network.skeleton()
    shapes = shapes_of(module) if network.weights else {}
    if network.weights:
        network.weights.check_fits(shapes)
    try:
        with _quiet(), _one_registry():
            on_step("tracing", 0, 2)
            program = _traced(network, module)
            on_step("simplifying", 1, 2)
            model = _optimised(program, shapes)
    except Exception as err:
        if isinstance(err, OSError):
            raise
        raise HSError(f"network '{network.name}' cannot be exported: {_cause(err)}") from err
    save_graph(model, path)
    return path


def _traced(network: Network, module: torch.nn.Module) -> torch.onnx.ONNXProgram:
    """The module's graph as torch writes it: constants, identities and all."""
    inputs = network.sample_inputs(dims=network.trace_dims)
    _made_fake(module, FakeTensorMode(allow_non_fake_inputs=True))
    program = torch.onnx.export(
        module,
        tuple(torch.from_numpy(inputs[t.name]) for t in network.spec.inputs),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=dynamic_shapes(network, module),
        input_names=[t.name for t in network.spec.inputs],
        output_names=[t.name for t in network.spec.outputs],
        verbose=False,
        optimize=False,
    )
    assert program is not None
    return program


def _made_fake(skeleton: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """A module on the meta device with fake CPU tensors in its place, in place: torch.export follows devices.

    Fake ones have shape and type without a number behind them. What a module computes for itself (position ids) is
    real, belongs into the graph, and stays.
    """
    made: dict[int, torch.Tensor] = {}
    for owner in skeleton.modules():
        for slots in (owner._parameters, owner._buffers):
            for name, tensor in slots.items():
                if tensor is not None and tensor.is_meta:
                    slots[name] = made.setdefault(id(tensor), _fake(tensor, mode))
    return skeleton.eval()


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return torch.nn.Parameter(fake, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else fake


def _optimised(program: torch.onnx.ONNXProgram, weights: Collection[str]) -> ir.Model:
    """The graph folded and fused, its nodes named; weights keep their names, for none of them was looked at."""
    detach_weights(program.model, weights)
    simplify(program.model)
    place_weights(program.model)
    apply(program.model, NameByModule(), StripMetadata())
    return program.model


def simplify(model: ir.Model) -> None:
    """In place. What is there twice goes first: seven tenths of what the exporter wrote."""
    ir.passes.Sequential(common.InlinePass(), common.IdentityEliminationPass())(model)
    onnxscript.optimizer.fold_constants(model)
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass())(model)
    for _ in range(ROUNDS):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
        rewrite(model, RULES)
    onnx_fusions.fuse(model)  # root mean square norms
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def dynamic_shapes(network: Network, module: torch.nn.Module) -> tuple[Any, ...]:
    """The spec's symbolic dimensions as torch.export wants them: by argument, a tuple's worth for *args."""
    parameters = inspect.signature(module.forward).parameters.values()
    shapes: list[dict[int, Any]] = [
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}
        for tensor in network.spec.inputs
    ]
    plain = sum(p.kind is not p.VAR_POSITIONAL for p in parameters)
    rest = shapes[plain:]
    return (*shapes[:plain], tuple(rest)) if rest else tuple(shapes)


def _cause(err: BaseException) -> str:
    """The first line of the error at the bottom of the chain: the exporter wraps it in pages of advice."""
    while err.__cause__ is not None:
        err = err.__cause__
    return first_line(err)


_registry = cache(ONNXRegistry.from_torchlib)


@contextlib.contextmanager
def _one_registry() -> Iterator[None]:
    """Makes torch's table of operators once a process, which takes a second, and not once an export: we add nothing."""
    theirs = ONNXRegistry.__dict__["from_torchlib"]
    ONNXRegistry.from_torchlib = staticmethod(_registry)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = theirs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's chatter off the terminal, where progress is shown."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
