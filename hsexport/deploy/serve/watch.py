"""Notices that another bundle lies where the one at work came from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from hsengines.errors import HSError
from hsruntime import Session
from hsruntime.bundle.manifest import BundleError, Manifest
from hsruntime.bundle.reader import Bundle, open_bundle, read_manifest

log = logging.getLogger("hsexport.deploy.serve")


class BundleWatch:
    """Looks at a bundle's manifest, which holds every file's hash, now and then, on a thread of its own."""

    def __init__(
        self,
        path: Path,
        at_work: Manifest,
        open_session: Callable[[Bundle], Session],
        hand_over: Callable[[Session], None],
        refused: Callable[[], None],
    ) -> None:
        """hand_over: gets a session of whole, checked files. refused: hears of each bundle that cannot be taken up."""
        self._path = path
        self._open_session = open_session
        self._hand_over = hand_over
        self._refused = refused
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
            except Exception as err:
                # Half copied, broken, or too large beside the one at work, which goes on; the next look tries again.
                told = str(err) if isinstance(err, HSError | OSError) else f"{type(err).__name__}: {err}"
                self._complain(f"{self._path} has changed, and what lies there cannot be used: {told}")

    def _look_once(self) -> None:
        if read_manifest(self._path) == self._at_work:
            return
        bundle = open_bundle(self._path)
        session = self._open_session(bundle)
        if read_manifest(self._path) != bundle.manifest:  # some engines may be one bundle's and some the other's
            session.close()
            raise BundleError("it was replaced while it was being opened", "it is opened again")
        self._hand_over(session)
        self._at_work, self._complaint = bundle.manifest, ""

    def _complain(self, words: str) -> None:
        if words != self._complaint:
            self._refused()
            log.warning("%s; the bundle that was opened goes on", words)
        self._complaint = words
