"""`hsexport calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import TimeRemainingColumn
from rich.table import Table

from hsexport.cli import options
from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.report import BuildReport, tables_console

if TYPE_CHECKING:
    from hsexport.build.calibration import Calibration


@command()
@bundle_argument()
@click.option(
    "--out", type=FILE, required=True, help="the file for `build --calibration`; a run that was killed goes on"
)
@click.option("--prompts", default=8, type=click.IntRange(1), help="how many, evenly spread over the list")
@click.option("--prompt-file", type=FILE, help="one a line; the demo pair brings its own")
@click.option(
    "--schedule",
    multiple=True,
    shell_complete=options.presets,
    help="repeat it; default: large alone, and the bundle's own",
)
@json_option("print each network's largest numbers")
def calibrate(bundle: Path, schedule: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Measure what products read while an fp32 bundle for ort-cpu draws: ranges for activations in 8 bits."""
    from hsexport.measure.calibrate import CalibrationRequest
    from hsexport.measure.calibrate import calibrate as run_calibrate

    with BuildReport("prompts that are done are kept, the same command goes on", TimeRemainingColumn()) as progress:
        found = run_calibrate(CalibrationRequest(bundle, schedules=schedule, **asked), progress)
    if as_json:
        click.echo(json.dumps({"file": str(found.file), "networks": _summary(found)}))
    else:
        _print(found)


def _summary(found: Calibration) -> dict[str, dict[str, Any]]:
    """By network: products, the largest number that one of them read, and where."""
    ranges = {network: found.of(network).largest for network in found.networks}
    return {
        network: {
            "products": len(largest),
            "largest": max(largest.values()),
            "median": sorted(largest.values())[len(largest) // 2],
            "read_by": max(largest, key=lambda name: largest[name]),
        }
        for network, largest in ranges.items()
    }


def _print(found: Calibration) -> None:
    table = Table("network", "products", "largest number read", "of most", "read by", box=None)
    for network, row in _summary(found).items():
        table.add_row(network, str(row["products"]), f"{row['largest']:.1f}", f"{row['median']:.1f}", row["read_by"])
    console = tables_console()
    console.print(table)
    console.print(f"wrote {found.file}", soft_wrap=True, markup=False)
