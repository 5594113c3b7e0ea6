import json
import shutil

import pytest
from one_line import told_in_one_line

from hsruntime.bundle.reader import open_bundle
from hsruntime.schedule.presets import resolve_schedule


@pytest.fixture
def own_bundle(tiny_bundle, tmp_path):
    """A copy that may be written, and prompts beside it."""
    (tmp_path / "prompts.txt").write_text("abc\nxyz\n\nfox\n")
    return shutil.copytree(tiny_bundle, tmp_path / "own.bundle")


def test_tune_tells_what_it_measured_and_writes_the_winner(hsexport, own_bundle, tmp_path):
    done = hsexport(
        "tune", own_bundle, "--min-speedup", "1.5", "--reference", "same-steps", "--prompt-file",
        tmp_path / "prompts.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "winner" in done.stdout and "too slow by counting" in done.stdout
    told = next(line for line in done.stdout.splitlines() if " times as fast as " in line).partition(" is ")[0]
    default = open_bundle(own_bundle).manifest.facts.defaults
    assert str(resolve_schedule(told, None, default.steps)) == default.schedule  # which may be spelled at more length
    assert "now the default" in done.stdout and "hybridstitch, 28 steps" in done.stdout
    assert (tmp_path / "own.bundle.tune" / "ledger.jsonl").is_file()


def test_json_holds_every_candidate_and_dry_run_writes_nothing(hsexport, own_bundle, tmp_path):
    before = (own_bundle / "manifest.json").read_bytes()
    done = hsexport(
        "tune", own_bundle, "--max-distance", "20", "--reference", "same-steps", "--prompt-file",
        tmp_path / "prompts.txt", "--work", tmp_path / "kept", "--dry-run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["written"] is False and (own_bundle / "manifest.json").read_bytes() == before
    assert told["measured"][0]["speedup"] > 0 and told["measured"][0]["value"] >= 20
    assert {row["ground"] for row in told["not_measured"]} <= {"refused", "too slow", "dominated", "left out"}
    assert told["work"] == str(tmp_path / "kept") and told["pictures_measured"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no constraint", "--min-speedup 1.8"]),
        (["--min-speedup", "1.8", "--max-distance", "30"], ["--min-speedup and --max-distance are given"]),
        (["--min-speedup", "1"], ["no speedup"]),
        (["--max-distance", "0"], ["no psnr", "between 0 and the 58.9 dB"]),
        (["--max-distance", "30", "--metric", "flip"], ["no flip", "between 0 and 1"]),
        (["--min-speedup", "1.8"], ["no prompts of its own", "--prompt-file"]),
        (["--min-speedup", "1.8", "--prompt-file", "nowhere.txt"], ["No such file", "nowhere.txt"]),
        (["--min-speedup", "1.8", "--prompt-file", "empty.txt"], ["empty.txt holds no prompt"]),
        (["--min-speedup", "500", "--prompt-file", "prompts.txt"], ["500 is out of reach", "small:1", "ask for less"]),
        (["--min-speedup", "2", "--prompt-file", "prompts.txt", "--device", "NPU"], ["no device 'NPU' here, only CPU"]),
    ],
)
def test_bad_requests_are_told_in_one_line(hsexport, own_bundle, tmp_path, arguments, words):
    (tmp_path / "empty.txt").write_text("\n")
    before = (own_bundle / "manifest.json").read_bytes()
    told_in_one_line(hsexport("tune", own_bundle, *arguments, cwd=tmp_path), *words)
    assert (own_bundle / "manifest.json").read_bytes() == before


def test_a_path_that_is_no_bundle_is_told(hsexport, tmp_path):
    told_in_one_line(hsexport("tune", tmp_path / "none", "--min-speedup", "1.8"), "does not exist", "hsexport build")
