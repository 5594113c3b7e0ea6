"""The bundle's manifest: typed, strict, the same bytes for the same contents. Specified in runtime/BUNDLE.md."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hsengines.errors import HSError
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsengines.traits import traits_of

FORMAT_VERSION = 4

Count = Annotated[int, Meta(ge=1)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = tuple[Count, Count]
"""Width and height in pixels."""


def size_text(size: tuple[int, ...]) -> str:
    """A size as people write it: `1024x768`."""
    return f"{size[0]}x{size[1]}"


class BundleError(HSError):
    """A bundle that cannot be trusted: broken, incomplete, foreign, or too new."""


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A record that knows all of its fields."""


class FileRecord(_Strict, frozen=True):
    """One file of the bundle; `path` is relative, with forward slashes."""

    path: str
    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class TensorRecord(_Strict, frozen=True):
    """One named input or output of an engine."""

    name: str
    dtype: str
    shape: list[int | str]


class ProfileRecord(_Strict, frozen=True):
    """One optimisation profile: dimension name to (minimum, optimum, maximum)."""

    name: str
    dims: dict[str, tuple[int, int, int]]


class ParityRecord(_Strict, frozen=True):
    """How far an engine's outputs lay from its torch module in fp32 at build, over one random input."""

    max_absolute: float
    max_relative: float
    """Largest over the outputs of: largest absolute error over the output's largest reference value."""
    finite: bool
    measured_on: Annotated[str, Meta(pattern=r"\A(engine|cast-back)\Z")]
    """The "engine" itself, or, where it could not run at build, "cast-back": its graph in fp32 on a CPU, every value
    rounded to the graph's own precision."""


class IslandRecord(_Strict, frozen=True):
    """A part of the graph that computes in fp32 although the rest does not."""

    name: str
    nodes: Count
    reason: str


class AuditRecord(_Strict, frozen=True):
    """The types an engine was found to compute its products and attentions in; each is what the graph asks for."""

    read_from: Annotated[str, Meta(pattern=r"\A(engine|network)\Z")]
    """The "engine" itself, or the builder's "network" where the building machine could not open the engine."""
    products: dict[str, Count]
    """dtype to number of matrix products, convolutions and attentions."""


class EngineRecord(_Strict, frozen=True):
    """One engine: where it lies, what it looks like from outside, what was measured at build."""

    file: str
    weights: list[str]
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    profiles: list[ProfileRecord]
    build_key: Sha256
    precision: str
    """What its graph was cast to; engines of the step's own arithmetic stay fp32 in every bundle."""
    islands: list[IslandRecord]
    options: dict[str, str]
    """What else the builder was told."""
    audit: AuditRecord | None = None
    golden: str | None = None
    parity: ParityRecord | None = None


class AdapterRecord(_Strict, frozen=True):
    """A LoRA that was fused into a transformer's weights at build."""

    name: Annotated[str, Meta(pattern=r"\A[^/\\]+\Z")]
    """Of the file, without its folder."""
    sha256: Sha256
    scale: float


class Transformer(_Strict, frozen=True):
    """What the runtime must know of one transformer's architecture: cache slots, and terms of the arithmetic."""

    source: str
    """`demo`, a hub id, or for a local path a mark of the weights; a path says nothing on another machine."""
    parameters: Count
    layers: Count
    heads: Count
    head_size: Count
    dual_attention_layers: list[int]
    text_width: Count
    pooled_width: Count
    adapters: list[AdapterRecord] = []

    @property
    def width(self) -> int:
        """The width of a token inside the transformer."""
        return self.heads * self.head_size

    @property
    def attention_layers(self) -> int:
        """Cache slots: one per joint attention and one per dual attention."""
        return self.layers + len(self.dual_attention_layers)


class Latent(_Strict, frozen=True):
    """The latent space both transformers share."""

    channels: Count
    patch_size: Count
    vae_scale: Count
    """Pixels per latent along one side."""

    @property
    def token_width(self) -> int:
        """Numbers in one token: P = p * p * C."""
        return self.patch_size**2 * self.channels

    @property
    def pixels_per_token(self) -> int:
        """Pixels along one side of the square that a token covers; sizes are multiples of it."""
        return self.patch_size * self.vae_scale


class PositionTable(_Strict, frozen=True):
    """The part of the trained `table_size`^2 position table that the engines carry: its centre."""

    table_size: Count
    rows: Count
    columns: Count


class Sizes(_Strict, frozen=True):
    """Which pictures the bundle was built for; widths and heights vary independently within the range."""

    default: Size
    minimum: Size
    maximum: Size
    max_batch: Count


class Scheduler(_Strict, frozen=True):
    """FlowMatchEulerDiscreteScheduler's two numbers."""

    num_train_timesteps: Count
    shift: float


class TextEncoder(_Strict, frozen=True):
    """One text encoder and its tokenizer; `kind` is "clip" or "t5"."""

    engine: str
    kind: Annotated[str, Meta(pattern=r"\A(clip|t5)\Z")]
    tokenizer: str
    length: Count
    pad_id: Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Defaults(_Strict, frozen=True):
    """What `generate` does when it is told nothing."""

    schedule: str
    steps: Count
    guidance_scale: float


class Manifest(_Strict, frozen=True):
    """Everything the runtime knows of a bundle before it opens an engine."""

    format_version: int
    backend: str
    precision: str
    target: str
    tools: dict[str, str]
    device: str
    large: Transformer
    small: Transformer
    latent: Latent
    positions: dict[str, PositionTable]
    sizes: Sizes
    scheduler: Scheduler
    text_encoders: list[TextEncoder]
    defaults: Defaults
    engines: dict[str, EngineRecord]
    files: list[FileRecord]

    @property
    def on_cpu(self) -> bool:
        """Whether its engines run on CPUs, and not on GPUs."""
        return traits_of(self.backend).on_cpu


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as UTF-8 JSON, indented by two, fields in declared order, one newline at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def manifest_from_bytes(data: bytes) -> Manifest:
    """Parses strictly. Raises BundleError naming the field, or the version if it is not this one."""
    try:
        version = msgspec.json.decode(data, type=_VersionOnly).format_version
    except _MALFORMED as err:
        raise BundleError(f"manifest.json is not a manifest: {err}", "build the bundle again") from err
    if version != FORMAT_VERSION:
        newer = "upgrade hsexport" if version > FORMAT_VERSION else "build the bundle again"
        raise BundleError(f"manifest.json has format_version {version}, this runtime reads {FORMAT_VERSION}", newer)
    try:
        return msgspec.json.decode(data, type=Manifest)
    except _MALFORMED as err:
        raise BundleError(f"manifest.json: {err}", "build the bundle again") from err


class _VersionOnly(Struct):
    format_version: int


# msgspec lets the last two through as they are: bytes that are not UTF-8, and nesting beyond the interpreter's stack.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def tensor_record(manifest: Manifest, engine: str, name: str) -> TensorRecord:
    """An engine's input or output of that name. Raises BundleError where it has none."""
    record = manifest.engines[engine]
    for tensor in (*record.inputs, *record.outputs):
        if tensor.name == name:
            return tensor
    known = sorted(t.name for t in (*record.inputs, *record.outputs))
    raise BundleError(f"engine '{engine}' has no tensor '{name}', it has {known}", "build the bundle again")


def engine_spec(name: str, record: EngineRecord) -> EngineSpec:
    """The record as hsengines' own type."""
    tensors = [tuple(TensorSpec(t.name, t.dtype, tuple(t.shape)) for t in ts) for ts in (record.inputs, record.outputs)]
    profiles = (Profile(p.name, {d: DimRange(*r) for d, r in p.dims.items()}) for p in record.profiles)
    return EngineSpec(name, tensors[0], tensors[1], tuple(profiles))


def engine_record(
    spec: EngineSpec, *, file: str, weights: list[str], build_key: str, precision: str = "fp32"
) -> EngineRecord:
    """A spec and its files as a record, without what was measured."""
    inputs, outputs = (
        [TensorRecord(name=t.name, dtype=t.dtype, shape=list(t.shape)) for t in ts]
        for ts in (spec.inputs, spec.outputs)
    )
    profiles = [
        ProfileRecord(name=p.name, dims={d: (r.minimum, r.optimum, r.maximum) for d, r in p.dims.items()})
        for p in spec.profiles
    ]
    return EngineRecord(
        file=file,
        weights=weights,
        inputs=inputs,
        outputs=outputs,
        profiles=profiles,
        build_key=build_key,
        precision=precision,
        islands=[],
        options={},
    )
