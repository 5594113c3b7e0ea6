import gc

import ml_dtypes
import numpy as np
import pytest
from simulated_cuda import SimulatedCudart, install

from hsengines.cuda.device import open_device
from hsengines.errors import DeviceError, DeviceMemoryError, ShapeError

MIB = 2**20


@pytest.fixture
def cuda(monkeypatch):
    return install(monkeypatch, SimulatedCudart(total_bytes=8 * MIB, name="Tiny", capability=(12, 0)))


@pytest.fixture
def device(cuda):
    device = open_device()
    yield device
    device.close()


def test_device_says_what_it_is(device):
    assert (device.name, device.compute_capability, device.total_bytes) == ("Tiny", 120, 8 * MIB)
    assert device.stream
    assert device.graphs


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int64", "bool"])
def test_what_is_written_is_read(device, dtype):
    tensor = device.empty((3, 4), dtype)
    values = (np.arange(12).reshape(3, 4) % 2).astype(tensor.dtype)
    tensor.write(values)
    assert tensor.read().dtype.name == dtype
    np.testing.assert_array_equal(tensor.read(), values)


def test_upload_of_a_transposed_array_keeps_its_order(device):
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(device.upload(values).read(), values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_tail_is_the_last_rows_in_the_very_same_memory(device, cuda, dtype):
    whole = device.upload(np.arange(12).reshape(4, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    held, tail = device.allocated_bytes, whole.tail(3)
    assert (tail.shape, tail.dtype, device.allocated_bytes) == ((3, 3), whole.dtype, held)
    assert tail.address == whole.address + 3 * whole.dtype.itemsize
    np.testing.assert_array_equal(tail.read(), whole.read()[1:])
    tail.write(np.zeros((3, 3), whole.dtype))
    np.testing.assert_array_equal(whole.read(), np.array([[0, 1, 2], *[[0] * 3] * 3], whole.dtype))
    other = device.empty((3, 3), dtype)
    other.copy_from(tail)
    tail.copy_from(other)
    np.testing.assert_array_equal(tail.tail(2).read(), other.read()[1:])
    whole.tail(0).write(np.empty((0, 3), whole.dtype))


def test_whole_lives_as_long_as_its_tail(device, cuda):
    whole = device.upload(np.arange(4, dtype=np.float32))
    address, tail = whole.address, whole.tail(2).tail(1)
    del whole
    gc.collect()
    assert address in cuda.live_allocations
    np.testing.assert_array_equal(tail.read(), [3])
    del tail
    gc.collect()
    device.empty((1,), "float32")  # what is freed goes back at the next call
    assert address not in cuda.live_allocations


def test_bfloat16_is_copied_on_the_device(device):
    values = np.array([0.5, -2, 300], ml_dtypes.bfloat16)
    source, target = device.upload(values), device.empty((3,), "bfloat16")
    target.copy_from(source)
    np.testing.assert_array_equal(target.read(), values)


def test_written_array_may_change_at_once(device, cuda):
    values = np.ones(3, np.float32)
    tensor = device.upload(values)
    values[:] = 7
    assert cuda.called()[-1] == "cudaStreamSynchronize"
    np.testing.assert_array_equal(tensor.read(), [1, 1, 1])


def test_nothing_at_all_has_an_address_and_can_be_copied(device):
    empty, other = device.empty((2, 0, 3), "float32"), device.empty((2, 0, 3), "float32")
    assert empty.address
    empty.write(np.empty((2, 0, 3), np.float32))
    other.copy_from(empty)
    assert other.read().shape == (2, 0, 3)
    assert device.allocated_bytes == 0


def test_scalar_is_a_tensor_like_any_other(device):
    tensor = device.upload(np.float32(2.5).reshape(()))
    assert tensor.read() == np.float32(2.5)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.ones(3, np.float64), r"float64\(3,\)"),
        (np.ones((3, 1), np.float32), r"float32\(3, 1\)"),
        (np.ones((), np.float32), r"float32\(\)"),
    ],
)
def test_values_of_another_kind_are_refused(device, values, found):
    tensor = device.empty((3,), "float32")
    with pytest.raises(ShapeError, match=rf"found {found}, expected float32\(3,\)"):
        tensor.write(values)


def test_memory_is_counted_and_freed_with_its_last_reference(device, cuda):
    first, second = device.empty((MIB,), "uint8"), device.empty((2 * MIB,), "uint8")
    assert (device.allocated_bytes, device.peak_bytes, device.free_bytes) == (3 * MIB, 3 * MIB, 5 * MIB)
    del first
    assert (device.allocated_bytes, device.peak_bytes, device.free_bytes) == (2 * MIB, 3 * MIB, 6 * MIB)
    assert cuda.live_allocations == {second.address: 2 * MIB}


def test_memory_is_freed_after_the_work_that_may_still_use_it(device, cuda):
    tensor = device.empty((3,), "float32")
    cuda.on_stream(device.stream, lambda: None)
    del tensor
    assert cuda.called()[-3:] == ["work", "cudaStreamSynchronize", "cudaFree"]


def test_running_out_says_how_much_was_needed_and_how_much_there_was(device):
    held = device.empty((6 * MIB,), "uint8")
    with pytest.raises(DeviceMemoryError, match=r"no room for 3\.00 MiB more: 2\.00 MiB of 8\.00 MiB are free") as told:
        device.empty((3 * MIB,), "uint8")
    assert told.value.needed_bytes == 3 * MIB
    assert device.allocated_bytes == held.nbytes
    device.empty((2 * MIB,), "uint8")


def test_other_errors_of_an_allocation_are_not_taken_for_missing_memory(device, cuda):
    cuda.fail("cudaMalloc", "cudaErrorIllegalAddress")
    with pytest.raises(DeviceError, match=r"allocating 4\.00 MiB: cudaErrorIllegalAddress") as told:
        device.empty((MIB,), "float32")
    assert not isinstance(told.value, DeviceMemoryError)


def test_scratch_is_shared_grows_and_outlives_growth_where_it_is_held(device, cuda):
    small = device.scratch(1000)
    assert (small.nbytes, small.address % 256) == (1000, 0)
    assert device.scratch(10) is small
    large = device.scratch(1025)
    assert large.nbytes == 1025
    assert set(cuda.live_allocations) == {small.address, large.address}
    del small
    assert device.scratch(1024) is large
    assert set(cuda.live_allocations) == {large.address}


def test_scratch_that_nobody_holds_makes_room_for_a_larger_one(device):
    device.scratch(5 * MIB)
    assert device.scratch(6 * MIB).nbytes == 6 * MIB


def test_marks_use_their_events_again(device, cuda):
    for _ in range(5):
        device.mark().wait()
    assert len(cuda.events) == 1
    marks = [device.mark(), device.mark()]
    assert len(cuda.events) == 2
    del marks
    assert cuda.called().count("cudaEventCreateWithFlags") == 2


def test_mark_waits_for_its_own_event(device, cuda):
    first, second = device.mark(), device.mark()
    recorded = [entry[1] for entry in cuda.log if entry[0] == "cudaEventRecord"]
    second.wait()
    first.wait()
    waited = [entry[1] for entry in cuda.log if entry[0] == "cudaEventSynchronize"]
    assert waited == recorded[::-1]


@pytest.mark.parametrize("failing", ["cudaStreamSynchronize", "cudaEventSynchronize"])
def test_failed_work_is_told_with_cudas_name(device, cuda, failing):
    mark = device.mark()
    cuda.fail(failing, "cudaErrorLaunchFailure")
    with pytest.raises(DeviceError, match="waiting for enqueued work: cudaErrorLaunchFailure"):
        mark.wait() if failing == "cudaEventSynchronize" else device.synchronize()


def test_device_that_has_failed_can_be_closed_and_forgotten(cuda):
    device = open_device()
    tensor, mark, scratch = device.empty((3,), "float32"), device.mark(), device.scratch(10)
    replay = device.replay([lambda: None])
    cuda.fail("cudaStreamSynchronize", "cudaErrorIllegalAddress", sticky=True)
    with pytest.raises(DeviceError):
        device.synchronize()
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        tensor.read()
    replay.close()
    device.close()
    del tensor, mark, scratch, replay


def test_closing_leaves_nothing(cuda):
    device = open_device()
    tensor, mark = device.upload(np.ones(3, np.float32)), device.mark()
    device.scratch(100)
    replay = device.replay([lambda: None])
    mark.wait()
    replay.close()
    del tensor, mark
    device.close()
    device.close()
    assert cuda.left() == {}


def test_what_outlives_its_device_is_freed_all_the_same(cuda):
    device = open_device()
    tensor, mark, replay = device.empty((3,), "float32"), device.mark(), device.replay([])
    device.close()
    before = len(cuda.log)
    del tensor, mark, replay
    gc.collect()
    assert cuda.left() == {}
    assert "cudaStreamSynchronize" not in cuda.called()[before:]


def test_use_after_free_is_noticed(device, cuda):
    tensor = device.empty((3,), "float32")
    address = tensor.address
    del tensor
    with pytest.raises(AssertionError, match="used, but freed"):
        cuda.array(address, (3,), "float32")


def test_use_of_more_than_was_allocated_is_noticed(device, cuda):
    tensor = device.empty((3,), "float32")
    with pytest.raises(AssertionError, match="no allocation has them"):
        cuda.array(tensor.address, (4,), "float32")
