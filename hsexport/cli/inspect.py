"""`hsexport inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from hsengines.backend import get_backend
from hsengines.cores import usable_cores
from hsengines.errors import BackendUnavailable
from hsengines.spec import FLOATS
from hsengines.traits import traits_of
from hsexport.cli.command import bundle_argument, command, json_option
from hsexport.report import tables_console
from hsruntime.adapters.merging import parts_of
from hsruntime.bundle.manifest import EngineRecord, Manifest, manifest_bytes
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.facts import Transformer, size_text
from hsruntime.loop.buffers import Layout, LoopShape
from hsruntime.loop.program import BUFFERS, PROGRAM, listed
from hsruntime.schedule.arithmetic import predicted_speedup
from hsruntime.schedule.fit import schedule_for


@command()
@bundle_argument("a bundle")
@json_option("print the manifest, or with --steps the program")
@click.option("--steps", is_flag=True, help="what each step runs: engines in order, and the buffers between them")
def inspect(bundle: Path, as_json: bool, steps: bool) -> None:
    """Show what a bundle holds and what was measured when it was built."""
    opened = open_bundle(bundle)
    if as_json:
        click.echo(_steps_json(opened.manifest) if steps else manifest_bytes(opened.manifest).decode(), nl=False)
        return
    console = tables_console()
    if steps:
        _print_steps(console, opened.manifest)
        return
    _print_facts(console, opened)
    console.print(_engine_table(opened.manifest))
    console.print()
    console.print(_build_table(opened.manifest))
    _print_stored(console, opened.manifest)
    _print_fp32_blocks(console, opened.manifest)


def _print_facts(console: Console, bundle: Bundle) -> None:
    m = bundle.manifest
    sizes = list(map(size_text, (m.facts.sizes.minimum, m.facts.sizes.default, m.facts.sizes.maximum)))
    total_mb = sum(f.size_bytes for f in m.files) / 1e6
    schedule = schedule_for(m.facts)
    side = m.facts.latent.pixels_per_token
    tokens = m.facts.sizes.default[0] * m.facts.sizes.default[1] // side**2
    predicted = predicted_speedup(schedule, m.facts)
    console.print(
        f"{bundle.path}: {m.backend} {m.precision}, {len(m.files)} files, {total_mb:.1f} MB, all checksums right"
    )
    console.print(f"identity {m.identity}")
    console.print(f"for      {m.target}; {_devices(m)}")
    console.print(f"large    {_model(m.facts.large)}")
    if m.facts.small:
        console.print(f"small    {_model(m.facts.small)}")
    if m.facts.light and m.facts.light.outer:
        first, last = m.facts.light.outer
        console.print(f"light    the first {first} and the last {last} of large's {m.facts.large.layers} blocks")
    console.print(
        f"sizes    {sizes[0]} to {sizes[2]}, default {sizes[1]} ({tokens} tokens), "
        f"up to {m.facts.sizes.max_batch} at once"
    )
    console.print(f"default  {m.facts.defaults.schedule}: {schedule}, guidance {m.facts.defaults.guidance_scale:g}")
    console.print(f"         {predicted:.2f} times as fast as large alone, by counting operations")
    console.print(f"adapters {_adapters(bundle)}")
    console.print(f"built    by {', '.join(f'{k} {v}' for k, v in m.tools.items())} on {m.device}")


def _adapters(bundle: Bundle) -> str:
    """Whether LoRAs can be merged into it when it is opened."""
    parts = parts_of(bundle)
    if parts:
        return f"LoRAs at run time for {', '.join(parts)}"
    return "no LoRAs at run time" + (
        ": built without --refit" if traits_of(bundle.manifest.backend).resident_weights else ""
    )


def _devices(manifest: Manifest) -> str:
    """What `--device` may be on this machine, and how many cores there are for a CPU."""
    try:
        backend = get_backend(manifest.backend)
        found, why = backend.devices(), backend.why_not_here()
    except BackendUnavailable as err:
        found, why = [], err.message
    cores = f"; cores that this process may use: {usable_cores()}" if manifest.on_cpu else ""
    return (f"devices here: {', '.join(found)}" if found else f"no device here: {why}") + cores


def _model(t: Transformer) -> str:
    slots = f", {t.image_slots} attention layers" if t.image_slots != t.layers else ""
    fused = "".join(f", LoRA {a.name} fused {a.scale:g} times" for a in t.adapters)
    return f"{t.source}: {t.parameters / 1e6:.1f}M parameters, {t.layers} layers of width {t.width}{slots}{fused}"


def _engine_table(manifest: Manifest) -> Table:
    table = Table(
        "engine", "MB", "precision", "weights", "types", "profiles", "error at build", "measured on", box=None
    )
    sizes = {f.path: f.size_bytes for f in manifest.files}
    for name, record in manifest.engines.items():
        megabytes = sum(sizes[path] for path in (record.file, *record.weights)) / 1e6
        parity = record.parity
        error, measured = (f"{parity.max_relative:.1e}", parity.measured_on) if parity else ("-", "-")
        profiles = ", ".join(p.name for p in record.spec.profiles)
        table.add_row(
            name, f"{megabytes:.2f}", record.precision, record.weight_format, _types(record), profiles, error, measured
        )
    return table


def _types(record: EngineRecord) -> str:
    """The dtypes of the engine's I/O signature, floats as precisions are called."""
    short = {dtype: precision for precision, dtype in FLOATS.items()}
    found = {tensor.dtype for tensor in (*record.spec.inputs, *record.spec.outputs)}
    return " ".join(sorted(short.get(dtype, dtype) for dtype in found))


def _build_table(manifest: Manifest) -> Table:
    """Ranges of the profiles, what the products compute in, and the build key's beginning."""
    table = Table("engine", "profile", "ranges", "products", "key", box=None)
    for name, record in manifest.engines.items():
        audits = (
            f"{', '.join(f'{count} {dtype}' for dtype, count in found.items())} ({source})"
            for source, found in record.audit.items()
        )
        products = ", ".join(audits) or "-"
        for number, profile in enumerate(record.spec.profiles):
            ranges = ", ".join(f"{d} {r.minimum}..{r.optimum}..{r.maximum}" for d, r in profile.dims.items())
            first = (name, products, record.build_key[:12]) if number == 0 else ("", "", "")
            table.add_row(first[0], profile.name, ranges, first[1], first[2])
    return table


def _print_stored(console: Console, manifest: Manifest) -> None:
    """Of engines with quantised weights: products by format, what is stored otherwise, and which block errs most."""
    quantised = {name: record for name, record in manifest.engines.items() if record.products}
    if not quantised:
        return
    table = Table("engine", "read by format", "stored otherwise", "because", "block that errs most", box=None)
    for name, record in quantised.items():
        counts = ", ".join(f"{count} {format}" for format, count in record.products.items())
        blocks = record.parity.blocks if record.parity else {}
        worst = max(blocks, key=lambda block: blocks[block], default="")
        told = f"{worst} {blocks[worst]:.1e}" if worst else "-"
        others = [(f"{other.products} {other.format}", other.reason) for other in record.other_weights] or [("-", "")]
        for number, other in enumerate(others):
            table.add_row(*((name, counts, *other, told) if number == 0 else ("", "", *other, "")))
    console.print()
    console.print(table)


def _print_fp32_blocks(console: Console, manifest: Manifest) -> None:
    held = {name: record.fp32_blocks for name, record in manifest.engines.items() if record.fp32_blocks}
    if not held:
        return
    table = Table("engine", "in fp32", "nodes", "because", box=None)
    for name, fp32_blocks in held.items():
        for number, block in enumerate(fp32_blocks):
            table.add_row(name if number == 0 else "", block.name, str(block.nodes), block.reason)
    console.print()
    console.print(table)


def _extents(manifest: Manifest) -> dict[str, int]:
    """What the shape letters are for one picture of the default size and schedule."""
    facts = manifest.facts
    schedule = schedule_for(facts)
    guided = facts.defaults.guidance_scale > 1
    shape = LoopShape.of(facts, schedule, facts.sizes.default, 1, guided=guided)
    return Layout(facts, manifest.specs, shape).extents


def _steps_json(manifest: Manifest) -> str:
    sequences = {name: [row._asdict() for row in rows] for name, rows in PROGRAM.items()}
    buffers = {name: {"shape": shape, "holds": holds} for name, (shape, holds) in BUFFERS.items()}
    found = {"extents": _extents(manifest), "sequences": sequences, "buffers": buffers}
    return json.dumps(found, indent=2) + "\n"


def _print_steps(console: Console, manifest: Manifest) -> None:
    """The program as it stands for every bundle, and the extents of this one."""
    table, before = Table("sequence", "engine", "reads", "writes", box=None), ""
    for name, *cells in listed():
        table.add_row(name if name != before else "", *cells)
        before = name
    buffers = Table("buffer", "type and shape", "what it holds", box=None)
    for name, (shape, what) in BUFFERS.items():
        buffers.add_row(name, shape, what)
    sides = ", ".join(f"{letter} {extent}" for letter, extent in _extents(manifest).items())
    for part in (table, "", buffers, "", f"for one picture of the default size and schedule: {sides}"):
        console.print(part)
