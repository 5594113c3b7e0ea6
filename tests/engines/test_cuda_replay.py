import gc

import numpy as np
import pytest
from simulated_cuda import SimulatedCudart, install

from hsengines.cuda.device import open_device
from hsengines.errors import DeviceError, DeviceMemoryError, EngineLoadError


@pytest.fixture
def cuda(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def device(cuda):
    device = open_device()
    yield device
    device.close()


class Halver:
    """An engine's binding, simulated: target = source / 2, by addresses."""

    def __init__(self, cuda, device, source, target):
        self.cuda, self.stream, self.kept = cuda, device.stream, (source, target)
        self.addresses = source.address, target.address

    def enqueue(self):
        self.cuda.on_stream(self.stream, self.compute, "halve")

    def compute(self):
        source, target = (self.cuda.array(address, (4,), "float32") for address in self.addresses)
        target[:] = source / 2


def step(cuda, device):
    """A latent, and the sequence that halves it: into a buffer, then back."""
    latent, result = device.empty((4,), "float32"), device.empty((4,), "float32")
    latent.write(np.full(4, 64, np.float32))
    return latent, [Halver(cuda, device, latent, result).enqueue, lambda: latent.copy_from(result)]


def test_order_of_calls(device, cuda):
    _, sequence = step(cuda, device)
    cuda.log.clear()
    device.replay(sequence).launch()
    assert cuda.called() == [
        *("halve", "cudaMemcpyAsync", "cudaStreamSynchronize"),
        *("cudaStreamBeginCapture", "halve", "cudaMemcpyAsync", "cudaStreamEndCapture"),
        *("cudaGraphInstantiate", "cudaGraphDestroy", "cudaGraphUpload", "cudaStreamSynchronize"),
        "cudaGraphLaunch",
        *("cudaStreamSynchronize", "cudaGraphExecDestroy"),
    ]


def test_capture_does_not_do_the_work_and_the_warm_up_does_it_once(device, cuda):
    latent, sequence = step(cuda, device)
    replay = device.replay(sequence)
    np.testing.assert_array_equal(latent.read(), np.full(4, 32))
    replay.close()


@pytest.mark.parametrize("launches", [1, 2, 5])
def test_replaying_gives_what_running_gives(cuda, launches):
    results = []
    for graphs in (False, True):
        device = open_device(graphs)
        latent, sequence = step(cuda, device)
        replay = device.replay(sequence)
        latent.write(np.full(4, 64, np.float32))
        for _ in range(launches):
            replay.launch()
        results.append(latent.read())
        replay.close()
    np.testing.assert_array_equal(results[0], np.full(4, 64 / 2**launches))
    np.testing.assert_array_equal(results[0], results[1])


def test_without_graphs_nothing_is_captured(cuda):
    device = open_device(graphs=False)
    _, sequence = step(cuda, device)
    cuda.log.clear()
    replay = device.replay(sequence)
    assert cuda.called() == []
    replay.launch()
    assert cuda.called() == ["halve", "cudaMemcpyAsync"]


def test_replay_keeps_alive_what_it_replays(device, cuda):
    latent, sequence = step(cuda, device)
    replay = device.replay(sequence)
    del sequence
    gc.collect()
    latent.write(np.full(4, 8, np.float32))
    replay.launch()
    np.testing.assert_array_equal(latent.read(), np.full(4, 4))
    replay.close()
    address = latent.address
    del latent
    assert address not in cuda.live_allocations


def test_closing_destroys_the_graph_before_what_it_used_is_freed(device, cuda):
    _, sequence = step(cuda, device)
    replay = device.replay(sequence)
    del _, sequence
    cuda.log.clear()
    replay.close()
    replay.close()
    released = cuda.called("cudaGraphExecDestroy", "cudaFree")
    assert released == ["cudaGraphExecDestroy", "cudaFree", "cudaFree"]
    assert cuda.called()[0] == "cudaStreamSynchronize"


def test_closed_replay_is_not_launched(device):
    replay = device.replay([])
    replay.close()
    with pytest.raises(DeviceError, match="closed"):
        replay.launch()


def test_graph_that_is_dropped_is_destroyed(device, cuda):
    replay = device.replay([])
    assert len(cuda.executables) == 1
    del replay
    assert cuda.left() == {"streams": 1}


def test_failing_engine_ends_the_capture_and_leaves_nothing(device, cuda):
    runs = []

    def enqueue():
        runs.append(1)
        if len(runs) == 2:
            raise DeviceError("engine 'large' could not be enqueued")

    words = r"could not be captured as a CUDA graph: engine 'large' .*; run without graphs \(--no-graphs\)"
    with pytest.raises(DeviceError, match=words):
        device.replay([enqueue])
    assert cuda.left() == {"streams": 1}
    device.replay([lambda: None]).launch()


def test_interrupted_capture_is_ended(device, cuda):
    runs = []

    def enqueue():
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.replay([enqueue])
    assert cuda.left() == {"streams": 1}
    device.synchronize()


@pytest.mark.parametrize("forbidden", ["synchronize", "read", "empty"])
def test_what_a_capture_does_not_permit_is_told(device, cuda, forbidden):
    tensor = device.empty((3,), "float32")
    calls = {
        "synchronize": device.synchronize,
        "read": tensor.read,
        "empty": lambda: device.empty((3,), "float32"),
    }
    with pytest.raises(
        DeviceError, match=r"captured as a CUDA graph: .*cudaErrorStreamCaptureUnsupported.*--no-graphs"
    ):
        device.replay([calls[forbidden]])
    assert len(cuda.live_allocations) == 1
    assert not cuda.last_error
    device.synchronize()


@pytest.mark.parametrize("failing", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphUpload"])
def test_failing_capture_frees_everything(device, cuda, failing):
    cuda.fail(failing, "cudaErrorInvalidValue")
    with pytest.raises(DeviceError, match=f"captured as a CUDA graph: .*cudaErrorInvalidValue.* from {failing}"):
        device.replay([lambda: None])
    assert {*cuda.left()} == {"streams"}


def test_graph_without_room_is_a_lack_of_memory(monkeypatch):
    cuda = install(monkeypatch, SimulatedCudart(total_bytes=2**20, graph_bytes=2**21))
    with pytest.raises(DeviceMemoryError, match=r"no room for one CUDA graph more: 1\.00 MiB of .*--no-graphs"):
        open_device().replay([])
    assert cuda.left() == {"streams": 1}


def test_failing_warm_up_is_not_blamed_on_the_capture(device, cuda):
    cuda.fail("cudaStreamSynchronize", "cudaErrorIllegalAddress")
    with pytest.raises(DeviceError, match=r"^CUDA failed while running a sequence for the first time"):
        device.replay([lambda: None])
    assert "cudaStreamBeginCapture" not in cuda.called()


def test_errors_that_are_not_the_devices_pass_as_they_are(device, cuda):
    runs = []

    def enqueue():
        runs.append(1)
        if len(runs) == 2:
            raise EngineLoadError("engine 'large' is closed")

    with pytest.raises(EngineLoadError, match=r"^engine 'large' is closed$"):
        device.replay([enqueue])
    assert cuda.left() == {"streams": 1}


def test_tensor_dropped_during_a_capture_is_freed_after_it(device, cuda):
    spare = [device.empty((3,), "float32"), device.empty((3,), "float32")]
    cuda.log.clear()
    device.replay([spare.pop])
    calls = cuda.called("cudaFree", "cudaStreamBeginCapture", "cudaStreamEndCapture")
    assert calls == ["cudaFree", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaFree"]
    assert cuda.live_allocations == {}


def test_garbage_is_not_collected_during_a_capture(device):
    collecting = []
    device.replay([lambda: collecting.append(gc.isenabled())])
    assert collecting == [True, False]
    assert gc.isenabled()
