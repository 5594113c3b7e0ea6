"""Text encoders that are open while they encode and closed before the loop."""

import gc
import weakref

import numpy as np
import pytest

from hsengines.errors import EngineLoadError
from hsengines.null.backend import NullBackend, NullEngine
from hsengines.ort.session import OrtEngine
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.loop.loop import CONDITIONING
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.text.tokenize import PromptCutWarning

# Engines that compute nothing leave whatever the memory held in the picture.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

HYBRID = "large:2,hybrid:2,small:1"
ENCODERS = ["text_encoder", "text_encoder_2", "text_encoder_3", "join_text"]


class WatchedBackend(NullBackend):
    """Writes down, beside what ran, which engines were opened and closed."""

    def load(self, engine, spec, device):
        log = self.log
        log.append(f"open {spec.name}")

        class Watched(NullEngine):
            def close(self):
                log.append(f"close {spec.name}")

        return Watched(spec, log)


@pytest.fixture
def backend():
    return WatchedBackend()


@pytest.fixture
def session(tiny_bundle, backend):
    with Session(open_bundle(tiny_bundle), SessionOptions(text_on_demand=True), backend=backend) as session:
        yield session


@pytest.fixture
def on_demand(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False, text_on_demand=True) as session:
        yield session


@pytest.fixture(scope="module")
def resident(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_picture_is_the_same_byte_for_byte(on_demand, resident, guidance):
    for prompts in (["red"], ["red"], ["green", "blue"]):
        asked = {"negative_prompt": "grey", "seed": 2, "schedule": HYBRID, "guidance_scale": guidance}
        found, expected = (s.generate(prompts, **asked).images for s in (on_demand, resident))
        np.testing.assert_array_equal(found, expected)


def test_encoders_are_open_one_at_a_time_and_closed_before_the_rest_opens(session, backend):
    session.generate("red", schedule="small:1")
    text = [f"{event}{name}" for name in ENCODERS for event in ("open ", "", "close ")]
    assert backend.log[: len(text)] == text
    rest = backend.log[len(text) :]
    assert rest[:2] == ["open advance", "open blend"]
    assert not [entry for entry in rest if entry.removeprefix("open ") in ENCODERS]
    assert rest.index("open vae_decoder") < rest.index("prepare") < rest.index("vae_decoder")


def test_same_prompts_are_not_encoded_again(session, backend):
    session.generate("red", schedule="small:1")
    backend.log.clear()
    session.generate("red", seed=5, schedule="small:1")
    session.generate("red", width=24, schedule="large:1,hybrid:1")  # another shape, another loop
    assert not [entry for entry in backend.log if entry.split()[-1] in ENCODERS]


@pytest.mark.parametrize(
    "change", [{"prompt": "green"}, {"negative_prompt": "grey"}, {"guidance_scale": 1}, {"prompt": ["red", "red"]}]
)
def test_other_prompts_are_encoded(session, backend, change):
    asked = {"prompt": "red", "schedule": "small:1"}
    session.generate(**asked)
    backend.log.clear()
    session.generate(**asked | change)
    assert [entry for entry in backend.log if entry in ENCODERS] == ENCODERS


def test_earlier_prompts_come_back_right_in_a_loop_that_kept_them(on_demand, resident):
    """Two shapes, two loops: each conditioning is the call's own, whichever was encoded last."""
    for prompt, width in (("red", 16), ("green", 16), ("green", 24), ("red", 24), ("red", 16), ("green", 24)):
        found, expected = (
            s.generate(prompt, width=width, seed=1, schedule="small:2").image for s in (on_demand, resident)
        )
        np.testing.assert_array_equal(found, expected)


def test_closed_encoders_are_gone(on_demand, monkeypatch):
    engines, sessions, init = {}, {}, OrtEngine.__init__

    def watched(self, spec, session):
        engines[spec.name], sessions[spec.name] = weakref.ref(self), weakref.ref(session)
        init(self, spec, session)

    monkeypatch.setattr(OrtEngine, "__init__", watched)

    def gone_at_the_first_step(progress):
        gc.collect()
        open_ = {name for name in engines if engines[name]() or sessions[name]()}
        assert open_ == set(on_demand.manifest.engines) - {*ENCODERS, *CONDITIONING, "vae_encoder"}

    on_demand.generate("red", schedule="small:2", callback=gone_at_the_first_step)
    assert set(ENCODERS) < set(engines)


def test_conditioning_networks_are_open_while_they_run_for_prompts_or_noise_levels_that_are_new(session, backend):
    once = [f"{event}condition_small" for event in ("open ", "", "close ")]

    def ran(**asked):
        backend.log.clear()
        session.generate("red", **asked)
        return [entry for entry in backend.log if "condition" in entry]

    assert ran(schedule="small:1") == once
    assert ran(schedule="small:1", seed=3) == []
    assert ran(schedule="small:2") == once
    assert ran(schedule="large:1,small:1") == [
        entry.replace("small", role) for role in ("large", "small") for entry in once
    ]
    assert ran(schedule="large:1,small+off:1")[3:] == once


def nbytes(tensors):
    return sum(tensor.read().nbytes for tensor in tensors)


def test_buffers_of_the_encoders_are_freed(tiny_bundle):
    """What stays is the conditioning, once for the last prompts and once in the loop."""
    taken = {}
    for text_on_demand in (False, True):
        options = SessionOptions(text_on_demand=text_on_demand)
        with Session(open_bundle(tiny_bundle), options, backend=NullBackend()) as session:
            session.generate("red", schedule="small:1")
            executor = next(iter(session._executors._kept.values()))
            gc.collect()
            taken[text_on_demand] = session._device.allocated_bytes
            if text_on_demand:
                held = nbytes(executor._conditioning.values())
            else:
                encoders = nbytes(t for e in executor._text._encoders for t in (*e.outputs.values(), e._ids))
            device = session._device
            del executor
        assert device.allocated_bytes == 0
    assert taken[True] == taken[False] - encoders + held


def test_encoder_that_fails_is_closed_and_the_next_call_encodes_again(session, backend, monkeypatch):
    load = WatchedBackend.load

    def failing(self, engine, spec, device):
        if spec.name == "text_encoder_3":
            raise EngineLoadError("text_encoder_3 is broken")
        return load(self, engine, spec, device)

    monkeypatch.setattr(WatchedBackend, "load", failing)
    with pytest.raises(EngineLoadError, match="text_encoder_3 is broken"):
        session.generate("red", schedule="small:1")
    assert [e for e in backend.log if e.startswith("close")] == ["close text_encoder", "close text_encoder_2"]
    monkeypatch.setattr(WatchedBackend, "load", load)
    backend.log.clear()
    assert session.generate("red", schedule="small:1").images.shape[0] == 1
    assert [entry for entry in backend.log if entry in ENCODERS] == ENCODERS


CALLS = {
    "generate": lambda session, prompt: session.generate(prompt, schedule="small:1"),
    "encode": lambda session, prompt: session.encode(prompt),
    "run": lambda session, prompt: session.run(
        PictureOptions(prompt=prompt, schedule="small:1").completed(session.manifest)
    ),
}


@pytest.mark.parametrize("kept", ["on_demand", "resident"])
@pytest.mark.parametrize("name", CALLS)
def test_cut_prompts_are_warned_of_at_the_line_that_called(request, kept, name):
    session, call = request.getfixturevalue(kept), CALLS[name]
    with pytest.warns(PromptCutWarning) as caught:
        call(session, "abcdefghijklm")
    assert len(caught) == 2
    first = call.__code__.co_firstlineno
    assert {w.filename for w in caught} == {__file__}
    assert {w.lineno for w in caught} <= {first, first + 1}


def test_cut_prompts_warn_each_time_although_encoded_once(on_demand):
    for _ in range(2):
        with pytest.warns(PromptCutWarning) as caught:
            on_demand.generate("abcdefghijklm", schedule="small:1")
        assert len(caught) == 2
        assert {w.filename for w in caught} == {__file__}
