import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsengines.errors import HSError, ShapeError
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec

EXTENTS = st.integers(0, 9)


@pytest.fixture
def spec():
    inputs = (TensorSpec("x", "float32", ("G", "M", 4)), TensorSpec("past", "float32", ("G", "R", 4)))
    profiles = (
        Profile("full", {"G": DimRange(1, 2, 4), "M": DimRange(1, 8, 16), "R": DimRange(0, 0, 0)}),
        Profile("region", {"G": DimRange(1, 2, 4), "M": DimRange(1, 4, 8), "R": DimRange(0, 4, 8)}),
    )
    return EngineSpec("large", inputs, (TensorSpec("y", "float32", ("G", "M", 4)),), profiles)


@given(h=EXTENTS, w=EXTENTS)
def test_products_of_dimensions_resolve(h, w):
    assert TensorSpec("x", "float32", ("8*h", "h*w", 3, "w")).resolve({"h": h, "w": w}) == (8 * h, h * w, 3, w)


def test_unknown_dimension_is_named_with_its_tensor():
    with pytest.raises(ShapeError, match="tensor 'x' has the dimension w, for which no extent was given"):
        TensorSpec("x", "float32", ("h", "8*w")).resolve({"h": 2})


@given(g=EXTENTS, m=EXTENTS, r=EXTENTS)
def test_extents_are_read_off_input_shapes(g, m, r):
    spec = EngineSpec("e", (TensorSpec("x", "float32", ("G", "M", 4)), TensorSpec("p", "float32", ("R", "G"))), ())
    assert spec.dims_of({"x": (g, m, 4), "p": (r, g)}) == {"G": g, "M": m, "R": r}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"x": (2, 8, 4)}, "engine 'large' wants an input 'past' that was not given"),
        ({"x": (2, 8), "past": (2, 0, 4)}, r"engine 'large', input 'x': shape \(2, 8\), expected \('G', 'M', 4\)"),
        ({"x": (2, 8, 5), "past": (2, 0, 4)}, "engine 'large', input 'x': dimension 4 is 5, expected 4"),
        ({"x": (2, 8, 4), "past": (3, 0, 4)}, "engine 'large', input 'past': dimension G is 3, expected 2"),
    ],
)
def test_contradicting_shapes_are_named(spec, shapes, words):
    with pytest.raises(ShapeError, match=words):
        spec.dims_of(shapes)


@pytest.mark.parametrize("dims", [{"G": 4, "M": 16, "R": 0}, {"G": 1, "M": 8, "R": 8}, {"G": 1, "M": 1, "R": 0}])
def test_extents_inside_any_profile_pass(spec, dims):
    spec.profile_index(dims)


@pytest.mark.parametrize("dims", [{"G": 1, "M": 9, "R": 1}, {"G": 5, "M": 4, "R": 0}, {"G": 1, "M": 0, "R": 8}])
def test_extents_that_no_single_profile_admits_are_refused_with_its_ranges(spec, dims):
    with pytest.raises(ShapeError, match=r"outside its profiles full\(G 1..4, M 1..16, R 0..0\) or region\(") as told:
        spec.profile_index(dims)
    assert f"G={dims['G']}, M={dims['M']}, R={dims['R']}" in str(told.value)


def test_dimension_that_a_profile_does_not_know_is_free():
    assert Profile("all", {"B": DimRange(1, 1, 2)}).admits({"B": 2, "S": 1000})


def test_engine_without_profiles_takes_anything():
    assert EngineSpec("e", (), ()).profile_index({"B": 10**9}) == 0


@pytest.mark.parametrize("bounds", [(2, 1, 3), (1, 4, 3), (3, 3, 2)])
def test_range_out_of_order_is_refused(bounds):
    with pytest.raises(ShapeError, match=f"{bounds[0]}..{bounds[1]}..{bounds[2]} is not in ascending order"):
        DimRange(*bounds)


def test_error_shows_its_hint_behind_the_message():
    assert str(HSError("found 1, expected 2", "try 2")) == "found 1, expected 2; try 2"
    assert str(HSError("found 1, expected 2")) == "found 1, expected 2"


def test_spec_is_written_as_plain_json_and_read_back_the_same(spec):
    written = msgspec.json.encode(spec)
    assert msgspec.json.decode(written, type=EngineSpec) == spec
    plain = msgspec.json.decode(written)
    assert plain["inputs"][0] == {"name": "x", "dtype": "float32", "shape": ["G", "M", 4]}
    assert plain["profiles"][0] == {"name": "full", "dims": {"G": [1, 2, 4], "M": [1, 8, 16], "R": [0, 0, 0]}}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ('{"name": "all", "dims": {"B": [2, 1, 3]}}', Profile, r"2\.\.1\.\.3 is not in ascending order - at `\$.dims"),
        ('{"name": "all", "dims": {"B": [1, 2, 3, 4]}}', Profile, "at most length 3"),
        ('{"name": "x", "dtype": "float32", "shape": [], "more": 1}', TensorSpec, "unknown field `more`"),
        ('{"name": "x", "dtype": "float32", "shape": [1.5]}', TensorSpec, r"at `\$.shape\[0\]`"),
    ],
)
def test_document_with_a_fault_is_refused_with_its_place(text, kind, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.json.decode(text, type=kind)
