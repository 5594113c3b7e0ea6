"""The same promises on a real GPU: what the simulation takes for granted."""

import gc

import ml_dtypes
import numpy as np
import pytest

from hsengines.cuda.device import open_device, why_no_cuda
from hsengines.errors import DeviceError, DeviceMemoryError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_no_cuda()), reason="no GPU")]


@pytest.fixture
def device():
    device = open_device()
    yield device
    device.close()


def test_device_says_what_it_is(device):
    assert device.name
    assert device.compute_capability >= 50
    assert 0 < device.free_bytes <= device.total_bytes


@pytest.mark.parametrize("shape", [(3, 5), (), (2, 0)])
def test_what_is_written_is_read(device, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(ml_dtypes.bfloat16)
    tensor = device.upload(values)
    assert tensor.address
    np.testing.assert_array_equal(tensor.read(), values)


def test_replay_repeats_copies(device):
    first, second, third = (device.empty((1000,), "float32") for _ in range(3))
    replay = device.replay([lambda: second.copy_from(first), lambda: third.copy_from(second)])
    for value in (1, 2):
        first.write(np.full(1000, value, np.float32))
        replay.launch()
        device.mark().wait()
        np.testing.assert_array_equal(third.read(), first.read())
    replay.close()


@pytest.mark.parametrize("forbidden", ["read", "empty", "synchronize"])
def test_device_works_on_after_a_failed_capture(device, forbidden):
    tensor, copy = device.upload(np.ones(3, np.float32)), device.empty((3,), "float32")
    calls = {
        "read": tensor.read,
        "empty": lambda: device.empty((3,), "float32"),
        "synchronize": device.synchronize,
    }
    with pytest.raises(DeviceError, match=r"captured as a CUDA graph: .*cudaErrorStreamCapture.*--no-graphs"):
        device.replay([calls[forbidden]])
    replay = device.replay([lambda: copy.copy_from(tensor)])
    replay.launch()
    np.testing.assert_array_equal(copy.read(), np.ones(3))


def test_tensor_dropped_during_a_capture_does_not_break_it(device):
    spare = [device.empty((3,), "float32"), device.empty((3,), "float32")]
    device.replay([spare.pop]).launch()
    assert device.allocated_bytes == 0


def test_running_out_leaves_the_device_usable(device):
    wanted = 2 * device.total_bytes
    with pytest.raises(DeviceMemoryError, match="no room for") as told:
        device.empty((wanted,), "uint8")
    assert told.value.needed_bytes == wanted
    np.testing.assert_array_equal(device.upload(np.ones(3, np.float32)).read(), np.ones(3))


def test_memory_comes_back(device):
    device.upload(np.ones(3, np.float32))
    before = device.free_bytes
    for _ in range(20):
        tensor, copy = device.empty((32 * 2**20,), "uint8"), device.empty((32 * 2**20,), "uint8")
        replay = device.replay([lambda tensor=tensor, copy=copy: copy.copy_from(tensor)])
        replay.launch()
        replay.close()
        del tensor, copy, replay
        gc.collect()
    assert before - device.free_bytes < 64 * 2**20
