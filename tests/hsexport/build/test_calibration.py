"""The file that says what products read: read strictly, and refused where it is of something else."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from hsengines.build import build_options
from hsexport.build.build import build
from hsexport.build.calibration import LEVELS, MODES, calibration_bytes, read_calibration
from hsexport.build.request import BuildRequest, RecipeError
from hsexport.progress import Reporter

ABOUT = {"members": {"large": "demo"}, "done": 1}


def tensors(value=2.0):
    levels = np.zeros((len(MODES), LEVELS), np.float32)
    levels[0, 3], levels[1, 7] = value, 3 * value
    return {"large/a.weight/largest": levels, "large/a.weight/squares": np.ones(4, np.float32)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "demo.calibration"
    path.write_bytes(calibration_bytes(tensors(), ABOUT))
    return path


def test_ranges_are_the_largest_of_every_level_and_mode(file):
    found = read_calibration(file)
    assert found.networks == ["large"]
    assert found.of("large").largest == {"a.weight": 6.0}
    assert list(found.of("large").importance) == ["a.weight"]
    assert found.of("small").digest == ""


def test_digest_follows_every_number(file, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(calibration_bytes(tensors(2.1), ABOUT))
    assert read_calibration(file).of("large").digest != read_calibration(other).of("large").digest
    assert read_calibration(file).of("large").digest == read_calibration(file).of("large").digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no calibration", "cannot be read as a calibration"),
        (save({"large/a/largest": np.ones((2, 10), np.float32)}), "is no calibration: it names no members"),
        (
            calibration_bytes({"weights": np.ones(3, np.float32)}, ABOUT),
            "is no calibration: it holds weights of float32",
        ),
        (calibration_bytes(tensors(np.nan), ABOUT), "largest holds numbers that no range has"),
        (calibration_bytes(tensors(-1.0), ABOUT), "largest holds numbers that no range has"),
        (calibration_bytes(tensors(np.inf), ABOUT), "largest holds numbers that no range has"),
    ],
)
def test_file_that_is_none_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "x.calibration"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=words) as told:
        read_calibration(path)
    assert "\n" not in str(told.value)
    assert "hsexport calibrate" in str(told.value)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_bytes_are_refused_or_read(tmp_path_factory, data):
    content = bytearray(calibration_bytes(tensors(), ABOUT))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.calibration"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        read_calibration(path).of("large")
    except RecipeError as err:
        assert str(path) in str(err)


def test_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_calibration(tmp_path / "nothing")


@pytest.fixture
def request_with(tiny_pair_dirs, tmp_path):
    large, small = map(str, tiny_pair_dirs)

    def request(weights, calibration=None):
        options = build_options("ort-cpu", weights=weights)
        asked = BuildRequest(large, small, tmp_path / "bundle", tmp_path / "cache", options=options)
        return replace(asked, calibration=calibration)

    return request


def test_calibration_of_other_weights_is_refused_before_anything_is_built(request_with, file):
    with pytest.raises(RecipeError, match=r"was measured on another large: demo, this is local:\w+; make it again"):
        build(request_with("int8", file), Reporter())


def test_format_that_needs_ranges_says_how_to_get_them(request_with):
    with pytest.raises(RecipeError, match="int8-full quantises activations, and needs their ranges; measure them"):
        build(request_with("large=int8-full"), Reporter())


def test_what_the_file_says_of_itself_is_json(file):
    assert json.loads(json.dumps(read_calibration(file).about)) == ABOUT
