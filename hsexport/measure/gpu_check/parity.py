"""Each engine on the device beside the fp32 reference that torch gave on the CPU when the bundle was built."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from hsengines.backend import Backend, Engine, get_backend
from hsengines.device import Device
from hsexport.build.verify.compare import Comparison, compare, tolerance_of
from hsexport.build.verify.oracle import check_oracle
from hsexport.measure.gpu_check.results import EngineParity
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.manifest import EngineRecord
from hsruntime.bundle.reader import Bundle


def parity_of(bundle: Bundle) -> Iterator[EngineParity]:
    """Goldens of all engines, one loaded at a time, then large's regions beside its own full pass."""
    backend = get_backend(bundle.manifest.backend)
    device = backend.device()
    try:
        for name in bundle.manifest.engines:
            yield from _engine_parity(bundle, name, backend, device)
    finally:
        device.close()


def _engine_parity(bundle: Bundle, name: str, backend: Backend, device: Device) -> Iterator[EngineParity]:
    record = bundle.manifest.engines[name]
    engine = backend.load(bundle.file(record.file), record.spec, device)
    try:
        for comparison in _comparisons(bundle, name, engine, device):
            yield _row(bundle, record, comparison)
    finally:
        engine.close()


def _comparisons(bundle: Bundle, name: str, engine: Engine, device: Device) -> Iterator[Comparison]:
    record = bundle.manifest.engines[name]
    if record.golden is not None:
        inputs, expected = load_golden(bundle.file(record.golden))
        yield compare(engine, device, inputs, expected, "torch, fp32 on the CPU", tolerance_of(record.precision))
    if name == "large":
        yield from check_oracle(engine, device, bundle.manifest)


def _row(bundle: Bundle, record: EngineRecord, found: Comparison) -> EngineParity:
    sizes = {file.path: file.size_bytes for file in bundle.manifest.files}
    return EngineParity(
        engine=found.engine,
        precision=record.precision,
        size_mb=sum(sizes[path] for path in (record.file, *record.weights)) / 1e6,
        reference=found.reference,
        max_relative=found.max_relative if isfinite(found.max_relative) else None,
        tolerance=found.tolerance,
        passed=found.passed,
    )
