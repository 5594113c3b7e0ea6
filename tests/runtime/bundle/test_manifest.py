"""What test_bundle.py leaves open: the manifest's engines as hsengines' own type."""

from pathlib import Path

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsruntime.bundle.manifest import Latent, Transformer, engine_record, engine_spec
from hsruntime.bundle.reader import open_bundle

SPEC = EngineSpec(
    "vae_decoder",
    (TensorSpec("latents", "float32", ("B", 4, "h", "w")),),
    (TensorSpec("pictures", "float32", ("B", "8*h", "8*w", 3)),),
    (Profile("all", {"B": DimRange(1, 1, 4), "h": DimRange(1, 8, 16)}),),
)


def test_spec_survives_the_manifest():
    record = engine_record(SPEC, file="engines/vae.onnx", weights=["weights/vae"], build_key="0" * 64)
    assert engine_spec("vae_decoder", record) == SPEC


def test_golden_profile_becomes_ranges():
    record = open_bundle(Path(__file__).parent / "golden_bundle").manifest.engines["large"]
    assert engine_spec("large", record).profiles == (
        Profile("full", {"G": DimRange(1, 2, 4), "M": DimRange(4, 16, 64)}),
    )


def test_dual_attention_layers_have_cache_slots_of_their_own():
    medium = Transformer(
        source="",
        parameters=1,
        layers=24,
        heads=24,
        head_size=64,
        dual_attention_layers=list(range(13)),
        text_width=1,
        pooled_width=1,
    )
    assert (medium.attention_layers, medium.width) == (37, 1536)


def test_token_covers_a_square_of_pixels():
    latent = Latent(channels=16, patch_size=2, vae_scale=8)
    assert (latent.token_width, latent.pixels_per_token) == (64, 16)
