"""The build's verify stage: every compiled engine against its golden, before anything is packed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import msgspec

from hsengines.backend import Backend, Device, get_backend
from hsengines.errors import HSError
from hsengines.traits import DEFAULT_BACKEND
from hsexport.build.source_digest import source_digest
from hsexport.build.stages.compile import CompiledEngine
from hsexport.build.store import BuildKey, Store
from hsexport.build.verify.cast_back import cast_back_graph, first_infinite_block
from hsexport.build.verify.compare import Comparison, compare, tolerance_of
from hsexport.progress import Reporter
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.manifest import ParityRecord
from hsruntime.bundle.reader import sha256_of

RECORD = "parity.json"


class ParityError(HSError):
    """An engine that does not compute what its torch module computes."""


def verify_all(engines: list[CompiledEngine], backend: Backend, store: Store, reporter: Reporter) -> list[ParityRecord]:
    """Parity of each engine, in order; what was measured once is kept.

    Where the backend's engines cannot run, each one's graph stands in for it, cast back to fp32 on the CPU with every
    value rounded as the engine would. Raises ParityError for the first that lies outside its precision's tolerance.
    """
    reporter.stage("verify", len(engines))
    ran_on = "cast-back" if backend.why_not_here() else "engine"
    runner = get_backend(DEFAULT_BACKEND) if ran_on == "cast-back" else backend
    device = runner.device()
    records = []
    for compiled in engines:
        reporter.begin(compiled.name)
        key = _key(compiled, ran_on, f"{runner.version()} on {device.name}")

        def fill(folder: Path, compiled: CompiledEngine = compiled) -> None:
            record = _measured(compiled, runner, device, ran_on)
            (folder / RECORD).write_bytes(msgspec.json.encode(record))

        entry = store.make(key, fill)
        record = msgspec.json.decode((entry / RECORD).read_bytes(), type=ParityRecord)
        reporter.end(compiled.name, f"error {record.max_relative:.1e}")
        records.append(record)
    device.close()
    return records


def _key(compiled: CompiledEngine, ran_on: str, runner: str) -> BuildKey:
    facts = dict(compiled.graph.digests) | {
        "golden": sha256_of(compiled.graph.golden),
        "ran on": ran_on,
        "runner": runner,
        "tolerance": str(tolerance_of(compiled.graph.precision)),
        "hsexport": source_digest("verify"),
    }
    return BuildKey("parity", compiled.name, facts if ran_on == "cast-back" else facts | {"engine": compiled.key})


def _measured(compiled: CompiledEngine, runner: Backend, device: Device, ran_on: str) -> ParityRecord:
    graph = compiled.graph
    inputs, expected = load_golden(graph.golden)
    runnable = nullcontext((compiled.files.engine, graph.spec)) if ran_on == "engine" else cast_back_graph(graph)
    with runnable as (file, spec):
        engine = runner.load(file, spec, device)
        result = compare(engine, device, inputs, expected, "torch at build", tolerance_of(graph.precision))
        engine.close()
    if not result.passed:
        raise _refusal(compiled, result)
    return ParityRecord(
        max_absolute=result.max_absolute, max_relative=result.max_relative, finite=result.finite, measured_on=ran_on
    )


def _refusal(compiled: CompiledEngine, result: Comparison) -> ParityError:
    graph = compiled.graph
    if not result.finite:
        block = first_infinite_block(graph) if graph.precision != "fp32" else ""
        where = f", first in '{block}'" if block else ""
        return ParityError(
            f"engine '{compiled.name}' gives numbers that are not finite in {graph.precision}{where}",
            f"keep that part in fp32: --fp32 '{compiled.name}:{block or '*'}*', or build with --precision bf16",
        )
    return ParityError(
        f"engine '{compiled.name}' lies {result.max_relative:.1e} from torch, tolerance {result.tolerance:.0e}",
        "this is a fault of the builder or of hsexport; please report it with the pair's configuration",
    )
