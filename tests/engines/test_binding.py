import pytest

from hsengines.backend import check_binding
from hsengines.device import HostDevice
from hsengines.errors import ShapeError
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec

SPEC = EngineSpec(
    "small",
    (TensorSpec("tokens", "float32", ("G", "N", 4)), TensorSpec("positions", "int32", ("G", "N"))),
    (TensorSpec("velocity", "float32", ("G", "N", 4)),),
    (Profile("full", {"G": DimRange(1, 2, 2), "N": DimRange(1, 8, 8)}),),
)


@pytest.fixture
def bound():
    """Tensors that fit: (inputs, outputs)."""
    empty = HostDevice().empty
    inputs = {"tokens": empty((2, 8, 4), "float32"), "positions": empty((2, 8), "int32")}
    return inputs, {"velocity": empty((2, 8, 4), "float32")}


def test_fitting_tensors_give_their_extents(bound):
    assert check_binding(SPEC, *bound) == {"G": 2, "N": 8}


@pytest.mark.parametrize(
    ("side", "name", "shape", "dtype", "words"),
    [
        (0, "positions", (2, 8), "int64", r"tensor 'positions': found int64\(2, 8\), expected int32\(2, 8\)"),
        (1, "velocity", (2, 8, 4), "float16", r"tensor 'velocity': found float16\(2, 8, 4\), expected float32"),
        (1, "velocity", (2, 7, 4), "float32", r"tensor 'velocity': found float32\(2, 7, 4\), expected float32\(2, 8"),
        (0, "positions", (2, 7), "int32", "input 'positions': dimension N is 7, expected 8"),
        (0, "guidance", (1,), "float32", "engine 'small' has no tensor named guidance"),
        (1, "present", (1,), "float32", "engine 'small' has no tensor named present"),
    ],
)
def test_tensor_that_does_not_fit_is_named(bound, side, name, shape, dtype, words):
    bound[side][name] = HostDevice().empty(shape, dtype)
    with pytest.raises(ShapeError, match=words):
        check_binding(SPEC, *bound)


@pytest.mark.parametrize(("side", "name"), [(0, "positions"), (1, "velocity")])
def test_missing_tensor_is_named(bound, side, name):
    del bound[side][name]
    with pytest.raises(ShapeError, match=f"'{name}'"):
        check_binding(SPEC, *bound)


def test_extents_outside_the_profile_are_refused():
    empty = HostDevice().empty
    inputs = {"tokens": empty((2, 9, 4), "float32"), "positions": empty((2, 9), "int32")}
    with pytest.raises(ShapeError, match=r"G=2, N=9 lies outside its profiles full\(G 1..2, N 1..8\)"):
        check_binding(SPEC, inputs, {"velocity": empty((2, 9, 4), "float32")})
