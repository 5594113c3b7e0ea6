"""`hsexport inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hsruntime.arithmetic import bundle_speedup
from hsruntime.bundle import Bundle, open_bundle
from hsruntime.manifest import Manifest, Transformer, manifest_bytes
from hsruntime.presets import resolve_schedule


def inspect(
    bundle: Annotated[Path, typer.Argument(help="a bundle")],
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest")] = False,
) -> None:
    """Show what a bundle holds and what was measured when it was built."""
    opened = open_bundle(bundle)
    if as_json:
        typer.echo(manifest_bytes(opened.manifest).decode(), nl=False)
        return
    console = Console(highlight=False)
    _print_facts(console, opened)
    console.print(_engine_table(opened.manifest))


def _print_facts(console: Console, bundle: Bundle) -> None:
    m = bundle.manifest
    sizes = [f"{w}x{h}" for w, h in (m.sizes.minimum, m.sizes.default, m.sizes.maximum)]
    total_mb = sum(f.size_bytes for f in m.files) / 1e6
    schedule = resolve_schedule(m.defaults.schedule, None, m.defaults.steps)
    side = m.latent.pixels_per_token
    tokens = m.sizes.default[0] * m.sizes.default[1] // side**2
    predicted = bundle_speedup(m, schedule)
    console.print(
        f"{bundle.path}: {m.backend} {m.precision}, {len(m.files)} files, {total_mb:.1f} MB, all checksums right"
    )
    console.print(f"large    {_model(m.large)}")
    console.print(f"small    {_model(m.small)}")
    console.print(
        f"sizes    {sizes[0]} to {sizes[2]}, default {sizes[1]} ({tokens} tokens), up to {m.sizes.max_batch} at once"
    )
    console.print(f"default  {m.defaults.schedule}: {schedule}, guidance {m.defaults.guidance_scale:g}")
    console.print(f"         {predicted:.2f} times as fast as large alone, by counting operations")
    console.print(f"built    by {', '.join(f'{k} {v}' for k, v in m.tools.items())} on {m.device}")


def _model(t: Transformer) -> str:
    dual = f", dual attention in {len(t.dual_attention_layers)}" if t.dual_attention_layers else ""
    return f"{t.source}: {t.parameters / 1e6:.1f}M parameters, {t.layers} layers of width {t.width}{dual}"


def _engine_table(manifest: Manifest) -> Table:
    table = Table("engine", "MB", "inputs", "profiles", "error at build", box=None)
    sizes = {f.path: f.size_bytes for f in manifest.files}
    for name, record in manifest.engines.items():
        megabytes = sum(sizes[path] for path in (record.file, *record.weights)) / 1e6
        profiles = ", ".join(p.name for p in record.profiles)
        error = f"{record.parity.max_relative:.1e}" if record.parity else "-"
        table.add_row(name, f"{megabytes:.2f}", str(len(record.inputs)), profiles, error)
    return table
