"""Starting jobs in processes of their own, and what is left of one that crashed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from hsexport.measure.gpu_check.child import Job, Outcome, job_bytes
from hsexport.measure.gpu_check.results import Problem, TargetResult, TorchTime


def checked_in_child(job: Job, work: Path) -> TargetResult:
    """The target's result, with the process's end among its problems if that was not its own."""
    assert job.target
    outcome, ended = _run(job, work / f"{job.target.backend}-{job.target.precision}.json")
    result = outcome.target or TargetResult(job.target.backend, job.target.precision)
    if ended:
        at = result.problems.pop() if result.problems else Problem("start", "")
        result.problems.append(Problem(at.part, f"the process ended with {ended}"))
    return result


def torch_in_child(job: Job, work: Path) -> list[TorchTime]:
    """Torch's times; a row that tells of the process's end if that was not its own."""
    assert job.torch
    precision, device = job.torch
    outcome, ended = _run(job, work / f"torch-{precision}.json")
    if ended:
        outcome.torch.append(TorchTime("torch", precision, device, "", None, f"the process ended with {ended}"))
    return outcome.torch


def _run(job: Job, out: Path) -> tuple[Outcome, str]:
    """What the job found, and how its process ended in words; empty for a proper end."""
    asked = out.with_suffix(".job")
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.write_bytes(job_bytes(job))
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "hsexport.measure.gpu_check.child", str(asked), str(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    found = msgspec.json.decode(out.read_bytes(), type=Outcome) if out.is_file() else Outcome()
    return found, _in_words(done.returncode)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}" if code else ""
    return f"signal {signal.Signals(-code).name}"
