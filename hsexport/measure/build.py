#!/usr/bin/env python3
"""A pair to graphs in bf16, as `hsexport build --stop-after optimise` makes them: what it took, and what `plan` said.

Time that the disk took is what the kernel counts while the process waits for it: sysctl -w kernel.task_delayacct=1.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hsexport.cli.report import BuildReport
from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
from hsexport.measure.new_process import in_new_process

DELAYS = Path("/proc/sys/kernel/task_delayacct")
BLOCK_DELAY = 42 - 3  # of /proc/self/stat behind the name: field 42 of proc(5), where the first there is 3
TRANSFORMERS = ("large", "small")
MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Item:
    """One network in one stage."""

    stage: str
    network: str
    seconds: float
    disk_seconds: float
    """Of these, waiting for the disk."""


class Timed(BuildReport):
    """Progress as the command shows it, and how long each item took."""

    def __init__(self) -> None:
        super().__init__("nothing is kept")
        self.items: list[Item] = []
        self._at, self._start = "", (0.0, 0.0)

    def stage(self, name: str, items: int) -> None:
        """Remembers which."""
        self._at = name
        super().stage(name, items)

    def begin(self, item: str, note: str = "") -> None:
        """Starts the clock."""
        self._start = time.perf_counter(), disk_wait()
        super().begin(item, note)

    def end(self, item: str, note: str = "") -> None:
        """Stops it."""
        super().end(item, note)
        begun, waited = self._start
        self.items.append(Item(self._at, item, time.perf_counter() - begun, disk_wait() - waited))


def disk_wait() -> float:
    """Seconds that this process has waited for blocks, by the kernel's count."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return int(fields[BLOCK_DELAY]) / os.sysconf("SC_CLK_TCK")


def request_for(pair: Path, cache: Path) -> Any:
    """What is asked of `plan` and of `build` alike."""
    from hsengines.build import build_options
    from hsexport.build.recipe import BuildRequest

    return BuildRequest(
        str(pair / "large"),
        str(pair / "small"),
        out=cache / "bundle",
        cache=cache,
        backend="tensorrt-rtx",
        options=build_options("tensorrt-rtx", precision="bf16", architectures=(89,)),
        stop_after="optimise",
    )


def planned(pair: Path, cache: Path) -> tuple[int, int]:
    """Bytes of memory at the peak, and of disk in all, that `plan` names."""
    from hsexport.plan.plan import plan_for

    stages = plan_for(request_for(pair, cache)).stages
    return max(stage.host_bytes for stage in stages), sum(stage.disk_bytes for stage in stages)


def built(pair: Path, cache: Path) -> list[Item]:
    """Builds, and tells how long each network took."""
    from hsexport.build.build import build
    from hsexport.build.quiet import hush_libraries

    with Timed() as report, hush_libraries():
        build(request_for(pair, cache), report)
    return report.items


def added_bytes(cache: Path) -> int:
    """Of the files in the cache, the checkpoint's own aside: those have a second name elsewhere."""
    stats = [file.stat() for file in cache.rglob("*") if file.is_file()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


@contextmanager
def cache_beside(pair: Path) -> Iterator[Path]:
    """A folder on the pair's own disk, as a user's cache would be; it goes with everything in it."""
    with tempfile.TemporaryDirectory(dir=pair) as folder:
        yield Path(folder)


def summary(items: list[Item], peak: int, disk: int, said: tuple[int, int]) -> dict[str, float]:
    """The figures, in GB, MB and seconds."""
    pair = [item for item in items if item.network in TRANSFORMERS]
    waited = sum(item.disk_seconds for item in pair)
    return {
        "memory_gb": peak / GB,
        "planned_memory_gb": said[0] / GB,
        "planned_over_memory": said[0] / peak,
        "disk_mb": disk / MB,
        "planned_disk_mb": said[1] / MB,
        "planned_over_disk": said[1] / disk,
        "seconds": sum(item.seconds for item in items),
        "transformer_seconds": sum(item.seconds for item in pair),
        "transformer_disk_seconds": waited,
        "transformer_seconds_without_disk": sum(item.seconds for item in pair) - waited,
    }


def main(
    pair: Annotated[Path, typer.Argument(help="folder of large/ and small/, as scripts/random_pair writes it")],
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Build the pair's graphs in a process of its own and print what it took."""
    if not DELAYS.exists() or DELAYS.read_text(encoding="ascii").strip() != "1":
        raise SystemExit("measure build: the kernel does not count disk waits: sysctl -w kernel.task_delayacct=1")
    with cache_beside(pair) as cache:
        said = planned(pair, cache)
        items, peak = in_new_process(built, pair, cache)
        figures = summary(items, peak, added_bytes(cache), said)
    console = Console()
    table = Table("stage", "network", "seconds", "of these, the disk")
    for item in items:
        table.add_row(item.stage, item.network, f"{item.seconds:.1f}", f"{item.disk_seconds:.1f}")
    console.print(table)
    for name, value in figures.items():
        console.print(f"{name.replace('_', ' ')}: {value:.2f}")
    if out:
        write_report(out, {"hardware": asdict(hardware(0)), "figures": figures, "items": [asdict(i) for i in items]})


if __name__ == "__main__":
    typer.run(main)
