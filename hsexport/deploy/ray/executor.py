"""What a replica gets of a machine, and what it does in a batch job: a session, and groups of tasks through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from hsengines.cores import usable_cores
from hsengines.errors import HSError
from hsexport.deploy.ray.ledger import Ledger, Task
from hsruntime import Session
from hsruntime.batching import batches, merged, parted
from hsruntime.bundle.manifest import Manifest
from hsruntime.request import Request

Outcome = tuple[int, str, str]
"""A task's index, "kept", "done" or "failed", and why."""


def gpus_of_each(manifest: Manifest, asked: float | None) -> float:
    """As asked; else one, or none for a bundle that runs on CPUs."""
    if asked is not None:
        return asked
    return 0 if manifest.on_cpu else 1


def threads_of_each(replicas: int, asked: int) -> int:
    """CPU threads: as asked; 0 shares out the cores that this process may use."""
    return asked or max(1, usable_cores() // replicas)


class Executor:
    """Lives in a Ray actor; draws each task once and writes it down before it tells."""

    def __init__(self, bundle: str, out: str, threads: int) -> None:
        self._session = Session.open(Path(bundle), threads=threads, hashes=False)  # the job has checked them
        self._ledger = Ledger(Path(out))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str | int]]:
        """Column "task" in; columns "index", "status" and "error" out."""
        tasks = [Task.from_json(str(text)) for text in batch["task"]]
        outcomes = list(self._outcomes(tasks))
        return {
            "index": [index for index, _, _ in outcomes],
            "status": [status for _, status, _ in outcomes],
            "error": [error for _, _, error in outcomes],
        }

    def _outcomes(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        orders: list[tuple[Task, Request]] = []
        for task in tasks:
            if self._ledger.has(task):  # Ray gives a batch again whose actor died
                yield task.index, "kept", ""
                continue
            try:
                orders.append((task, task.completed(self._session.manifest)))
            except HSError as err:
                yield self._failed(task, err)
        for batch in batches(orders, lambda order: order[1], len(orders)):
            yield from self._drawn([task for task, _ in batch], [request for _, request in batch])

    def _drawn(self, tasks: list[Task], requests: list[Request]) -> Iterator[Outcome]:
        try:
            result = self._session.run(merged(requests))
        except HSError as err:
            yield from (self._failed(task, err) for task in tasks)
            return
        for task, own in zip(tasks, parted(result, requests), strict=True):
            self._ledger.write_done(
                task, own.image, schedule=str(own.schedule), seconds=own.seconds, together=len(tasks)
            )
            yield task.index, "done", ""

    def _failed(self, task: Task, err: HSError) -> Outcome:
        self._ledger.write_failed(task, str(err))
        return task.index, "failed", f"line {task.line}: {err}"
