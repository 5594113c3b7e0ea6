"""A call in a process of its own: memory is counted by process, and what crashes takes nothing else along."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
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


class Reply(NamedTuple):
    """What a process answers to one question: the answer or an error, and what it warned of."""

    answer: Any = None
    error: BaseException | None = None
    warned: tuple[Warning, ...] = ()


@contextmanager
def answering(
    label: str, opened: Callable[..., AbstractContextManager[Callable[..., Any]]], *arguments: object
) -> Iterator[Callable[..., Any]]:
    """A function that `opened(*arguments)` gives in a process of its own, which is there until the block ends.

    What is raised or warned of there, on opening or on a call, is raised or warned of here; ProcessEnded, with the
    label, where the process is gone.
    """
    context = multiprocessing.get_context("spawn")
    asking, asked = context.Pipe()
    process = context.Process(target=_answer, args=(asked, opened, arguments), daemon=True)
    with _without_ctrl_c():
        process.start()
    asked.close()

    def reply(*question: object) -> Any:
        try:
            if question:
                asking.send(question)
            found: Reply = asking.recv()
        except (EOFError, OSError) as err:
            raise ProcessEnded(f"the process that opened {label} has ended", "is there memory enough?") from err
        for warning in found.warned:
            warnings.warn(warning, stacklevel=3)
        if found.error:
            raise found.error
        return found.answer

    try:
        reply()  # that it is open
        yield reply
    finally:
        process.kill()
        process.join()
        asking.close()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that start meanwhile never hear of it: a terminal's is for whoever asks, who ends them."""
    resource_tracker.ensure_running()  # its own start, else a part of the first process's, would undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(
    asked: Connection, opened: Callable[..., AbstractContextManager[Callable[..., Any]]], arguments: tuple[object, ...]
) -> None:
    try:
        with opened(*arguments) as function:
            asked.send(Reply())
            while True:
                asked.send(_reply(function, *asked.recv()))
    except EOFError:  # nobody asks any more
        pass
    except Exception as err:
        asked.send(Reply(error=err))


def _reply(function: Callable[..., Any], *question: object) -> Reply:
    with warnings.catch_warnings(record=True) as caught:
        try:
            answer, error = function(*question), None
        except Exception as err:
            answer, error = None, err
    return Reply(answer, error, tuple(w.message for w in caught if isinstance(w.message, Warning)))


def private_bytes() -> int:
    """That this process holds now and that no file stands behind.

    Pages of a mapped file count as resident, too, but the system may drop them when memory is short; these it may not.
    """
    private = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if "RssAnon" in line)
    return int(private.split()[1]) * 1024


@contextmanager
def private_peak() -> Iterator[list[int]]:
    """Fills a list of one number: the most private bytes that this process held."""
    peak, stop = [private_bytes()], threading.Event()

    def sample() -> None:
        while not stop.wait(EVERY_SECONDS):
            peak[0] = max(peak[0], private_bytes())

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
