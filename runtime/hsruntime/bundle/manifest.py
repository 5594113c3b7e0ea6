"""The bundle's manifest: typed, strict, the same bytes for the same contents. Specified in runtime/BUNDLE.md."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

import msgspec
from msgspec import Meta

from hsengines.errors import HSError
from hsengines.spec import EngineSpec, TensorSpec
from hsengines.traits import traits_of
from hsruntime.facts import Count, Defaults, Facts, Sha256, Strict

FORMAT_VERSION = 11
ENCODER = "vae_encoder"
"""The engine that takes pictures in, where there is one; opened for the first picture that begins from another."""
UNSEALED = "0" * 64
FOREIGN = "the bundle was not written by hsexport; build it again"
DAMAGED = "the bundle is damaged or was changed; copy it again or build it again"
_SEAL = re.compile(rb'("identity"\s*:\s*")([0-9a-f]{64})"')


class BundleError(HSError):
    """A bundle that cannot be trusted: broken, incomplete, foreign, or too new."""


class FileRecord(Strict, frozen=True, kw_only=True):
    """One file of the bundle; `path` is relative, with forward slashes."""

    path: str
    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class ParityRecord(Strict, frozen=True, kw_only=True):
    """How far an engine's outputs lay from its torch module in fp32 at build, over one random input."""

    max_absolute: float
    max_relative: float
    """Largest over the outputs of: largest absolute error over the output's largest reference value."""
    finite: bool
    measured_on: Annotated[str, Meta(pattern=r"\A(engine|cast-back)\Z")]
    """The "engine" itself, or, where it could not run at build, "cast-back": its graph in fp32 on a CPU, every value
    rounded to the graph's own precision."""
    blocks: dict[str, float] = msgspec.field(default_factory=dict)
    """Of a network with quantised weights: how far what each block hands on lay from fp32's, as `max_relative` does."""


class Fp32Block(Strict, frozen=True, kw_only=True):
    """A part of the graph that computes in fp32 although the rest does not."""

    name: str
    nodes: Count
    reason: str


class OtherWeights(Strict, frozen=True, kw_only=True):
    """Products, convolutions and tables whose weights are stored in another format than their network's."""

    format: str
    products: Count
    reason: str


Audit = dict[Annotated[str, Meta(pattern=r"\A(engine|network)\Z")], dict[str, Count]]
"""The types an engine was found to compute its matrix products, convolutions and attentions in, and how many of each;
each is what the graph asks for. Read from the "engine" itself, or from the builder's "network" where the building
machine could not open the engine."""


class EngineRecord(Strict, frozen=True, kw_only=True):
    """One engine: where it lies, its I/O signature, what was measured at build."""

    file: str
    weights: list[str]
    spec: EngineSpec
    build_key: Sha256
    precision: str
    """What its graph was cast to; engines of the step's own arithmetic stay fp32 in every bundle."""
    weight_format: str
    """How its weights are stored; `unquantized`: in the type that the graph computes with."""
    products: dict[str, Count] = msgspec.field(default_factory=dict)
    """How many products there are by the format of their weights, convolutions and tables among them where the backend
    takes these quantised, and by `activations` with quantised activations."""
    other_weights: list[OtherWeights] = msgspec.field(default_factory=list)
    fp32_blocks: list[Fp32Block]
    options: dict[str, str]
    """What else the builder was told."""
    audit: Audit = msgspec.field(default_factory=dict)
    golden: str | None = None
    parity: ParityRecord | None = None


class Manifest(Strict, frozen=True, kw_only=True):
    """Everything the runtime knows of a bundle before it opens an engine."""

    format_version: int
    identity: Sha256 = UNSEALED
    """The SHA-256 of the manifest's bytes, in which these digits are zeros; it thus stands for every file, too."""
    backend: str
    precision: str
    target: str
    tools: dict[str, str]
    device: str
    facts: Facts
    engines: dict[str, EngineRecord]
    files: list[FileRecord]

    @property
    def specs(self) -> dict[str, EngineSpec]:
        """Every engine's I/O signature."""
        return {name: record.spec for name, record in self.engines.items()}

    def with_defaults(self, defaults: Defaults) -> Manifest:
        """The same bundle, doing something else when it is told nothing."""
        return msgspec.structs.replace(self, facts=msgspec.structs.replace(self.facts, defaults=defaults))

    @property
    def on_cpu(self) -> bool:
        """Whether its engines run on CPUs, and not on GPUs."""
        return traits_of(self.backend).on_cpu


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as UTF-8 JSON, indented by two, fields in declared order, one newline at the end, identity anew."""
    unsealed = msgspec.structs.replace(manifest, identity=UNSEALED)
    data = msgspec.json.format(msgspec.json.encode(unsealed, order="deterministic"), indent=2) + b"\n"
    return data.replace(UNSEALED.encode(), identity_of(data).encode(), 1)


def identity_of(data: bytes) -> str:
    """What the identity in a manifest of these bytes must be."""
    return hashlib.sha256(_SEAL.sub(rb"\g<1>" + UNSEALED.encode() + b'"', data, count=1)).hexdigest()


def manifest_from_bytes(data: bytes) -> Manifest:
    """Parses strictly. Raises BundleError naming the field, the version if it is not this one, or a wrong identity."""
    try:
        version = msgspec.convert(msgspec.json.decode(data, type=dict[str, object]).get("format_version"), int)
    except _MALFORMED as err:
        raise BundleError(f"manifest.json is not a manifest: {err}", "build the bundle again") from err
    if version != FORMAT_VERSION:
        newer = "upgrade hsexport" if version > FORMAT_VERSION else "build the bundle again"
        raise BundleError(f"manifest.json has format_version {version}, this runtime reads {FORMAT_VERSION}", newer)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except _MALFORMED as err:
        raise BundleError(f"manifest.json: {err}", "build the bundle again") from err
    found = identity_of(data)
    if found != manifest.identity:
        raise BundleError(f"manifest.json has identity {found}, expected {manifest.identity}", DAMAGED)
    return manifest


# msgspec lets the last two through as they are: bytes that are not UTF-8, and nesting beyond the interpreter's stack.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def output_spec(manifest: Manifest, engine: str, name: str) -> TensorSpec:
    """An engine's output of that name. Raises BundleError where it has none."""
    outputs = {tensor.name: tensor for tensor in manifest.engines[engine].spec.outputs}
    if name not in outputs:
        raise BundleError(f"engine '{engine}' has no output '{name}', it has {sorted(outputs)}", FOREIGN)
    return outputs[name]
