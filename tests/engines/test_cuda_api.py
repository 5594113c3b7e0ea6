import pytest
from simulated_cuda import SimulatedCudart, check_against_real, install

from hsengines.cuda.api import CudaError, call, call_quietly
from hsengines.cuda.device import open_device, why_no_cuda
from hsengines.errors import BackendUnavailable, DeviceError


@pytest.fixture
def cuda(monkeypatch):
    return install(monkeypatch)


def test_failed_call_tells_what_was_done_and_cudas_own_name_and_words(cuda):
    cuda.fail("cudaStreamSynchronize", "cudaErrorIllegalAddress")
    words = r"^CUDA failed while resting: cudaErrorIllegalAddress \(an illegal memory access .*\) from cudaStreamSync"
    with pytest.raises(DeviceError, match=words) as told:
        call("cudaStreamSynchronize", 1, doing="resting")
    assert "\n" not in str(told.value)
    assert told.value.code == "cudaErrorIllegalAddress"


def test_failed_call_leaves_no_error_for_others_to_find(cuda):
    cuda.fail("cudaMemGetInfo", "cudaErrorInvalidValue")
    with pytest.raises(CudaError):
        call("cudaMemGetInfo", doing="asking")
    assert not cuda.last_error


def test_call_returns_nothing_one_value_or_several(cuda):
    assert call("cudaSetDevice", 0, doing="choosing") is None
    assert call("cudaGetDeviceCount", doing="counting") == 1
    assert call("cudaMemGetInfo", doing="asking") == (cuda.total_bytes, cuda.total_bytes)


def test_quiet_call_swallows_cudas_errors_and_the_bindings(cuda):
    cuda.fail("cudaFree")
    call_quietly("cudaFree", 1)
    call_quietly("cudaFree", 1)  # the simulation raises for an address it does not know


def test_simulation_with_a_name_that_cuda_lacks_is_refused():
    class Fancy(SimulatedCudart):
        def cudaMallocForFree(self, size):
            return 0, 1

    with pytest.raises(AssertionError, match="CUDA has no cudaMallocForFree"):
        check_against_real(Fancy)


def test_call_that_does_not_exist_fails(cuda):
    with pytest.raises(AttributeError, match="cudaMallocForFree"):
        call("cudaMallocForFree", 1, doing="dreaming")


def test_missing_driver_is_told_as_such(cuda, monkeypatch):
    cuda.fail("cudaGetDeviceCount", "cudaErrorInsufficientDriver")
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (0, 0))
    assert why_no_cuda().endswith("this machine has no NVIDIA driver")


def test_old_driver_is_told_with_both_versions(cuda, monkeypatch):
    cuda.fail("cudaGetDeviceCount", "cudaErrorInsufficientDriver")
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (0, 12080))
    monkeypatch.setattr(cuda, "cudaRuntimeGetVersion", lambda: (0, 13050))
    assert why_no_cuda().endswith("the NVIDIA driver is for CUDA 12.8, older than CUDA 13.5 needs")


def test_gpu_that_works_needs_no_reason(cuda):
    assert why_no_cuda() == ""
    assert cuda.called() == ["cudaGetDeviceCount"]


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ("cudaGetDeviceCount", "there is no GPU to be used: .*cudaErrorNoDevice.*on a machine with an NVIDIA GPU"),
        ("cudaStreamCreateWithFlags", "the GPU cannot be used: .*cudaErrorNoDevice.*nvidia-smi"),
    ],
)
def test_device_that_cannot_be_opened_is_unavailable(cuda, failing, words):
    cuda.fail(failing, "cudaErrorNoDevice")
    with pytest.raises(BackendUnavailable, match=words):
        open_device()
    assert cuda.left() == {}
