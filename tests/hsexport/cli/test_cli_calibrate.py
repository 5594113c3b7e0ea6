"""`hsexport calibrate` as users run it."""

import json

from hsexport.build.calibration import read_calibration


def test_ranges_of_a_bundle_are_written_and_told(hsexport, tiny_bundle, tmp_path):
    out = tmp_path / "tiny.calibration"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\na blue ball\n")
    asked = ("calibrate", tiny_bundle, "--out", out, "--prompt-file", prompts, "--schedule", "large:2,hybrid:2,small:1")
    done = hsexport(*asked, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["file"] == str(out)
    assert told["networks"]["large"]["products"] > 20
    assert told["networks"]["large"]["largest"] >= told["networks"]["large"]["median"] > 0
    found = read_calibration(out)
    assert found.about["done"] == 2
    assert found.about["schedules"] == ["large:2,hybrid:2,small:1"]
    again = hsexport(*asked)
    assert again.returncode == 0, again.stderr
    assert "largest number read" in again.stdout
    other = hsexport("calibrate", tiny_bundle, "--out", out, "--prompt-file", prompts)
    assert other.returncode == 1
    assert "is a calibration of another pair, prompts or schedules; name another --out" in other.stderr


def test_bundle_for_another_backend_is_refused(hsexport, tiny_openvino_bundle, tmp_path):
    done = hsexport("calibrate", tiny_openvino_bundle, "--out", tmp_path / "x")
    assert done.returncode == 1
    assert "ranges are measured on ort-cpu with weights as they are; build one of the same pair" in done.stderr
    assert not (tmp_path / "x").exists()


def test_formats_are_read_before_anything_is_loaded(hsexport, tmp_path):
    done = hsexport("build", "--large", "demo", "--small", "demo", "--out", tmp_path / "b", "--weights", "large=int3")
    assert done.returncode == 2
    assert "'large=int3' names no format of weights; choose one of int8, int4" in done.stderr
    done = hsexport("build", "--large", "demo", "--small", "demo", "--out", tmp_path / "b", "--weights", "fp8")
    assert done.returncode == 1
    assert "'ort-cpu' builds unquantized or int8-full or int8 or int4, not fp8" in done.stderr
