"""Warnings, told at the line of the code that called hsruntime."""

from __future__ import annotations

import sys
import warnings


def warn_caller(told: str, kind: type[Warning]) -> None:
    """Warns there, however deep this is called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("hsruntime."):
        frame, level = frame.f_back, level + 1
    warnings.warn(told, kind, stacklevel=level)
