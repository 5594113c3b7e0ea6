"""The errors a caller can act on; every package of hsexport raises these or their children."""

from __future__ import annotations


def as_text(text: str) -> str:
    r"""Text out of files and from callers without its control characters, which terminals obey: written as \x1b."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def first_line(err: BaseException) -> str:
    """What a foreign error says, without the trace or the advice behind it; its type where it has no text."""
    return next(iter(str(err).strip().splitlines()), type(err).__name__)


class HSError(Exception):
    """A fault told in one line: subject, what was found, what was expected; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = as_text(message), as_text(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class BackendUnavailable(HSError):
    """The backend's own library is not installed or does not work on this machine."""


class EngineBuildError(HSError):
    """A builder refused a network; `log` is the builder's own."""

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint)
        self.log = log


class EngineLoadError(HSError):
    """An engine file cannot be used here: wrong device, wrong version, broken."""


class ShapeError(HSError, ValueError):
    """A shape lies outside an engine's profiles, or shapes contradict one another.

    A ValueError too, so that msgspec tells of a bad one in a document with the place it stands at.
    """


class DeviceError(HSError):
    """A device failed while it worked: the runtime's name of the error, its explanation, and where it happened."""


class DeviceMemoryError(DeviceError):
    """A device has no room: how much was needed, how much was free."""

    def __init__(self, message: str, hint: str = "", needed_bytes: int = 0) -> None:
        super().__init__(message, hint)
        self.needed_bytes = needed_bytes
