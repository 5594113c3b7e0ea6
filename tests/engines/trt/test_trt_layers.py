"""Names and dtypes as TensorRT prints them."""

from types import SimpleNamespace

import pytest

from hsengines.build import Layer
from hsengines.trt.inspection import engine_layers, nodes_in, numpy_name_of_printed


@pytest.mark.parametrize(
    ("printed", "dtype"),
    [
        ("Row major linear FP32", "float32"),
        ("Row major linear FP16 format", "float16"),
        ("Half", "float16"),
        ("BF16", "bfloat16"),
        ("Channel major BFloat16 format", "bfloat16"),
        ("Int64", "int64"),
        ("Row major Int8 format", "int8"),
        ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
    ],
)
def test_printed_dtypes(printed, dtype):
    assert numpy_name_of_printed(printed) == dtype


def test_fused_layer_stands_for_all_its_nodes():
    assert nodes_in("[ONNX Layer: a/b][ONNX Layer: c.1]\x1f[ONNX Layer: a/b]") == "a/b + c.1"
    assert nodes_in("") == ""


def layers_told_by(printed):
    inspector = SimpleNamespace(get_engine_information=lambda form: printed)
    library = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))
    return engine_layers(library, SimpleNamespace(create_engine_inspector=lambda: inspector))


def test_engines_layers_without_nodes_are_left_out():
    printed = """{"Layers": ["reformat", {"Name": "x", "Metadata": ""}, {"Name": "__myl_Fc", "LayerType": "gemm",
        "Outputs": [{"Name": "o", "Format/Datatype": "Half"}], "Metadata": "[ONNX Layer: fc1][ONNX Layer: fc2]"}]}"""
    assert layers_told_by(printed) == (Layer("fc1 + fc2", "gemm", ("float16",)),)


@pytest.mark.parametrize("printed", ["", "[]", '{"Layers": ["a", "b"]}', "Layers:\n a"])
def test_engine_that_tells_too_little_tells_nothing(printed):
    assert layers_told_by(printed) == ()
