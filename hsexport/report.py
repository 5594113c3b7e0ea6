"""Progress on stderr: a live bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from hsengines.errors import as_text
from hsexport.interrupts import check
from hsexport.progress import Reporter

PACE_AFTER_SECONDS = 2
LINE_EVERY_SECONDS = 10
LOG_WIDTH = 180


class PlainConsole(Console):
    """A console to which every string is text: no markup, no emoji, no control characters."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """As rich has it, without what rich would read into it."""
        plain = "\n".join(map(as_text, text.split("\n")))
        return super().render_str(plain, **{**settings, "markup": False, "emoji": False, "highlight": False})


def tables_console() -> Console:
    """Stdout, for tables: as wide as the terminal or, in a log, as wide as they need."""
    return PlainConsole(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


def _shown(item: str, note: str) -> str:
    """An item beside its bar, in the markup that a bar's columns are written in."""
    return f"{escape(as_text(item))}  [dim]{escape(as_text(note))}"


class BuildReport(Reporter):
    """A Reporter for people; a context manager, since a live display must be put away."""

    def __init__(self, on_stop: str, clock: ProgressColumn | None = None) -> None:
        """`on_stop`: what an interrupted user should know. `clock`: time elapsed, if nothing else is wanted."""
        self._on_stop = on_stop
        self._console = PlainConsole(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._progress = Progress(
            TextColumn("[bold]{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            clock or TimeElapsedColumn(),
            TextColumn("{task.fields[item]}"),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._stage, self._begun, self._last_line = "", 0.0, perf_counter()
        self._phase, self._phase_begun, self._phase_done = ("", ""), 0.0, 0

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_stage()
        if self._live:
            self._progress.stop()
        if kind and issubclass(kind, KeyboardInterrupt):  # exit code 130 follows without a word
            self._console.print(f"hsexport: stopped; {self._on_stop}", soft_wrap=True)

    def stage(self, name: str, items: int) -> None:
        """A new bar, or a heading."""
        self._finish_stage()
        self._stage = name
        if self._live:
            self._task = self._progress.add_task(name, total=items, item="")
        else:
            self._console.print(f"{name}: {items} to do")

    def begin(self, item: str, note: str = "") -> None:
        """Shows what is being worked on, and why."""
        check()
        self._begun = perf_counter()
        if self._live or note:
            self._tell(item, note)

    def advance(self, item: str, phase: str, done: int, total: int) -> None:
        """Shows how far a phase is, its rate and the time left; a log hears of a long one now and then."""
        check()
        told = f"{done:,} of {total:,} {phase[:60]}{self._pace_of(item, phase, done, total)}"
        if self._live or perf_counter() - self._last_line > LINE_EVERY_SECONDS:
            self._last_line = perf_counter()
            self._tell(item, told)

    def _pace_of(self, item: str, phase: str, done: int, total: int) -> str:
        """Once a phase has gone on for a while, how fast it goes."""
        now = perf_counter()
        if self._phase != (item, phase):
            self._phase, self._phase_begun, self._phase_done = (item, phase), now, done
        seconds = now - self._phase_begun
        if seconds < PACE_AFTER_SECONDS or done <= self._phase_done:
            return ""
        rate = (done - self._phase_done) / seconds
        return f", {rate:.{0 if rate >= 10 else 1}f} a second, {(total - done) / rate:.0f} s left"

    def warn(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"hsexport: warning: {text}", soft_wrap=True)

    def wait(self, item: str) -> None:
        """Says that another build is at it."""
        self._tell(item, "waiting for another build of it")

    def end(self, item: str, note: str = "") -> None:
        """Counts an item."""
        if self._task is not None:
            self._progress.update(self._task, advance=1, item=_shown(item, note))
        elif self._stage != "pack":
            seconds = perf_counter() - self._begun
            self._console.print(f"{self._stage}: {item} done in {seconds:.1f} s {note}".rstrip())

    def _tell(self, item: str, said: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, item=_shown(item, said))
        else:
            self._console.print(f"{self._stage}: {item}: {said}", soft_wrap=True)

    def _finish_stage(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, item="")
        self._task = None
