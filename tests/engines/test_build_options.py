import pytest

from hsengines.backend import get_backend
from hsengines.build import BuildOptions, build_options, options_kind, own_options
from hsengines.errors import BackendUnavailable, EngineBuildError
from hsengines.traits import backend_names, traits_of
from hsengines.trt.options import RtxOptions, TensorRtOptions


@pytest.mark.parametrize("backend", backend_names())
def test_options_default_to_the_backends_first_precision(backend):
    options = build_options(backend)
    assert type(options) is options_kind(backend)
    assert options == type(options)(precision=traits_of(backend).precisions[0])
    options.check_for(backend)


def test_every_foreign_option_is_named_with_its_value():
    words = r"'ort-cpu' cannot build with --arch 89,120, --hardware ampere, --strip True; .* --precision, --weights"
    with pytest.raises(EngineBuildError, match=words):
        build_options("ort-cpu", precision="fp32", architectures=(89, 120), hardware="ampere", stripped=True)


@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cuda"])
def test_onnx_runtime_refuses_what_belongs_to_tensorrt(backend):
    with pytest.raises(EngineBuildError, match=f"'{backend}' cannot build with --weight-streaming True"):
        build_options(backend, weight_streaming=True)


def test_options_of_another_backend_are_refused():
    with pytest.raises(EngineBuildError, match="'ort-cpu' is given RtxOptions, which is another backend's"):
        get_backend("ort-cpu").check_options(RtxOptions(precision="fp32"))


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        ("ort-cpu", BuildOptions(precision="fp16"), "'ort-cpu' builds fp32, not fp16; leave --precision out or name"),
        ("tensorrt", TensorRtOptions(precision="int8"), "fp32 or fp16 or bf16, not int8; choose one of these or name"),
        ("ort-cuda", BuildOptions(weights="int4"), "'ort-cuda' builds unquantized, not int4; leave --weights out"),
    ],
)
def test_precision_that_a_backend_lacks_is_refused_with_those_it_has(backend, options, words):
    with pytest.raises(EngineBuildError, match=words):
        options.check_for(backend)


def test_unknown_backend_has_no_options():
    with pytest.raises(BackendUnavailable, match="there is no backend 'npu'; choose one of"):
        build_options("npu")


def test_each_own_option_is_declared_once_with_its_words():
    own = own_options()
    assert set(own) == {*TensorRtOptions.__struct_fields__} - {*BuildOptions.__struct_fields__}
    assert all(schema["description"] and schema["flag"].startswith("--") for schema in own.values())
    assert own["architectures"]["backends"] == ["tensorrt", "tensorrt-rtx"]
    assert own["stripped"]["backends"] == ["tensorrt"]
