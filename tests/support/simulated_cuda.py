"""A stand-in for `cuda.bindings.runtime` over host memory: a GPU's order of things on a machine without one.

An address that it hands out is a real address of the host, copies happen at once, and between the beginning and the
end of a capture work is recorded instead of done. It offers no name that the real module lacks.
"""

# ruff: noqa: N815

import ctypes
from bisect import bisect_right, insort
from collections import Counter, deque
from functools import wraps
from threading import get_ident

import numpy as np
from cuda.bindings import runtime as real

Error = real.cudaError_t
ALIGNMENT = 256
QUARANTINE = 64 * 2**20
"""Bytes of freed memory that are kept, so that a use after the free lands in them and is noticed."""


def runtime_call(breaks_capture=False):
    """Logs a call, fails it if that was asked for, and refuses it during a capture where CUDA does."""

    def decorate(method):
        name = method.__name__

        @wraps(method)
        def wrapper(self, *arguments):
            self.log.append((name, *map(self._plain, arguments)))
            error = self._injected(name)
            if not error and breaks_capture and self._breaks_capture(name, arguments):
                error = Error.cudaErrorStreamCaptureUnsupported
            answer = (error, None) if error else method(self, *arguments)
            if answer[0]:
                self.last_error = answer[0]
            return answer

        wrapper.runtime_call = True
        return wrapper

    return decorate


class Capture:
    """What a stream has recorded so far."""

    def __init__(self, thread):
        self.thread = thread
        self.work = []
        self.valid = True


class SimulatedCudart:
    """The runtime API; `log` holds (name, argument, ...) for every call, handles and enumerators as plain values."""

    cudaError_t = real.cudaError_t
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamCaptureMode = real.cudaStreamCaptureMode
    cudaStreamNonBlocking = real.cudaStreamNonBlocking
    cudaEventDisableTiming = real.cudaEventDisableTiming

    def __init__(self, total_bytes=2**30, name="Simulated GPU", capability=(8, 9), graph_bytes=4096):
        check_against_real(type(self))
        self.total_bytes = total_bytes
        self.name = name
        self.capability = capability
        self.graph_bytes = graph_bytes
        self.log = []
        self.last_error = Error.cudaSuccess
        self.streams = {}
        self.events = set()
        self._recorded = {}
        self.graphs = {}
        self.executables = {}
        self._memory = Memory()
        self._handles = 0x1000
        self._failures = {}
        self._sticky = Error.cudaSuccess

    # What tests ask and set.

    def fail(self, name, code="cudaErrorIllegalAddress", at=1, sticky=False):
        """Makes the `at`-th call of `name` from now on fail; a sticky error is every later call's answer too."""
        assert hasattr(type(self), name), name
        self._failures[name] = [at, getattr(Error, code), sticky]

    def called(self, *names):
        """The names of the calls in the log, in order; only those among `names`, if any are given."""
        return [entry[0] for entry in self.log if not names or entry[0] in names]

    @property
    def live_allocations(self):
        """Address to bytes of what was allocated and not freed."""
        return {address: array.nbytes for address, array in self._memory.live.items()}

    def left(self):
        """How many of each thing CUDA still holds; nothing of a kind that is all gone."""
        counts = Counter(
            allocations=len(self._memory.live),
            streams=len(self.streams),
            events=len(self.events),
            graphs=len(self.graphs),
            executables=len(self.executables),
        )
        return dict(+counts)

    def array(self, address, shape, dtype):
        """A view of device memory. AssertionError if it is not allocated, or freed."""
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._memory.view(address, count).view(dtype).reshape(shape)

    def on_stream(self, stream, work, label="work"):
        """Does `work`, or records it while the stream is capturing: for engines that are simulated on top."""
        self.log.append((label,))
        return self._do(int(stream), work)

    # The machine.

    @runtime_call()
    def cudaGetDeviceCount(self):
        return Error.cudaSuccess, 1

    @runtime_call()
    def cudaDriverGetVersion(self):
        return Error.cudaSuccess, 13000

    @runtime_call()
    def cudaRuntimeGetVersion(self):
        return Error.cudaSuccess, 13000

    @runtime_call()
    def cudaSetDevice(self, device):
        return (Error.cudaErrorInvalidDevice if device else Error.cudaSuccess,)

    @runtime_call()
    def cudaGetDeviceProperties(self, device):
        properties = real.cudaDeviceProp()
        properties.name = self.name.encode().ljust(256, b"\0")
        properties.major, properties.minor = self.capability
        return Error.cudaSuccess, properties

    def cudaGetErrorName(self, error):
        return real.cudaGetErrorName(error)

    def cudaGetErrorString(self, error):
        return real.cudaGetErrorString(error)

    def cudaGetLastError(self):
        error, self.last_error = self.last_error, self._sticky
        return (error,)

    # Memory.

    @runtime_call()
    def cudaMemGetInfo(self):
        return Error.cudaSuccess, self._free_bytes(), self.total_bytes

    @runtime_call(breaks_capture=True)
    def cudaMalloc(self, size):
        assert size > 0, "cudaMalloc of nothing gives null"
        if size > self._free_bytes():
            return Error.cudaErrorMemoryAllocation, None
        return Error.cudaSuccess, self._memory.allocate(size)

    @runtime_call(breaks_capture=True)
    def cudaFree(self, address):
        self._memory.free(address)
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        device_target = kind != real.cudaMemcpyKind.cudaMemcpyDeviceToHost
        device_source = kind != real.cudaMemcpyKind.cudaMemcpyHostToDevice

        def copy():
            into = self._memory.view(target, count) if device_target else host_view(target, count)
            into[:] = self._memory.view(source, count) if device_source else host_view(source, count)

        return self._do(int(stream), copy)

    # Streams and events.

    @runtime_call()
    def cudaStreamCreateWithFlags(self, flags):
        handle = self._handle()
        self.streams[handle] = None
        return Error.cudaSuccess, real.cudaStream_t(handle)

    @runtime_call(breaks_capture=True)
    def cudaStreamSynchronize(self, stream):
        assert int(stream) in self.streams, "a stream that does not exist"
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaStreamDestroy(self, stream):
        del self.streams[int(stream)]
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaEventCreateWithFlags(self, flags):
        self.events.add(handle := self._handle())
        return Error.cudaSuccess, real.cudaEvent_t(handle)

    @runtime_call()
    def cudaEventRecord(self, event, stream):
        assert int(event) in self.events, "an event that does not exist"
        self._recorded[int(event)] = self.streams[int(stream)]
        return self._do(int(stream), lambda: None)

    @runtime_call()
    def cudaStreamWaitEvent(self, stream, event, flags):
        """A stream that waits for an event of a capture becomes part of it, until that capture ends."""
        capture = self._recorded[int(event)]
        joined = self.streams[int(stream)]
        if capture and joined is None:
            self.streams[int(stream)] = capture
        elif joined is not capture:
            return (Error.cudaErrorStreamCaptureIsolation,)
        return self._do(int(stream), lambda: None)

    @runtime_call(breaks_capture=True)
    def cudaEventSynchronize(self, event):
        assert int(event) in self.events, "an event that does not exist"
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaEventDestroy(self, event):
        self.events.remove(int(event))
        return (Error.cudaSuccess,)

    # Graphs.

    @runtime_call()
    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if self.streams[int(stream)]:
            return (Error.cudaErrorIllegalState,)
        self.streams[int(stream)] = Capture(get_ident())
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaStreamEndCapture(self, stream):
        capture = self.streams[int(stream)]
        if not capture:
            return Error.cudaErrorIllegalState, None
        self.streams |= {other: None for other, joined in self.streams.items() if joined is capture}
        if not capture.valid:
            return Error.cudaErrorStreamCaptureInvalidated, None
        self.graphs[handle := self._handle()] = capture.work
        return Error.cudaSuccess, real.cudaGraph_t(handle)

    @runtime_call()
    def cudaGraphInstantiate(self, graph, flags):
        if self.graph_bytes > self._free_bytes():
            return Error.cudaErrorMemoryAllocation, None
        self.executables[handle := self._handle()] = tuple(self.graphs[int(graph)])
        return Error.cudaSuccess, real.cudaGraphExec_t(handle)

    @runtime_call()
    def cudaGraphUpload(self, executable, stream):
        assert int(executable) in self.executables, "a graph that does not exist"
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaGraphLaunch(self, executable, stream):
        assert int(executable) in self.executables, "a graph that does not exist"
        assert not self.streams[int(stream)], "launching a graph inside a capture is not simulated"
        for work in self.executables[int(executable)]:
            work()
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaGraphDestroy(self, graph):
        del self.graphs[int(graph)]
        return (Error.cudaSuccess,)

    @runtime_call()
    def cudaGraphExecDestroy(self, executable):
        del self.executables[int(executable)]
        return (Error.cudaSuccess,)

    def _do(self, stream, work):
        """Does what a stream is given, or records it."""
        assert stream in self.streams, "a stream that does not exist"
        capture = self.streams[stream]
        if not capture:
            work()
        elif capture.valid:
            capture.work.append(work)
        else:
            return (Error.cudaErrorStreamCaptureInvalidated,)
        return (Error.cudaSuccess,)

    def _breaks_capture(self, name, arguments):
        """Invalidates every capture that the call is not allowed beside; whether there was one."""
        waited_for = int(arguments[0]) if name == "cudaStreamSynchronize" else None
        broken = [
            capture
            for stream, capture in self.streams.items()
            if capture and (stream == waited_for or capture.thread == get_ident())
        ]
        for capture in broken:
            capture.valid = False
        return bool(broken)

    def _injected(self, name):
        """The error that this call was told to give."""
        failure = self._failures.get(name)
        if failure:
            failure[0] -= 1
            if not failure[0]:
                _, error, sticky = self._failures.pop(name)
                self._sticky = error if sticky else self._sticky
                return error
        return self._sticky

    def _free_bytes(self):
        held = sum(array.nbytes for array in self._memory.live.values())
        return self.total_bytes - held - self.graph_bytes * len(self.executables)

    def _handle(self):
        self._handles += 1
        return self._handles

    @staticmethod
    def _plain(argument):
        if hasattr(argument, "name"):
            return argument.name
        return int(argument)


class Memory:
    """Blocks of host memory that play the GPU's."""

    def __init__(self):
        self.live = {}
        self._starts = []
        self._freed = deque()
        self._owners = {}

    def allocate(self, size):
        """The address of a new block, filled with bytes that are no sane number."""
        owner = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        offset = -owner.ctypes.data % ALIGNMENT
        block = owner[offset : offset + size]
        address = block.ctypes.data
        self.live[address] = block
        self._owners[address] = owner
        insort(self._starts, address)
        return address

    def free(self, address):
        """Takes a block back. AssertionError if it is not one."""
        assert address in self.live, f"{address:#x} is freed, but is not allocated"
        self._freed.append((address, self.live.pop(address), self._owners.pop(address)))
        self._starts.remove(address)
        while sum(block.nbytes for _, block, _ in self._freed) > QUARANTINE:
            self._freed.popleft()

    def view(self, address, count):
        """The bytes at an address. AssertionError if they are not all of one block, and alive."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0:
            start = self._starts[place]
            block = self.live[start]
            if address + count <= start + block.nbytes:
                return block[address - start : address - start + count]
        for start, block, _ in self._freed:
            assert not start <= address < start + block.nbytes, f"{count} bytes at {address:#x} are used, but freed"
        raise AssertionError(f"{count} bytes at {address:#x} are used, and no allocation has them")


def host_view(address, count):
    """The host's bytes at an address."""
    return np.frombuffer((ctypes.c_uint8 * count).from_address(address), np.uint8)


def check_against_real(simulated):
    """AssertionError for a name that the real module lacks, or a function that takes another number of arguments."""
    for name in dir(simulated):
        if not name.startswith("cuda"):
            continue
        assert hasattr(real, name), f"CUDA has no {name}"
        method = getattr(simulated, name)
        if getattr(method, "runtime_call", False):
            wanted = parameter_count(getattr(real, name).__doc__)
            found = method.__wrapped__.__code__.co_argcount - 1
            assert found == wanted, f"{name} takes {wanted} arguments, not {found}"


def parameter_count(doc):
    """How many parameters the signature in a function's first line of documentation has."""
    inside = doc.splitlines()[0].partition("(")[2].rpartition(")")[0]
    return len(inside.split(",")) if inside else 0


def install(monkeypatch, simulated=None):
    """Puts a simulation where hsengines finds CUDA, and returns it."""
    simulated = simulated or SimulatedCudart()
    monkeypatch.setattr("hsengines.cuda.api.cudart", simulated)
    return simulated
