"""Large of the demo pair in every format, built for TensorRT-RTX without a GPU, audited, and cast back to compare."""

from dataclasses import replace

import pytest

from hsengines.build import build_options
from hsengines.errors import EngineBuildError
from hsexport.build.build import STAGES
from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.build.stages.compile import Built, audit, engine_files
from hsexport.build.stages.export import export_all
from hsexport.build.stages.stage import Run
from hsexport.measure.formats import calibrated
from hsexport.measure.graphs import weight_bytes
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import ParityRecord

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.slow  # the demo pair, some ten seconds a format
KERNEL_BYTES = 8 * 2 * 3_500_000  # of each layer and profile: the demo's weights are few


@pytest.fixture(scope="module")
def calibration(demo_cache, tmp_path_factory):
    """By large's golden, which is one random input."""
    run = Run(BuildRequest("demo", "demo", demo_cache / "bundle", demo_cache), Reporter())
    (product,) = products = run.products([n for n in recipe_for(run.request).networks() if n.name == "large"])
    export_all(products, run)
    return calibrated(product, tmp_path_factory.mktemp("golden") / "large.calibration")


def built(cache, weights, arch, calibration=None):
    """Large after every stage."""
    options = build_options("tensorrt-rtx", precision="bf16", weights=weights, architectures=(arch,))
    request = BuildRequest("demo", "demo", cache / "bundle", cache, backend="tensorrt-rtx", options=options)
    run = Run(replace(request, calibration=calibration), Reporter())
    (product,) = products = run.products([n for n in recipe_for(request).networks() if n.name == "large"])
    for stage in STAGES.values():
        stage(products, run)
    return product


@pytest.mark.parametrize(
    ("weights", "arch", "read"),
    [
        ("int4", 120, {"int4": 72, "int8": 20}),
        ("int8", 86, {"int8": 92}),
        ("int8-full", 86, {"int8 and int8": 92}),
        ("fp8", 89, {"fp8 and fp8": 92}),
        ("fp8", 120, {"fp8 and fp8": 92}),
        ("nvfp4", 120, {"fp4": 72, "int8": 20}),
    ],
)
def test_every_product_reads_what_it_was_asked_to(demo_cache, calibration, weights, arch, read):
    product = built(demo_cache, weights, arch, calibration)
    found = product.record("engine", Built).audit["network"]
    assert {name: found[name] for name in read} == read
    parity = product.record("parity", ParityRecord)
    assert parity.measured_on == "cast-back"
    assert 0 < max(parity.blocks.values()) < 0.5
    assert engine_files(product)[0].stat().st_size < 1.1 * weight_bytes(product) + KERNEL_BYTES


def test_builder_that_changes_how_weights_are_read_is_told(demo_cache, calibration):
    product = built(demo_cache, "int4", 120, calibration)
    _, files = _network(product)
    for layers, words in (
        (
            [replace(layer, reads=("int8",) if layer.reads else ()) for layer in files.layers],
            "reads int8, its graph asks",
        ),
        ([replace(layer, reads=()) for layer in files.layers], "the builder does not read '.*' quantised"),
    ):
        with pytest.raises(EngineBuildError, match=words):
            audit(product, replace(files, layers=tuple(layers)))


def _network(product):
    """What the builder's own parser says of the graph."""
    from hsengines.backend import get_backend
    from hsengines.build import EngineFiles
    from hsengines.trt.build.log import listening
    from hsengines.trt.inspection import network_layers

    backend = get_backend("tensorrt-rtx")
    with listening(backend.library) as log:
        network, parser = backend._parsed(backend._builder(), product.graph, product.spec, log)
        layers = network_layers(network)
    return parser, EngineFiles(product.graph, layers=layers, layers_of="network")
