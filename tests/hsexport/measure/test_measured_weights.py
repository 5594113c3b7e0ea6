"""In which ways weights are stored, and what the table says of them."""

from dataclasses import replace

import msgspec
import pytest

from hsengines import traits
from hsengines.errors import HSError
from hsexport.measure import weights as measured
from hsexport.measure.bench.comparison import MEANINGS, Comparison, Row
from hsexport.measure.bench.report import BundleFacts
from hsexport.measure.machine import Hardware
from hsexport.measure.turns import Estimate
from hsexport.measure.weights import Stored, block, built, errors_of, ways
from hsruntime.bundle.reader import open_bundle

ONE = Estimate(1.0, 1.0, 1.0)


@pytest.fixture
def formats(monkeypatch):
    """OpenVINO as if it took what ONNX Runtime does not."""
    kinds = ("unquantized", "int8", "int8-full")
    rows = {"ort-cpu": ("unquantized", "int8"), "openvino": kinds}
    monkeypatch.setattr(
        traits, "BACKENDS", {n: replace(t, weights=rows.get(n, t.weights)) for n, t in traits.BACKENDS.items()}
    )


def test_ways_are_those_of_the_traits_and_what_is_missing_is_told(formats):
    found, missing = ways()
    assert [stored.name for stored in found] == [
        *("ort-cpu-fp32", "ort-cpu-int8"),
        *("openvino-fp32", "openvino-bf16", "openvino-int8", "openvino-int8-full"),
    ]
    assert missing == ["ort-cpu has no bf16", "ort-cpu has no int8-full"]


def test_activations_are_calibrated_once_with_the_first_bundle(formats, tmp_path, monkeypatch):
    told = []

    def ran(*arguments):
        told.append(arguments)
        if arguments[0] == "calibrate":
            (tmp_path / "calibration").touch()

    monkeypatch.setattr(measured, "_hsexport", ran)
    for stored in [Stored("openvino", "bf16"), *[Stored("openvino", "fp32", "int8-full")] * 2]:
        built(stored, tmp_path, None)
    assert [arguments[0] for arguments in told] == ["build", "calibrate", "build", "build"]
    assert told[1][1:] == (str(tmp_path / "ort-cpu-fp32.bundle"), "--out", str(tmp_path / "calibration"))
    assert told[2][-2:] == ("--calibration", str(tmp_path / "calibration")) and "--calibration" not in told[0]


def test_what_a_build_refuses_is_told_in_its_own_words(tmp_path):
    with pytest.raises(HSError, match=r"^backend 'ort-cpu' builds fp32, not bf16"):
        built(Stored("ort-cpu", "bf16"), tmp_path, None)


def test_errors_are_those_of_networks_with_weights(tiny_bundle):
    errors = errors_of(open_bundle(tiny_bundle).manifest)
    assert {"large", "small", "vae_decoder"} < set(errors) and "blend" not in errors


def test_table_has_the_errors_and_what_was_left_out():
    facts = BundleFacts("a.bundle", "", "demo", "demo", "ort-cpu", "fp32", (64, 64), 28, 3.5, "int8", 7_000_000)
    row = Row("a", "large", "first", 7_000_000, 10**8, 10**8, ONE, ONE, (1.0, 1.0), None)
    made = Comparison(1, "", "", {"a": facts}, Hardware("a CPU", 2, 2), {}, 4, 95, [row], [], MEANINGS, {})
    errors = {"large": 0.02, "small": 0.01, "text_encoder": 0.001, "text_encoder_2": 0.003, "vae_decoder": 1e-6}
    report = {
        "comparison": msgspec.to_builtins(made),
        "errors": {"a": errors},
        "text": ["text_encoder", "text_encoder_2"],
        "left_out": ["ort-cpu has no bf16"],
    }
    text = block(report)
    assert "| a: ort-cpu, fp32, int8 | 7.0 | 100 | 100 |" in text
    assert "| 2.0e-02 | 1.0e-02 | 3.0e-03 | 1.0e-06 |" in text
    assert text.endswith("\nLeft out: ort-cpu has no bf16.\n")
