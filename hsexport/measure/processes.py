"""A call in a process of its own: memory is counted by process, and what crashes takes nothing else along."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from hsengines.errors import HSError

STATUS = Path("/proc/self/status")
EVERY_SECONDS = 0.02
RANDOM_PAIR = Path(__file__).parents[2] / "scripts" / "random_pair"


class ProcessEnded(HSError):
    """A process that was killed, as for want of memory, or that crashed."""


class Told(NamedTuple):
    """What a process told last: its answer, the most bytes it held, an error, and how it was ended, if it was."""

    answer: Any = None
    peak_bytes: int = 0
    error: BaseException | None = None
    ended: str = ""


def in_new_process(call: Callable[..., Any], *arguments: object) -> tuple[Any, int]:
    """What the call answers, and the most bytes that its process held.

    Raises whatever the call raises, and ProcessEnded where the process was killed.
    """
    told = told_by_process(call, *arguments)
    if told.error:
        raise told.error
    if told.ended:
        raise ProcessEnded(f"the process ended with {told.ended}", "is there memory enough?")
    return told.answer, told.peak_bytes


def told_by_process(call: Callable[..., Any], *arguments: object) -> Told:
    """Runs a call, or a generator whose every answer is sent: what came before a crash is not lost."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, call, arguments))
    process.start()
    sender.close()
    told = Told()
    try:
        while True:
            told = receiver.recv()
    except EOFError:
        process.join()
    code = process.exitcode or 0
    return told._replace(
        ended=f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}" if code else ""
    )


def _run(sender: Connection, call: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    told = Told()
    try:
        answers = call(*arguments)
        for answer in answers if isinstance(answers, Iterator) else [answers]:
            told = Told(answer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            sender.send(told)
    except Exception as err:
        sender.send(told._replace(error=err))


@contextmanager
def private_peak() -> Iterator[list[int]]:
    """Fills a list of one number: the most bytes that this process held and that no file stands behind.

    Pages of a mapped file count as resident, too, but the system may drop them when memory is short; these it may not.
    """
    peak, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(EVERY_SECONDS):
            private = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if "RssAnon" in line)
            peak[0] = max(peak[0], int(private.split()[1]) * 1024)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        stop.set()
        sampler.join()


def random_pair(out: Path, *options: str) -> Path:
    """`out`, where scripts/random_pair wrote large and small. Raises HSError where it cannot, or is not there."""
    if not RANDOM_PAIR.exists():
        raise HSError("an installed package makes no random pairs", "run it in a checkout of the repository")
    command = [str(RANDOM_PAIR), "--out", str(out), *options]
    done = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, check=False)
    if done.returncode:
        raise HSError(f"scripts/random_pair ended with {done.returncode}", "what it said stands above")
    return out
