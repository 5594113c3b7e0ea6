import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from interruptible import listen_to_ctrl_c
from one_line import told_in_one_line

QUICK = ["--schedule", "large:2,hybrid:1,small:1", "--threads", "1"]


WITHOUT_TORCH = """
import sys
from hsexport.cli.main import main
sys.argv = ["hsexport", *sys.argv[1:]]
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
assert not {"torch", "diffusers", "transformers", "onnx"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("abc\nfox\n")
    return file


def test_bench_writes_a_report_and_prints_its_summary(hsexport, tiny_bundle, prompt_file, tmp_path):
    out = tmp_path / "report"
    done = hsexport("bench", tiny_bundle, *QUICK, "--prompt-file", prompt_file, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    summary, whole = json.loads(done.stdout), json.loads((out / "report.json").read_text())
    assert summary["scores"] == whole["scores"] and not summary["times"] and len(whole["times"]) == 2
    assert whole["command"].startswith("hsexport bench ") and whole["schema_version"] == 1
    assert (out / "report.html").exists() and len(list((out / "work").iterdir())) == 2
    again = hsexport("bench", tiny_bundle, *QUICK, "--prompt-file", prompt_file, "--out", out)
    assert again.returncode == 0 and "speedup" in again.stdout and "report.html" in again.stdout
    assert json.loads((out / "report.json").read_text())["times"] == whole["times"]


def test_bench_works_without_torch(tiny_bundle, prompt_file, tmp_path):
    arguments = ["bench", tiny_bundle, *QUICK, "--prompt-file", prompt_file, "--prompts", "1", "--out", tmp_path]
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--schedule", "hybridstich"], ["no preset 'hybridstich'"]),
        (["--prompts", "0"], ["0 prompts"]),
        (["--prompt-file", "nothing.txt"], ["nothing.txt"]),
        (["--out", "file/report"], ["file", "not a directory"]),
        (["--out", "/proc/report"], ["/proc", "--out"]),
        (["--judge", "nowhere"], ["nowhere", "judge"]),
        (["--readme", "README.md"], ["README.md", "no block"]),
        (["--against-diffusers", "nowhere"], ["nowhere"]),
        (["--device", "NPU"], ["no device 'NPU' here, only CPU"]),
    ],
)
def test_bad_requests_are_told_in_one_line(hsexport, tiny_bundle, prompt_file, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "README.md").write_text("")
    done = hsexport("bench", tiny_bundle, "--prompt-file", prompt_file, *QUICK, *arguments, cwd=tmp_path)
    told_in_one_line(done, *words)
    assert not list(tmp_path.rglob("report*"))


def test_a_foreign_bundle_asks_for_prompts(hsexport, tiny_bundle, tmp_path):
    told_in_one_line(hsexport("bench", tiny_bundle, "--out", tmp_path / "b"), "--prompt-file")


def test_ctrl_c_keeps_whole_rounds_and_says_one_line(tiny_bundle, tmp_path):
    prompts = tmp_path / "many.txt"
    prompts.write_text("\n".join(f"p{i}" for i in range(3000)))
    command = [sys.executable, "-m", "hsexport.cli.main", "bench", str(tiny_bundle), *QUICK]
    command += ["--prompt-file", str(prompts), "--prompts", "3000", "--out", str(tmp_path / "out")]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=dict(os.environ), preexec_fn=listen_to_ctrl_c)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").rglob("*.zip"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert told.strip().splitlines()[-1].startswith("hsexport: stopped; prompts that are done are kept")
    kept = {file.suffix for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert kept == {".zip"}


def test_bench_sets_bundles_side_by_side(hsexport, tiny_bundle, prompt_file, tmp_path):
    twin, out = shutil.copytree(tiny_bundle, tmp_path / "twin"), tmp_path / "report"
    asked = ["--against", twin, "--schedule", "large:2", "--threads", "1", "--prompt-file", prompt_file, "--out", out]
    done = hsexport("bench", tiny_bundle, *asked)
    assert done.returncode == 0, done.stderr
    assert "times as fast as" in done.stdout and "report.html" in done.stdout and "draw: 2 to do" in done.stderr
    again = hsexport("bench", tiny_bundle, *asked, "--json")
    summary, whole = json.loads(again.stdout), json.loads((out / "report.json").read_text())
    assert summary["rows"] == whole["rows"] and not summary["times"] and list(whole["bundles"]) == ["bundle", "twin"]


@pytest.mark.parametrize("option", ["--judge", "--readme", "--against-diffusers"])
def test_options_for_schedules_alone_are_wrong_usage_beside_against(hsexport, tiny_bundle, tmp_path, option):
    done = hsexport("bench", tiny_bundle, "--against", tiny_bundle, option, "here", cwd=tmp_path)
    assert done.returncode == 2 and f"--against goes without {option}" in done.stderr


def test_what_is_no_bundle_is_told_in_one_line(hsexport, tiny_bundle, prompt_file, tmp_path):
    asked = ["--against", tmp_path / "nothing", "--prompt-file", prompt_file, "--out", tmp_path / "out"]
    told_in_one_line(hsexport("bench", tiny_bundle, *asked), "nothing")
