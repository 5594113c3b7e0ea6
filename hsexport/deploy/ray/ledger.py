"""What a batch job has done: a picture and its record for each prompt, named by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from hsexport import __version__
from hsruntime.picture.picture import save_png


class Task(msgspec.Struct, frozen=True):
    """One picture to draw, complete but for the bundle's defaults; `bundle` is its manifest's digest."""

    index: int
    line: int
    prompt: str
    negative_prompt: str
    seed: int
    schedule: str | None
    steps: int | None
    guidance_scale: float | None
    size: tuple[int | None, int | None]
    bundle: str
    fault: str = ""
    """Why it cannot be drawn; `prompt` is then the line as it stands."""

    @property
    def name(self) -> str:
        """Of its files: equal for equal pictures at one place of the file, and for those only."""
        asked = [getattr(self, field) for field in self.__struct_fields__ if field not in ("index", "line")]
        return f"{self.index:06d}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`<name>.json`. seconds: what the picture's batch took; together: pictures in it."""

    status: str
    line: int
    prompt: str
    negative_prompt: str
    seed: int
    schedule: str | None = None
    seconds: float | None = None
    together: int | None = None
    size_bytes: int | None = None
    error: str | None = None


class Ledger:
    """A directory of pictures and records; one job at a time may write to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def clear_leftovers(self) -> None:
        """Removes what killed jobs had begun."""
        for file in self.root.glob(".*.part"):
            file.unlink()

    def has(self, task: Task) -> bool:
        """Whether the task's picture and record are both there and whole."""
        with suppress(OSError, msgspec.MsgspecError):
            record = msgspec.json.decode(self._file(task, "json").read_bytes(), type=Record)
            return record.status == "done" and self._file(task, "png").stat().st_size == record.size_bytes
        return False

    def write_done(self, task: Task, picture: np.ndarray, *, schedule: str, seconds: float, together: int) -> None:
        """The picture (H, W, 3) first, then the record that vouches for it."""
        story = {"prompt": task.prompt, "seed": str(task.seed), "negative_prompt": task.negative_prompt}
        story |= {"schedule": schedule, "software": f"hsexport {__version__}"}
        part, file = self._part(task, "png"), self._file(task, "png")
        save_png(part, picture, story)
        _settle(part, file)
        done = {"schedule": schedule, "seconds": seconds, "together": together, "size_bytes": file.stat().st_size}
        self._write(task, {"status": "done", **done})

    def write_failed(self, task: Task, error: str) -> None:
        """A record alone; the next job tries again."""
        self._write(task, {"status": "failed", "error": error})

    def _write(self, task: Task, outcome: dict[str, object]) -> None:
        told = {"line": task.line, "prompt": task.prompt, "negative_prompt": task.negative_prompt, "seed": task.seed}
        part = self._part(task, "json")
        # json, since a prompt that is not text must be recorded as well; msgspec refuses it.
        part.write_text(json.dumps({**outcome, **told}, indent=1) + "\n")
        _settle(part, self._file(task, "json"))

    def _file(self, task: Task, suffix: str) -> Path:
        return self.root / f"{task.name}.{suffix}"

    def _part(self, task: Task, suffix: str) -> Path:
        return self.root / f".{task.name}.{suffix}.part"


def _settle(part: Path, file: Path) -> None:
    """Gives a written file its name once its bytes are on the disk."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(file)
