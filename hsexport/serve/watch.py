"""Notices that another bundle lies where the one at work came from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from hsengines.errors import HSError
from hsruntime import Session
from hsruntime.bundle import MANIFEST_NAME, Bundle, open_bundle
from hsruntime.manifest import BundleError

log = logging.getLogger("hsexport.serve")


class BundleWatch:
    """Looks at a bundle's manifest now and then, on a thread of its own."""

    def __init__(
        self,
        path: Path,
        at_work: str,
        open_session: Callable[[Bundle], Session],
        hand_over: Callable[[Session], None],
    ) -> None:
        """at_work: the digest of the manifest that was opened. hand_over: gets a session of whole, checked files."""
        self._path = path
        self._open_session = open_session
        self._hand_over = hand_over
        self._at_work = at_work
        self._complaint = ""
        self._stopped = Event()
        self._thread: Thread | None = None

    def start(self, every_seconds: float) -> None:
        """Begins to look."""
        self._thread = Thread(target=self._look, args=(every_seconds,), name="hsexport-watches", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends looking; a bundle that is being opened is opened to its end."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _look(self, every_seconds: float) -> None:
        while not self._stopped.wait(every_seconds):
            try:
                self._look_once()
            except (HSError, OSError) as err:
                # Half copied, or broken: the one at work goes on, and the next look tries again.
                self._complain(f"{self._path} has changed, and what lies there cannot be used: {err}")

    def _look_once(self) -> None:
        found = manifest_digest(self._path)
        if found == self._at_work:
            return
        session = self._open_session(open_bundle(self._path))
        if manifest_digest(self._path) != found:  # some engines may be one bundle's and some the other's
            session.close()
            raise BundleError("it was replaced while it was being opened", "it is opened again")
        self._hand_over(session)
        self._at_work, self._complaint = found, ""

    def _complain(self, words: str) -> None:
        if words != self._complaint:
            log.warning("%s; the bundle that was opened goes on", words)
        self._complaint = words


def manifest_digest(path: Path) -> str:
    """What tells one bundle from another: the manifest holds every file's hash. Raises OSError."""
    return hashlib.sha256((path / MANIFEST_NAME).read_bytes()).hexdigest()
