"""Pairs of a hub, through the hub's own client."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from model_hub import model_hub
from one_line import told_in_one_line
from small_disk import small_disk

HEADERS_BYTES = 20_000_000  # of all weights' headers, with what the client reads behind them


def hub_of(large, small):
    return model_hub({"org/large": large, "org/small": small})


@pytest.fixture(scope="module")
def real_hub(sd35_dirs):
    """SD3.5's pair on a hub."""
    with hub_of(*sd35_dirs) as hub:
        yield hub


@pytest.fixture
def tiny_hub(tiny_pair_dirs, tmp_path):
    """The tiny pair on a hub, with files beside it that nobody wants."""
    large = shutil.copytree(tiny_pair_dirs[0], tmp_path / "large")
    (large / "README.md").write_text("A pair.")
    (large / "sd3.5_large.safetensors").write_bytes(bytes(1000))
    with hub_of(large, tiny_pair_dirs[1]) as hub:
        yield hub


def plan_of(hsexport, large, small, env=None, *options):
    done = hsexport("plan", "--large", large, "--small", small, "--backend", "tensorrt", "--json", *options, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def download_of(plan):
    return sum(stage["disk_bytes"] for stage in plan["stages"] if stage["name"] == "download")


def test_a_plan_of_the_real_pair_reads_headers_and_says_what_a_build_would_download(
    hsexport, real_hub, sd35_dirs, tmp_path
):
    told = plan_of(hsexport, "org/large", "org/small", real_hub.environment(tmp_path))
    here = plan_of(hsexport, *sd35_dirs)
    assert 0 < real_hub.weights_read() < HEADERS_BYTES
    weights = [file for root in sd35_dirs for file in root.rglob("*.safetensors")]
    assert download_of(told) == pytest.approx(sum(file.stat().st_size for file in weights), rel=1e-6)
    assert [told[part] for part in ("networks", "memory", "work")] == [
        here[part] for part in ("networks", "memory", "work")
    ]
    assert not list(tmp_path.glob("*plan*"))


def test_what_is_left_out_is_no_part_of_the_download(hsexport, real_hub, sd35_dirs, tmp_path):
    told = plan_of(hsexport, "org/large", "org/small", real_hub.environment(tmp_path), "--without-t5")
    left_out = [file for root in sd35_dirs for file in (root / "text_encoder_3").glob("*.safetensors")]
    whole = sum(file.stat().st_size for root in sd35_dirs for file in root.rglob("*.safetensors"))
    wanted = whole - sum(file.stat().st_size for file in left_out)
    assert download_of(told) == pytest.approx(wanted, rel=1e-6)


def test_what_both_members_hold_alike_is_downloaded_once(hsexport, sd35_dirs, tmp_path):
    whole = tmp_path / "small"
    shutil.copytree(sd35_dirs[0], whole, copy_function=os.symlink)
    shutil.rmtree(whole / "transformer")
    shutil.copytree(sd35_dirs[1] / "transformer", whole / "transformer", copy_function=os.symlink)
    with hub_of(sd35_dirs[0], whole) as hub:
        told = plan_of(hsexport, "org/large", "org/small", hub.environment(tmp_path / "hub"))
    weights = sum(file.stat().st_size for root in sd35_dirs for file in root.rglob("*.safetensors"))
    assert download_of(told) == pytest.approx(weights, rel=1e-6)


def test_one_model_may_take_both_places_and_the_cache_a_relative_path(hsexport, tiny_hub, tmp_path):
    env = tiny_hub.environment(Path("hub"))
    done = hsexport("plan", "--large", "org/large", "--small", "org/large", "--json", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    large, small = json.loads(done.stdout)["networks"][:2]
    assert large["parameters"] == small["parameters"]


@pytest.mark.slow
def test_a_build_downloads_what_it_needs_once_and_then_needs_no_hub(hsexport, tiny_hub, tiny_cache, tmp_path):
    pair = ["--large", "org/large", "--small", "org/small", "--light", "1+1"]
    build = ["build", *pair, "--stop-after", "export", "--out", tmp_path / "bundle", "--cache", tiny_cache]
    env = tiny_hub.environment(tmp_path / "hub")
    done = hsexport(*build, env=env)
    assert done.returncode == 0, done.stderr
    assert not {"README.md", "sd3.5_large.safetensors"} & tiny_hub.read.keys()
    read = tiny_hub.weights_read()
    assert download_of(plan_of(hsexport, "org/large", "org/small", env)) == 0
    assert hsexport(*build, env=env | {"HF_HUB_OFFLINE": "1"}).returncode == 0
    assert tiny_hub.weights_read() == read


FETCH = """
import json
from hsexport.checkpoints.hub import Downloads
from hsexport.checkpoints.hub import listed
told = []
Downloads(lambda *bytes_: told.append(bytes_)).fetch("org/large", listed("org/large"))
print(json.dumps(told))
"""


def test_a_download_tells_of_its_bytes_and_draws_nothing(tiny_hub, tmp_path):
    root = tiny_hub.repositories["org/large"]
    env = os.environ | tiny_hub.environment(tmp_path / "hub")
    done = subprocess.run([sys.executable, "-c", FETCH], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert told[-1] == [size, size] and {total for _, total in told} == {size}
    assert len(told) > 1 and told == sorted(told)


def test_a_download_that_finds_no_room_is_refused_before_it_begins(hsexport, real_hub, tmp_path):
    build = ["build", "--large", "org/large", "--small", "org/small", "--stop-after", "export"]
    read = real_hub.weights_read()
    with small_disk(tmp_path / "hub", "64m") as disk:
        env = real_hub.environment(disk)
        done = hsexport(*build, "--out", tmp_path / "bundle", "--cache", tmp_path / "cache", env=env)
        told_in_one_line(done, "the download needs 32.6 GB, ", " MB are there", "HF_HUB_CACHE")
    assert real_hub.weights_read() - read < HEADERS_BYTES
    assert not (tmp_path / "cache").exists()


def test_a_repository_that_is_not_there_is_told(hsexport, tiny_hub, tmp_path):
    done = hsexport("plan", "--large", "org/none", "--small", "org/small", env=tiny_hub.environment(tmp_path))
    told_in_one_line(done, "large 'org/none' is no directory or file here, nor a repository of the hub")


def test_a_repository_of_another_kind_is_told(hsexport, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.gguf").touch()
    with hub_of(tmp_path / "other", tmp_path) as hub:
        done = hsexport("plan", "--large", "org/large", "--small", "demo", env=hub.environment(tmp_path / "hub"))
    told_in_one_line(done, "'org/large' holds no model_index.json")


def test_a_gated_repository_is_told_to_log_in(hsexport, tiny_hub, tmp_path):
    tiny_hub.gated.add("org/small")
    done = hsexport("plan", "--large", "org/large", "--small", "org/small", env=tiny_hub.environment(tmp_path))
    told_in_one_line(done, "small 'org/small' is gated", "https://huggingface.co/org/small", "hf auth login")


def test_a_file_that_is_no_safetensors_file_is_told(hsexport, tiny_hub, tmp_path):
    (file,) = (tiny_hub.repositories["org/large"] / "vae").glob("*.safetensors")
    file.write_bytes(bytes(100))
    done = hsexport("plan", "--large", "org/large", "--small", "org/small", env=tiny_hub.environment(tmp_path / "hub"))
    told_in_one_line(done, "large 'org/large' could not be downloaded")
