"""The whole runtime on a simulated GPU: TensorRT's and CUDA's own calls, engines that compute with ONNX Runtime."""

import numpy as np
import pytest
from simulated_tensorrt import simulated_gpu

from hsengines.build import build_options
from hsengines.errors import DeviceError, DeviceMemoryError
from hsruntime import Session

HYBRID = "large:2,hybrid:3,small:1"
SCHEDULES = [HYBRID, f"{HYBRID};signal=change", f"{HYBRID};refresh=2", "large:3", "small:2,large:1"]
SCHEDULES += ["large:2,light:2", "large:2,light+off:2", "large:2,refined+held:2;signal=std", "large:2,skip:2"]
SCHEDULES += ["large:2,small+held:2"]


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def gpu(patched):
    """The simulated CUDA and TensorRT, in place of the real ones for this file."""
    return simulated_gpu(patched, classic=True)


@pytest.fixture(scope="module")
def bundle(gpu, tiny_pair_dirs, tiny_cache, tmp_path_factory):
    """The tiny pair for the simulated TensorRT in fp32, so that pictures can be set beside ort-cpu's."""
    return built(
        tiny_pair_dirs,
        tiny_cache,
        tmp_path_factory.mktemp("gpu"),
        "tensorrt",
        build_options("tensorrt", precision="fp32"),
    )


def built(pair_dirs, cache, folder, backend, options):
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    large, small = map(str, pair_dirs)
    request = BuildRequest(large, small, folder / "bundle", cache, backend=backend, options=options, light=(1, 1))
    build(request, Reporter())
    return folder / "bundle"


@pytest.fixture(scope="module")
def session(bundle):
    with Session.open(bundle) as session:
        yield session


def pictures(session, schedule, **options):
    result = session.generate(["red", "green"], seed=3, schedule=schedule, **options)
    return result.images.astype(int), result.region


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pictures_equal_those_of_onnx_runtime(session, tiny_bundle, schedule):
    found, region = pictures(session, schedule)
    with Session.open(tiny_bundle, hashes=False) as other:
        expected, expected_region = pictures(other, schedule)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(region, expected_region)


@pytest.mark.parametrize("schedule", ["large:3", "small:2,large:1", f"{HYBRID};signal=center"])
def test_fp16_pictures_lie_beside_fp32_ones(tiny_pair_dirs, tiny_cache, tiny_bundle, tmp_path, schedule):
    """TensorRT-RTX's own path: fp16 cache and text on the device, latents in fp32. No signal: it may tip over."""
    with pytest.MonkeyPatch.context() as patch:
        simulated_gpu(patch)
        options = build_options("tensorrt-rtx", precision="fp16", architectures=(89,))
        bundle = built(tiny_pair_dirs, tiny_cache, tmp_path, "tensorrt-rtx", options)
        with Session.open(bundle) as session:
            found, _ = pictures(session, schedule)
    with Session.open(tiny_bundle, hashes=False) as other:
        expected, _ = pictures(other, schedule)
    assert np.abs(found - expected).max() <= 6
    assert np.abs(found - expected).mean() < 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_graphs_change_nothing_in_the_picture(session, bundle, schedule, guidance):
    with_graphs, _ = pictures(session, schedule, guidance_scale=guidance)
    with Session.open(bundle, graphs=False) as plain:
        without, _ = pictures(plain, schedule, guidance_scale=guidance)
    np.testing.assert_array_equal(with_graphs, without)


@pytest.mark.parametrize("graphs", [True, False])
def test_two_streams_change_nothing_in_the_picture(session, gpu, bundle, graphs):
    cuda, library = gpu
    expected, region = pictures(session, f"{HYBRID};refresh=2")
    left = cuda.left()
    before = len(cuda.log)
    with Session.open(bundle, graphs=graphs, two_streams=True) as forked:
        found, forked_region = pictures(forked, f"{HYBRID};refresh=2")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(forked_region, region)
    waits = {entry[1] for entry in cuda.log[before:] if entry[0] == "cudaStreamWaitEvent"}
    assert len(waits) == 2, "the second stream waits for the first one's fork, the first for the second's end"
    assert (cuda.left(), library.violations) == (left, [])


def test_tiles_and_text_on_demand_give_the_pictures_that_they_give_on_a_cpu(gpu, bundle, tiny_bundle):
    cuda, library = gpu
    left, live = cuda.left(), dict(library.live)
    options = {"vae_tile": 16, "text_on_demand": True}
    with Session.open(bundle, **options) as session:
        found, region = pictures(session, HYBRID, width=24, height=20)
        again, _ = pictures(session, HYBRID, width=24, height=20)
    with Session.open(tiny_bundle, hashes=False, **options) as other:
        expected, expected_region = pictures(other, HYBRID, width=24, height=20)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(region, expected_region)
    np.testing.assert_array_equal(again, found)
    assert (cuda.left(), dict(library.live), library.violations) == (left, live, [])


def test_picture_after_picture_from_the_same_graphs(session):
    first, _ = pictures(session, HYBRID)
    session.generate("blue", seed=9, schedule="small:1")
    again, _ = pictures(session, HYBRID)
    np.testing.assert_array_equal(first, again)


def calls(gpu, session, schedule):
    """Names of the calls that a picture of a warm session makes."""
    cuda, _ = gpu
    session.generate("red", schedule=schedule)
    before = len(cuda.log)
    session.generate("red", schedule=schedule)
    return [entry[0] for entry in cuda.log[before:]]


def test_warm_step_is_one_graph_launch(gpu, session):
    made = calls(gpu, session, "large:5")
    assert made.count("cudaGraphLaunch") == 1 + 5  # what the steps are given, and they
    assert not {"cudaMalloc", "cudaGraphInstantiate", "cudaStreamBeginCapture", "set_input_shape"} & set(made)
    encoders_and_decoder = 3 + 1 + 2
    assert made.count("execute_async_v3") == encoders_and_decoder


def test_latents_stay_on_the_device_until_the_loop_has_ended(gpu, session):
    """What is read back: the pictures and the last latents, and with a region one array of scores."""
    cuda, _ = gpu

    def reads(schedule):
        session.generate("red", schedule=schedule)
        before = len(cuda.log)
        session.generate("red", schedule=schedule)
        return sum(e[0] == "cudaMemcpyAsync" and "cudaMemcpyDeviceToHost" in map(str, e) for e in cuda.log[before:])

    assert reads("large:4") == 2
    assert reads("large:2,hybrid:2") == 3
    assert reads("large:2,hybrid:2;signal=center") == 2


def test_without_graphs_nothing_is_captured(gpu, bundle):
    cuda, _ = gpu
    before = len(cuda.log)
    with Session.open(bundle, graphs=False) as plain:
        plain.generate("red", schedule=HYBRID)
    assert "cudaStreamBeginCapture" not in {entry[0] for entry in cuda.log[before:]}


def test_everything_is_given_back_in_order(gpu, bundle):
    cuda, library = gpu
    live, allocations = dict(library.live), len(cuda.live_allocations)
    before = len(cuda.log)
    with Session.open(bundle) as session:
        session.generate("red", schedule=HYBRID)
        session.generate(["red", "green"], schedule="large:1")
    assert library.violations == []
    assert (dict(library.live), len(cuda.live_allocations)) == (live, allocations)
    names = [entry[0] for entry in cuda.log[before:]]
    assert names.count("cudaGraphExecDestroy") == names.count("cudaGraphInstantiate") > 0


def test_error_of_the_device_names_its_step(gpu, bundle):
    cuda, _ = gpu
    with Session.open(bundle) as session:
        session.generate("red", schedule="large:4")
        cuda.fail("cudaGraphLaunch", "cudaErrorLaunchFailure", at=3)
        with pytest.raises(DeviceError, match=r"cudaErrorLaunchFailure.*\(step 2 of 4, large\)") as told:
            session.generate("red", schedule="large:4")
        assert "\n" not in str(told.value)


def test_too_little_memory_is_told_with_what_would_shrink_it(patched, bundle, tiny_bundle):
    with pytest.MonkeyPatch.context() as patch:
        cuda, _ = simulated_gpu(patch, classic=True)
        with Session.open(bundle) as session:
            cuda.total_bytes -= cuda.cudaMemGetInfo()[1] - 40_000
            with pytest.raises(
                DeviceMemoryError, match=r"the loop for 4 of 24x24 pixels needs .*fewer pictures"
            ) as told:
                session.generate(["red"] * 4, width=24, height=24, schedule="large:1,hybrid:1")
            assert "\n" not in str(told.value)
