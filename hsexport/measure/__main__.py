"""What can be measured: `scripts/measure` lists it, `scripts/measure NAME` measures one."""

from __future__ import annotations

import sys

import click

from hsengines.errors import HSError
from hsexport.measure import (
    blocks,
    build,
    capi,
    contact_sheet,
    export,
    plan,
    profile_engines,
    serve,
    slices,
    speed,
)
from hsexport.measure.gpu_check import check

MODULES = (blocks, build, capi, contact_sheet, export, plan, profile_engines, serve, slices, speed)


def main() -> None:
    """Measures one thing and prints its table; an error that a user can mend is a line."""
    commands = {module.__name__.rpartition(".")[2]: module.main for module in MODULES} | {"gpu_check": check.main}
    try:
        click.Group(commands=commands, help="Measure one thing and print its table.")(prog_name="measure")
    except HSError as err:
        raise SystemExit(f"{sys.argv[1]}: {err}") from None


if __name__ == "__main__":
    main()
