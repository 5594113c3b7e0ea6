"""Plans without their weights, which are put back from the ONNX file when a plan is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsengines.errors import EngineLoadError
from hsengines.files import link_or_copy
from hsengines.trt.build.log import last_error, listening, logger_of
from hsengines.trt.build.remedies import in_short


def graph_beside(plan: Path) -> Path:
    """The ONNX file that a stripped plan takes its weights from."""
    return plan.with_suffix(".onnx")


def keep_graph(onnx: Path, plan: Path) -> tuple[Path, ...]:
    """Links the ONNX file and its weights beside `plan`; neither may be edited afterwards.

    Both keep their names, by which the graph finds its weights. Raises EngineLoadError for a graph of another name.
    """
    if graph_beside(plan).name != onnx.name:
        raise EngineLoadError(f"{onnx.name} cannot serve {plan.name}", f"call it {graph_beside(plan).name}")
    data = onnx.with_name(f"{onnx.name}.data")
    sources = [onnx, data] if data.exists() else [onnx]
    return tuple(link_or_copy(source, plan.with_name(source.name)) for source in sources)


def put_weights_back(library: Any, plan: Path, engine: Any) -> None:
    """Refits a stripped engine from the graph beside its plan. Raises EngineLoadError."""
    graph = graph_beside(plan)
    if not graph.is_file():
        raise EngineLoadError(f"{plan.name} has no weights of its own, and {graph.name} is not beside it")
    logger = logger_of(library)
    refitter = library.Refitter(engine, logger)
    with listening(library):
        parsed = library.OnnxParserRefitter(refitter, logger).refit_from_file(str(graph))
        if not parsed or not refitter.refit_cuda_engine():
            said = in_short(last_error(library)) or "it gives no reason"
            raise EngineLoadError(
                f"{plan.name} cannot take its weights from {graph.name}: {said}", "build the bundle again"
            )
