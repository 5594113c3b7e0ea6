"""What the types of a manifest cannot say: values that a session builds on. Specified in runtime/BUNDLE.md."""

from __future__ import annotations

from typing import NoReturn

from hsengines.dtypes import FLOATS, numpy_dtype
from hsengines.errors import HSError
from hsruntime.bundle.manifest import BundleError, EngineRecord, Manifest, Sizes, TensorRecord, engine_spec

OUTPUTS = {
    "join_text": ("text", "pooled"),
    "vae_decoder": ("pictures",),
    "select_cache": ("selected",),
    "unpatchify": ("latents",),
}
"""Outputs that the runtime asks for by name."""

_FOREIGN = "the bundle was not written by hsexport; build it again"


def check_consistency(manifest: Manifest) -> None:
    """Raises BundleError for the first value that no session could work with."""
    _check_precision("", manifest.precision)
    for role in ("large", "small"):
        if role not in manifest.positions:
            _refuse(f"positions has no '{role}', it has {sorted(manifest.positions)}")
    _check_sizes(manifest.sizes)
    for name, record in manifest.engines.items():
        _check_engine(name, record)
    for name, outputs in OUTPUTS.items():
        for output in outputs:
            _output(manifest, name, output)
    shape = _output(manifest, "join_text", "text").shape
    if len(shape) != 3 or not isinstance(shape[1], int):
        _refuse(f"engine 'join_text', output 'text': shape {shape}, expected 3 dimensions, the second a number")


def _check_sizes(sizes: Sizes) -> None:
    for side, low, default, high in zip(("width", "height"), sizes.minimum, sizes.default, sizes.maximum, strict=True):
        if not low <= default <= high:
            _refuse(f"sizes: {side} {low} (minimum), {default} and {high} (maximum) are not in ascending order")


def _check_precision(where: str, precision: str) -> None:
    if precision not in FLOATS:
        _refuse(f"{where}precision '{precision}' is unknown, the format knows {', '.join(FLOATS)}")


def _check_engine(name: str, record: EngineRecord) -> None:
    _check_precision(f"engine '{name}', ", record.precision)
    for tensor in [*record.inputs, *record.outputs]:
        if not _is_dtype(tensor.dtype):
            _refuse(f"engine '{name}', tensor '{tensor.name}': dtype '{tensor.dtype}' is unknown")
        if any(isinstance(extent, int) and extent < 0 for extent in tensor.shape):
            _refuse(f"engine '{name}', tensor '{tensor.name}': shape {tensor.shape} has a negative extent")
    for profile in record.profiles:
        for dim, (minimum, _, _) in profile.dims.items():
            if minimum < 0:
                _refuse(f"engine '{name}', profile '{profile.name}': {dim} starts at {minimum}")
    try:
        engine_spec(name, record)
    except HSError as err:
        raise BundleError(f"engine '{name}': {err.message}", _FOREIGN) from err


def _is_dtype(name: str) -> bool:
    """Whether numpy, or ml_dtypes for "bfloat16", calls a number type exactly so."""
    if name in FLOATS.values():
        return True
    try:
        dtype = numpy_dtype(name)
    except TypeError:
        return False
    return dtype.name == name and dtype.kind in "biuf"


def _output(manifest: Manifest, engine: str, name: str) -> TensorRecord:
    outputs = {tensor.name: tensor for tensor in manifest.engines[engine].outputs}
    if name not in outputs:
        _refuse(f"engine '{engine}' has no output '{name}', it has {sorted(outputs)}")
    return outputs[name]


def _refuse(message: str) -> NoReturn:
    raise BundleError(message, _FOREIGN)
