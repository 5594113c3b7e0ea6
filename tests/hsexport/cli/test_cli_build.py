import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from random import Random

import pytest
from interruptible import listen_to_ctrl_c
from one_line import told_in_one_line
from small_disk import small_disk
from tiny_pair import make_pipeline

from hsruntime.bundle.reader import open_bundle

NETWORKS = 23
"""Of the tiny bundle."""


def build_arguments(pair, out, cache):
    """The tiny bundle's own, where the pair is the tiny one."""
    return ["build", "--large", pair[0], "--small", pair[1], "--light", "1+1", "--out", out, "--cache", cache]


def started(arguments):
    command = [sys.executable, "-m", "hsexport.cli.main", *map(str, arguments)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen_to_ctrl_c
    )


@pytest.mark.slow
def test_stopped_early_there_are_graphs_and_no_bundle(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    arguments = build_arguments(tiny_pair_dirs, tmp_path / "b", tiny_cache)
    done = hsexport(*arguments, "--stop-after", "optimise", "--json")
    assert json.loads(done.stdout)["stopped_after"] == "optimise"
    assert "compile" not in done.stderr and not (tmp_path / "b").exists()
    told = hsexport(*arguments, "--stop-after", "export")
    assert told.stderr.splitlines()[-1].startswith(
        f"stopped after export, as asked; what is done is kept in {tiny_cache}"
    )


@pytest.mark.slow
def test_what_may_not_fit_is_told_and_the_build_goes_on(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    arguments = build_arguments(tiny_pair_dirs, tmp_path / "b", tiny_cache)
    done = hsexport(*arguments, "--max-batch", 1_000_000, "--stop-after", "export")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^hsexport: warning: 1000000 of \w+ at once on this machine needs .* GB are there; --max-batch",
        done.stderr,
        re.M,
    )


def test_a_second_build_takes_everything_from_the_cache(hsexport, tiny_pair_dirs, tiny_bundle, tiny_cache, tmp_path):
    done = hsexport(*build_arguments(tiny_pair_dirs, tmp_path / "b", tiny_cache), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kept from an earlier build") == 3 * NETWORKS
    assert json.loads(done.stdout)["parity"] < 1e-4
    first, second = ({f.path: f.sha256 for f in open_bundle(b).manifest.files} for b in (tiny_bundle, tmp_path / "b"))
    assert first == second


@pytest.mark.slow
def test_kill_9_in_the_middle_then_build_again_resumes(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    for entry in (tiny_cache / "onnx").iterdir():  # what takes long is there already
        if any((entry / f"{name}.onnx").exists() for name in ("large", "small", "text_encoder")):
            shutil.copytree(entry, tmp_path / "cache" / "onnx" / entry.name)
    shutil.copytree(tiny_cache / "golden", tmp_path / "cache" / "golden")
    arguments = build_arguments(tiny_pair_dirs, tmp_path / "b", tmp_path / "cache")
    process = started(arguments)
    for line in process.stderr:
        if "export: text_encoder_2" in line and "done" not in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b").exists()
    done = hsexport(*arguments)
    assert done.returncode == 0, done.stderr
    kept = [line for line in done.stderr.splitlines() if "kept from an earlier build" in line]
    assert sum("export: large" in k or "export: small" in k for k in kept) == 2
    assert len(open_bundle(tmp_path / "b").manifest.engines) == NETWORKS
    assert not list((tmp_path / "cache").rglob(".unfinished.*"))


KILLS = int(os.environ.get("HSEXPORT_KILLS", "5"))


@pytest.mark.slow
def test_killed_at_random_moments_the_next_build_finishes_and_no_item_is_made_again(hsexport, tiny_pair_dirs, tmp_path):
    random, finished = Random(5), set()
    arguments = build_arguments(tiny_pair_dirs, tmp_path / "b", tmp_path / "cache")
    for _ in range(KILLS):
        process = started(arguments)
        lines = [process.stderr.readline() for _ in range(random.randrange(2, 60))]
        time.sleep(random.random())
        os.killpg(process.pid, signal.SIGKILL)
        lines += process.stderr.readlines()
        process.wait()
        assert not made_again(lines, finished)
        finished |= {item for item, _ in done_items(lines)}
    done = hsexport(*arguments)
    assert done.returncode == 0, done.stderr
    assert not made_again(done.stderr.splitlines(), finished)
    assert len(open_bundle(tmp_path / "b").manifest.engines) == NETWORKS
    assert not list((tmp_path / "cache").rglob(".unfinished.*"))


def done_items(lines):
    """(stage: item, whether it was kept) of every line that says so, but for the parities, which say their error."""
    for line in lines:
        item, _, rest = line.partition(" done in ")
        if rest and item.startswith(("export", "optimise", "compile")):
            yield item, "kept from an earlier build" in rest


def made_again(lines, finished):
    return [item for item, kept in done_items(lines) if item in finished and not kept]


def test_ctrl_c_leaves_no_bundle_and_one_line(tiny_pair_dirs, tmp_path):
    arguments = build_arguments(tiny_pair_dirs, tmp_path / "b", tmp_path / "cache")
    process = started(arguments)
    for line in process.stderr:
        if line.startswith("export: large"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "Traceback" not in rest and "goes on from there" in rest
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    with small_disk(tmp_path / "disk", "200k") as disk:
        told_in_one_line(hsexport(*build_arguments(tiny_pair_dirs, disk / "b", tiny_cache)), "b", "free")
        assert not list(disk.iterdir())
        crowded = build_arguments(tiny_pair_dirs, tmp_path / "b", disk / "c")
        told_in_one_line(hsexport(*crowded), "cache", "free some space")
        assert not (tmp_path / "b").exists() and not list(disk.rglob("*.onnx"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--large", "nowhere"], ["nowhere"]),
        pytest.param(["--backend", "tensorflow"], ["tensorflow", "ort-cpu"], marks=pytest.mark.slow),
        pytest.param(["--precision", "fp16"], ["fp16", "fp32"], marks=pytest.mark.slow),
        pytest.param(["--size", "15x16"], ["15 is not a multiple of 4"], marks=pytest.mark.slow),
        pytest.param(["--max-size", "4096x16"], ["4096", "position tables reach"], marks=pytest.mark.slow),
        pytest.param(["--min-size", "20x20", "--size", "16x16"], ["20x20", "ascending"], marks=pytest.mark.slow),
        pytest.param(["--max-batch", "0"], ["--max-batch 0"], marks=pytest.mark.slow),
        (["--schedule", "tiny:3"], ["segment 1", "tiny"]),
    ],
)
def test_bad_options_are_told_before_anything_is_traced(hsexport, tiny_pair_dirs, tmp_path, arguments, words):
    start = time.monotonic()
    given = [*build_arguments(tiny_pair_dirs, tmp_path / "b", tmp_path / "c"), *arguments]
    told_in_one_line(hsexport(*given), *words)
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_pair_of_strangers_is_refused(hsexport, tiny_pair_dirs, tmp_path):
    other = tmp_path / "small"
    shutil.copytree(tiny_pair_dirs[1], other)
    config = json.loads((other / "transformer" / "config.json").read_text())
    config["pooled_projection_dim"] = 999
    (other / "transformer" / "config.json").write_text(json.dumps(config))
    told_in_one_line(hsexport(*build_arguments((tiny_pair_dirs[0], other), tmp_path / "b", tmp_path / "c")), "999")


@pytest.mark.slow
def test_a_small_member_with_parts_of_another_model_is_refused_before_anything_is_traced(
    hsexport, tiny_pair_dirs, tmp_path
):
    other = make_pipeline(tmp_path / "small", layers=2, dual_layers=(0,), seed=1, text_seed=7)
    done = hsexport(*build_arguments((tiny_pair_dirs[0], other), tmp_path / "b", tmp_path / "c"))
    told_in_one_line(done, "holds other numbers in each", f"--small {other}/transformer")
    assert "\nexport" not in done.stderr and not (tmp_path / "c").exists()


@pytest.mark.slow
def test_the_smallest_profile_builds_and_verifies(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    """Goldens and oracle fit themselves to profiles smaller than what the networks are traced with."""
    arguments = build_arguments(tiny_pair_dirs, tmp_path / "b", tiny_cache)
    options = ["--size", "8x4", "--min-size", "8x4", "--max-size", "8x4", "--max-batch", "1"]
    done = hsexport(*arguments, *options)
    assert done.returncode == 0, done.stderr
    assert hsexport("verify", tmp_path / "b").returncode == 0
    made = hsexport("run", tmp_path / "b", "--prompt", "abc", "--out", tmp_path / "p.png")
    assert made.returncode == 0, made.stderr


@pytest.mark.slow
def test_bundle_without_t5_verifies_and_runs(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    done = hsexport(*build_arguments(tiny_pair_dirs, tmp_path / "b", tiny_cache), "--without-t5")
    assert done.returncode == 0, done.stderr
    shown = json.loads(hsexport("inspect", tmp_path / "b", "--json").stdout)
    assert "text_encoder_2" in str(shown) and "text_encoder_3" not in str(shown)
    assert hsexport("verify", tmp_path / "b").returncode == 0
    made = hsexport("run", tmp_path / "b", "--prompt", "abc", "--out", tmp_path / "p.png", "--text-on-demand")
    assert made.returncode == 0, made.stderr


@pytest.mark.slow
def test_another_maximum_size_exports_another_position_table(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    """Wide and tall tables have the same I/O signature; a picture tells them apart."""
    for name, size in (("wide", "24x16"), ("tall", "16x24")):
        arguments = build_arguments(tiny_pair_dirs, tmp_path / name, tiny_cache)
        assert hsexport(*arguments, "--max-size", size).returncode == 0
        made = hsexport("run", tmp_path / name, "--prompt", "abc", "--out", tmp_path / f"{name}.png")
        assert made.returncode == 0, made.stderr
    assert (tmp_path / "wide.png").read_bytes() == (tmp_path / "tall.png").read_bytes()


@pytest.mark.slow
def test_two_builds_at_once_make_each_engine_once(hsexport, tiny_pair_dirs, tiny_cache, tmp_path):
    """Both begin with exports and graphs in place and no engine."""
    cache = tmp_path / "cache"
    for kind in ("onnx", "graph"):
        shutil.copytree(tiny_cache / kind, cache / kind)
    processes = [started(build_arguments(tiny_pair_dirs, tmp_path / name, cache)) for name in "ab"]
    told = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    engines = [path for path in (cache / "engine-ort-cpu").iterdir() if path.is_dir()]
    assert len(engines) == NETWORKS
    assert told[0].count("first build") + told[1].count("first build") >= NETWORKS
    first, second = ({f.path: f.sha256 for f in open_bundle(tmp_path / name).manifest.files} for name in "ab")
    assert first == second
