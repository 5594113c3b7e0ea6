"""The optimise stage on the tiny pair's graphs, and what stands in for half-precision engines on a CPU."""

import numpy as np
import pytest

from hsengines.backend import BuildOptions
from hsexport.build.networks import networks_of
from hsexport.build.progress import Silent
from hsexport.build.recipe import BuildRequest, recipe_for
from hsexport.build.stages.export import export_all
from hsexport.build.stages.optimise import GraphError, optimise_all
from hsexport.build.store import Store
from hsexport.build.verify.cast_back import block_values, cast_back_graph, first_infinite_block
from hsexport.build.verify.compare import tolerance_of
from hsexport.onnx.passes.errors import PassError


@pytest.fixture(scope="module")
def exported(tiny_pair_dirs, tiny_build):
    """What the export stage made of the tiny pair, from its cache, and the store."""
    large, small = map(str, tiny_pair_dirs)
    bundle, cache = tiny_build
    request = BuildRequest(large=large, small=small, out=bundle, cache=cache, options=BuildOptions())
    store = Store(cache)
    return export_all(networks_of(recipe_for(request)), store, Silent()), store


@pytest.fixture(scope="module")
def graphs_at(exported):
    """Graphs by name for a precision and the user's islands."""
    networks, store = exported

    def at(precision, fp32=(), backend="tensorrt-rtx"):
        made = optimise_all(networks, backend, precision, fp32, store, Silent())
        return {graph.name: graph for graph in made}

    return at


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("network", ["large", "small"])
def test_every_block_lies_within_the_tolerance_of_fp32(graphs_at, exported, precision, network):
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
    assert stays == {"prepare", "guide", "guide_held", "blend", "advance", "score", "spread", "unpatchify"}
    assert {t.dtype for t in graphs["advance"].spec.outputs} == {"float32", "int32"}
    assert {t.dtype for t in graphs["select_cache"].spec.outputs} == {"bfloat16"}


def test_users_island_shows_in_the_graph_and_only_there(graphs_at):
    graphs = graphs_at("fp16", fp32=("small:transformer_blocks.0*",))
    held = {name: {i.name: i.nodes for i in graph.islands} for name, graph in graphs.items()}
    assert held["small"]["small:transformer_blocks.0*"] > 10
    assert not any("transformer_blocks" in name for name in held["large"])


def test_users_island_that_holds_nothing_is_told(graphs_at):
    with pytest.raises(GraphError, match=r"--fp32 'large:nothing\*' holds no node of any graph that is cast to fp16"):
        graphs_at("fp16", fp32=("large:nothing*",))


def test_graph_that_the_backend_would_choke_on_is_refused_by_node(graphs_at):
    with pytest.raises(GraphError, match=r"'large', node 'transformer_blocks.0/Attention': .*fp32.*--precision"):
        graphs_at("fp32")


def test_fp32_graph_is_its_own_stand_in(graphs_at):
    graph = graphs_at("fp32", backend="ort-cpu")["score"]
    with cast_back_graph(graph) as (onnx, spec):
        assert (onnx, spec) == (graph.onnx, graph.spec)


def test_first_block_that_is_not_finite_is_found(graphs_at, monkeypatch):
    graph = graphs_at("fp16")["large"]
    assert first_infinite_block(graph) == ""
    blocks = list(block_values(graph))
    spoilt = {block: np.full(3, np.inf if place >= 1 else 1.0) for place, block in enumerate(blocks)}
    monkeypatch.setattr("hsexport.build.verify.cast_back.block_values", lambda graph: spoilt)
    assert first_infinite_block(graph) == blocks[1]


def test_network_without_blocks_has_no_first_one(graphs_at):
    graph = graphs_at("fp16")["select_cache"]
    with pytest.raises(PassError):
        block_values(graph)
    assert first_infinite_block(graph) == ""
