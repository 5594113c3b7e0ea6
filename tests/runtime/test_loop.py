"""The loop around engines that compute nothing: which of them run, in which order, what the hot path still does."""

import msgspec
import numpy as np
import pytest

from hsengines.host import HostDevice
from hsengines.null import NullBackend, NullEngine
from hsruntime.bundle import open_bundle
from hsruntime.flow import grid_positions
from hsruntime.loop import Loop
from hsruntime.session import KEPT_LOOPS, Session

# Engines that compute nothing leave whatever the memory held in the picture.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LARGE = ["prepare", "large", "advance"]
SMALL = ["prepare", "small", "advance"]
HYBRID = ["prepare", "small", "prepare", "large", "advance_blended"]
TEXT = ["text_encoder", "text_encoder_2", "text_encoder_3", "join_text"]
PER_CALL = {*TEXT, "vae_decoder"}


@pytest.fixture
def backend(monkeypatch):
    backend = NullBackend()
    monkeypatch.setattr("hsruntime.session.get_backend", lambda name: backend)
    return backend


@pytest.fixture
def session(tiny_bundle, backend):
    with Session(open_bundle(tiny_bundle), backend="null") as session:
        yield session


@pytest.fixture
def gather(session):
    """One run for each key and each value."""
    return ["select_cache"] * (2 * session.manifest.large.attention_layers)


@pytest.fixture
def bound(monkeypatch):
    """Names and row counts of engines as they are bound."""
    calls, bind = [], NullEngine.bind

    def counted(self, inputs, outputs):
        calls.append((self.spec.name, next(iter(inputs.values())).shape[0]))
        return bind(self, inputs, outputs)

    monkeypatch.setattr(NullEngine, "bind", counted)
    return calls


@pytest.fixture
def allocated(monkeypatch):
    """Shapes of tensors as they are made."""
    calls, empty = [], HostDevice.empty

    def counted(self, shape, dtype):
        calls.append(shape)
        return empty(self, shape, dtype)

    monkeypatch.setattr(HostDevice, "empty", counted)
    return calls


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("large:2", LARGE * 2), ("small:3", SMALL * 3), ("small:1,large:2,small:1", SMALL + LARGE * 2 + SMALL)],
)
def test_one_model_runs_between_text_and_picture(session, backend, schedule, expected):
    session.generate("red", schedule=schedule)
    assert backend.log == [*TEXT, *expected, "vae_decoder"]


@pytest.mark.parametrize(
    ("signal", "before_choice"),
    [("change", []), ("gap", SMALL), ("center", []), ("random", [])],
)
def test_hybrid_steps_follow_a_choice_of_the_region(session, backend, gather, signal, before_choice):
    session.generate("red", schedule=f"large:2,hybrid:2,small:1;signal={signal}")
    score = ["score"] if signal in ("change", "gap") else []
    choice = [*LARGE, *before_choice, *LARGE, *score, *gather]
    assert backend.log == [*TEXT, *choice, *HYBRID * 2, *SMALL, "vae_decoder"]


def test_refresh_chooses_and_gathers_anew(session, backend, gather):
    session.generate("red", schedule="large:2,hybrid:4;signal=gap,refresh=2")
    again = [*SMALL, *LARGE, "score", *gather]
    assert backend.log == [*TEXT, *LARGE, *again, *HYBRID * 2, *again, *HYBRID, "vae_decoder"]


SCHEDULES = ["large:2,hybrid:2,small:1", "large:2,hybrid:2,small:1;signal=change", "large:2,hybrid:4;refresh=1"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_second_picture_of_a_shape_binds_text_and_picture_alone(session, bound, schedule):
    session.generate("red", schedule=schedule)
    assert {"prepare", "large", "select_cache", "advance_blended"} <= {name for name, _ in bound}
    bound.clear()
    session.generate("green", seed=1, schedule=schedule)
    assert {name for name, _ in bound} == PER_CALL


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_second_run_through_the_loop_allocates_nothing(session, allocated, monkeypatch, schedule):
    inside = []

    def watch(method):
        original = getattr(Loop, method)

        def watched(self, *args, **kwargs):
            before = len(allocated)
            result = original(self, *args, **kwargs)
            inside.extend(allocated[before:])
            return result

        monkeypatch.setattr(Loop, method, watched)

    for method in ("__init__", "begin", "run", "scores", "set_region"):
        watch(method)
    session.generate("red", schedule=schedule)
    assert inside
    inside.clear()
    session.generate("green", seed=1, schedule=schedule)
    assert inside == []


def test_schedule_pays_only_for_the_modes_it_has(session, bound):
    session.generate("red", schedule="small:2")
    assert not {"large", "score", "select_cache", "advance_blended"} & {name for name, _ in bound}


@pytest.mark.parametrize(("guidance", "rows"), [(3.5, 4), (1.0, 2)])
def test_guidance_doubles_the_transformers_rows(session, bound, guidance, rows):
    session.generate(["red", "green"], guidance_scale=guidance, schedule="large:2,hybrid:1,small:1")
    assert {count for name, count in bound if name in ("large", "small", *TEXT)} == {rows}


def test_shapes_beyond_the_kept_ones_still_run(session, backend):
    for steps in range(1, 8):
        backend.log.clear()
        session.generate("red", schedule=f"small:{steps}")
        assert backend.log.count("small") == steps
    assert len(session._loops) == KEPT_LOOPS


def test_each_model_gets_positions_of_its_own_table(session, monkeypatch):
    """Crops of an even and of an odd table start at different rows; the tiny pair's tables are both even."""
    odd = msgspec.structs.replace(session.manifest.positions["small"], table_size=11)
    positions = session.manifest.positions | {"small": odd}
    session.manifest = msgspec.structs.replace(session.manifest, positions=positions)
    found, bind = {}, NullEngine.bind

    def kept(self, inputs, outputs):
        if "positions" in inputs:
            found[self.spec.name] = inputs["positions"].read()
        return bind(self, inputs, outputs)

    monkeypatch.setattr(NullEngine, "bind", kept)
    session.generate("red", width=20, height=20, schedule="large:1,small:1")
    for model, size in (("large", 12), ("small", 11)):
        np.testing.assert_array_equal(found[model], np.tile(grid_positions((size, 6, 6), (5, 5)), (2, 1)))
    assert not np.array_equal(found["large"], found["small"])


def test_callback_hears_of_every_step(session):
    heard = []
    session.generate("red", schedule="large:2,hybrid:4,small:1;refresh=2", callback=heard.append)
    assert [p.step for p in heard] == [1, 2, 3, 4, 5, 6, 7]
    assert {p.steps for p in heard} == {7}
    assert [p.mode for p in heard] == ["large", "large", "hybrid", "hybrid", "large", "hybrid", "small"]


def test_error_in_the_callback_ends_the_call_and_the_session_goes_on(session, backend):
    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        session.generate("red", schedule="large:3", callback=stop)
    assert backend.log == [*TEXT, *LARGE * 2]
    backend.log.clear()
    session.generate("red", schedule="large:3")
    assert backend.log == [*TEXT, *LARGE * 3, "vae_decoder"]


def test_result_tells_its_segments_as_they_ran(session):
    result = session.generate("red", schedule="large:2,hybrid:4,small:1;refresh=2")
    runs = [("large", 2), ("hybrid", 2), ("large", 1), ("hybrid", 1), ("small", 1)]
    assert [(s.mode, s.steps) for s in result.segments] == runs
    assert 0 < result.loop_seconds <= result.seconds
    assert result.schedule.steps == 7
