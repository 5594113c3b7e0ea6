"""Ctrl-C against what libraries do to it."""

import subprocess
import sys

import pytest
from interruptible import listen_to_ctrl_c

SWALLOWED = """
import os, signal
from hsexport import interrupts
interrupts.listen()
try:
    os.kill(os.getpid(), signal.SIGINT)
    {wait}
except BaseException:
    pass
interrupts.check()
"""

EXECUTED = """
import os, signal, sys
from hsexport import interrupts
interrupts.listen()
try:
    exec("os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**6): pass")
except KeyboardInterrupt:
    sys.exit(130)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=listen_to_ctrl_c)


def test_an_interrupt_that_a_library_swallowed_is_raised_again():
    done = run(SWALLOWED.format(wait="[None for _ in range(10**6)]"))
    assert done.stderr.endswith("hsexport.interrupts.Interrupted\n")


def test_an_interrupt_inside_exec_leaves_the_exit_code_to_the_command():
    assert run(EXECUTED).returncode == 130


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it():
    code = "import signal; signal.signal(2, signal.SIG_IGN)\nfrom hsexport import interrupts; interrupts.listen()\n"
    assert run(code + "import os; os.kill(os.getpid(), 2); print('on')").stdout == "on\n"


@pytest.mark.parametrize("item", ["begin", "advance"])
def test_reports_are_where_commands_stop(monkeypatch, item):
    from hsexport import interrupts
    from hsexport.report import BuildReport

    monkeypatch.setattr(interrupts, "_asked", True)
    with pytest.raises(KeyboardInterrupt), BuildReport("kept") as report:
        report.begin("large") if item == "begin" else report.advance("large", "bytes", 1, 2)
