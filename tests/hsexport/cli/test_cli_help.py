"""What `hsexport` tells of itself: help, usage, and what a shell may complete."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from hsexport.cli.main import COMMANDS, app

DOCS = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
OF_PLAN_ALONE, OF_BUILD_ALONE = {"gpu"}, set()
TOLD_APART = {"out", "as_json"}
"""Options of both `plan` and `build` that need not be the same: where a bundle goes, and what --json prints."""
LIGHT = "import sys; from hsexport.cli.main import app; sys.argv = ['hsexport', '--help']; app(standalone_mode=False)"
HEAVY = {"numpy", "msgspec", "rich", "torch", "onnxruntime", "hsruntime"}


def command_of(name):
    return getattr(import_module(f"hsexport.cli.{name}"), name)


@pytest.mark.parametrize("name", COMMANDS)
def test_line_in_the_list_is_the_first_of_the_commands_own_help(name):
    assert command_of(name).help.partition("\n\n")[0].replace("\n", " ") == COMMANDS[name]


def test_help_is_told_without_importing_a_command():
    code = f"{LIGHT}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_bare_command_prints_its_help_and_is_wrong_usage(hsexport):
    done = hsexport()
    assert done.returncode == 2 and not done.stderr
    assert done.stdout == hsexport("--help").stdout and done.stdout.startswith("Usage: hsexport [OPTIONS] COMMAND")


@pytest.mark.parametrize("asked", [["ruin"], ["run"], ["run", "bundle", "--prompt", "x", "--colour"], ["--colour"]])
def test_wrong_usage_exits_with_2_and_says_where_help_is(hsexport, asked):
    done = hsexport(*asked)
    assert done.returncode == 2 and "--help' for help" in done.stderr and "\nError: " in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_and_explains_every_parameter(hsexport, name):
    done = hsexport(name, "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 80
    assert all(parameter.help for parameter in command_of(name).params)


def test_plan_takes_all_that_build_takes():
    ours, theirs = ({p.name: p.to_info_dict() for p in command_of(name).params} for name in ("plan", "build"))
    assert ours.keys() - theirs.keys() == OF_PLAN_ALONE
    assert theirs.keys() - ours.keys() == OF_BUILD_ALONE
    assert [name for name in theirs if ours[name] != theirs[name] and name not in TOLD_APART] == []


@pytest.mark.parametrize(
    ("words", "begun", "found"),
    [
        ([], "b", ["build", "bench", "batch"]),
        (["build", "--backend"], "tensorrt", ["tensorrt", "tensorrt-rtx"]),
        (["plan", "--gpu"], "rtx4", ["rtx4090"]),
        (["run", "--schedule"], "hy", ["hybridstitch"]),
        (["build", "--precision"], "f", ["fp32", "fp16"]),
        (["serve"], "--vae", ["--vae-tile"]),
    ],
)
def test_shells_complete_commands_options_and_values(words, begun, found):
    completions = ShellComplete(app, {}, "hsexport", "_HSEXPORT_COMPLETE").get_completions(words, begun)
    assert [each.value for each in completions] == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_switched_on_as_the_docs_say(hsexport, shell):
    assert f"_HSEXPORT_COMPLETE={shell}_source hsexport" in DOCS
    done = hsexport(env={"_HSEXPORT_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0 and "_hsexport_completion" in done.stdout


def test_docs_have_every_command_in_a_line():
    assert re.findall(r"^\| `(\w+)` \| (.+?) \|.*\|$", DOCS, re.M) == list(COMMANDS.items())


def test_option_of_a_section_stands_there():
    shown = command_of("serve").get_help(click.Context(command_of("serve"), info_name="serve"))
    options, _, limits = shown.partition("\nLimits:\n")
    assert "--port" in options and "--queue" not in options and "--queue" in limits
