"""A pair to graphs in bf16, as `hsexport build --stop-after optimise` makes them: what it took, and what `plan` said.

Time that the disk took is what the kernel counts while the process waits for it: sysctl -w kernel.task_delayacct=1.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from hsengines.errors import HSError
from hsengines.weights import UNQUANTIZED
from hsexport.measure.blocks import PATH, Measured, measured_on, measurement, table
from hsexport.measure.processes import in_new_process
from hsexport.report import BuildReport

DELAYS = Path("/proc/sys/kernel/task_delayacct")
STAT = Path("/proc/self/stat")
BLOCK_DELAY = 42 - 3  # of STAT behind the name: field 42 of proc(5), where the first there is 3
TRANSFORMERS = ("large", "small")
MB, GB = 1e6, 1e9
FIGURES = (
    ("memory at the most", "memory_gb", "planned_memory_gb", "GB"),
    ("disk beside the checkpoint", "disk_mb", "planned_disk_mb", "MB"),
    ("time", "seconds", "", "s"),
    ("time of the transformers", "transformer_seconds", "", "s"),
    ("the same without waiting for the disk", "transformer_seconds_without_disk", "", "s"),
)


class Watched(BuildReport):
    """Progress as the command shows it; `items`: how long each network took in each stage, and what was said of it."""

    def __init__(self, on_stop: str) -> None:
        super().__init__(on_stop)
        self.items: list[dict[str, Any]] = []
        self._at, self._start = "", (0.0, 0.0)

    def stage(self, name: str, items: int) -> None:
        """Remembers which."""
        self._at = name
        super().stage(name, items)

    def begin(self, item: str, note: str = "") -> None:
        """Starts the clock."""
        self._start = perf_counter(), disk_wait()
        super().begin(item, note)

    def end(self, item: str, note: str = "") -> None:
        """Stops it."""
        super().end(item, note)
        begun, waited = self._start
        times = {"seconds": perf_counter() - begun, "disk_seconds": disk_wait() - waited}
        self.items.append({"stage": self._at, "network": item, **times, "note": note})


def disk_wait() -> float:
    """Seconds that this process has waited for blocks, by the kernel's count; 0 where there is none."""
    fields = STAT.read_text(encoding="ascii").rpartition(") ")[2].split() if STAT.exists() else []
    return int(fields[BLOCK_DELAY]) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def request_for(pair: Path, cache: Path, weights: str) -> Any:
    """What is asked of `plan` and of `build` alike."""
    from hsengines.build import build_options
    from hsexport.build.request import BuildRequest

    options = build_options("tensorrt-rtx", precision="bf16", architectures=(89,), weights=weights)
    asked: dict[str, Any] = {"backend": "tensorrt-rtx", "options": options, "stop_after": "optimise"}
    return BuildRequest(str(pair / "large"), str(pair / "small"), out=cache / "bundle", cache=cache, **asked)


def built(pair: Path, cache: Path, weights: str) -> list[dict[str, Any]]:
    """Builds, and tells how long each network took."""
    from hsexport.build.build import build
    from hsexport.build.quiet import hush_libraries

    with Watched("nothing is kept") as report, hush_libraries():
        build(request_for(pair, cache, weights), report)
    return report.items


def block(report: Measured) -> str:
    """What it took beside what was planned."""

    def figure(name: str, unit: str) -> str:
        return f"{report['figures'][name]:{'.2f' if unit == 'GB' else '.0f'}} {unit}" if name else ""

    rows = [{"what": what, "own": figure(own, u), "said": figure(said, u)} for what, own, said, u in FIGURES]
    return table(": {what} | measured: {own} | `plan` says: {said}", rows) + measured_on(report)


@measurement(block)
@click.argument("pair", type=PATH)
@click.option("--weights", default=UNQUANTIZED, help="as `hsexport build` takes it")
def build(pair: Path, weights: str) -> dict[str, Any]:
    """Build the graphs of PAIR, a folder of large and small, in a process of its own and print what it took."""
    from hsexport.plan.plan import plan_for

    if not DELAYS.exists() or DELAYS.read_text(encoding="ascii").strip() != "1":
        raise HSError("the kernel does not count disk waits", "sysctl -w kernel.task_delayacct=1")
    with tempfile.TemporaryDirectory(dir=pair) as folder:  # on the pair's own disk, as a user's cache would be
        stages = plan_for(request_for(pair, Path(folder), weights)).stages
        items, peak = in_new_process(built, pair, Path(folder), weights)
        # The checkpoint's own files have a second name elsewhere.
        files = [file.stat() for file in Path(folder).rglob("*") if file.is_file()]
        disk = sum(file.st_size for file in files if file.st_nlink == 1)
    said_peak, said_disk = max(stage.host_bytes for stage in stages), sum(stage.disk_bytes for stage in stages)
    own = [item for item in items if item["network"] in TRANSFORMERS]
    whole, waited = (sum(item[name] for item in own) for name in ("seconds", "disk_seconds"))
    figures = {
        "memory_gb": peak / GB,
        "planned_memory_gb": said_peak / GB,
        "planned_over_memory": said_peak / peak,
        "disk_mb": disk / MB,
        "planned_disk_mb": said_disk / MB,
        "planned_over_disk": said_disk / disk,
        "seconds": sum(item["seconds"] for item in items),
        "transformer_seconds": whole,
        "transformer_disk_seconds": waited,
        "transformer_seconds_without_disk": whole - waited,
    }
    return {"figures": figures, "items": items, "weights": weights}
