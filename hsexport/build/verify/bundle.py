"""Verification of a finished bundle: goldens, torch where it and the pair are there, and the strong oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np

from hsengines.backend import Backend, Engine, get_backend
from hsengines.device import Device
from hsengines.errors import HSError
from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.build.verify.compare import Comparison, compare, tolerance_of
from hsexport.build.verify.oracle import check_oracle
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import is_mark
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.families.recipe import Recipe
from hsexport.families.registry import left_out_of
from hsexport.networks.network import Network, reference_outputs
from hsexport.progress import Reporter
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.reader import Bundle
from hsruntime.facts import Transformer

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class NamedPair:
    """What the user says a bundle was built from; None leaves it to the bundle."""

    large: str | None = None
    small: str | None = None
    lora: tuple[AdapterRequest, ...] = ()


UNNAMED = NamedPair()


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

    def compared(stage: str, reference: str, cases: Mapping[str, Callable[[], tuple[Arrays, Arrays]]]) -> None:
        """Each engine beside what its case expects of what inputs."""
        reporter.stage(stage, len(cases))
        for name, case in cases.items():
            reporter.begin(name)
            engine = _load(bundle, backend, device, name)
            record = bundle.manifest.engines[name]
            tolerance = tolerance_of(record.precision, record.weight_format)
            comparisons.append(compare(engine, device, *case(), reference, tolerance))
            engine.close()
            reporter.end(name)

    comparisons: list[Comparison] = []
    goldens = {name: record.golden for name, record in bundle.manifest.engines.items() if record.golden is not None}
    cases = {name: partial(load_golden, bundle.file(golden)) for name, golden in goldens.items()}
    compared("goldens", "golden of the build", cases)
    networks, why = _networks(bundle, named)
    if networks:
        compared("torch", "torch, fresh input", {network.name: partial(_fresh, network) for network in networks})
    reporter.stage("oracle", 1)
    large = _load(bundle, backend, device, "large")
    comparisons += check_oracle(large, device, bundle.manifest)
    large.close()
    device.close()
    return Verification(comparisons, [f"torch: {why}"] if why else [])


def _load(bundle: Bundle, backend: Backend, device: Device, name: str) -> Engine:
    record = bundle.manifest.engines[name]
    return backend.load(bundle.file(record.file), record.spec, device)


def _networks(bundle: Bundle, named: NamedPair) -> tuple[list[Network], str]:
    """Of the pair that the bundle was built from; none, and why, where it or torch is not here."""
    if any(find_spec(module) is None for module in ("torch", "diffusers", "transformers")):
        return [], "not installed here; the build's goldens stand in for it"
    try:
        networks = recipe_of(bundle, named).networks()
    except HSError as err:
        if named != UNNAMED:
            raise
        return [], f"the pair this bundle was built from is not here ({err.message})"
    if {network.name for network in networks} != set(bundle.manifest.engines):
        return [], "the pair is no longer the one this bundle was built from; its networks differ"
    return networks, ""


def _fresh(network: Network) -> tuple[Arrays, Arrays]:
    """Inputs that the build has not seen, and torch's answer."""
    inputs = network.sample_inputs(seed=1)
    return inputs, reference_outputs(network.load(), network.spec, inputs)


def recipe_of(bundle: Bundle, named: NamedPair) -> Recipe:
    """The recipe that the bundle was built by. Raises HSError where the pair is not here, or is another one."""
    facts, sizes = bundle.manifest.facts, bundle.manifest.facts.sizes
    request = BuildRequest(
        large=_source(bundle, named, "large"),
        small=_source(bundle, named, "small") if facts.small else None,
        light=facts.light.outer if facts.light else None,
        out=bundle.path,
        cache=Path(),
        lora=named.lora,
        size=sizes.default,
        min_size=sizes.minimum,
        max_size=sizes.maximum,
        max_batch=sizes.max_batch,
        without=left_out_of(bundle.manifest.facts),
    )
    recipe = recipe_for(request)
    for role, built in facts.members.items():
        _check_same(role, built, recipe.facts.members[role])
    return recipe


def _source(bundle: Bundle, named: NamedPair, role: Role) -> str:
    given, told = getattr(named, role), getattr(bundle.manifest.facts, role).source
    if given is not None:
        return given
    if is_mark(told):
        raise HSError(f"{role} was built from a local path, name it again: --{role} PATH")
    if told != "demo" and not Path(told).is_dir():  # a check must not start a download
        raise HSError(f"'{told}' is not on this machine")
    return told


def _check_same(role: str, built: Transformer, found: Transformer) -> None:
    """Refuses another model or other LoRAs; of a hub id and a local path only the architectures are compared."""
    if is_mark(built.source) != is_mark(found.source):
        found = msgspec.structs.replace(found, source=built.source)
    for field in built.__struct_fields__:
        said, seen = getattr(built, field), getattr(found, field)
        if said != seen:
            raise PairError(
                f"the pair is not the one that this bundle was built from: {role} has {field} {_in_words(seen)}, "
                f"expected {_in_words(said)}",
                "name the model, and each --lora with its scale, as in the build",
            )


def _in_words(value: object) -> str:
    """A field's value; LoRAs by name and scale."""
    if isinstance(value, tuple) and value and hasattr(value[0], "scale"):
        return ", ".join(f"{a.name} ({a.sha256[:12]}) {a.scale:g} times" for a in value)
    return str(value or "none")
