"""What the types of a manifest cannot say: values that a session builds on. Specified in runtime/BUNDLE.md."""

from __future__ import annotations

from typing import NoReturn

from hsengines.spec import FLOATS, TensorSpec, numpy_dtype
from hsruntime.bundle.manifest import ENCODER, FOREIGN, BundleError, EngineRecord, Manifest, output_spec
from hsruntime.facts import RESIDUAL, Sizes, TextSide, Transformer

OUTPUTS = {"vae_decoder": "pictures", "select_cache": "selected", "unpatchify": "latents"}
"""Outputs that the runtime asks for by name."""


def check_consistency(manifest: Manifest) -> None:
    """Raises BundleError for the first value that no session could work with."""
    facts = manifest.facts
    _check_precision("", manifest.precision)
    for role, model in facts.members.items():
        if model.text not in facts.text:
            _refuse(f"{role} reads the text side '{model.text}', there is {sorted(facts.text)}")
    for side in facts.text.values():
        _check_text(manifest, side)
    for role in facts.members:
        _check_conditions(manifest, role)
    if facts.light:
        _check_light(manifest, facts.light)
    _check_sizes(manifest.facts.sizes)
    for name, record in manifest.engines.items():
        _check_engine(name, record)
    for name, output in OUTPUTS.items():
        output_spec(manifest, name, output)
    if ENCODER in manifest.engines:
        output_spec(manifest, ENCODER, "latents")


def _check_sizes(sizes: Sizes) -> None:
    for side, low, default, high in zip(("width", "height"), sizes.minimum, sizes.default, sizes.maximum, strict=True):
        if not low <= default <= high:
            _refuse(f"sizes: {side} {low} (minimum), {default} and {high} (maximum) are not in ascending order")


def _check_precision(where: str, precision: str) -> None:
    if precision not in FLOATS:
        _refuse(f"{where}precision '{precision}' is unknown, the format knows {', '.join(FLOATS)}")


def _check_engine(name: str, record: EngineRecord) -> None:
    _check_precision(f"engine '{name}', ", record.precision)
    if record.spec.name != name:
        _refuse(f"engine '{name}' calls itself '{record.spec.name}'")
    for tensor in [*record.spec.inputs, *record.spec.outputs]:
        if not _is_dtype(tensor.dtype):
            _refuse(f"engine '{name}', tensor '{tensor.name}': dtype '{tensor.dtype}' is unknown")
        if any(isinstance(extent, int) and extent < 0 for extent in tensor.shape):
            _refuse(f"engine '{name}', tensor '{tensor.name}': shape {tensor.shape} has a negative extent")
    for profile in record.spec.profiles:
        for dim, extents in profile.dims.items():
            if extents.minimum < 0:
                _refuse(f"engine '{name}', profile '{profile.name}': {dim} starts at {extents.minimum}")


def _check_text(manifest: Manifest, side: TextSide) -> None:
    """Refuses answers that the join does not take, and a join whose text has not the side's tokens."""
    inputs = {tensor.name for tensor in manifest.engines[side.join].spec.inputs}
    for slot in side.encoders:
        for answer, place in slot.into.items():
            output_spec(manifest, slot.engine, answer)
            if place not in inputs:
                _refuse(f"engine '{side.join}' has no input '{place}' for what '{slot.engine}' answers")
    shape = output_spec(manifest, side.join, "text").shape
    if len(shape) != 3 or shape[1] != side.tokens:
        _refuse(
            f"engine '{side.join}', output 'text': shape {list(shape)}, expected 3 dimensions with {side.tokens} tokens"
        )


def _check_conditions(manifest: Manifest, role: str, engine: str | None = None) -> None:
    """Refuses a conditioning network whose answers are not what the steps take, the role's own or another engine's."""
    engine = engine or role
    taken = {tensor.name: tensor for tensor in manifest.engines[engine].spec.inputs}
    for tensor in manifest.engines[f"condition_{role}"].spec.outputs:
        if taken.get(tensor.name) != tensor:
            _refuse(f"engine '{engine}' has no input '{tensor.name}' for what 'condition_{role}' answers")


def _check_light(manifest: Manifest, light: Transformer) -> None:
    """Refuses a light one that is not large's, or takes what large does not answer as it takes it."""
    large = manifest.facts.large
    if light.outer is None or (light.text, light.positions) != (large.text, large.positions):
        _refuse("light is no form of large: it states no outer blocks, or another text side or other positions")
    _check_conditions(manifest, "large", "light")
    answered = {tensor.name: tensor for tensor in manifest.engines["large"].spec.outputs}
    for tensor in manifest.engines["light"].spec.inputs:
        found = answered.get(tensor.name)
        if tensor.name.startswith(RESIDUAL) and (found is None or not _fits(found, tensor)):
            _refuse(f"engine 'large' does not answer '{tensor.name}' as 'light' takes it")


def _fits(answered: TensorSpec, taken: TensorSpec) -> bool:
    return answered.dtype == taken.dtype and len(answered.shape) == len(taken.shape)


def _is_dtype(name: str) -> bool:
    """Whether numpy, or ml_dtypes for "bfloat16", calls a number type exactly so."""
    if name in FLOATS.values():
        return True
    try:
        dtype = numpy_dtype(name)
    except TypeError:
        return False
    return dtype.name == name and dtype.kind in "biuf"


def _refuse(message: str) -> NoReturn:
    raise BundleError(message, FOREIGN)
