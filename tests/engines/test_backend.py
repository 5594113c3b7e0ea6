import subprocess
import sys

import numpy as np
import pytest

from hsengines.backend import get_backend
from hsengines.device import HostDevice
from hsengines.errors import BackendUnavailable
from hsengines.traits import backend_names


def test_every_listed_backend_has_its_name():
    assert "ort-cpu" in backend_names()
    assert get_backend("ort-cpu").name == "ort-cpu"


def test_unknown_backend_is_told_with_the_choices():
    with pytest.raises(BackendUnavailable, match=r"there is no backend 'ort-gpu'; choose one of .*ort-cpu"):
        get_backend("ort-gpu")


def test_things_are_kept_where_the_caller_says_or_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_backend("null").cache == tmp_path / ".cache" / "hsexport"
    assert get_backend("null", tmp_path / "kept").cache == tmp_path / "kept"
    assert get_backend("null", "").cache is None


def test_null_backend_is_not_offered():
    assert "null" not in backend_names()
    assert get_backend("null").name == "null"


def test_missing_library_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for module in ("cpu", "session"):
        monkeypatch.delitem(sys.modules, f"hsengines.ort.{module}", raising=False)
    words = r"backend 'ort-cpu' needs the module 'onnxruntime', which is missing; pip install 'hsexport\[cpu\]'"
    with pytest.raises(BackendUnavailable, match=words):
        get_backend("ort-cpu")


def test_broken_library_is_told_with_its_own_words(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    for module in ("cpu", "session"):
        monkeypatch.delitem(sys.modules, f"hsengines.ort.{module}", raising=False)
    with pytest.raises(BackendUnavailable, match=r"'ort-cpu' does not work here: libgomp\.so\.1"):
        get_backend("ort-cpu")


def test_registry_imports_no_backend_before_it_is_asked():
    code = "import sys, hsengines.backend; print([m for m in ('onnxruntime', 'tensorrt', 'cuda') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_read_is_a_copy_that_later_writes_do_not_change():
    tensor = HostDevice().upload(np.arange(4, dtype=np.float32))
    before = tensor.read()
    tensor.write(np.zeros(4, np.float32))
    np.testing.assert_array_equal(before, [0, 1, 2, 3])


def test_write_and_copy_keep_the_address():
    tensor, other = HostDevice().empty((3,), "int32"), HostDevice().upload(np.ones(3, np.int32))
    address = tensor.address
    tensor.write(np.zeros(3, np.int32))
    tensor.copy_from(other)
    assert tensor.address == address
    np.testing.assert_array_equal(tensor.read(), [1, 1, 1])


def test_tail_is_the_last_rows_in_the_very_same_memory():
    whole = HostDevice().upload(np.arange(12, dtype=np.float32).reshape(4, 3))
    tail = whole.tail(3)
    assert (tail.shape, tail.dtype, tail.address) == ((3, 3), whole.dtype, whole.address + 12)
    np.testing.assert_array_equal(tail.read(), whole.read()[1:])
    tail.write(np.zeros((3, 3), np.float32))
    np.testing.assert_array_equal(whole.read(), [[0, 1, 2], *[[0] * 3] * 3])
    whole.write(np.ones((4, 3), np.float32))
    np.testing.assert_array_equal(tail.tail(1).read(), [[1, 1, 1]])
    assert whole.tail(0).shape == (0, 3)
    assert whole.tail(4).address == whole.address


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros(4, np.float32)])
def test_write_refuses_another_dtype_and_another_shape(array):
    with pytest.raises((TypeError, ValueError)):
        HostDevice().empty((3,), "float32").write(array)
