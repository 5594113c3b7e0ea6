"""The loop around engines that compute nothing: which of them run, in which order, what the hot path still does."""

import dataclasses

import msgspec
import numpy as np
import pytest

from hsengines.device import HostDevice, Mark
from hsengines.errors import DeviceError, DeviceMemoryError
from hsengines.null.backend import NullBackend, NullEngine
from hsruntime.bundle.reader import open_bundle
from hsruntime.facts import Positions
from hsruntime.loop.buffers import LoopShape, loop_bytes
from hsruntime.loop.flow import grid_positions
from hsruntime.loop.loop import Loop
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.session import Session
from hsruntime.text.encode import empty_conditioning

# Engines that compute nothing leave whatever the memory held in the picture.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LARGE = ["prepare", "large", "guide", "advance"]
SMALL = ["prepare", "small", "guide", "advance"]
GAP = ["prepare", "small", "guide"]
HYBRID = ["prepare", "prepare", "large", "small", "guide", "guide", "blend", "advance"]
REGION = ["prepare", "large", "guide", "blend", "advance"]
TEXT = ["text_encoder", "text_encoder_2", "text_encoder_3", "join_text"]
GIVEN = ["condition_large", "condition_small"]
DECODE = ["unpatchify", "vae_decoder"]


@pytest.fixture
def backend():
    return NullBackend()


@pytest.fixture
def session(tiny_bundle, backend):
    with Session(open_bundle(tiny_bundle), backend=backend) as session:
        yield session


@pytest.fixture
def gather(session):
    """One run for each key and each value."""
    return ["select_cache"] * (2 * session.manifest.facts.large.image_slots)


@pytest.fixture
def bound(monkeypatch):
    """Names and row counts of engines as they are bound."""
    calls, bind = [], NullEngine.bind

    def counted(self, inputs, outputs, **beside):
        calls.append((self.spec.name, next(iter(inputs.values())).shape[0]))
        return bind(self, inputs, outputs, **beside)

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
    [
        ("large:2", ["condition_large", *LARGE * 2]),
        ("small:3", ["condition_small", *SMALL * 3]),
        ("small:1,large:2,small:1", [*GIVEN, *SMALL, *LARGE * 2, *SMALL]),
    ],
)
def test_one_model_runs_between_text_and_picture(session, backend, schedule, expected):
    session.generate("red", schedule=schedule)
    assert backend.log == [*TEXT, *expected, *DECODE]


@pytest.mark.parametrize(
    ("signal", "before_choice"),
    [("change", []), ("gap", GAP), ("std", []), ("center", []), ("random", [])],
)
def test_hybrid_steps_follow_a_choice_of_the_region(session, backend, gather, signal, before_choice):
    session.generate("red", schedule=f"large:2,hybrid:2,small:1;signal={signal}")
    score = {"change": ["score"], "gap": ["score"], "std": ["spread"]}.get(signal, [])
    choice = [*LARGE, *before_choice, *LARGE, *score, *gather]
    assert backend.log == [*TEXT, *GIVEN, *choice, *HYBRID * 2, *SMALL, *DECODE]


def test_refresh_chooses_and_gathers_anew(session, backend, gather):
    session.generate("red", schedule="large:2,hybrid:4;signal=gap,refresh=2")
    again = [*GAP, *LARGE, "score", *gather]
    assert backend.log == [*TEXT, *GIVEN, *LARGE, *again, *HYBRID * 2, *again, *HYBRID, *DECODE]


def test_a_new_choice_takes_back_what_the_region_step_renewed(session, backend, gather):
    session.generate("red", schedule="large:1,region:3;signal=std,reselect=1")
    merge = ["merge_cache"] * len(gather)
    again = [*REGION, *merge, "spread", *gather]
    assert backend.log == [*TEXT, "condition_large", *LARGE, "spread", *gather, *again, *again, *REGION, *DECODE]


def test_region_goes_on_where_a_hybrid_segment_chose_it(session, backend, gather):
    session.generate("red", schedule="large:2,hybrid:1,region:2;signal=change")
    assert backend.log == [*TEXT, *GIVEN, *LARGE * 2, "score", *gather, *HYBRID, *REGION * 2, *DECODE]


def test_held_guidance_runs_the_prompts_rows_alone(session, bound):
    session.generate(["red", "green"], schedule="large:1,small+held:1,large+off:1")
    rows = {name: [count for n, count in bound if n == name] for name in ("large", "small", "guide", "guide_held")}
    assert rows == {"large": [4, 2], "small": [2], "guide": [4], "guide_held": [2, 2]}


def test_without_guidance_there_is_nothing_to_hold(session, backend):
    session.generate("red", schedule="large:1,large+held:2", guidance_scale=1)
    assert backend.log == [*TEXT, "condition_large", *LARGE * 3, *DECODE]


def test_steps_that_an_early_end_leaves_go_to_the_next_segment(session, backend, monkeypatch):
    changes = iter([0.5, 0.5, 0.499])
    monkeypatch.setattr(Loop, "_changes", lambda self: (next(changes), 1.0))
    result = session.generate("red", schedule="large:2-9,small:1")
    assert str(result.schedule) == "large:2-3,small:7"
    assert backend.log == [*TEXT, *GIVEN, *LARGE * 3, *SMALL * 7, *DECODE]


SCHEDULES = ["large:2,hybrid:2,small:1", "large:2,hybrid:2,small:1;signal=change", "large:2,hybrid:4;refresh=1"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_second_picture_of_a_shape_binds_nothing(session, bound, schedule):
    session.generate("red", schedule=schedule)
    assert {"prepare", "large", "select_cache", "blend"} <= {name for name, _ in bound}
    bound.clear()
    session.generate("green", seed=1, schedule=schedule)
    assert bound == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_second_picture_of_a_shape_allocates_nothing(session, allocated, schedule):
    session.generate("red", schedule=schedule)
    assert allocated
    allocated.clear()
    session.generate("green", seed=1, schedule=schedule)
    assert allocated == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_session_binds_and_allocates_nothing_for_its_first_picture(session, allocated, bound, schedule):
    session.warm_up(PictureOptions(prompt="", schedule=schedule).completed(session.manifest))
    allocated.clear()
    bound.clear()
    session.generate("red", schedule=schedule)
    assert (allocated, bound) == ([], [])


def test_schedule_pays_only_for_the_modes_it_has(session, bound):
    session.generate("red", schedule="small:2")
    assert not {"large", "score", "select_cache", "blend"} & {name for name, _ in bound}


@pytest.mark.parametrize(("guidance", "rows"), [(3.5, 4), (1.0, 2)])
def test_guidance_doubles_the_transformers_rows(session, bound, guidance, rows):
    session.generate(["red", "green"], guidance_scale=guidance, schedule="large:2,hybrid:1,small:1")
    assert {count for name, count in bound if name in ("large", "small", *TEXT)} == {rows}


def test_shapes_beyond_the_kept_ones_still_run(session, backend):
    for width in (8, 12, 16, 20, 24):
        backend.log.clear()
        session.generate("red", width=width, schedule="small:3")
        assert backend.log.count("small") == 3
    assert len(session._executors._kept) == SessionOptions().shapes_kept


def test_as_many_shapes_stay_bound_as_the_session_keeps(tiny_bundle, backend):
    with Session(open_bundle(tiny_bundle), SessionOptions(shapes_kept=2), backend=backend) as session:
        for width in (8, 12, 16):
            session.generate("abc", width=width, schedule="small:1")
        assert [shape.grid[1] for _, shape in session._executors._kept] == [3, 4]


def test_schedules_of_about_one_length_share_their_buffers(session):
    for schedule in ("small:3", "large:9;solver=ab2", "large:2,small:30"):
        session.generate("red", schedule=schedule)
    assert len(session._executors._kept) == 1


def test_memory_cap_makes_older_shapes_give_way(tiny_bundle, backend):
    bundle = open_bundle(tiny_bundle)
    manifest = bundle.manifest
    shape = LoopShape(pictures=4, rows=8, grid=(6, 6), active=12, steps=32)
    cap_mb = 1.5 * loop_bytes(manifest.facts, manifest.specs, shape) / 2**20
    with Session(bundle, SessionOptions(memory_cap_mb=cap_mb), backend=backend) as session:
        for prompts in (["red"] * 4, ["red"] * 3, ["red"] * 2):
            session.generate(prompts, width=24, height=24, schedule="large:1,hybrid:1")
            assert session._device.allocated_bytes <= cap_mb * 2**20
        assert 0 < len(session._executors._kept) < 3


def test_shape_over_the_cap_is_told_with_what_would_shrink_it(tiny_bundle, backend):
    with (
        Session(open_bundle(tiny_bundle), SessionOptions(memory_cap_mb=0), backend=backend) as session,
        pytest.raises(
            DeviceMemoryError, match=r"the loop needs .* MiB, the cap on memory is 0 MiB; ask for fewer"
        ) as told,
    ):
        session.generate("red")
    assert told.value.needed_bytes > 0


def test_closed_session_has_given_everything_back(tiny_bundle, backend):
    session = Session(open_bundle(tiny_bundle), backend=backend)
    session.generate("red", schedule="large:1,hybrid:1")
    device = session._device
    assert device.allocated_bytes > 0
    session.close()
    assert device.allocated_bytes == 0


@pytest.mark.parametrize("schedule", ["large:1,small:1", "large:1,hybrid:1", "large:1,hybrid:1;signal=center"])
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_loop_bytes_is_what_a_loop_takes(tiny_bundle, backend, schedule, guidance):
    """Within what is left out of the count: text, decoder, single numbers."""
    with Session(open_bundle(tiny_bundle), backend=backend) as session:
        request = PictureOptions(prompt="", schedule=schedule, guidance_scale=guidance).completed(session.manifest)
        shape = session._loop_shape(request)
        conditioning = empty_conditioning(session._device, session.manifest, shape.rows)
        before = session._device.allocated_bytes
        loop = Loop(session.manifest, session._engines, session._device, shape, conditioning)
        loop.ready(request.schedule)
        taken = session._device.allocated_bytes - before
        counted = loop_bytes(session.manifest.facts, session.manifest.specs, shape)
        loop.close()
    assert counted == pytest.approx(taken, rel=0.1)


class FailingDevice(HostDevice):
    """Fails when a point of the work is waited for, as a GPU tells of its errors."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def mark(self):
        device = self

        class Failing(Mark):
            def wait(self):
                device.left -= 1
                if device.left == 0:
                    raise DeviceError("cudaErrorIllegalAddress: an illegal memory access", "look at compute-sanitizer")

        return Failing()


def test_device_error_names_its_step_and_the_session_goes_on(tiny_bundle, backend, monkeypatch):
    device = FailingDevice(4)
    monkeypatch.setattr(backend, "device", lambda threads, graphs, name: device)
    with Session(open_bundle(tiny_bundle), backend=backend) as session:
        with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress.*\(step 4 of 6, small\)"):
            session.generate("red", schedule="large:2,small:4", callback=lambda progress: None)
        assert session.generate("red", schedule="large:2,small:4").images.shape[0] == 1


def test_host_runs_one_step_ahead_of_the_device_and_no_more(tiny_bundle, backend, monkeypatch):
    launched, waited, ahead = [], [], []

    class Watched(HostDevice):
        def mark(self):
            launched.append(1)

            class Reaching(Mark):
                def wait(self):
                    ahead.append(len(launched) - len(waited))
                    waited.append(1)

            return Reaching()

    monkeypatch.setattr(backend, "device", lambda threads, graphs, name: Watched())
    with Session(open_bundle(tiny_bundle), backend=backend) as session:
        session.generate("red", schedule="large:5")
    assert ahead == [2, 2, 2, 2, 1]


def test_each_model_gets_positions_of_its_own_table(tiny_bundle, backend, monkeypatch):
    """Crops of an even and of an odd table start at different rows; the tiny pair's tables are both even."""
    bundle = open_bundle(tiny_bundle)
    facts, replace = bundle.manifest.facts, msgspec.structs.replace
    small = replace(facts.small, positions=replace(facts.small.positions, table_size=11))
    manifest = replace(bundle.manifest, facts=replace(facts, small=small))
    found, bind = {}, NullEngine.bind

    def kept(self, inputs, outputs, **beside):
        if "positions" in inputs:
            found[self.spec.name] = inputs["positions"].read()
        return bind(self, inputs, outputs, **beside)

    monkeypatch.setattr(NullEngine, "bind", kept)
    with Session(dataclasses.replace(bundle, manifest=manifest), backend=backend) as session:
        session.generate("red", width=20, height=20, schedule="large:1,small:1")
    for model, size in (("large", 12), ("small", 11)):
        table = Positions(origin="centre", table_size=size, rows=6, columns=6)
        np.testing.assert_array_equal(found[model], np.tile(grid_positions(table, (5, 5)), (2, 1)))
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
    assert backend.log == [*TEXT, "condition_large", *LARGE * 2]
    backend.log.clear()
    session.generate("red", schedule="large:3")
    assert backend.log == [*TEXT, "condition_large", *LARGE * 3, *DECODE]


def test_result_tells_its_segments_as_they_ran(session):
    result = session.generate("red", schedule="large:2,hybrid:4,small:1;refresh=2")
    runs = [("large", 2), ("hybrid", 2), ("large", 1), ("hybrid", 1), ("small", 1)]
    assert [(s.mode, s.steps) for s in result.segments] == runs
    assert 0 < result.loop_seconds <= result.seconds
    assert result.schedule.steps == 7
