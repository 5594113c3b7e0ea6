"""One job in a process of its own: `python -m hsexport.measure.gpu_check.child JOB.json OUT.json`.

A GPU that has failed once fails its whole process, a library may crash it, and memory is measured by process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from hsengines.files import replace_file
from hsexport.build.quiet import hush_libraries
from hsexport.measure.gpu_check.plan import Plan, Target
from hsexport.measure.gpu_check.results import TargetResult, TorchTime


class Job(Struct):
    """`target` is to be checked, or torch to be timed in `torch`'s precision and on its device."""

    plan: Plan
    target: Target | None = None
    torch: tuple[str, str] | None = None


class Outcome(Struct):
    """As far as the job came."""

    target: TargetResult | None = None
    torch: list[TorchTime] = msgspec.field(default_factory=list)


def job_bytes(job: Job) -> bytes:
    """The job as JSON."""
    return msgspec.json.encode(job, enc_hook=str)


def job_from_bytes(raw: bytes) -> Job:
    """The job that `job_bytes` wrote."""
    return msgspec.json.decode(raw, type=Job, dec_hook=lambda kind, value: kind(value))


def run_job(job: Job, out: Path) -> None:
    """Does the job and writes what has been found after every part of it."""

    def write(outcome: Outcome) -> None:
        replace_file(out, msgspec.json.encode(outcome))

    with hush_libraries():
        if job.target:
            from hsexport.measure.gpu_check.target import check_target

            check_target(job.plan, job.target, lambda result: write(Outcome(target=result)))
        if job.torch:
            from hsexport.measure.gpu_check.torch_side import torch_times

            found: list[TorchTime] = []
            for row in torch_times(job.plan, *job.torch):
                found.append(row)
                write(Outcome(torch=found))


if __name__ == "__main__":
    run_job(job_from_bytes(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
