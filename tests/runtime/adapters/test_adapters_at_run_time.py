"""LoRAs merged into an open bundle, beside the bundle that a build fused them into."""

import gc
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from lora_files import lora_of
from safetensors.numpy import save_file
from served import serving

from hsengines.backend import get_backend
from hsengines.errors import HSError
from hsruntime import Session
from hsruntime.adapters.asked import Folder, Named, file_from_text, names_from
from hsruntime.adapters.documents import PairError
from hsruntime.adapters.lora import AdapterRequest
from hsruntime.adapters.sets import AdapterWarning
from hsruntime.batching import batches, kind_of
from hsruntime.bundle.manifest import BundleError
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.request import RequestError

EVERY_ENGINE = "large:2,light:1,large:1,hybrid:1,small:2"
QUERY, FEED = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.0.proj"
LARGE = (QUERY, FEED, "transformer_blocks.1.norm1.linear", "pos_embed.proj", "proj_out", "context_embedder")
SMALL = ("transformer_blocks.0.attn.to_k", "transformer_blocks.0.norm1.linear", "pos_embed.proj")
STATUS = Path("/proc/self/status")
MEMORY_LEEWAY_MB = 12
"""Allocators keep what they once had; a set of the tiny bundle's engines takes some megabytes."""


@pytest.fixture(scope="module")
def folder(tiny_pair_dirs, tmp_path_factory):
    """Three LoRAs for large, by number, one for small, and one that is broken."""
    root = tmp_path_factory.mktemp("adapters")
    for number in range(3):
        save_file(lora_of(tiny_pair_dirs[0], LARGE, seed=number), root / f"style{number}.safetensors")
    save_file(lora_of(tiny_pair_dirs[1], SMALL), root / "little.safetensors")
    (root / "broken.safetensors").write_bytes(b"no safetensors")
    return root


@pytest.fixture(scope="module")
def session(tiny_bundle, folder):
    with Session.open(tiny_bundle, adapter_folder=str(folder)) as session:
        yield session


def drawn(session, **asked):
    return session.generate("red", seed=3, schedule=EVERY_ENGINE, **asked)


def fused_bundle(pair, cache, out, folder, backend):
    from hsengines.build import build_options
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    adapters = (
        AdapterRequest("large", folder / "style0.safetensors", 0.8),
        AdapterRequest("large", folder / "style1.safetensors", -0.5),
        AdapterRequest("small", folder / "little.safetensors", 0.7),
    )
    large, small = map(str, pair)
    options = build_options(backend)
    build(
        BuildRequest(large, small, out, cache, backend=backend, options=options, light=(1, 1), lora=adapters),
        Reporter(),
    )
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "tolerance"), [("ort-cpu", 0), ("openvino", 1e-6)])
def test_pictures_are_those_of_the_bundle_that_was_built_with_them(
    request, tiny_pair_dirs, tiny_cache, folder, tmp_path, backend, tolerance
):
    if backend == "openvino":
        pytest.importorskip("openvino")
    plain = request.getfixturevalue({"ort-cpu": "tiny_bundle", "openvino": "tiny_openvino_bundle"}[backend])
    built = fused_bundle(tiny_pair_dirs, tiny_cache, tmp_path / "fused", folder, backend)
    names = ("style0.safetensors:0.8", "style1.safetensors:-0.5")
    adapters = [*(f"{folder}/{name}" for name in names), f"small={folder}/little.safetensors:0.7"]
    with Session.open(built) as session:
        expected = drawn(session)
    with Session.open(plain, adapters=adapters) as session:
        found = drawn(session)
        untouched = drawn(session, lora="")
    assert found.adapters == ("style0:0.8", "style1:-0.5", "small=little:0.7")
    scale = np.abs(expected.latents).max()
    assert np.abs(untouched.latents - expected.latents).max() > 0.01 * scale
    assert np.abs(found.latents - expected.latents).max() <= tolerance * scale
    if not tolerance:
        np.testing.assert_array_equal(found.images, expected.images)


@pytest.mark.parametrize("style", ["kohya", "peft"])
def test_every_spelling_is_the_same_adapter(session, tiny_pair_dirs, tmp_path, style):
    modules = (QUERY, FEED)
    save_file(lora_of(tiny_pair_dirs[0], modules), tmp_path / "diffusers.safetensors")
    save_file(lora_of(tiny_pair_dirs[0], modules, style=style), tmp_path / "other.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    one, other = (
        drawn(session.with_adapters(str(tmp_path / f"{name}.safetensors"))) for name in ("diffusers", "other")
    )
    np.testing.assert_array_equal(one.latents, other.latents)
    assert not np.array_equal(one.latents, drawn(session).latents)


def test_fused_products_of_another_layout_reach_three_weights(session, tiny_pair_dirs, tmp_path):
    """Stability's qkv, as kohya's scripts train it, beside the three LoRAs of diffusers that it is."""
    parts = lora_of(tiny_pair_dirs[0], [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"])
    stems = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    down = parts[f"{stems[0]}.lora_A.weight"]
    for stem in stems:
        parts[f"{stem}.lora_A.weight"] = down.copy()
    up = np.concatenate([parts[f"{stem}.lora_B.weight"] for stem in stems])
    joined = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    save_file(parts, tmp_path / "parts.safetensors")
    whole = {f"{joined}.lora_down.weight": down, f"{joined}.lora_up.weight": up}
    save_file(whole, tmp_path / "whole.safetensors")
    one, other = (drawn(session.with_adapters(str(tmp_path / f"{n}.safetensors"))) for n in ("parts", "whole"))
    np.testing.assert_allclose(one.latents, other.latents, atol=1e-5)


def test_engines_that_no_adapter_changes_are_shared(session, tiny_pair_dirs, tmp_path):
    save_file(lora_of(tiny_pair_dirs[0], [QUERY]), tmp_path / "query.safetensors")
    drawn(session.with_adapters(str(tmp_path / "query.safetensors")))
    (made,) = [kept for kept in session._sets._kept.values() if kept.told == ("query:1",)]
    assert set(made.engines) == {"large", "light"}  # the first block is one of light's, and conditions are another's


class Counting:
    """A backend that knows which of its engines are open."""

    def __init__(self):
        self._backend, self.open = get_backend("ort-cpu"), 0

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def load(self, *placed):
        engine, close, self.open = self._backend.load(*placed), None, self.open + 1
        close = engine.close

        def closed():
            self.open -= engine._session is not None
            close()

        engine.close = closed
        return engine


def resident_mb():
    gc.collect()
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
@pytest.mark.slow
def test_swapping_three_adapters_leaks_nothing_and_is_no_slower_than_opening(tiny_bundle, folder):
    bundle, backend = open_bundle(tiny_bundle), Counting()
    options = SessionOptions(adapters_kept=1, shapes_kept=1)

    def opened():
        with Session(bundle, options) as another:
            another.warm_up()

    opening = statistics.median(timed(opened) for _ in range(3))
    with Session(bundle, options, backend=backend) as session:
        styles = [session.with_adapters(str(folder / f"style{number}.safetensors")) for number in range(3)]
        swaps, engines, memory = [], set(), []
        for number in range(30):
            swaps.append(timed(styles[number % 3].warm_up))
            engines.add(backend.open)
            memory.append(resident_mb())
    assert len(engines) == 1
    assert max(memory[-3:]) - min(memory[6:9]) < MEMORY_LEEWAY_MB
    assert statistics.median(swaps) <= opening
    assert backend.open == 0


def test_two_threads_with_different_adapters_each_get_their_own(session, folder):
    styles = [f"style{number}" for number in range(3)]
    alone = {name: drawn(session, lora=name).latents for name in styles}
    with ThreadPoolExecutor(3) as pool:
        asked = [name for _ in range(4) for name in styles]
        found = list(pool.map(lambda name: drawn(session, lora=name).latents, asked))
    for name, latents in zip(asked, found, strict=True):
        np.testing.assert_array_equal(latents, alone[name])
    assert not np.array_equal(alone["style0"], alone["style1"])


def test_sets_used_longest_ago_give_way_under_a_cap(tiny_bundle, folder):
    bundle = open_bundle(tiny_bundle)
    with Session(bundle, SessionOptions(adapter_folder=str(folder), adapters_kept=9)) as session:
        drawn(session, lora="style0")
        (one,) = session._sets._kept.values()
        megabytes = one.size_bytes / 2**20
    asked = SessionOptions(adapter_folder=str(folder), adapters_kept=9, adapter_cap_mb=2.5 * megabytes)
    with Session(bundle, asked) as session:
        for name in ("style0", "style1", "style0", "style2"):
            drawn(session, lora=name)
        assert [kept.told for kept in session._sets._kept.values()] == [("style0:1",), ("style2:1",)]
    too_little = SessionOptions(adapter_folder=str(folder), adapter_cap_mb=0.5 * megabytes)
    with (
        Session(bundle, too_little) as session,
        pytest.raises(RequestError, match=r"engines with these adapters take .* MiB, adapter_cap_mb is .*; allow more"),
    ):
        drawn(session, lora="style0")


def test_a_file_that_was_changed_is_read_again(tiny_bundle, tiny_pair_dirs, tmp_path):
    file = tmp_path / "style.safetensors"
    with Session.open(tiny_bundle, adapter_folder=str(tmp_path)) as session:
        found = []
        for seed in (1, 2):
            save_file(lora_of(tiny_pair_dirs[0], [QUERY], seed), file)
            os.utime(file, ns=(seed, seed))
            found.append(drawn(session, lora="style").latents)
    assert not np.array_equal(*found)


def test_adapters_and_text_on_demand_go_together(tiny_bundle, session, folder):
    with Session.open(tiny_bundle, adapters=str(folder / "style0.safetensors"), text_on_demand=True) as sparing:
        np.testing.assert_array_equal(drawn(sparing).latents, drawn(session, lora="style0").latents)


def test_requests_with_different_adapters_share_no_batch(session):
    def request(**asked):
        return PictureOptions(prompt="red", **asked).completed(session.manifest)

    asked = [request(), request(lora="style0"), request(lora="style0:1"), request(lora="style0:0.5"), request(lora="")]
    assert [len(batch) for batch in batches(asked, lambda each: each, 4)] == [1, 2, 1, 1]
    assert kind_of(asked[0]) != kind_of(asked[-1])


def other_model(tensors):
    return {name.replace("blocks.0", "blocks.40"): value for name, value in tensors.items()}


def half_unknown(tensors):
    return tensors | {name.replace("transformer.", "unet."): value for name, value in tensors.items()}


def with_nan(tensors):
    name = next(iter(tensors))
    return tensors | {name: np.full_like(tensors[name], np.nan)}


@pytest.mark.parametrize(
    ("spoilt", "fault"),
    [
        (other_model, "changes transformer_blocks.40.attn.to_q, which large of this bundle does not have"),
        (half_unknown, "changes unet.transformer_blocks.0.attn.to_q, which large of this bundle does not have"),
        (with_nan, r"lora_A.weight holds 48 numbers that are not finite"),
    ],
)
def test_bad_adapter_is_told_in_one_line(session, tiny_pair_dirs, tmp_path, spoilt, fault):
    save_file(spoilt(lora_of(tiny_pair_dirs[0], [QUERY])), tmp_path / "bad.safetensors")
    with pytest.raises(PairError, match=fault) as raised:
        drawn(session.with_adapters(str(tmp_path / "bad.safetensors")))
    assert "\n" not in str(raised.value)
    drawn(session)  # which goes on


@pytest.mark.parametrize("start", ["text_encoder_4.", "lora_te_"])
def test_part_for_text_encoders_that_are_not_there_is_left_out_and_told(session, tiny_pair_dirs, tmp_path, start):
    tensors = lora_of(tiny_pair_dirs[0], [QUERY])
    tensors |= {f"{start}{name.removeprefix('transformer.')}": value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "both.safetensors")
    told = r"also changes text encoders that are not there \(2 tensors\): that part is left out"
    with pytest.warns(AdapterWarning, match=told):
        drawn(session.with_adapters(str(tmp_path / "both.safetensors")))


@pytest.mark.parametrize(
    "name", ["../style0", "/etc/passwd", "..", ".hidden", "a/b", "a\\b", "style0:x", "style0:nan", "style0:1e9", "\0"]
)
def test_name_from_the_wire_names_no_other_folder(session, name):
    with pytest.raises(RequestError, match="is no adapter"):
        PictureOptions(prompt="red", lora=[name]).completed(session.manifest)


def test_names_are_those_of_the_folder(session, folder):
    assert session.adapter_names() == ["broken", "little", "style0", "style1", "style2"]
    assert names_from("style0:0.5, small=little") == (Named("large", "style0", 0.5), Named("small", "little", 1.0))
    with pytest.raises(RequestError, match=r"no adapter 'other', there are broken, little, style0"):
        drawn(session, lora="other")
    with pytest.raises(PairError, match=r"broken.safetensors is not a safetensors file"):
        drawn(session, lora="broken")
    with pytest.raises(RequestError, match="no adapter 'style0': no adapter_folder was named"):
        Folder(None).file(Named("large", "style0", 1.0))
    with pytest.raises(RequestError, match=r"9 adapters are asked for, at most 8"):
        names_from(["a"] * 9)


@pytest.mark.parametrize("text", ["", ":0.8", "x.safetensors:much", "small="])
def test_text_that_is_no_file_with_its_scale_is_told(text):
    with pytest.raises(RequestError, match=r"is not a LoRA with its scale; write FILE, FILE:0.8 or small=FILE:0.8"):
        file_from_text(text)


def test_bundle_without_the_record_says_what_makes_one(tiny_bundle, folder):
    import msgspec

    bundle = open_bundle(tiny_bundle)
    bare = msgspec.structs.replace(
        bundle.manifest, files=[f for f in bundle.manifest.files if not f.path.startswith("adapters/")]
    )
    with pytest.raises(RequestError, match="takes no adapters for large"):
        Session(Bundle(bundle.path, bare), SessionOptions(adapters=str(folder / "style0.safetensors")))


def test_record_that_points_elsewhere_is_refused(tiny_bundle, tmp_path):
    from hsruntime.adapters.changeable import path_of
    from hsruntime.adapters.merging import read_changeable

    bundle = open_bundle(tiny_bundle)
    record = json.loads(bundle.file(path_of("large")).read_text())

    class Spoilt(Bundle):
        def file(self, relative):
            return tmp_path / "record.json" if relative == path_of("large") else super().file(relative)

    first = record["engines"]["large"]["initialisers"][0]
    for field, value in (("offset", 2**40), ("dtype", "object"), ("axes", [5] * len(first["axes"]))):
        kept, first[field] = first[field], value
        (tmp_path / "record.json").write_text(json.dumps(record))
        with pytest.raises(BundleError, match=r"adapters/large.json: initialiser .* of 'large' cannot be"):
            read_changeable(Spoilt(bundle.path, bundle.manifest), "large")
        first[field] = kept


def test_server_takes_names_of_its_folder_and_no_paths(tiny_bundle, folder, session):
    with serving(tiny_bundle, "--adapter-folder", folder, "--no-warm-up") as server:
        assert server.client.get("/v1/bundle").json()["adapters"] == session.adapter_names()
        answer = server.ask(seed=3, schedule=EVERY_ENGINE, lora="style1:0.5").json()
        assert answer["hsexport"]["adapters"] == ["style1:0.5"]
        for name, fault in (("../style1", "is no adapter's name"), ("other", "there is no adapter 'other'")):
            refused = server.ask(lora=name)
            assert refused.status_code == 400 and fault in refused.json()["error"]["message"]


def test_error_of_an_adapter_is_one_of_ours():
    assert issubclass(PairError, HSError) and issubclass(RequestError, HSError)
