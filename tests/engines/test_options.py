from pathlib import Path

import pytest

from hsengines.backend import BuildOptions, get_backend
from hsengines.errors import EngineBuildError
from hsengines.options import refuse_foreign_options, refuse_precision


def test_defaults_are_no_ones_business():
    refuse_foreign_options("any", BuildOptions(), known=())


def test_known_options_pass():
    refuse_foreign_options("any", BuildOptions(precision="fp16", workspace_mb=64), known=("precision", "workspace_mb"))


def test_every_foreign_option_is_named_with_its_value():
    options = BuildOptions(architectures=(89, 120), hardware="ampere", stripped=True, timing_cache=Path("t"))
    words = r"'any' cannot build with --arch 89,120, --hardware ampere, --strip True, --timing-cache t; .* --precision"
    with pytest.raises(EngineBuildError, match=words):
        refuse_foreign_options("any", options)


@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cuda"])
def test_onnx_runtime_refuses_what_belongs_to_tensorrt(backend):
    with pytest.raises(EngineBuildError, match=f"'{backend}' cannot build with --weight-streaming True"):
        get_backend(backend).check_options(BuildOptions(weight_streaming=True))


def test_precision_that_a_backend_lacks_is_refused_with_those_it_has():
    with pytest.raises(EngineBuildError, match="'any' builds fp16 or bf16, not fp32; choose one of these or name"):
        refuse_precision("any", BuildOptions(), "fp16", "bf16")
