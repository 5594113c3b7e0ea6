"""How weights are to be stored, as users write it, and what refuses it."""

import pytest

from hsengines.build import BuildOptions, build_options
from hsengines.errors import EngineBuildError
from hsengines.weights import FORMATS, UNQUANTIZED, asked_weights, format_of, formats_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int8", {"large": "int8", "text_encoder": "int8"}),
        ("text=int4,large=fp8", {"large": "fp8", "text_encoder": "int4", "small": UNQUANTIZED}),
        ("int4,condition_*=int8", {"large": "int4", "condition_small": "int8"}),
        ("int4,large:proj_out=int8", {"large": "int4"}),
        ("large=int4,unquantized", {"large": UNQUANTIZED}),
    ],
)
def test_later_entries_overrule_earlier_ones_by_network_and_group(text, expected):
    groups = {"text_encoder": "text"}
    asked = asked_weights(text)
    assert {name: format_of(asked, name, groups.get(name, "")) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int3", "'int3' names no format of weights; choose one of int8, int4"),
        ("large=", "names no format"),
        ("", "names no format"),
        ("=int8", "'=int8' names no network; write it like text=int4"),
        ("large:=int8", "names no network"),
    ],
)
def test_what_cannot_be_read_is_told(text, words):
    with pytest.raises(EngineBuildError, match=words):
        asked_weights(text)


def test_formats_are_listed_once_and_without_the_one_that_is_none():
    assert formats_in("int8,large=unquantized,text=int8,small=fp8") == ("int8", "fp8")


def test_backend_refuses_formats_it_has_no_kernels_for_with_those_it_has():
    with pytest.raises(EngineBuildError, match="'ort-cpu' builds unquantized or int8-full or int8 or int4, not fp8"):
        BuildOptions(weights="large=fp8").check_for("ort-cpu")
    BuildOptions(weights=",".join(f"large={name}" for name in ("int8", "int4"))).check_for("ort-cpu")


@pytest.mark.parametrize(
    ("format", "arch", "words"),
    [
        (
            "fp8",
            86,
            "fp8 for sm_89 and sm_120, not for sm_86; name others with --arch, or choose int8 or int4 or int8-",
        ),
        ("nvfp4", 89, "nvfp4 for sm_120, not for sm_89; .* or choose int8 or int4 or fp8 or int8-full"),
    ],
)
def test_architecture_without_products_in_a_format_is_refused_with_what_it_has(format, arch, words):
    rtx = pytest.importorskip("hsengines.trt.rtx")
    options = build_options("tensorrt-rtx", weights=format, architectures=(arch,))
    with pytest.raises(EngineBuildError, match=words):
        rtx.TensorRtRtxBackend().check_options(options)


@pytest.mark.parametrize(("format", "target"), [("nvfp4", "sm_120"), ("fp8", "sm_89, sm_120"), ("int4", "sm_80, .*")])
def test_default_architectures_are_those_that_have_the_format(format, target):
    import re

    rtx = pytest.importorskip("hsengines.trt.rtx")
    assert re.fullmatch(target, rtx.TensorRtRtxBackend().target(build_options("tensorrt-rtx", weights=format)))


def test_every_format_is_described():
    assert all(kind.bits in (4, 8) and kind.told for kind in FORMATS.values())
