"""The optimise stage on the tiny pair's graphs, and what stands in for half-precision engines on a CPU."""

import re
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from hsengines.build import BuildOptions
from hsengines.spec import EngineSpec, TensorSpec
from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.build.stages.export import export_all
from hsexport.build.stages.optimise import GraphError, GraphReport, optimise_all
from hsexport.build.stages.stage import Product, Run
from hsexport.build.verify.cast_back import block_values, cast_back_graph, first_infinite_block
from hsexport.build.verify.compare import tolerance_of
from hsexport.networks.network import Network
from hsexport.onnx.graph_files import save_graph
from hsexport.progress import Reporter


@pytest.fixture(scope="module")
def tiny_request(tiny_pair_dirs, tiny_build):
    """A request for the tiny pair through its cache, and its networks."""
    large, small = map(str, tiny_pair_dirs)
    bundle, cache = tiny_build
    request = BuildRequest(large=large, small=small, out=bundle, cache=cache, light=(1, 1))
    return request, recipe_for(request).networks()


@pytest.fixture(scope="module")
def graphs_at(tiny_request):
    """What the optimise stage makes for a precision and what the user keeps in fp32, by name."""
    request, networks = tiny_request

    def at(precision, fp32=(), backend="tensorrt-rtx"):
        options = BuildOptions(precision=precision)
        run = Run(replace(request, backend=backend, options=options, fp32=fp32), Reporter())
        products = run.products(networks)
        export_all(products, run)
        optimise_all(products, run)
        return {product.name: product for product in products}

    return at


@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=pytest.mark.slow), "bf16"])
@pytest.mark.parametrize("network", ["large", "small"])
def test_every_block_lies_within_the_tolerance_of_fp32(graphs_at, precision, network):
    exact = block_values(graphs_at("fp32", backend="ort-cpu")[network])
    half = block_values(graphs_at(precision)[network])
    assert exact.keys() == half.keys()
    assert len(exact) >= 2
    for block, expected in exact.items():
        error = np.abs(half[block] - expected).max() / np.abs(expected).max()
        assert 0 < error < tolerance_of(precision), block


def test_step_arithmetic_stays_fp32_in_every_precision(graphs_at):
    graphs = graphs_at("bf16")
    stays = {name for name, graph in graphs.items() if graph.precision == "fp32"}
    arithmetic = {"prepare", "guide", "guide_held", "blend", "advance", "extrapolate", "keep", "score"}
    arithmetic |= {"spread", "unpatchify"}
    assert stays == arithmetic
    assert {t.dtype for t in graphs["advance"].spec.outputs} == {"float32", "int32"}
    assert {t.dtype for t in graphs["select_cache"].spec.outputs} == {"bfloat16"}


def test_users_fp32_block_shows_in_the_graph_and_only_there(graphs_at):
    graphs = graphs_at("fp16", fp32=("small:transformer_blocks.0*",))
    held = {
        name: {b.name: b.nodes for b in graph.record("graph", GraphReport).fp32_blocks}
        for name, graph in graphs.items()
    }
    assert held["small"]["small:transformer_blocks.0*"] > 10
    assert not any("transformer_blocks" in name for name in held["large"])


def test_users_fp32_block_that_holds_nothing_is_told(graphs_at):
    with pytest.raises(GraphError, match=r"--fp32 'large:nothing\*' holds no node of any graph that is cast to fp16"):
        graphs_at("fp16", fp32=("large:nothing*",))


def test_graph_that_the_backend_would_choke_on_is_refused_by_node(graphs_at):
    with pytest.raises(GraphError, match=r"'large', node 'transformer_blocks.0/Attention': .*fp32.*--precision"):
        graphs_at("fp32")


def test_weight_format_is_a_reason_to_make_a_graph_anew_where_there_are_weights(tiny_request, graphs_at):
    graphs = graphs_at("fp16")
    request, _ = tiny_request
    options = BuildOptions(precision="fp16", weights="small=int8")
    run = Run(replace(request, backend="tensorrt-rtx", options=options), heard := Heard())
    networks = [graphs[name].network for name in ("small", "large", "select_cache")]
    products = [replace(graphs[made.name], weights=made.weights) for made in run.products(networks)]
    optimise_all(products, run)
    assert "weight format unquantized -> int8" in heard.reasons["small"]
    assert heard.reasons["large"] == ""
    assert heard.reasons["select_cache"] == ""


def test_fp32_graph_is_its_own_stand_in(graphs_at):
    graph = graphs_at("fp32", backend="ort-cpu")["score"]
    with cast_back_graph(graph) as (onnx, spec):
        assert (onnx, spec) == (graph.graph, graph.spec)


def test_first_block_that_is_not_finite_is_found(graphs_at, monkeypatch):
    graph = graphs_at("fp16")["large"]
    assert first_infinite_block(graph) == ""
    blocks = list(block_values(graph))
    spoilt = {block: np.full(3, np.inf if place >= 1 else 1.0) for place, block in enumerate(blocks)}
    monkeypatch.setattr("hsexport.build.verify.cast_back.block_values", lambda graph: spoilt)
    assert first_infinite_block(graph) == blocks[1]


def test_network_without_blocks_has_no_first_one(graphs_at):
    graph = graphs_at("fp16")["select_cache"]
    assert block_values(graph) == {}
    assert first_infinite_block(graph) == ""


class Heard(Reporter):
    """Remembers warnings, and why things are made."""

    def __init__(self):
        self.warnings, self.reasons = [], {}

    def warn(self, text):
        self.warnings.append(text)

    def begin(self, item, note=""):
        self.reasons[item] = note


IF = "y = If(c) <then_branch = t () => (float[4] a) { a = Neg(x) }, else_branch = e () => (float[4] b) { b = Abs(x) }>"
FAULTS = {
    "attention-outputs": (
        "y, k = Attention(q, q, q)",
        "(float[1, 1, 4, 8] q) => (float[1, 1, 4, 8] y, float[1, 1, 4, 8] k)",
    ),
    "attention": ("y = Attention(q, q, q)", "(float[1, 1, 4, 8] q) => (float[1, 1, 4, 8] y)"),
    "top-k": ("y, i = TopK(x, k)", "(float[9999] x) => (float[n] y, int64[n] i)"),
    "top-k unknown": ("y, i = TopK(x, k)", "(float[9999] x, int64[1] k) => (float[n] y, int64[n] i)"),
    "shape": ("y = NonZero(x)", "(float[4] x) => (int64[1, n] y)"),
    "gather-nd": ("y = GatherND(x, i)", "(float[4] x, int32[2, 1] i) => (float[2] y)"),
    "control-flow": (IF, "(bool c, float[4] x) => (float[4] y)"),
    "foreign": ("y = com.other.Neg(x)", "(float[4] x) => (float[4] y)"),
    "bf16": ("a = Cast <to = 16> (x) b = Neg(a) y = Cast <to = 1> (b)", "(float[4] x) => (float[4] y)"),
    "sound": ("y = Neg(x)", "(float[4] x) => (float[4] y)"),
    "double": ("a = Cast <to = 11> (x) y = Cast <to = 1> (a)", "(float[4] x) => (float[4] y)"),
    "leftover": ("a = Identity(x) b = Identity(a) y = Neg(b)", "(float[4] x) => (float[4] y)"),
}
INITIALIZERS = {"top-k": {"k": np.array([3841])}}


@pytest.fixture
def optimised(tmp_path):
    """What the stage says of a graph of FAULTS, which it finds as an export leaves it."""

    def run(fault, backend, precision):
        body, signature = FAULTS[fault]
        header = '<ir_version: 10, opset_import: ["" : 23, "com.other" : 1]>'
        proto = onnx.parser.parse_model(f"{header} tested {signature} {{ {body} }}")
        for name, array in INITIALIZERS.get(fault, {}).items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
        for place, node in enumerate(model.graph):
            node.name = f"blocks.{place}/{node.op_type}"
        save_graph(model, tmp_path / "tested.onnx")
        heard, options = Heard(), BuildOptions(precision=precision)
        request = BuildRequest("demo", "demo", tmp_path, tmp_path / "cache", backend=backend, options=options)
        network = Network(EngineSpec("tested", (), ()), lambda: None, {})
        optimise_all([Product(network, precision, {"onnx": tmp_path})], Run(request, heard))
        return heard.warnings

    return run


@pytest.mark.parametrize(
    ("fault", "backend", "precision", "words"),
    [
        ("attention-outputs", "tensorrt", "fp16", "output 'k' is used, where TensorRT has the first alone"),
        ("attention", "tensorrt-rtx", "fp32", "in fp32, for which TensorRT-RTX has no kernel; build with --precision"),
        ("top-k", "tensorrt-rtx", "fp16", "a TopK of 3841, where TensorRT takes up to 3840"),
        ("shape", "ort-cuda", "fp32", "that NonZero answers depends on values"),
        ("gather-nd", "ort-cpu", "fp32", "int32 indices, where ONNX Runtime wants int64"),
        ("control-flow", "tensorrt-rtx", "fp16", "If decides while the network runs"),
        ("foreign", "tensorrt-rtx", "bf16", "com.other.Neg is not part of ONNX"),
        ("foreign", "ort-cpu", "fp32", "com.other.Neg is not part of ONNX"),
        ("bf16", "ort-cpu", "fp32", "Cast in bf16, which ONNX Runtime's CPU kernels lack"),
        ("double", "tensorrt", "fp16", "Cast in float64, which tensorrt lacks"),
    ],
)
def test_lint_refuses_before_any_pass_does(optimised, fault, backend, precision, words):
    with pytest.raises(GraphError, match=words):
        optimised(fault, backend, precision)


@pytest.mark.parametrize(
    ("fault", "backend", "precision", "words"),
    [
        ("top-k unknown", "tensorrt-rtx", "fp16", "a TopK whose K is not known before it runs"),
        ("control-flow", "ort-cpu", "fp32", "'blocks.0/If': If decides while the network runs"),
        ("double", "ort-cpu", "fp32", "Cast in float64; cast to float32 in the module"),
        ("leftover", "ort-cpu", "fp32", "'blocks.0/Identity': Identity is left over .* more like it"),
    ],
)
def test_advice_is_a_warning_and_stays_one_when_the_graph_is_kept(optimised, fault, backend, precision, words):
    (told,) = optimised(fault, backend, precision)
    assert re.search(f"^network 'tested', node .*{words}", told)
    assert optimised(fault, backend, precision) == [told]


class Branches(torch.nn.Module):
    """A module that decides while it runs."""

    def forward(self, x):
        return (torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 3, (x,)),)


def test_branch_goes_through_the_export_and_is_found_by_lint(tmp_path):
    x, y = TensorSpec("x", "float32", ("B", 4)), TensorSpec("y", "float32", ("B", 4))
    network = Network(EngineSpec("branches", (x,), (y,)), Branches, {"B": 3})
    heard, request = Heard(), BuildRequest("demo", "demo", tmp_path, tmp_path / "cache")
    run, half = Run(request, heard), replace(request, backend="tensorrt-rtx", options=BuildOptions(precision="fp16"))
    products = run.products([network])
    export_all(products, run)
    optimise_all(products, run)
    assert [text for text in heard.warnings if "If decides while the network runs" in text] == heard.warnings != []
    with pytest.raises(GraphError, match="If decides while the network runs"):
        optimise_all(products, Run(half, heard))


def test_sound_graph_warns_of_nothing(optimised):
    assert optimised("sound", "ort-cpu", "fp32") == []
