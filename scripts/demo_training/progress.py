"""Progress of the training: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 50


def progress_bar() -> Progress:
    """The bar of all stages: steps, loss, time gone, time left."""
    text = TextColumn("{task.description:>6} {task.completed}/{task.total} {task.fields[note]}")
    return Progress(text, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def tell_step(progress: Progress, task: TaskID, note: str) -> None:
    """Counts a step."""
    progress.update(task, advance=1, note=note)
    done = progress.tasks[task]
    if not progress.console.is_terminal and int(done.completed) % LINE_EVERY == 0:
        progress.console.print(f"{done.description} {done.completed:.0f}/{done.total:.0f} {note}")
