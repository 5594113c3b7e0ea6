"""Names and texts out of files, with what terminals obey and what rich reads into brackets: printed as text."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from sealed import sealed

from hsengines.errors import HSError, as_text

EVIL = "a[/b]\x1b[31m\x07[bold]:smile:\u202e"


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """With such texts wherever a manifest has room for them."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest["target"] = manifest["device"] = EVIL
    manifest["tools"][EVIL] = EVIL
    manifest["facts"]["large"]["source"] = EVIL
    manifest["facts"]["large"]["adapters"] = [{"name": EVIL.replace("/", ""), "sha256": "0" * 64, "scale": 1.0}]
    record = manifest["engines"]["large"]
    record["options"] = {EVIL: EVIL}
    record["fp32_blocks"] = [{"name": EVIL, "nodes": 1, "reason": EVIL}]
    file.write_bytes(sealed(json.dumps(manifest).encode()))
    return bundle


def is_text(printed):
    assert "Traceback" not in printed
    assert not any(c in printed for c in "\x1b\x07\u202e"), repr(printed)


@pytest.mark.parametrize("options", [(), ("--steps",)])
def test_inspect_prints_what_a_manifest_says_as_text(hsexport, bundle, options):
    done = hsexport("inspect", bundle, *options)
    assert done.returncode == 0, done.stderr
    is_text(done.stdout + done.stderr)
    if not options:
        assert r"a[/b]\x1b[31m\x07[bold]:smile:\u202e" in done.stdout


def test_run_goes_by_a_path_of_such_letters(hsexport, tiny_bundle, tmp_path):
    out = tmp_path / "p[b]\x1b[31m.png"
    done = hsexport("run", tiny_bundle, "--prompt", "red \x1b[31m [/b] " * 9, "--schedule", "small:1", "--out", out)
    assert done.returncode == 0, done.stderr
    is_text(done.stderr)
    assert out.exists()


def test_tensor_s_name_is_printed_as_text(hsexport, tiny_pair_dirs, tmp_path):
    large, small = (shutil.copytree(folder, tmp_path / folder.name) for folder in tiny_pair_dirs)
    file = next((large / "transformer").glob("*.safetensors"))
    save_file(load_file(file) | {EVIL: load_file(file)["proj_out.bias"]}, file)
    done = hsexport("plan", "--large", large, "--small", small)
    assert done.returncode == 1
    is_text(done.stderr)
    assert r"\x1b[31m" in done.stderr and done.stderr.strip().count("\n") == 0


def test_missing_path_of_such_letters_is_told_as_text(hsexport, tmp_path):
    done = hsexport("inspect", tmp_path / EVIL.replace("/", ""))
    assert done.returncode == 1
    is_text(done.stderr)


def test_errors_are_one_line_of_text_everywhere():
    err = HSError(f"one\ntwo {EVIL}", "three\r\nfour")
    assert str(err) == rf"one\ntwo {as_text(EVIL)}; three\r\nfour"
    assert str(HSError("naïve 图 ok\t")) == "naïve 图 ok\t"
