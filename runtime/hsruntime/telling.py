"""Warnings, told at the line of the code that called hsruntime, or kept for whoever answers somebody else."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_kept: ContextVar[list[str] | None] = ContextVar("_kept", default=None)


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """What is warned of inside, in this thread, is put into the list instead.

    Servers answer several callers at the same time, and `warnings.catch_warnings` changes the whole process.
    """
    told: list[str] = []
    token = _kept.set(told)
    try:
        yield told
    finally:
        _kept.reset(token)


def warn_caller(told: str, kind: type[Warning]) -> None:
    """Warns there, however deep this is called, unless `warnings_kept` is around."""
    kept = _kept.get()
    if kept is not None:
        kept.append(told)
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("hsruntime."):
        frame, level = frame.f_back, level + 1
    warnings.warn(told, kind, stacklevel=level)
