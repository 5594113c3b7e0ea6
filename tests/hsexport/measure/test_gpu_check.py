"""The whole check on ort-cpu, and on a simulated GPU what a CPU cannot show."""

import os
import signal
import subprocess
import sys
from io import StringIO
from math import isfinite
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from simulated_tensorrt import simulated_gpu

from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.measure.blocks import show, table
from hsexport.measure.gpu_check import target
from hsexport.measure.gpu_check.check import backend_states
from hsexport.measure.gpu_check.checks import CHECKS, whole_schedules
from hsexport.measure.gpu_check.results import Asked, BackendState, Problem, Report, Target, TargetResult, write_files
from hsexport.measure.gpu_check.target import check_target, checked_in_child, torch_times
from hsexport.progress import Reporter
from hsruntime.schedule.schedule import check_schedule

ROOT = Path(__file__).parents[3]
CPU = Target("ort-cpu", "fp32")


@pytest.fixture(scope="module")
def plan(tiny_pair_dirs, tiny_cache, tmp_path_factory):
    """The tiny pair, with everything that its bundle needs in the cache."""
    large, small = map(str, tiny_pair_dirs)
    out = tmp_path_factory.mktemp("gpu_check")
    build(BuildRequest(large, small, out / "before", tiny_cache), Reporter())  # the tiny bundle's large answers more
    return Asked(large, small, out, tiny_cache, max_batch=4, rounds=1, threads=1)


@pytest.fixture(scope="module")
def checked(plan):
    """The target's result from a process of its own, as the command gets it."""
    return checked_in_child(plan, CPU)


def numbers_in(value):
    """Every number in a tree of builtins."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, float) else []


def test_every_part_gives_finite_numbers(checked):
    assert checked.problems == []
    assert checked.build["made"] == 0  # the cache was full
    assert {row["engine"] for row in checked.parity} > {"large", "small", "vae_decoder", "text_encoder_3"}
    assert all(row["passed"] and row["max_relative"] < 1e-4 for row in checked.parity)
    assert [row["step"] for row in checked.steps] == ["full", "region", "small", "hybrid"]
    assert [row["name"] for row in checked.schedules] == list(whole_schedules(Asked("", "", Path(), Path())))
    numbers = numbers_in(msgspec.to_builtins(checked))
    assert len(numbers) > 60
    assert all(map(isfinite, numbers))


def test_graphs_change_nothing(checked):
    assert len(checked.equality) == 3
    assert all(
        row["latents_equal"] and row["pictures_equal"] and row["max_difference"] == 0 for row in checked.equality
    )


def test_ratios_are_measured_over_the_same_full_step(checked):
    full, region, small, hybrid = checked.steps
    assert full["device_over_full"] == full["flops_over_full"] == 1
    assert hybrid["device_over_full"] == pytest.approx(
        region["device_over_full"] + small["device_over_full"]
    )  # one round
    assert checked.gaps == []
    assert hybrid["flops_over_full"] == pytest.approx(region["flops_over_full"] + small["flops_over_full"])
    reference = checked.schedules[0]
    assert reference["speedup"] == reference["predicted"] == 1


def test_files_hold_every_table(checked, plan, tmp_path):
    report = Report(
        "2026-01-01", {"processor": "a|b"}, {"scale": "tiny"}, list(backend_states(["ort-cpu", "ort-cuda"]))
    )
    report.targets.append(checked)
    report.torch.append(next(torch_times(plan, "fp32", "cpu")))
    numbers, words = write_files(report, tmp_path)
    assert msgspec.json.decode(numbers.read_bytes(), type=Report) == report
    text = words.read_text()
    for title in (
        "Backends",
        "ort-cpu fp32: build",
        "ort-cpu fp32: parity",
        "ort-cpu fp32: with CUDA graphs and without",
        "ort-cpu fp32: one step",
        "ort-cpu fp32: share of the loop outside the engines",
        "ort-cpu fp32: whole schedules",
        "ort-cpu fp32: peak memory",
        "ort-cpu fp32: to the first picture, seconds",
        "Large alone in torch",
    ):
        assert f"**{title}**" in text
    assert "What did not work" not in text
    widths = {line.count("|") - line.count("\\|") for line in text.split("**Backends**")[1].splitlines()[2:5]}
    assert widths == {4}


def test_torch_runs_the_pipeline(plan):
    row = next(torch_times(msgspec.structs.replace(plan, steps=3), "fp32", "cpu"))
    assert (row.way, row.problem) == ("eager", "")
    assert 0 < row.seconds < 60


def test_whole_schedules_have_one_length_and_can_run():
    for steps in (3, 7, 28):
        schedules = whole_schedules(Asked("", "", Path(), Path(), steps=steps, ratio=0.2))
        assert {check_schedule(schedule).steps for schedule in schedules.values()} == {steps}
        assert schedules["hybridstitch"].region.ratio == 0.2


def test_a_backend_that_does_not_work_is_a_row_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "hsengines.ort.cuda", None)
    (state,) = backend_states(["ort-cuda"])
    assert "ort-cuda" in state.why_not
    assert "\n" not in state.why_not
    assert next(backend_states(["ort-cpu"])) == BackendState("ort-cpu", next(backend_states(["ort-cpu"])).version, "")


def test_a_terminal_shows_brackets_as_they_are():
    console = Console(width=200, file=StringIO(), force_terminal=True, color_system=None)
    show(table("a: {a}", [{"a": "pip install 'hsexport[tensorrt]'"}]), console)
    assert "'hsexport[tensorrt]'" in console.file.getvalue()


@pytest.mark.parametrize("scale", ["demo", "klein"])
def test_without_a_backend_that_works_the_command_says_so_and_fails(tmp_path, scale):
    done = subprocess.run(
        [str(ROOT / "scripts" / "gpu_check"), "--scale", scale, "--backend", "nonsense", "--out", str(tmp_path)],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("gpu_check: no backend works here")
    report = msgspec.json.decode((tmp_path / "gpu_check.json").read_bytes(), type=Report)
    assert [state.backend for state in report.backends] == ["nonsense"]
    assert report.plan["scale"] == scale
    assert "there is no backend 'nonsense'" in (tmp_path / "gpu_check.md").read_text()


def test_a_build_that_fails_is_told_in_one_line(plan):
    *_, result = check_target(msgspec.structs.replace(plan, large="/nowhere"), CPU)
    assert result.build is None
    ((problem),) = result.problems
    assert problem.part == "build"
    assert "/nowhere" in problem.message
    assert "\n" not in problem.message


def test_a_part_that_fails_does_not_keep_the_next_from_running(plan, monkeypatch):
    def broken(*_):
        raise RuntimeError("the driver is upset\nand says more")

    monkeypatch.setitem(CHECKS, "graphs", broken)
    told = [(result, msgspec.to_builtins(result)) for result in check_target(plan, CPU, ("graphs", "parity"))]
    result, saved = told[-1][0], [found for _, found in told]
    assert [(p.part, p.message) for p in result.problems] == [("graphs", "RuntimeError: the driver is upset")]
    assert result.parity
    assert [p["part"] for p in saved[0]["problems"]] == ["build"]


def crashing(plan, target):
    yield TargetResult(target.backend, target.precision, "cpu", problems=[Problem("steps", "the process ended here")])
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_process_that_crashes_leaves_what_it_had_found(plan, monkeypatch):
    monkeypatch.setattr(target, "check_target", crashing)
    result = checked_in_child(plan, CPU)
    assert result.device == "cpu"
    assert [(p.part, p.message) for p in result.problems] == [("steps", "the process ended with signal SIGSEGV")]


def test_on_a_simulated_gpu_graphs_are_captured_and_memory_is_counted(plan, tmp_path, monkeypatch):
    cuda, _ = simulated_gpu(monkeypatch, classic=True)
    monkeypatch.setattr("hsexport.measure.gpu_check.checks.LOOP_STEPS", 2)
    small = msgspec.structs.replace(plan, out=tmp_path)
    parts = ("parity", "graphs", "schedules", "steps")
    *_, result = check_target(small, Target("tensorrt", "fp32"), parts)
    assert result.problems == []
    assert result.build["target"] == "Simulated GPU (sm_89)"
    assert all(row["passed"] for row in result.parity)
    assert all(row["latents_equal"] and row["pictures_equal"] for row in result.equality)
    assert cuda.called("cudaGraphLaunch")
    assert result.device == "Simulated GPU"
    assert [row["step"] for row in result.gaps] == ["full", "small", "hybrid"]
    assert [row["step"] for row in result.steps] == ["full", "region", "small", "hybrid", "hybrid, two streams"]
    assert all(row["plain_ms"] > 0 for row in result.steps[:-1])
    assert cuda.called("cudaStreamWaitEvent")
    assert result.memory["used_mb"] > result.memory["tensors_mb"] > 0
    assert not cuda.executables


def test_a_gpu_that_tensorrt_rtx_does_not_list_is_noted_and_tried(plan, monkeypatch):
    simulated_gpu(monkeypatch, capability=(9, 0))
    notes = []
    options = target.options_for(Target("tensorrt-rtx", "fp16"), notes)
    assert options.architectures == ()
    assert "90" in notes[0]
    assert target.get_backend("tensorrt-rtx").why_not_here() == ""
