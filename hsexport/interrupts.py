"""Ctrl-C: the command stops and exits with 130, whichever library was at work."""

from __future__ import annotations

import signal

_asked = False


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C of ours.

    A class of its own, since Python dies of the signal, whatever exit code was asked for, once a plain
    KeyboardInterrupt has passed through `exec` of a string, which torch's modules are full of.
    """


def listen() -> None:
    """Makes Ctrl-C raise Interrupted; a process that ignores it (as in a shell's background) goes on ignoring it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raises again what a library swallowed. To be called where a command can stop."""
    if _asked:
        raise Interrupted


def _interrupt(*_: object) -> None:
    global _asked
    _asked = True
    raise Interrupted
