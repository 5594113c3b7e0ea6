import json
import shutil

from one_line import told_in_one_line


def test_inspect_prints_the_manifest_as_it_lies_there(hsexport, tiny_bundle):
    done = hsexport("inspect", tiny_bundle, "--json")
    assert done.stdout == (tiny_bundle / "manifest.json").read_text()


def test_inspect_shows_engines_and_errors_for_people(hsexport, tiny_bundle):
    done = hsexport("inspect", tiny_bundle)
    assert done.returncode == 0
    for word in ("large", "vae_decoder", "ort-cpu fp32", "full, region", "times as fast"):
        assert word in done.stdout


def test_verify_compares_goldens_torch_and_the_oracle(hsexport, tiny_bundle):
    done = hsexport("verify", tiny_bundle, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    kinds = [c["reference"].split(",")[0] for c in report["comparisons"]]
    assert report["passed"] and report["left_out"] == []
    assert kinds.count("golden of the build") == kinds.count("torch") == 17
    assert kinds.count("full pass") == 6
    assert all(c["max_relative"] <= 1e-4 for c in report["comparisons"])
    assert any(c["max_relative"] > 0 for c in report["comparisons"] if c["engine"] == "large")


def test_verify_finds_an_engine_that_computes_something_else(hsexport, tiny_bundle, tmp_path):
    """Weights changed and every checksum put right again: only the comparison can see it."""
    import msgspec
    import numpy as np

    from hsruntime.bundle import sha256_of
    from hsruntime.manifest import manifest_bytes, manifest_from_bytes

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


def test_verify_without_the_pair_uses_goldens_and_says_so(hsexport, tiny_bundle, tmp_path):
    import msgspec

    from hsruntime.manifest import manifest_bytes, manifest_from_bytes

    moved = tmp_path / "moved"
    shutil.copytree(tiny_bundle, moved)
    manifest = manifest_from_bytes((moved / "manifest.json").read_bytes())
    gone = msgspec.structs.replace(manifest.large, source="/gone/away")
    (moved / "manifest.json").write_bytes(manifest_bytes(msgspec.structs.replace(manifest, large=gone)))
    report = json.loads(hsexport("verify", moved, "--json").stdout)
    assert report["passed"] and "/gone/away" in report["left_out"][0]
