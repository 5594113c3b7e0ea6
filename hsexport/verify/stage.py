"""The build's verify stage: every compiled engine against its golden, before anything is packed."""

from __future__ import annotations

from hsengines.backend import Backend
from hsengines.errors import HSError
from hsexport.compile import CompiledEngine
from hsexport.progress import Reporter
from hsexport.verify.compare import compare, tolerance_of
from hsruntime.golden import load_golden
from hsruntime.manifest import ParityRecord


class ParityError(HSError):
    """An engine that does not compute what its torch module computes."""


def verify_all(
    engines: list[CompiledEngine], backend: Backend, precision: str, reporter: Reporter
) -> dict[str, ParityRecord]:
    """Parity of each engine. Raises ParityError for the first that lies outside the precision's tolerance."""
    reporter.stage("verify", len(engines))
    device, tolerance, records = backend.device(), tolerance_of(precision), {}
    for compiled in engines:
        name = compiled.spec.name
        reporter.begin(name)
        engine = backend.load(compiled.files.engine, compiled.spec, device)
        inputs, expected = load_golden(compiled.golden)
        result = compare(engine, device, inputs, expected, "torch at build", tolerance)
        engine.close()
        if not result.passed:
            raise ParityError(
                f"engine '{name}' lies {result.max_relative:.1e} from torch, tolerance {tolerance:.0e}",
                "this is a fault of the builder or of hsexport; please report it with the pair's configuration",
            )
        records[name] = result.parity
        reporter.end(name, f"error {result.max_relative:.1e}")
    return records
