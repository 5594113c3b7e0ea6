"""Verification of a finished bundle: goldens, torch where it and the pair are there, and the strong oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from hsengines.backend import Backend, Engine, get_backend
from hsengines.device import Device
from hsengines.errors import HSError
from hsexport.build.verify.compare import Comparison, compare, tolerance_of
from hsexport.build.verify.oracle import check_oracle
from hsexport.build.verify.origin import UNNAMED, NamedPair, recipe_of
from hsexport.progress import Reporter
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.reader import Bundle


@dataclass(frozen=True)
class Verification:
    """All comparisons, and what was left out and why."""

    comparisons: list[Comparison]
    left_out: list[str]

    @property
    def passed(self) -> bool:
        """Whether every comparison lies within its tolerance."""
        return all(c.passed for c in self.comparisons)


def verify_bundle(bundle: Bundle, reporter: Reporter, named: NamedPair = UNNAMED) -> Verification:
    """Compares every engine of an opened bundle. Raises EngineLoadError for one that does not load.

    Raises PairError where `named` is not what the bundle was built from.
    """
    backend = get_backend(bundle.manifest.backend)
    if why := backend.why_not_here():
        return Verification([], [f"engines: none can run here ({why}); every byte is as the build left it"])
    device = backend.device()
    left_out: list[str] = []
    comparisons = list(_goldens(bundle, backend, device, reporter))
    comparisons += _torch(bundle, backend, device, reporter, named, left_out)
    reporter.stage("oracle", 1)
    large = _load(bundle, backend, device, "large")
    comparisons += check_oracle(large, device, bundle.manifest)
    large.close()
    device.close()
    return Verification(comparisons, left_out)


def _load(bundle: Bundle, backend: Backend, device: Device, name: str) -> Engine:
    record = bundle.manifest.engines[name]
    return backend.load(bundle.file(record.file), record.spec, device)


def _goldens(bundle: Bundle, backend: Backend, device: Device, reporter: Reporter) -> Iterator[Comparison]:
    recorded = {n: r.golden for n, r in bundle.manifest.engines.items() if r.golden is not None}
    reporter.stage("goldens", len(recorded))
    for name, golden in recorded.items():
        reporter.begin(name)
        engine = _load(bundle, backend, device, name)
        inputs, expected = load_golden(bundle.file(golden))
        tolerance = tolerance_of(bundle.manifest.engines[name].precision)
        yield compare(engine, device, inputs, expected, "golden of the build", tolerance)
        engine.close()
        reporter.end(name)


def _torch(
    bundle: Bundle, backend: Backend, device: Device, reporter: Reporter, named: NamedPair, left_out: list[str]
) -> list[Comparison]:
    """Each engine beside its torch module over inputs the build has not seen."""
    if any(find_spec(module) is None for module in ("torch", "diffusers", "transformers")):
        left_out.append("torch: not installed here; the build's goldens stand in for it")
        return []
    from hsexport.networks.network import reference_outputs

    try:
        networks = recipe_of(bundle, named).networks()
    except HSError as err:
        if named != UNNAMED:
            raise
        left_out.append(f"torch: the pair this bundle was built from is not here ({err.message})")
        return []
    if {network.name for network in networks} != set(bundle.manifest.engines):
        left_out.append("torch: the pair is no longer the one this bundle was built from; its networks differ")
        return []
    reporter.stage("torch", len(networks))
    results = []
    for network in networks:
        reporter.begin(network.name)
        engine = _load(bundle, backend, device, network.name)
        inputs = network.sample_inputs(seed=1)
        expected = reference_outputs(network.load(), network.spec, inputs)
        tolerance = tolerance_of(bundle.manifest.engines[network.name].precision)
        results.append(compare(engine, device, inputs, expected, "torch, fresh input", tolerance))
        engine.close()
        reporter.end(network.name)
    return results
