"""Weights that no product reads, in 8 bits: tables of which rows are looked up, kernels of convolutions."""

import numpy as np
import pytest
from onnx_graphs import graph, run

from hsengines.ort.cpu import OrtCpuBackend
from hsengines.screening import weights_made_anew
from hsengines.spec import EngineSpec, TensorSpec
from hsengines.traits import traits_of
from hsengines.weights import CONVOLUTION, PRODUCT, TABLE
from hsexport.onnx.graph_files import save_graph
from hsexport.onnx.passes.dequantise import Dequantise
from hsexport.onnx.passes.graph_pass import apply
from hsexport.onnx.passes.ort_quantised import OrtTables
from hsexport.onnx.passes.quantise import Quantise, Storage

rng = np.random.default_rng(0)
ROWS = rng.standard_normal((50, 64)).astype(np.float32) * np.geomspace(0.01, 100, 50, dtype=np.float32)[:, None]
KERNELS = rng.standard_normal((40, 32, 3, 3)).astype(np.float32)
WEIGHT = rng.standard_normal((64, 64)).astype(np.float32)
FEED = {
    "ids": np.array([[3, 49, 0], [7, 7, 21]], np.int32),
    "picture": rng.standard_normal((2, 32, 6, 10)).astype(np.float32),
}
ALL = (PRODUCT, CONVOLUTION, TABLE)


def model():
    """A table whose rows differ ten thousandfold, a product behind it, a convolution, and a table of another name."""
    return graph(
        "rows = Gather(table, ids) y = MatMul(rows, weight) z = Conv<pads=[1,1,1,1]>(picture, kernels)"
        " p = Gather(places, ids)",
        "(int32[B, L] ids, float[B, 32, h, w] picture) =>"
        " (float[B, L, 64] rows, float[B, L, 64] y, float[B, 40, h, w] z, float[B, L, 64] p)",
        table=ROWS,
        places=ROWS,
        weight=WEIGHT,
        kernels=KERNELS,
    )


def quantise(format, kinds=ALL):
    made, quantised = model(), Quantise(Storage(lambda _: (format, ""), kinds, lambda name: name == "table"))
    apply(made, quantised)
    return made, quantised


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_they_are_stored_in_bytes_whatever_products_have(tmp_path, format):
    exact = run(model(), tmp_path / "exact.onnx", FEED)
    made, quantised = quantise(format)
    assert quantised.stored == ({"int8": 3} if format == "int8" else {"int8": 2, format: 1})
    assert {reason for _, reason in quantised.kept} == (
        set() if format == "int8" else {"a table, not a product", "a convolution, not a product"}
    )
    stored = {name: value.dtype.itemsize for name, value in made.graph.initializers.items()}
    assert stored["table.int8"] == stored["kernels.int8"] == 1
    assert stored["places"] == 4  # nobody said that its rows are looked up
    apply(made, Dequantise())
    found = run(made, tmp_path / "few.onnx", FEED)
    for name, worst in (("rows", 0.005), ("z", 0.02)):
        assert 0 < np.abs(found[name] - exact[name]).max() < worst * np.abs(exact[name]).max()
    assert (found["p"] == exact["p"]).all()


def test_each_row_of_a_table_has_a_scale_of_its_own(tmp_path):
    made, _ = quantise("int8")
    found = run(made, tmp_path / "few.onnx", FEED)["rows"]
    for row, place in zip(found.reshape(-1, 64), FEED["ids"].ravel(), strict=True):
        assert np.abs(row - ROWS[place]).max() < 0.005 * np.abs(ROWS[place]).max()


def test_where_a_backend_would_make_all_their_numbers_anew_they_stay():
    made, quantised = quantise("int8", traits_of("tensorrt-rtx").quantised_kinds)
    assert quantised.stored == {"int8": 1}
    assert {"table", "kernels"} <= set(made.graph.initializers)


def test_onnx_runtime_makes_numbers_of_the_rows_alone_and_of_kernels_once(tmp_path):
    spec = EngineSpec(
        "few",
        (TensorSpec("ids", "int32", ("B", "L")), TensorSpec("picture", "float32", ("B", 32, "h", "w"))),
        (
            TensorSpec("rows", "float32", ("B", "L", 64)),
            TensorSpec("y", "float32", ("B", "L", 64)),
            TensorSpec("z", "float32", ("B", 40, "h", "w")),
            TensorSpec("p", "float32", ("B", "L", 64)),
        ),
    )
    made, _ = quantise("int8", (PRODUCT, TABLE))
    save_graph(made, tmp_path / "whole.onnx")
    assert "table.int8" in weights_made_anew(tmp_path / "whole.onnx")
    expected = run(made, tmp_path / "again.onnx", FEED)
    apply(made, OrtTables())
    assert "table.scale" not in made.graph.initializers
    save_graph(made, tmp_path / "rows.onnx")
    assert set(weights_made_anew(tmp_path / "rows.onnx")) == {"weight.int8"}  # which a kernel of its own reads
    found = run(made, tmp_path / "found.onnx", FEED)
    assert all((found[name] == expected[name]).all() for name in ("rows", "z", "p"))

    kernels, _ = quantise("int8", (CONVOLUTION,))
    save_graph(kernels, tmp_path / "few.onnx")
    assert set(weights_made_anew(tmp_path / "few.onnx")) == {"kernels.int8"}
    OrtCpuBackend()._try(tmp_path / "few.onnx", spec, None)  # refuses what it would make anew at every run


def test_a_table_that_is_multiplied_with_as_well_stays():
    tied = graph(
        "y = MatMul(x, w) z = Gather(w, i)",
        "(float[M, 64] x, int64[K] i) => (float[M, 64] y, z)",
        w=np.eye(64, dtype="f4"),
    )
    quantised = Quantise(Storage(lambda _: ("int8", ""), ALL, lambda _: True))
    apply(tied, quantised)
    assert not quantised.stored
