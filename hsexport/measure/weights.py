"""What weights take and cost as they are stored: the demo pair in every format of every backend for CPUs, in turns."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from hsengines.errors import HSError
from hsengines.traits import backend_names, traits_of
from hsengines.weights import FORMATS, UNQUANTIZED
from hsexport.measure.bench.against import compare
from hsexport.measure.bench.bench import BenchRequest
from hsexport.measure.bench.comparison import Comparison, markdown
from hsexport.measure.bench.comparison_page import write_comparison
from hsexport.measure.blocks import PATH, Measured, measurement, threads_option
from hsexport.measure.callers import COMMAND
from hsexport.report import BuildReport
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import open_bundle

CALIBRATED = tuple(name for name, kind in FORMATS.items() if not kind.without_calibration)
"""Formats that quantise activations as well, by what a bundle in fp32 was seen to have."""
GROUPS = ("large", "small", "text", "decoder")


@dataclass(frozen=True)
class Stored:
    """One way to store the pair for a backend."""

    backend: str
    precision: str
    weights: str = UNQUANTIZED

    @property
    def name(self) -> str:
        """Its bundle's."""
        return f"{self.backend}-{self.precision if self.weights == UNQUANTIZED else self.weights}"

    def options(self, calibration: Path) -> list[str]:
        """What `hsexport build` is told."""
        told = ["--backend", self.backend, "--precision", self.precision, "--weights", self.weights]
        return [*told, "--calibration", str(calibration)] if self.weights in CALIBRATED else told


def ways() -> tuple[list[Stored], list[str]]:
    """All ways of the backends for CPUs, fp32 on the default backend first; and what one has and another has not."""
    backends = [name for name in backend_names() if traits_of(name).on_cpu]
    precisions = dict.fromkeys(p for name in backends for p in traits_of(name).precisions)
    formats = dict.fromkeys(w for name in backends for w in traits_of(name).weights if w != UNQUANTIZED)
    found, missing = [], []
    for name in backends:
        traits = traits_of(name)
        for precision in precisions:
            if precision in traits.precisions:
                found.append(Stored(name, precision))
            else:
                missing.append(f"{name} has no {precision}")
        for kind in formats:
            if kind in traits.weights:
                found.append(Stored(name, traits.precisions[0], kind))
            else:
                missing.append(f"{name} has no {kind}")
    return found, missing


def built(stored: Stored, folder: Path, cache: Path | None) -> Path:
    """Its bundle of the demo pair, in `folder`. Raises HSError with what the command said last where it refuses."""
    bundle, calibration = folder / f"{stored.name}.bundle", folder / "calibration"
    if stored.weights in CALIBRATED and not calibration.exists():
        _hsexport("calibrate", str(folder / f"{ways()[0][0].name}.bundle"), "--out", str(calibration))
    kept = ["--cache", str(cache)] if cache else []
    pair = ["--large", "demo", "--small", "demo", "--out", str(bundle)]
    _hsexport("build", *pair, *stored.options(calibration), *kept)
    return bundle


def _hsexport(*arguments: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise HSError(last.removeprefix("hsexport: "))


def errors_of(manifest: Manifest) -> dict[str, float]:
    """Of each network with weights, how far it lay from torch in fp32 at build, over the largest reference value."""
    return {n: e.parity.max_relative for n, e in manifest.engines.items() if e.parity and e.weights}


def shown_errors(errors: Measured, slots: list[str]) -> dict[str, str]:
    """What a table has of them: of the text encoders the largest."""
    groups = {"large": ["large"], "small": ["small"], "text": slots, "decoder": ["vae_decoder"]}
    return {name: f"{max(errors[n] for n in networks):.1e}" for name, networks in groups.items()}


def block(report: Measured) -> str:
    """A row for each bundle."""
    shown = {name: shown_errors(errors, report["text"]) for name, errors in report["errors"].items()}
    more = {f"error of {group}": {name: each[group] for name, each in shown.items()} for group in GROUPS}
    left_out = f"\nLeft out: {'; '.join(report['left_out'])}.\n" if report["left_out"] else ""
    return markdown(msgspec.convert(report["comparison"], Comparison), more) + left_out


@measurement(block)
@click.option("--prompts", "count", default=40, type=click.IntRange(2), help="pictures of each bundle")
@click.option("--schedule", default="large", help="that all draw with")
@click.option("--out", type=PATH, default=Path("build/weights"), help="folder of bundles and of the comparison's page")
@click.option("--cache", type=PATH, help="of `hsexport build`, where it is not the usual one")
@threads_option
def weights(count: int, schedule: str, out: Path, cache: Path | None, threads: int) -> dict[str, Any]:
    """Set the demo pair beside itself, its weights stored in every way that this machine's CPU backends take."""
    found, left_out = ways()
    bundles, console = [], Console(stderr=True)
    for stored in found:
        with console.status(f"building {stored.name}"):
            try:
                bundles.append(built(stored, out, cache))
            except HSError as err:
                if not bundles:
                    raise
                left_out.append(f"{stored.name}: {err}")
    request = BenchRequest(
        bundle=bundles[0],
        against=tuple(bundles[1:]),
        work=out / "work",
        schedules=(schedule,),
        prompts=count,
        threads=threads,
    )
    with BuildReport("what is done is kept, the same command goes on from there") as progress:
        done = compare(request, progress)
        write_comparison(out / "report", done.report, done.rounds)
    paths = {name: Path(facts.path) for name, facts in done.report.bundles.items()}
    manifests = {name: open_bundle(path, hashes=False).manifest for name, path in paths.items()}
    return {
        "comparison": msgspec.to_builtins(done.report.summary()),
        "errors": {name: errors_of(manifest) for name, manifest in manifests.items()},
        "text": [slot.engine for slot in next(iter(manifests.values())).facts.slots],
        "left_out": left_out,
    }
