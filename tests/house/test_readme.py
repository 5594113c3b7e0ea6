"""What the README shows works, and what it measured can be measured again."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BUNDLE_IN_README = "build/demo.bundle"
NUMBERS = re.compile(r"<!-- numbers: (?P<command>.+?) -> (?P<file>\S+) -->\n(?P<body>.*?)<!-- end of numbers -->", re.S)
COMMAND_HELP = "import sys; sys.argv[0] = 'hsexport'; from hsexport.cli.main import main; main()"


def blocks(language: str) -> list[str]:
    """The README's fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def shell_commands() -> list[list[str]]:
    """Every command of the shell blocks as words; comments and continuations taken care of."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words for words in commands if words]


def help_of(command: str) -> str:
    """`hsexport COMMAND --help`, wide enough to cut nothing."""
    environment = {**os.environ, "COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"}
    arguments = [sys.executable, "-c", COMMAND_HELP, command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, f"there is no command 'hsexport {command}': {done.stderr}"
    return done.stdout


def check_command(words: list[str]) -> None:
    """Fails for a script that is not there or not executable, and for an hsexport command or option that is not."""
    if words[0] == "hsexport":
        known = help_of(words[1])
        unknown = [w for w in words[2:] if w.startswith("--") and not re.search(rf"{re.escape(w)}\b", known)]
        assert not unknown, f"hsexport {words[1]} has no {unknown}"
    elif words[0] in ("pip", "cd", "git"):
        return
    else:
        script = ROOT / words[0]
        assert script.is_file(), f"{words[0]} does not exist"
        assert os.access(script, os.X_OK), f"{words[0]} is not executable"


def test_the_two_commands_come_first():
    assert [words[0] for words in shell_commands()[:2]] == ["./scripts/quickstart", "./scripts/test"]


@pytest.mark.parametrize("words", shell_commands(), ids=" ".join)
def test_shell_command_exists(words):
    check_command(words)


@pytest.mark.filterwarnings("ignore::hsruntime.text.tokenize.PromptCutWarning")  # the tiny pair reads ten tokens
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
def test_python_block_runs(block, tiny_bundle, tmp_path, monkeypatch):
    assert BUNDLE_IN_README in block
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace(BUNDLE_IN_README, str(tiny_bundle)), "README.md", "exec"), {})
    assert [file.suffix for file in tmp_path.iterdir()] == [".png"]


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    missing = [link for link in links if not (ROOT / link).exists()]
    if "docs/contact_sheet.png" in missing:
        assert missing == ["docs/contact_sheet.png"]
        pytest.skip("docs/contact_sheet.png has not been drawn yet")
    assert not missing


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a JSON document; numbers inside strings (a schedule, a date) count too."""
    if isinstance(value, dict):
        yield from (n for inner in value.values() for n in numbers_in(inner))
    elif isinstance(value, list):
        yield from (n for inner in value for n in numbers_in(inner))
    elif isinstance(value, str):
        yield from (float(n) for n in re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, int | float):
        yield float(value)


def unmeasured_numbers(body: str, measured: list[float]) -> list[str]:
    """Numbers of the text that no measured one rounds to at as many decimals."""
    shown = re.findall(r"\d+(?:\.\d+)?", body)
    places = {text: len(text.partition(".")[2]) for text in shown}
    return [text for text in shown if not any(f"{n:.{places[text]}f}" == text for n in measured)]


def test_unmeasured_number_is_found():
    measured = list(numbers_in({"speedup": 1.4865, "schedule": "large:8,ratio=0.3"}))
    assert unmeasured_numbers("| stitched, 8 steps | 1.49 | 1.5 | 0.3 |", measured) == []
    assert unmeasured_numbers("| stitched | 1.48 |", measured) == ["1.48"]


def number_blocks() -> list[re.Match[str]]:
    return list(NUMBERS.finditer(README))


def test_readme_has_measured_numbers():
    assert len(number_blocks()) == README.count("<!-- numbers:") >= 1


@pytest.mark.parametrize("found", number_blocks(), ids=lambda found: found["file"])
def test_number_is_what_its_command_measured(found):
    check_command(shlex.split(found["command"]))
    if "TODO-NUMBERS" in found["body"]:
        pytest.skip(f"{found['file']} has not been measured yet")
    measured = list(numbers_in(json.loads((ROOT / found["file"]).read_text(encoding="utf-8"))))
    assert not unmeasured_numbers(found["body"], measured)
