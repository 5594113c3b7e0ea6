"""Backends and precisions are chosen by what the CPU is built for and what is installed."""

import pytest

from hsengines import choice
from hsengines.choice import built_for_bf16, fastest_on_cpu, fastest_precision
from hsengines.errors import BackendUnavailable

INTEL, AMD = "GenuineIntel", "AuthenticAMD"


def cpuinfo(path, vendor, *flags):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {' '.join(flags)}\n"
    path.write_text(f"{one}\n{one.replace('fpu', 'fpu other')}")
    return path


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        (INTEL, ["avx512_bf16", "amx_bf16"], "amx_bf16"),
        (INTEL, ["avx512_bf16"], ""),
        (AMD, ["avx512_bf16"], "avx512_bf16"),
        (AMD, ["avx2"], ""),
        ("", [], ""),
    ],
)
def test_the_flag_that_makes_bf16_fast(tmp_path, vendor, flags, expected):
    file = cpuinfo(tmp_path / "cpuinfo", vendor, *flags)
    assert built_for_bf16(file) == expected
    assert fastest_precision("openvino", file) == ("bf16" if expected else "fp32")
    assert fastest_precision("ort-cpu", file) == "fp32"
    assert fastest_precision("tensorrt", file) == "bf16"


def test_no_cpuinfo_is_no_flag(tmp_path):
    assert built_for_bf16(tmp_path / "none") == ""
    (tmp_path / "odd").write_text("Features : bf16\n\nwithout a colon")
    assert built_for_bf16(tmp_path / "odd") == ""


def test_what_is_installed_and_fits_is_chosen_and_said(tmp_path, monkeypatch):
    fast, slow = cpuinfo(tmp_path / "amd", AMD, "avx512_bf16"), cpuinfo(tmp_path / "intel", INTEL)
    assert fastest_on_cpu(fast)[:2] == ("openvino", "bf16")
    assert "avx512_bf16" in fastest_on_cpu(fast).why
    assert fastest_on_cpu(slow)[:2] == ("ort-cpu", "fp32")

    real = choice.get_backend

    def without(*missing):
        def get(name):
            if name in missing:
                raise BackendUnavailable(f"no {name}", "install it")
            return real(name)

        monkeypatch.setattr(choice, "get_backend", get)

    without("openvino")
    assert fastest_on_cpu(fast)[:2] == ("ort-cpu", "fp32")
    assert "no backend is installed that has bf16" in fastest_on_cpu(fast).why
    without("openvino", "ort-cpu")
    with pytest.raises(BackendUnavailable, match="no ort-cpu"):
        fastest_on_cpu(slow)
