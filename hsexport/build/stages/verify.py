"""The build's verify stage: every compiled engine against its golden, before anything is packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from hsengines.backend import Backend, get_backend
from hsengines.device import Device
from hsengines.errors import HSError
from hsengines.traits import DEFAULT_BACKEND
from hsengines.weights import UNQUANTIZED
from hsexport.build.stages.compile import engine_files
from hsexport.build.stages.stage import Job, Product, Run
from hsexport.build.store import BuildKey, source_digest
from hsexport.build.verify.cast_back import block_errors, cast_back_graph, first_infinite_block
from hsexport.build.verify.compare import Comparison, compare, tolerance_of
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.manifest import ParityRecord
from hsruntime.bundle.reader import sha256_of


def verify_all(products: Sequence[Product], run: Run) -> None:
    """Parity of each engine; what was measured once is kept.

    Where the backend's engines cannot run, each one's graph stands in for it, cast back to fp32 on the CPU with every
    value rounded as the engine would. Raises HSError for the first that lies outside its precision's tolerance.
    """
    measured_on = "cast-back" if run.backend.why_not_here() else "engine"
    runner = get_backend(DEFAULT_BACKEND) if measured_on == "cast-back" else run.backend
    device = runner.device()

    def jobs(product: Product) -> Iterator[Job]:
        key = _key(product, run, measured_on, f"{runner.version()} on {device.name}")
        yield "parity", key, lambda _: _measured(product, run, runner, device)

    def error(product: Product) -> str:
        return f"error {product.record('parity', ParityRecord).max_relative:.1e}"

    run.stage("verify", products, jobs, made=error, found=error)
    device.close()
    for product in products:
        blocks = product.record("parity", ParityRecord).blocks
        block = max(blocks, key=lambda name: blocks[name], default="")
        if block and blocks[block] > WORTH_A_WORD:
            told = f"engine '{product.name}', weights in {product.weights}: block '{block}' errs by {blocks[block]:.0%}"
            run.reporter.warn(f"{told} of its largest value; --weights ...,{product.name}:{block}*=int8 has more bits")


WORTH_A_WORD = 0.25
"""Of a block's error, over its largest value and over random inputs, beyond which a build says so."""


def _key(product: Product, run: Run, measured_on: str, runner: str) -> BuildKey:
    facts = run.graph_digests(product) | {
        "golden": sha256_of(product.golden),
        "ran on": measured_on,
        "runner": runner,
        "tolerance": str(tolerance_of(product.precision, product.weights)),
        "hsexport": source_digest("verify"),
    }
    engine = {} if measured_on == "cast-back" else {"engine": product.entries["engine"].name}
    return BuildKey("parity", product.name, facts | engine)


def _measured(product: Product, run: Run, runner: Backend, device: Device) -> ParityRecord:
    inputs, expected = load_golden(product.golden)
    tolerance = tolerance_of(product.precision, product.weights)
    on_engine = runner is run.backend
    runnable = nullcontext((engine_files(product)[0], product.spec)) if on_engine else cast_back_graph(product)
    with runnable as (file, spec):
        engine = runner.load(file, spec, device)
        result = compare(engine, device, inputs, expected, "torch at build", tolerance)
        engine.close()
    if not result.passed:
        raise _refusal(product, result, run)
    return ParityRecord(
        max_absolute=result.max_absolute,
        max_relative=result.max_relative,
        finite=result.finite,
        measured_on="engine" if on_engine else "cast-back",
        blocks=block_errors(product, run.request.backend) if product.weights != UNQUANTIZED else {},
    )


def _refusal(product: Product, result: Comparison, run: Run) -> HSError:
    name, precision, backend = product.name, product.precision, run.request.backend
    if not result.finite:
        block = first_infinite_block(product) if precision != "fp32" else ""
        where = f", first in '{block}'" if block else ""
        return HSError(
            f"engine '{name}' gives numbers that are not finite in {precision}{where}",
            f"keep that part in fp32: --fp32 '{name}:{block or '*'}*', or build with --precision bf16",
        )
    if product.weights != UNQUANTIZED:
        worst = max(block_errors(product, backend).items(), key=lambda each: each[1], default=("", 0.0))
        block = f", block '{worst[0]}' {worst[1]:.1e}" if worst[0] else ""
        return HSError(
            f"engine '{name}' lies {result.max_relative:.1e} from torch with weights in {product.weights}, tolerance "
            f"{result.tolerance:.0e}{block}",
            f"store what errs in more bits: --weights ...,{name}=int8, or {name}:{worst[0] or 'MODULE'}*=unquantized",
        )
    return HSError(
        f"engine '{name}' lies {result.max_relative:.1e} from torch, tolerance {result.tolerance:.0e}",
        "this is a fault of the builder or of hsexport; please report it with the pair's configuration; "
        f"`polygraphy debug reduce {product.graph}` finds the smallest graph that shows it",
    )
