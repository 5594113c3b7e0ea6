"""A joint and a single-stream block at klein's widths through export, cast, TensorRT-RTX without a GPU, and back."""

from dataclasses import replace

import pytest

from hsengines.build import build_options
from hsexport.measure.formats import calibrated
from hsexport.measure.graphs import weight_bytes

pytest.importorskip("tensorrt_rtx")
pytestmark = [pytest.mark.slow, pytest.mark.wide]  # 1.5 to 2.6 GB of weights in fp32, half of it cast and as an engine

HEADS = {"large": 32, "small": 24}
"""Of 128 numbers: klein 9B and 4B."""
OVERHEAD_BYTES = 3_500_000  # of each block, profile and architecture
NARROW = {"fp16": "float16", "bf16": "bfloat16"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Both members' steps in fp32 at 4096 tokens, exported; (request, products by role, a calibration)."""
    from tiny_flux2 import make_flux2_pipeline

    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.stage import Run
    from hsexport.progress import Reporter

    root = tmp_path_factory.mktemp("klein_width")
    wide = {"layers": 1, "single_layers": 1, "axes": (32, 32, 32, 32), "text": 64}
    folders = {role: str(make_flux2_pipeline(root / role, heads=heads, **wide)) for role, heads in HEADS.items()}
    size = {"size": (256, 256), "max_size": (256, 256), "references": 0}  # 64 x 64 tokens of the tiny VAE's
    request = BuildRequest(**folders, out=root / "bundle", cache=root / "cache", **size)
    run = Run(request, Reporter())
    products = run.products([n for n in recipe_for(request).networks() if n.name in HEADS])
    export_all(products, run)
    return request, {product.name: calibrated(product, root / f"{product.name}.calibration") for product in products}


def built(exported, name, arch, **options):
    """One network after every stage."""
    from hsexport.build.build import STAGES
    from hsexport.build.recipe import recipe_for
    from hsexport.build.stages.stage import Run
    from hsexport.progress import Reporter

    request, calibrations = exported
    asked = build_options("tensorrt-rtx", architectures=(arch,), **options)
    calibration = calibrations[name] if "weights" in options else None
    request = replace(request, backend="tensorrt-rtx", options=asked, calibration=calibration)
    run = Run(request, Reporter())
    (product,) = products = run.products([n for n in recipe_for(request).networks() if n.name == name])
    for stage in STAGES.values():
        stage(products, run)
    return product


@pytest.mark.parametrize(
    ("name", "precision", "weights", "arch", "read", "bound"),
    [
        # Others pass, too (fp16 and int8; each for either member): a minute each, for the same graph.
        ("small", "bf16", None, 120, None, 8e-2),
        ("large", "bf16", "fp8", 89, "fp8 and fp8", 0.5),
    ],
)
def test_slice_builds_and_lies_beside_fp32(exported, name, precision, weights, arch, read, bound):
    from hsexport.build.stages.compile import Built, engine_files
    from hsruntime.bundle.manifest import ParityRecord

    options = {"precision": precision} | ({"weights": weights} if weights else {})
    product = built(exported, name, arch, **options)
    audit, parity = product.record("engine", Built).audit["network"], product.record("parity", ParityRecord)
    assert audit[NARROW[precision]] > 10
    if read:
        assert audit[read] >= 6, audit
    assert parity.finite and parity.max_relative < bound
    overhead = 2 * len(product.spec.profiles) * OVERHEAD_BYTES
    assert engine_files(product)[0].stat().st_size < 1.1 * weight_bytes(product) + overhead
