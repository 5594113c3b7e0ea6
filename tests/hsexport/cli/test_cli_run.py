import json
from pathlib import Path

import numpy as np
import pytest
from one_line import told_in_one_line
from PIL import Image


def test_run_writes_a_png_with_its_recipe(hsexport, tiny_bundle, tmp_path):
    done = hsexport("run", tiny_bundle, "--prompt", "abc", "--seed", 7, "--out", tmp_path / "p.png", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["files"] == [str(tmp_path / "p.png")]
    assert sum(s["steps"] for s in summary["segments"]) == 28
    assert summary["device"] == "CPU"
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (16, 16)
        assert picture.text["prompt"] == "abc" and picture.text["seed"] == "7"
        assert picture.text["schedule"] == summary["schedule"]


def test_run_twice_gives_the_same_bytes(hsexport, tiny_bundle, tmp_path):
    for name in ("a.png", "b.png"):
        assert hsexport("run", tiny_bundle, "--prompt", "abc", "--seed", 3, "--out", tmp_path / name).returncode == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_text_on_demand_gives_the_same_bytes_and_tiles_others(hsexport, tiny_bundle, tmp_path):
    asked = ("run", tiny_bundle, "--prompt", "abc", "--size", "24x24", "--schedule", "small:2", "--out")
    options = {"plain": (), "demand": ("--text-on-demand",), "whole": ("--vae-tile", 0), "tiles": ("--vae-tile", 16)}
    for name, option in options.items():
        done = hsexport(*asked, tmp_path / f"{name}.png", *option)
        assert done.returncode == 0, done.stderr
    found = {name: np.asarray(Image.open(tmp_path / f"{name}.png")) for name in options}
    np.testing.assert_array_equal(found["demand"], found["plain"])
    np.testing.assert_array_equal(found["whole"], found["plain"])
    assert (found["tiles"] != found["plain"]).any()


def test_several_prompts_make_several_files_and_overlays(hsexport, tiny_bundle, tmp_path):
    done = hsexport(
        "run", tiny_bundle, "--prompt", "abc", "--prompt", "xyz", "--out", tmp_path / "p.png",
        "--region", tmp_path / "r.png", "--size", "24x16", "--schedule", "large:2,hybrid:1,small:1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["p-0.png", "p-1.png", "r-0.png", "r-1.png"]
    plain, marked = (np.asarray(Image.open(tmp_path / name)) for name in ("p-0.png", "r-0.png"))
    assert plain.shape == marked.shape == (16, 24, 3) and (plain != marked).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "512x16"], ["width 512", "8..24"]),
        (["--size", "17x16"], ["17 is not a multiple of 4", "try 16 or 20"]),
        (["--schedule", "large:2,hybird:2"], ["segment 2", "hybird", "allowed: large, hybrid, refined"]),
        (["--schedule", "hybridstich"], ["no preset 'hybridstich'", "presets: hybridstitch"]),
        (["--schedule", "small:4", "--region", "r.png"], ["--region", "no region"]),
        (["--out", "p.png", "--region", "p.png"], ["--out and --region", "p.png"]),
        (["--seed", "-1"], ["seed -1", "start at 0"]),
        (["--steps", "0"], ["0 steps"]),
        (["--out", "nowhere/p.png"], ["nowhere", "not a directory"]),
        (["--vae-tile", "15"], ["vae_tile 15 is not a multiple of 2", "try 14 or 16"]),
        (["--vae-tile", "512"], ["vae_tile 512", "8..24"]),
        (["--device", "NPU"], ["'ort-cpu' finds no device 'NPU' here, only CPU", "leave --device out"]),
    ],
)
def test_bad_requests_are_told_in_one_line(hsexport, tiny_bundle, tmp_path, arguments, words):
    told_in_one_line(hsexport("run", tiny_bundle, "--prompt", "abc", *arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())


def test_a_malformed_size_is_wrong_usage(hsexport, tiny_bundle):
    done = hsexport("run", tiny_bundle, "--prompt", "abc", "--size", "big")
    assert done.returncode == 2 and "WIDTHxHEIGHT" in done.stderr


def test_a_prompt_too_long_says_what_was_cut(hsexport, tiny_bundle, tmp_path):
    done = hsexport("run", tiny_bundle, "--prompt", "abcdefghijklmnopqrstuvwxyz", "--out", tmp_path / "p.png")
    assert done.returncode == 0
    assert "warning: " in done.stderr and "does not see its end" in done.stderr and "uvwxyz" in done.stderr


def test_a_path_that_is_no_bundle_is_told(hsexport, tmp_path):
    told_in_one_line(hsexport("run", tmp_path / "nothing", "--prompt", "abc"), "nothing")


def test_a_flipped_byte_is_named(hsexport, tiny_bundle, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    file = broken / "engines" / "large.onnx.data"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    told_in_one_line(hsexport("run", broken, "--prompt", "abc", "--out", tmp_path / "p.png"), "engines/large.onnx.data")
    assert not Path(tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("options", "variable", "kept"),
    [([], None, None), ([], "", ""), ([], "here", "here"), (["--kernel-cache", "there"], "here", "there")],
)
def test_compiled_kernels_are_kept_where_option_or_environment_says(monkeypatch, options, variable, kept):
    from hsexport.cli.run import run

    monkeypatch.delenv("HSEXPORT_RUNTIME_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("HSEXPORT_RUNTIME_CACHE", variable)
    assert run.make_context("run", ["bundle", "--prompt", "red", *options]).params["kernel_cache"] == kept
