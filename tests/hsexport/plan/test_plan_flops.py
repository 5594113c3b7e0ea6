"""The plan's operations are those that a counter finds in the exported graphs."""

import onnx_ir as ir
import pytest
from flops_of_graph import GraphFlopsError, flops_of_graph

from hsengines.spec import EngineSpec, TensorSpec
from hsexport.plan.work import pass_flops
from hsruntime.schedule.arithmetic import step_flops


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    return tiny_recipe()


@pytest.fixture(scope="module")
def counted(counted_graphs, recipe, tiny_cache):
    """Call it with a network's name and extents: operations of its exported graph."""
    return counted_graphs(recipe, tiny_cache)


@pytest.mark.parametrize(
    ("active", "tokens", "text_cached"), [(16, 16, False), (36, 36, False), (5, 16, False), (5, 16, True)]
)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_large_costs_what_its_graph_holds(recipe, counted, active, tokens, text_cached, rows):
    text = recipe.facts.text_tokens
    live, kept = (0, text) if text_cached else (text, 0)
    over = {"G": rows, "M": active, "N": tokens, "T": text, "L": live}
    found = counted("large", G=rows, M=active, R=tokens - active, T=live, U=kept, S=4)
    assert sum(pass_flops(recipe.facts.large, over).values()) == found


@pytest.mark.parametrize("rows", [1, 4])
def test_small_costs_what_its_graph_holds(recipe, counted, rows):
    found = counted("small", G=rows, N=36, T=recipe.facts.text_tokens, S=4)
    over = {"G": rows, "M": 36, "N": 36, "T": recipe.facts.text_tokens, "L": recipe.facts.text_tokens}
    assert sum(pass_flops(recipe.facts.small, over).values()) == found


def test_text_encoders_cost_what_their_graphs_hold(recipe, counted):
    for slot in recipe.facts.slots:
        assert recipe.planned(slot.engine, B=3) == counted(slot.engine, B=3)


@pytest.mark.parametrize("name", ["condition_large", "condition_small"])
def test_conditioning_costs_what_its_graph_holds(recipe, counted, name):
    dims = {"G": 4, "S": 9, "T": 7}
    assert recipe.planned(name, **dims) == counted(name, **dims)


def test_the_decoder_costs_what_its_graph_holds(recipe, counted):
    dims = {"B": 2, "h": 6, "w": 10}
    assert recipe.planned("vae_decoder", **dims) == counted("vae_decoder", **dims)


def test_all_but_the_layers_is_next_to_nothing_at_real_size(sd35_recipe):
    recipe = sd35_recipe()
    text = recipe.facts.text_tokens
    flops = pass_flops(recipe.facts.large, {"G": 2, "M": 4096, "N": 4096, "T": text, "L": text})
    assert flops["layers"] == 2 * step_flops(recipe.facts.large, 4096, 4096, recipe.facts.text_tokens)
    total = sum(flops.values())
    assert 0 < total - flops["layers"] < 1e-3 * total


def test_every_counted_operator_by_hand():
    def value(name, *shape):
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    x, w = value("x", "n", 3), value("w", 3, 5)
    product = ir.node("MatMul", [x, w], outputs=[value("p", "n", 5)])
    turned = ir.node("Gemm", [value("a", 7, "n"), value("b", 7, 5)], {"transA": 1}, outputs=[value("g", "n", 5)])
    conv = ir.node(
        "Conv", [value("c", 1, 4, 8, 8), value("k", 6, 2, 3, 3)], {"group": 2}, outputs=[value("d", 1, 6, 8, 8)]
    )
    query, key = value("q", 1, 2, "n", 4), value("e", 1, 2, "2*n + 1", 4)
    attention = ir.node("Attention", [query, key, value("v", 1, 2, "2*n + 1", 6)], outputs=[value("o", 1, 2, "n", 6)])
    other = ir.node("Add", [x, x], outputs=[value("s", "n", 3)])
    nodes = [product, turned, conv, attention, other]
    graph = ir.Graph([x], [], nodes=nodes, opset_imports={"": 23})
    spec = EngineSpec("g", (TensorSpec("x", "float32", ("N", 3)),), ())
    n = 11
    expected = 2 * n * 5 * 3 + 2 * n * 5 * 7 + 2 * 6 * 8 * 8 * 2 * 9 + 2 * 2 * n * (2 * n + 1) * (4 + 6)
    assert flops_of_graph(ir.Model(graph, ir_version=10), spec, {"N": n}) == expected


def test_an_extent_that_no_input_tells_is_named():
    x = ir.Value(name="x", shape=ir.Shape(["n", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    out = ir.Value(name="y", shape=ir.Shape(["u0", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("MatMul", [x, x], outputs=[out], name="block/MatMul")
    model = ir.Model(ir.Graph([x], [out], nodes=[node], opset_imports={"": 23}), ir_version=10)
    spec = EngineSpec("g", (TensorSpec("x", "float32", ("N", 3)),), ())
    with pytest.raises(GraphFlopsError, match=r"node 'block/MatMul': the extent 'u0' cannot be told"):
        flops_of_graph(model, spec, {"N": 2})
