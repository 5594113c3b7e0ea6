"""The program as data: what it names is there, what is there is named, and every sequence fits every engine."""

import itertools

import pytest

from hsengines.null.backend import NullBackend
from hsruntime.bundle.reader import open_bundle
from hsruntime.loop.loop import Loop
from hsruntime.loop.program import BUFFERS, MARKED, PROGRAM, SIGNALS, buffers_of, listed, markdown, pattern_of
from hsruntime.loop.region import CONTROLS
from hsruntime.options import PictureOptions
from hsruntime.session import Session
from hsruntime.text.encode import empty_conditioning


def test_every_buffer_is_in_the_table_and_none_is_there_for_nothing():
    named = {pattern_of(buffer) for rows in PROGRAM.values() for row in rows for buffer in buffers_of(row)}
    targets = {other for shape, _ in BUFFERS.values() if (other := shape.partition(" = ")[2])}
    # Slots of text are named with the others: `past_*` stands for `past_text_*`, too.
    text = {name for name in BUFFERS if "_text_" in name and name.replace("_text_", "_") in named}
    assert named | targets | text == set(BUFFERS)


@pytest.mark.parametrize("name", PROGRAM)
def test_rows_beside_each_other_touch_nothing_in_common(name):
    for first, second in itertools.pairwise(PROGRAM[name]):
        if second.beside:
            reads, writes = set(first.inputs.values()), set(first.outputs.values())
            assert not writes & set(buffers_of(second))
            assert not reads & set(second.outputs.values())


def test_a_step_reads_nothing_of_this_step_that_is_not_written_yet():
    """But for what the step before left, or the host wrote."""
    kept = {"guided", "latents", "clean", "step", "difference", "residual_*"}
    for name in ("large", "small", "hybrid", "region", "light", "refined", "skip"):
        written: set[str] = set()
        everything = {buffer for row in PROGRAM[name] for buffer in row.outputs.values()}
        for row in PROGRAM[name]:
            early = set(row.inputs.values()) & everything - written - kept
            assert not early, f"{name}: {row.engine} reads {early}"
            written |= set(row.outputs.values())


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("text", ["live", "cached"])
def test_every_sequence_fits_the_engines(tiny_bundle, guidance, text):
    """Names, dtypes and shapes of all bindings; the null backend checks them as a real one does."""
    backend = NullBackend()
    with Session(open_bundle(tiny_bundle), backend=backend) as session:
        options = PictureOptions(prompt=["", ""], schedule=f"large:2,hybrid:2;text={text}", guidance_scale=guidance)
        shape = session._loop_shape(options.completed(session.manifest))
        conditioning = empty_conditioning(session._device, session.manifest, shape.rows)
        loop = Loop(session.manifest, session._engines, session._device, shape, conditioning)
        for name in PROGRAM:
            for enqueue in loop.bound(name):
                enqueue()
        loop.close()
    ran = set(backend.log)
    assert ran == {row.engine for rows in PROGRAM.values() for row in rows} - {"copy"}


def test_a_signal_is_scored_by_rows_or_by_the_host():
    assert {signal for signal, rows in SIGNALS.items() if not rows} == {*CONTROLS, MARKED}
    assert {f"score {signal}" for signal, rows in SIGNALS.items() if rows} <= set(PROGRAM)


def test_listing_names_every_sequence_and_only_what_differs_of_held_ones():
    lines = list(listed())
    same = {f"{name}{rows}" for name in ("gather", "condition large", "condition small") for rows in ("+held", "+off")}
    assert {name for name, *_ in lines} | same == set(PROGRAM)
    assert {engine for name, engine, *_ in lines if "+" in name} == {"guide_held"}
    assert markdown().count("\n| ") == len(lines) + len(BUFFERS) + 1
