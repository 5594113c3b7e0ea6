import json
import shutil

import pytest
from one_line import told_in_one_line

NETWORKS = 23
"""Of the tiny bundle."""


def test_inspect_prints_the_manifest_as_it_lies_there(hsexport, tiny_bundle):
    done = hsexport("inspect", tiny_bundle, "--json")
    assert done.stdout == (tiny_bundle / "manifest.json").read_text()


def test_inspect_shows_engines_and_errors_for_people(hsexport, tiny_bundle):
    done = hsexport("inspect", tiny_bundle)
    assert done.returncode == 0
    for word in ("large", "vae_decoder", "ort-cpu fp32", "devices here: CPU", "full, region", "times as fast"):
        assert word in done.stdout


def test_inspect_shows_the_program_of_a_step(hsexport, tiny_bundle):
    shown = hsexport("inspect", tiny_bundle, "--steps").stdout
    for word in ("hybrid", "small, beside it", "positions=active_positions", "cached_index", "int32 L R"):
        assert word in shown
    data = json.loads(hsexport("inspect", tiny_bundle, "--steps", "--json").stdout)
    assert [row["engine"] for row in data["sequences"]["gap small"]] == ["prepare", "small", "guide"]
    assert data["extents"]["R"] == data["extents"]["N"] - data["extents"]["M"] > 0
    assert data["buffers"]["past_*"]["shape"] == "cache L R H D"


def pair_options(pair):
    return ["--large", pair[0], "--small", pair[1]]


def test_verify_compares_goldens_torch_and_the_oracle(hsexport, tiny_bundle, tiny_pair_dirs):
    done = hsexport("verify", tiny_bundle, *pair_options(tiny_pair_dirs), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    kinds = [c["reference"].split(",")[0] for c in report["comparisons"]]
    assert report["passed"] and report["left_out"] == []
    assert kinds.count("golden of the build") == kinds.count("torch") == NETWORKS
    assert kinds.count("full pass") == 6
    assert all(c["max_relative"] <= 1e-4 for c in report["comparisons"])
    assert any(c["max_relative"] > 0 for c in report["comparisons"] if c["engine"] == "large")


def test_verify_finds_an_engine_that_computes_something_else(hsexport, tiny_bundle, tmp_path):
    """Weights changed and every checksum put right again: only the comparison can see it."""
    import msgspec
    import numpy as np

    from hsruntime.bundle.manifest import manifest_bytes, manifest_from_bytes
    from hsruntime.bundle.reader import sha256_of

    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    file = broken / "engines" / "small.onnx.data"
    weights = np.frombuffer(file.read_bytes(), np.float32).copy()
    weights[: len(weights) // 2] *= 1.5
    file.write_bytes(weights.tobytes())
    manifest = manifest_from_bytes((broken / "manifest.json").read_bytes())
    files = [
        msgspec.structs.replace(f, sha256=sha256_of(file)) if f.path == "engines/small.onnx.data" else f
        for f in manifest.files
    ]
    (broken / "manifest.json").write_bytes(manifest_bytes(msgspec.structs.replace(manifest, files=files)))
    told_in_one_line(hsexport("verify", broken), "engine 'small'", "allowed 1e-04")


def test_bundle_tells_no_path_of_the_machine_it_was_built_on(tiny_bundle, tiny_pair_dirs):
    text = (tiny_bundle / "manifest.json").read_text()
    assert str(tiny_pair_dirs[0].parent) not in text
    facts = json.loads(text)["facts"]
    assert [facts[role]["source"][:6] for role in ("large", "small")] == ["local:", "local:"]


@pytest.mark.slow
def test_verify_of_a_pair_from_paths_asks_for_them_and_goes_on_with_goldens(hsexport, tiny_bundle):
    report = json.loads(hsexport("verify", tiny_bundle, "--json").stdout)
    assert report["passed"]
    assert "large was built from a local path" in report["left_out"][0] and "--large PATH" in report["left_out"][0]


@pytest.mark.slow
def test_verify_against_another_pair_says_what_differs(hsexport, tiny_bundle, tiny_pair_dirs):
    twice_large = pair_options((tiny_pair_dirs[0], tiny_pair_dirs[0]))
    told_in_one_line(hsexport("verify", tiny_bundle, *twice_large), "small has source local:")
    told_in_one_line(hsexport("verify", tiny_bundle, *pair_options(("demo", "demo"))), "large has", "expected")


@pytest.mark.slow
def test_verify_against_a_path_that_is_none_is_told(hsexport, tiny_bundle, tiny_pair_dirs):
    told_in_one_line(hsexport("verify", tiny_bundle, *pair_options((tiny_pair_dirs[0], "none/at/all"))), "none/at/all")


def test_verify_without_the_pair_uses_goldens_and_says_so(hsexport, tiny_bundle, tmp_path):
    import msgspec

    from hsruntime.bundle.manifest import manifest_bytes, manifest_from_bytes

    moved = tmp_path / "moved"
    shutil.copytree(tiny_bundle, moved)
    manifest = manifest_from_bytes((moved / "manifest.json").read_bytes())
    gone = msgspec.structs.replace(manifest.facts.large, source="org/gone-away")
    facts = msgspec.structs.replace(manifest.facts, large=gone)
    (moved / "manifest.json").write_bytes(manifest_bytes(msgspec.structs.replace(manifest, facts=facts)))
    report = json.loads(hsexport("verify", moved, "--json").stdout)
    assert report["passed"] and "org/gone-away" in report["left_out"][0]
