"""What test_bundle.py leaves open: the manifest's engines as hsengines' own type."""

from pathlib import Path

import msgspec

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsruntime.bundle.reader import open_bundle
from hsruntime.facts import Latent, Positions, Transformer

SPEC = EngineSpec(
    "vae_decoder",
    (TensorSpec("latents", "float32", ("B", 4, "h", "w")),),
    (TensorSpec("pictures", "float32", ("B", "8*h", "8*w", 3)),),
    (Profile("all", {"B": DimRange(1, 1, 4), "h": DimRange(1, 8, 16)}),),
)


def test_spec_survives_the_manifest():
    assert msgspec.json.decode(msgspec.json.encode(SPEC), type=EngineSpec) == SPEC


def test_golden_profile_becomes_ranges():
    record = open_bundle(Path(__file__).parent / "golden_bundle").manifest.engines["large"]
    assert record.spec.profiles == (Profile("full", {"G": DimRange(1, 2, 4), "M": DimRange(4, 16, 64)}),)


def test_width_is_all_heads_together():
    medium = Transformer(
        source="",
        parameters=1,
        layers=24,
        heads=24,
        head_size=64,
        image_slots=37,
        text_slots=24,
        given=1,
        positions=Positions(origin="centre", table_size=1, rows=1, columns=1),
        text="text",
        operations={},
    )
    assert medium.width == 1536


def test_token_covers_a_square_of_pixels():
    latent = Latent(channels=16, patch_size=2, vae_scale=8)
    assert (latent.token_width, latent.pixels_per_token) == (64, 16)
