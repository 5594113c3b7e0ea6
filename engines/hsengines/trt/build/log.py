"""What TensorRT says while it works: one logger a library, listened to in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

KINDS = ("INTERNAL", "ERROR", "WARNING", "INFO", "VERBOSE")
"""TensorRT's severities in its own order."""

_WORST = 2  # what is below is an error

_loggers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@dataclass
class Log:
    """Messages in the order they came: severity, an index into KINDS, and text."""

    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """The errors among them that say something of their own."""
        return [text for severity, text in self.lines if severity < _WORST and not _is_noise(text)]

    @property
    def first_error(self) -> str:
        """In TensorRT's words."""
        return self.errors[0] if self.errors else "it gives no reason"

    def text(self) -> str:
        """All of it, a line a message."""
        return "".join(f"[{KINDS[severity]}] {text}\n" for severity, text in self.lines)


def logger_of(library: Any) -> Any:
    """The logger that every builder, parser and runtime of `library` gets.

    TensorRT keeps the first logger it is given for the whole process and warns of any other, so there is only one.
    Its `recent` holds the last errors.
    """
    if library in _loggers:
        return _loggers[library]

    class Logger(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.listeners: list[Log] = []
            self.recent: deque[str] = deque(maxlen=16)

        def log(self, severity: Any, text: str) -> None:
            """Called by TensorRT from its own threads."""
            for listener in tuple(self.listeners):
                listener.lines.append((int(severity), text))
            if int(severity) < _WORST and not _is_noise(text):
                self.recent.append(text)

    return _loggers.setdefault(library, Logger())


@contextmanager
def listening(library: Any) -> Iterator[Log]:
    """Collects what `library` says meanwhile, in whatever thread."""
    logger, heard = logger_of(library), Log()
    logger.listeners.append(heard)
    try:
        yield heard
    finally:
        # By identity: two logs that heard the same are equal.
        logger.listeners[:] = [log for log in logger.listeners if log is not heard]


def last_error(library: Any) -> str:
    """The latest error that `library` told of, or empty."""
    recent = logger_of(library).recent
    return recent[-1] if recent else ""


def _is_noise(text: str) -> bool:
    """Whether an error merely follows another, or comes from looking for a GPU on a machine without."""
    return "catchCudaError" in text or text.startswith(("ModelImporter.cpp", "WARNING The logger passed"))
