"""How long work tells of its progress; the command line decides how it looks. Every room may use it."""

from __future__ import annotations

from collections.abc import Callable

OnBytes = Callable[[int, int], None]
"""Hears how many bytes of weights are done, and how many there are."""
MB = 1_000_000


class Reporter:
    """Hears what a long piece of work is doing; this one says nothing of it."""

    def stage(self, name: str, items: int) -> None:
        """A stage of `items` items begins; the one before is over."""

    def begin(self, item: str, note: str = "") -> None:
        """Work on an item begins; `note` says why it is needed."""

    def advance(self, item: str, phase: str, done: int, total: int) -> None:
        """`done` of `total` steps of a phase of the item are over."""

    def warn(self, text: str) -> None:
        """Something may go wrong later on; the work goes on."""

    def wait(self, item: str) -> None:
        """Another process is making the item; this one waits for it."""

    def end(self, item: str, note: str = "") -> None:
        """The item is done; `note` says with what result."""


def bytes_told(reporter: Reporter, item: str, doing: str) -> OnBytes:
    """What tells a reporter of an item's weights, in megabytes: "MB read"."""
    return lambda done, total: reporter.advance(item, f"MB {doing}", done // MB, total // MB)
