"""A bundle for OpenVINO: what was built, verified and drawn, in fp32 and bf16."""

import numpy as np
import pytest
from tools import HAS_BF16

from hsengines.build import build_options
from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.measure.pictures import psnr
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import SessionOptions

STITCHED = "large:2,hybrid:2,small:2;ratio=0.4"


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def narrow_bundle(tiny_pair_dirs, tiny_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("openvino") / "bundle"
    large, small = map(str, tiny_pair_dirs)
    options = build_options("openvino", precision="bf16")
    request = BuildRequest(large, small, out, tiny_cache, backend="openvino", options=options, light=(1, 1))
    build(request, Reporter())
    return out


def test_every_network_of_the_step_runs_on_it_as_on_onnx_runtime(tiny_openvino_bundle, tiny_bundle):
    pictures = []
    for bundle in (tiny_openvino_bundle, tiny_bundle):
        with Session.open(bundle) as session:
            pictures.append(session.generate(["red", "a blue car"], schedule=STITCHED, width=24, height=12).images)
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert pictures[0].std() > 5


def test_fp32_is_within_a_hundred_thousandth_of_the_reference(tiny_openvino_bundle):
    for name, record in open_bundle(tiny_openvino_bundle).manifest.engines.items():
        assert record.parity is None or record.parity.max_relative < 1e-5, name


@pytest.mark.slow
def test_verify_finds_it_whole(hsexport, tiny_openvino_bundle):
    done = hsexport("verify", str(tiny_openvino_bundle))
    assert done.returncode == 0, done.stderr
    assert "full pass, region" in done.stdout


@pytest.mark.slow
@HAS_BF16
def test_bf16_halves_the_weights_and_stays_near(hsexport, narrow_bundle, tiny_openvino_bundle):
    sizes = [sum(f.size_bytes for f in open_bundle(b).manifest.files) for b in (narrow_bundle, tiny_openvino_bundle)]
    assert sizes[0] < 0.8 * sizes[1]
    pictures = []
    for bundle in (narrow_bundle, tiny_openvino_bundle):
        with Session.open(bundle) as session:
            pictures.append(session.generate("red", schedule=STITCHED).images)
    assert psnr(*pictures)[0] > 25
    assert hsexport("verify", str(narrow_bundle)).returncode == 0


@pytest.mark.slow
@HAS_BF16
def test_a_cpu_without_bf16_is_told_when_the_bundle_is_opened(narrow_bundle, hsexport, monkeypatch):
    from hsengines.errors import BackendUnavailable
    from hsengines.openvino.backend import OpenVinoBackend

    monkeypatch.setattr(OpenVinoBackend, "_capabilities", lambda self, device: ["FP32"])
    with pytest.raises(
        BackendUnavailable, match=r"computes in bf16; for CPU OpenVINO lists FP32; build with --precision fp32"
    ):
        Session.open(narrow_bundle)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"text_on_demand": True}, {"threads": 1}, {"vae_tile": 16}, {"kernel_cache": ""}])
def test_a_sessions_options_work_on_it(tiny_openvino_bundle, options):
    with Session.open(tiny_openvino_bundle) as session:
        expected = session.generate("red", schedule=STITCHED).images
    with Session(open_bundle(tiny_openvino_bundle), SessionOptions(**options)) as session:
        found = session.generate("red", schedule=STITCHED).images
    assert np.abs(found.astype(int) - expected).max() <= 1
