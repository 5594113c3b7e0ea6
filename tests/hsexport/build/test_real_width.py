"""Two layers at SD3.5-Large's width (38 heads of 64, text 4096 wide) through export, cast, TensorRT-RTX and back."""

from dataclasses import replace

import pytest

from hsengines.build import build_options

pytest.importorskip("tensorrt_rtx")
# 1.6 GB of weights in fp32, twice 0.8 GB cast, twice 0.8 GB of engine
pytestmark = [pytest.mark.slow, pytest.mark.wide]

LAYERS = 2
OVERHEAD_BYTES = 2_500_000  # of each layer and profile, as at the demo's width


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Large alone, in fp32, at 4096 tokens; (request, its network), exported already."""
    from tiny_pair import make_pipeline

    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.stage import Run
    from hsexport.families.sd3.networks import large_network
    from hsexport.progress import Reporter

    root = tmp_path_factory.mktemp("real_width")
    wide = {"heads": 38, "head_size": 64, "joint": 4096, "pooled": 2048, "with_t5": False}
    large = make_pipeline(root / "large", layers=LAYERS, channels=16, sample_size=128, pos_embed_max_size=96, **wide)
    small = make_pipeline(
        root / "small", layers=1, heads=1, head_size=64, channels=16, sample_size=128, pos_embed_max_size=96,
        joint=4096, pooled=2048, transformer_only=True,
    )  # fmt: skip
    request = BuildRequest(large=str(large), small=str(small), out=root / "bundle", cache=root / "cache")
    run, network = Run(request, Reporter()), large_network(recipe_for(request))
    export_all(run.products([network]), run)
    return request, network


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_slice_builds_in_half_precision_and_lies_beside_fp32(exported, precision):
    from hsexport.build.build import STAGES
    from hsexport.build.stages.compile import Built, engine_files
    from hsexport.build.stages.stage import Run
    from hsexport.onnx.graph_files import load_graph
    from hsexport.progress import Reporter
    from hsruntime.bundle.manifest import ParityRecord

    request, network = exported
    options = build_options("tensorrt-rtx", precision=precision, architectures=(89, 120))
    run = Run(replace(request, backend="tensorrt-rtx", options=options), Reporter())
    (product,) = products = run.products([network])
    for stage in STAGES.values():
        stage(products, run)
    narrow = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert product.record("engine", Built).audit["network"][narrow] > 10 * LAYERS
    parity = product.record("parity", ParityRecord)
    assert parity.finite
    assert parity.max_relative < {"fp16": 1e-2, "bf16": 8e-2}[precision]
    values, profiles = load_graph(product.graph).graph.initializers.values(), len(product.spec.profiles)
    weights = sum(value.const_value.nbytes for value in values)
    assert weights > 450_000_000  # without modulation, which is the conditioning network's
    assert engine_files(product)[0].stat().st_size < 1.3 * weights + LAYERS * profiles * OVERHEAD_BYTES
