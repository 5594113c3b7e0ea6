"""What the README and its pages show works, and what it measured can be measured again."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hsexport.measure.blocks import BLOCK, body_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BUNDLE_IN_README = "build/demo.bundle"
COMMAND_HELP = "import sys; sys.argv[0] = 'hsexport'; from hsexport.cli.main import main; main()"


def blocks(language: str, documents=DOCUMENTS) -> list[str]:
    """The documents' fenced code of a language."""
    fenced = rf"^```{language}\n(.*?)^```"
    return [code for path in documents for code in re.findall(fenced, path.read_text(encoding="utf-8"), re.S | re.M)]


def shell_commands(documents=DOCUMENTS) -> list[list[str]]:
    """Every command of the shell blocks as words; comments and continuations taken care of."""
    lines = "\n".join(blocks("bash", documents)).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words for words in commands if words]


@cache
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
    assert [words[0] for words in shell_commands(DOCUMENTS[:1])[:2]] == ["./scripts/quickstart", "./scripts/test"]


@pytest.mark.parametrize("words", shell_commands(), ids=" ".join)
def test_shell_command_exists(words):
    check_command(words)


def test_our_own_commands_stand_where_they_are_checked():
    elsewhere = [line for text in blocks("text") for line in text.splitlines() if re.match(r"hsexport \w|\./", line)]
    assert not elsewhere, "a command of ours belongs into a bash block"


@pytest.mark.filterwarnings("ignore::hsruntime.text.tokenize.PromptCutWarning")  # the tiny pair reads ten tokens
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
def test_python_block_runs(block, tiny_bundle, tmp_path, monkeypatch):
    assert BUNDLE_IN_README in block
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace(BUNDLE_IN_README, str(tiny_bundle)), "README.md", "exec"), {})
    assert [file.suffix for file in tmp_path.iterdir()] == [".png"]


def number_blocks():
    """Every block of numbers of every document, as (document, match)."""
    return [(path, found) for path in DOCUMENTS for found in BLOCK.finditer(path.read_text(encoding="utf-8"))]


def test_every_block_of_numbers_is_found():
    opened = sum(path.read_text(encoding="utf-8").count("<!-- numbers:") for path in DOCUMENTS)
    assert len(number_blocks()) == opened >= 1


@pytest.mark.parametrize(("document", "found"), number_blocks(), ids=[found["file"] for _, found in number_blocks()])
def test_block_is_what_its_command_measured(document, found):
    check_command(shlex.split(found["command"]))
    told = found["body"] == body_of(document, found["command"], found["file"])
    assert told, f"{document.name} differs from {found['file']}: ./scripts/measure blocks --write"


def test_a_number_that_was_not_measured_is_found(tmp_path):
    measured = json.loads((ROOT / "docs" / "capi.json").read_text(encoding="utf-8"))
    measured["rows"][0]["ratio"] += 0.001
    (tmp_path / "capi.json").write_text(json.dumps(measured))
    command = "./scripts/measure capi BUNDLE"
    body = body_of(ROOT / "README.md", command, "docs/capi.json")
    assert body != body_of(tmp_path / "README.md", command, "capi.json")
