"""The demo pair with its weights in few bits: sizes, errors, pictures, and what a bundle tells of it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from lora_files import lora_of
from safetensors.numpy import save_file

from hsengines.build import build_options
from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.source import DEMO
from hsexport.measure.calibrate import CalibrationRequest, calibrate
from hsexport.measure.pictures import psnr
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.request import RequestError

pytestmark = pytest.mark.slow  # the demo pair; passes and numbers have small tests of their own

PROMPTS = ["red apple", "turtle"]
SCHEDULE = "large:3,hybrid:2,small:2"


@pytest.fixture(scope="module")
def calibration(demo_bundle, tmp_path_factory):
    """Of the demo pair, by one prompt."""
    out = tmp_path_factory.mktemp("calibration") / "demo.calibration"
    request = CalibrationRequest(demo_bundle, out, prompts=1, schedules=(SCHEDULE,))
    calibrate(request, Reporter())
    return out


@pytest.fixture(scope="module")
def stored(demo_cache, tmp_path_factory, calibration):
    """Builds the demo pair in a format for a backend; the bundle's path."""

    @cache
    def built(format, backend="ort-cpu"):
        out = tmp_path_factory.mktemp("stored") / "bundle"
        request = BuildRequest("demo", "demo", out, demo_cache, backend=backend, calibration=calibration)
        build(replace(request, options=build_options(backend, weights=format)), Reporter())
        return out

    return built


@cache
def pictures(bundle):
    with Session.open(bundle) as session:
        return session.generate(PROMPTS, seed=[1, 2], schedule=SCHEDULE).images


def sizes(bundle, engine):
    manifest = open_bundle(bundle).manifest
    known = {file.path: file.size_bytes for file in manifest.files}
    return sum(known[path] for path in manifest.engines[engine].weights)


OTHERS = [("int4", "ort-cpu", 0.2, 18), ("int8-full", "ort-cpu", 0.3, 26)]
OTHERS += [("int8", "openvino", 0.3, 36), ("int4", "openvino", 0.2, 18), ("int8-full", "openvino", 0.3, 26)]


@pytest.mark.parametrize(
    ("format", "backend", "share", "decibels"),
    [("int8", "ort-cpu", 0.3, 34), *OTHERS],  # which rounds activations, too, where it multiplies bytes
)
def test_transformer_is_as_small_as_the_format_and_pictures_stay_near(
    stored, demo_bundle, format, backend, share, decibels
):
    bundle = stored(format, backend)
    assert sizes(bundle, "large") < share * sizes(demo_bundle, "large")
    assert psnr(pictures(bundle), pictures(demo_bundle)).mean() > decibels
    record = open_bundle(bundle).manifest.engines["large"]
    assert record.weight_format == format
    assert record.products[format] > 50
    assert ("activations" in record.products) == (format == "int8-full")
    assert len(record.parity.blocks) > 4
    assert 0 < max(record.parity.blocks.values()) < 0.5


def test_bundle_tells_what_is_stored_otherwise_and_why(stored, hsexport):
    told = hsexport("inspect", stored("int8")).stdout
    assert "int8" in told
    assert "its error is the velocity's" in told
    manifest = open_bundle(stored("int8")).manifest
    assert {manifest.engines[name].weight_format for name in ("vae_decoder", "vae_encoder")} == {"int8"}
    assert manifest.engines["text_encoder"].weight_format == "int8"


def test_quantised_engines_take_no_adapters_and_say_what_to_do(stored, tmp_path):
    file = tmp_path / "style.safetensors"
    save_file(lora_of(DEMO / "large", ["transformer_blocks.1.attn.to_q"]), file)
    with pytest.raises(RequestError, match=r"for large: its weights are stored in int8; build it with --lora"):
        Session.open(stored("int8"), adapters=str(file))


def test_large_region_equals_the_whole_pass_with_quantised_weights(stored, hsexport):
    done = hsexport("verify", stored("int8"), "--json")
    assert done.returncode == 0, done.stderr


def test_calibration_goes_on_where_it_was_and_refuses_what_is_another(demo_bundle, calibration, stored):
    before = calibration.read_bytes()
    again = calibrate(CalibrationRequest(demo_bundle, calibration, prompts=1, schedules=(SCHEDULE,)), Reporter())
    assert calibration.read_bytes() == before
    assert set(again.networks) >= {"large", "small", "text_encoder"}
    whole, region = again.tensors["large/transformer_blocks.3.attn.to_q.weight/largest"]
    assert np.count_nonzero(whole) >= 2  # noise levels apart
    assert np.count_nonzero(region) >= 1
    with pytest.raises(Exception, match="a calibration of another pair, prompts or schedules; name another --out"):
        calibrate(CalibrationRequest(demo_bundle, calibration, prompts=2, schedules=(SCHEDULE,)), Reporter())
    with pytest.raises(Exception, match="ranges are measured on ort-cpu with weights as they are; build one"):
        calibrate(CalibrationRequest(stored("int8"), calibration, prompts=1), Reporter())
