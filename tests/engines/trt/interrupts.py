"""Ctrl-C while TensorRT-RTX builds; test_trt_build runs these in a process of their own."""

import os
import signal
import threading

import pytest
from trt_graphs import attention_network

from hsengines.backend import get_backend
from hsengines.build import build_options


@pytest.fixture
def backend():
    return get_backend("tensorrt-rtx")


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def options():
    return build_options("tensorrt-rtx", precision="fp16", architectures=(89,))


@pytest.fixture
def press_ctrl_c():
    """Presses it, and returns when the main thread has noticed: a signal left over would hit some later test."""
    noticed = threading.Event()

    def raised(number, frame):
        noticed.set()
        raise KeyboardInterrupt

    def press():
        noticed.clear()
        os.kill(os.getpid(), signal.SIGINT)
        assert noticed.wait(60)

    before = signal.signal(signal.SIGINT, raised)
    yield press
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_build_and_leaves_nothing(tmp_path, out, backend, press_ctrl_c):
    onnx, spec = attention_network(tmp_path)
    told = []

    def interrupt(*each):
        told.append(each)
        if len(told) == 5:
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        backend.build(onnx, spec, options(), out, interrupt)
    assert len(told) == 5
    assert list(out.iterdir()) == []
    # The library is none the worse for it.
    assert backend.build(onnx, spec, options(), out).engine.exists()


def test_second_ctrl_c_does_not_wait_for_tensorrt(tmp_path, out, backend, press_ctrl_c):
    onnx, spec = attention_network(tmp_path)
    go_on, ended, calls = threading.Event(), threading.Event(), []

    def hang(*each):
        calls.append(each)
        press_ctrl_c()
        press_ctrl_c()
        go_on.wait(60)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        backend.build(onnx, spec, options(), out, hang)
    assert len(calls) == 1
    assert not ended.is_set()  # the build hangs still
    go_on.set()
    assert ended.wait(60)
    assert list(out.iterdir()) == []
