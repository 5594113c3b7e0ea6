"""What can be measured: `scripts/measure` lists it, `scripts/measure NAME` measures one."""

from __future__ import annotations

import sys

import click

from hsengines.errors import HSError
from hsexport.measure import backends, building, calibration, callers, edits, formats, graphs, speed, weights  # noqa: F401
from hsexport.measure.bench.table import block
from hsexport.measure.blocks import BLOCKS, COMMANDS, blocks
from hsexport.measure.gpu_check.check import gpu_check

BLOCKS["bench"] = block


def main() -> None:
    """Measures one thing and prints its table; an error that a user can mend is a line."""
    group = click.Group(commands=[blocks, gpu_check, *COMMANDS.values()], help="Measure one thing and print its table.")
    try:
        group(prog_name="measure")
    except HSError as err:
        raise SystemExit(f"{sys.argv[1]}: {err}") from None


if __name__ == "__main__":
    main()
