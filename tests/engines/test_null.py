import pytest

from hsengines.build import BuildOptions
from hsengines.errors import ShapeError
from hsengines.null.backend import NullBackend
from hsengines.spec import EngineSpec, TensorSpec

SPEC = EngineSpec("large", (TensorSpec("x", "float32", ("N",)),), (TensorSpec("y", "float32", ("N",)),))


@pytest.fixture
def backend():
    return NullBackend()


def test_log_lists_engines_in_the_order_they_ran(backend, tmp_path):
    device = backend.device()
    x, y = device.empty((2,), "float32"), device.empty((2,), "float32")
    first, second = (
        backend.load(tmp_path / "none", EngineSpec(name, SPEC.inputs, SPEC.outputs), device).bind({"x": x}, {"y": y})
        for name in ("first", "second")
    )
    assert backend.log == []
    for binding in (second, first, second):
        binding.enqueue()
    assert backend.log == ["second", "first", "second"]


def test_bindings_are_checked_as_a_real_engine_checks_them(backend, tmp_path):
    device = backend.device()
    engine = backend.load(tmp_path / "none", SPEC, device)
    with pytest.raises(ShapeError, match="nothing is bound to 'y'"):
        engine.bind({"x": device.empty((2,), "float32")}, {})


def test_build_leaves_an_engine_named_after_the_network(backend, tmp_path):
    files = backend.build(tmp_path / "large.onnx", SPEC, BuildOptions(), tmp_path)
    assert files.engine == tmp_path / "large.null"
    assert files.engine.exists()
