"""What a manifest says of large's light form: none that a session would stumble over."""

import pytest
from msgspec.structs import replace

from hsruntime.bundle.consistency import check_consistency
from hsruntime.bundle.manifest import BundleError
from hsruntime.bundle.reader import open_bundle


@pytest.fixture(scope="module")
def manifest(tiny_bundle):
    return open_bundle(tiny_bundle).manifest


def with_light(manifest, **changed):
    return replace(manifest, facts=replace(manifest.facts, light=replace(manifest.facts.light, **changed)))


def with_spec(manifest, engine, side, change):
    """`change` gives an engine's inputs or outputs anew."""
    record = manifest.engines[engine]
    spec = replace(record.spec, **{side: tuple(change(list(getattr(record.spec, side))))})
    return replace(manifest, engines={**manifest.engines, engine: replace(record, spec=spec)})


def without(name):
    return lambda tensors: [tensor for tensor in tensors if tensor.name != name]


def as_type(name, dtype):
    return lambda tensors: [replace(t, dtype=dtype) if t.name == name else t for t in tensors]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: with_light(m, outer=None), "light is no form of large"),
        (lambda m: with_light(m, text="other"), "light is no form of large"),
        (lambda m: with_light(m, positions=replace(m.facts.large.positions, rows=1)), "light is no form of large"),
        (
            lambda m: with_spec(m, "large", "outputs", without("residual_text")),
            "engine 'large' does not answer 'residual_text' as 'light' takes it",
        ),
        (
            lambda m: with_spec(m, "light", "inputs", as_type("residual_image", "float16")),
            "engine 'large' does not answer 'residual_image' as 'light' takes it",
        ),
        (
            lambda m: with_spec(m, "light", "inputs", without("modulation")),
            "engine 'light' has no input 'modulation' for what 'condition_large' answers",
        ),
    ],
)
def test_a_light_form_that_is_not_larges_is_refused(manifest, change, words):
    check_consistency(manifest)
    with pytest.raises(BundleError, match=words):
        check_consistency(change(manifest))
