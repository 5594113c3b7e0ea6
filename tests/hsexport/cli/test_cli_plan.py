"""`hsexport plan` as users run it."""

import json
import subprocess
import sys

import pytest
from one_line import told_in_one_line

BEFORE_EXIT = """
import sys
from hsexport.cli.main import main
try:
    main()
finally:
    print(*sorted({"torch", "diffusers", "transformers", "onnxruntime", "onnx_ir"} & set(sys.modules)), file=sys.stderr)
"""


def test_the_real_pair_is_planned_without_torch(sd35_dirs, tmp_path):
    large, small = map(str, sd35_dirs)
    asked = ["plan", "--large", large, "--small", small, "--backend", "tensorrt", "--gpu", "l4"]
    asked += ["--out", str(tmp_path / "bundle"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run([sys.executable, "-c", BEFORE_EXIT, *asked], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "\n"  # none of them was imported
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", ["ort-cpu", "tensorrt", "tensorrt-rtx", "ort-cuda"])
def test_json_tells_totals_and_parts(hsexport, tiny_pair_dirs, backend):
    large, small = tiny_pair_dirs
    done = hsexport("plan", "--large", large, "--small", small, "--backend", backend, "--gpu", "orin", "--json")
    plan = json.loads(done.stdout)
    assert plan["backend"] == backend
    assert plan["bundle_bytes"] == sum(network["bundle_bytes"] for network in plan["networks"])
    assert [stage["name"] for stage in plan["stages"]] == ["export", "optimise", "compile", "verify", "pack"]
    for step in ("large", "region", "small"):
        flops = plan["work"][step]["flops"]
        assert flops["total"] == sum(count for name, count in flops.items() if name != "total")
        assert plan["roofline"][step]["seconds"] > 0
    assert plan["roofline"]["gpu"]["name"].startswith("Jetson")
    assert all(case["total_bytes"] > case["weights_bytes"] > 0 for case in plan["memory"])


def test_tables_are_for_people(hsexport, sd35_dirs):
    large, small = sd35_dirs
    done = hsexport("plan", "--large", large, "--small", small, "--backend", "tensorrt", "--gpu", "rtx4090")
    assert done.returncode == 0, done.stderr
    for words in (
        "text_encoder_3",
        "4762.3",
        "keys, values",
        "GeForce RTX 4090, ms",
        "62.176",
        "no room: 4 of 1536x1536",
    ):
        assert words in done.stdout


def test_t5_may_be_left_out(hsexport, tiny_pair_dirs):
    large, small = tiny_pair_dirs
    done = hsexport("plan", "--large", large, "--small", small, "--without-t5", "--json")
    names = [network["name"] for network in json.loads(done.stdout)["networks"]]
    assert "text_encoder_2" in names
    assert "text_encoder_3" not in names


def test_a_schedule_without_a_region_has_no_region_step(hsexport, tiny_pair_dirs):
    large, small = tiny_pair_dirs
    done = hsexport("plan", "--large", large, "--small", small, "--schedule", "tstitch", "--steps", 4, "--json")
    plan = json.loads(done.stdout)
    assert plan["work"]["region"] is None
    assert plan["steps"] == 4
    assert plan["roofline"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpu", "voodoo2"], ["no figures are known", "rtx4090"]),
        (["--backend", "nonsense"], ["there is no backend 'nonsense'", "tensorrt"]),
        (["--precision", "bf16"], ["'ort-cpu' builds fp32, not bf16"]),
        (["--size", "24x17"], ["17 is not a multiple of 4"]),
        (["--schedule", "nothing"], ["no preset"]),
    ],
)
def test_mistakes_are_told_in_one_line(hsexport, tiny_pair_dirs, options, words):
    large, small = tiny_pair_dirs
    told_in_one_line(hsexport("plan", "--large", large, "--small", small, *options), *words)
