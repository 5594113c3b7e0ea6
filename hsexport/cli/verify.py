"""`hsexport verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from hsengines.errors import HSError
from hsexport.build.quiet import hush_libraries
from hsexport.build.verify.bundle import NamedPair, Verification, verify_bundle
from hsexport.build.verify.compare import Comparison
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.cli.build_options import lora
from hsexport.cli.command import bundle_argument, command, json_option
from hsexport.report import BuildReport, PlainConsole
from hsruntime.bundle.reader import open_bundle


@command()
@bundle_argument("a bundle")
@click.option("--large", help="what it was built from, if that was a local path")
@click.option("--small", help="the same")
@lora("each LoRA that was fused, as in the build")
@json_option("print all comparisons for scripts")
def verify(bundle: Path, large: str | None, small: str | None, lora: tuple[AdapterRequest, ...], as_json: bool) -> None:
    """Check a bundle: every byte, every engine against torch or its golden, and the region against the full pass."""
    opened = open_bundle(bundle)
    named = NamedPair(large, small, lora)
    with BuildReport("nothing was changed") as report, hush_libraries():
        result = verify_bundle(opened, report, named)
    if as_json:
        comparisons = [_record(c) for c in result.comparisons]
        click.echo(json.dumps({"passed": result.passed, "comparisons": comparisons, "left_out": result.left_out}))
    else:
        _print(result)
    if not result.passed:
        worst = max((c for c in result.comparisons if not c.passed), key=lambda c: c.max_relative)
        raise HSError(
            f"engine '{worst.engine}' lies {worst.max_relative:.1e} from its reference, allowed {worst.tolerance:.0e}",
            "build the bundle again on this machine",
        )


def _record(comparison: Comparison) -> dict[str, object]:
    """As JSON knows it: null for an error that is not finite."""
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in asdict(comparison).items()}


def _print(result: Verification) -> None:
    console = PlainConsole(highlight=False)
    table = Table("engine", "against", "largest error", "tolerance", "", box=None)
    for c in result.comparisons:
        verdict = Text("ok", "green") if c.passed else Text("fails", "red")
        table.add_row(c.engine, c.reference, f"{c.max_relative:.1e}", f"{c.tolerance:.0e}", verdict)
    console.print(table)
    for line in result.left_out:
        console.print(line, soft_wrap=True)
