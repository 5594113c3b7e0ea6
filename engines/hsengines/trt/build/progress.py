"""TensorRT's progress told, and a way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hsengines.build import BuildProgress

NOTICE_SECONDS = 0.2
"""How late Ctrl-C may be noticed."""


class Watch:
    """Follows one build as an IProgressMonitor: passes its progress on and remembers why it must stop."""

    def __init__(self, progress: BuildProgress | None) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._fault: BaseException | None = None

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        del parent
        self._steps[phase] = steps
        self._tell(phase, 0)

    def step_complete(self, phase: str, step: int) -> bool:
        """A step, counted from 0, is done; False asks TensorRT to end the build."""
        self._tell(phase, step + 1)
        return self._fault is None

    def phase_finish(self, phase: str) -> None:
        """A phase ends, be it that not every step of it was told."""
        self._tell(phase, self._steps.pop(phase, 0))

    def _tell(self, phase: str, step: int) -> None:
        if self._progress is None or self._fault is not None:
            return
        try:
            self._progress(phase, step, self._steps.get(phase, step))
        except BaseException as err:  # an exception must not travel through TensorRT, which would print and drop it
            self._fault = err

    def run(self, work: Callable[[], Any]) -> Any:
        """What `work` returns; what stopped it is raised once it has returned.

        `work` gets a thread of its own, for TensorRT returns to Python only now and then: the main thread stays open
        to Ctrl-C. The first ends the build at TensorRT's next step, which can be minutes away; a second one leaves the
        build to itself and raises at once.
        """
        result = self._run_aside(work) if threading.current_thread() is threading.main_thread() else work()
        if self._fault is not None:
            raise self._fault
        return result

    def _run_aside(self, work: Callable[[], Any]) -> Any:
        results, done = [], threading.Event()

        def body() -> None:
            try:
                results.append(work())
            except BaseException as err:
                self._fault = self._fault or err
            finally:
                done.set()

        thread = threading.Thread(target=body, name="TensorRT build", daemon=True)
        # Not joined: Python 3.11 takes a thread for ended once its join was interrupted.
        while not done.is_set():
            try:
                if thread.ident is None:  # Ctrl-C may hit the start as well, and comes before the thread or after it
                    thread.start()
                # Not for ever: a signal that the kernel gives to one of TensorRT's threads wakes nobody here.
                done.wait(NOTICE_SECONDS)
            except BaseException as err:  # KeyboardInterrupt, or what someone's own handler raises
                if self._fault is not None:
                    raise
                self._fault = err
        return results[0] if results else None


def watch_of(library: Any, progress: BuildProgress | None) -> Watch:
    """A watch that `library` takes as a monitor; it must outlive the build."""

    class Monitor(Watch, library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            Watch.__init__(self, progress)

    return Monitor()
