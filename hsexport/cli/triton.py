"""`hsexport triton`: works without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.cli.options import option_of
from hsruntime.options import SessionOptions


@command()
@bundle_argument()
@click.option("--out", type=FILE, required=True, help="the model repository; made if it is not there")
@click.option("--name", help="the model's name; else the bundle's")
@click.option(
    "--max-queue-delay-us",
    type=click.IntRange(0),
    default=10_000,
    help="microseconds that a request waits for company",
)
@click.option("--max-queue-size", type=click.IntRange(0), default=256, help="requests that may wait; 0 for any number")
@click.option("--queue-timeout-ms", type=click.IntRange(0), default=0, help="how long they may wait; 0 for ever")
@click.option("--instances", type=click.IntRange(1), default=1, help="sessions side by side, each with its own engines")
@option_of(SessionOptions, "threads", "CPU threads of each instance, 0 for all")
@click.option("--progress", "--decoupled", is_flag=True, help="answer after every step, too; clients must stream")
@click.option(
    "--execution-env",
    metavar="PATH",
    default="",
    show_default=False,
    help="Python environment with hsexport in it, packed or plain, on the server",
)
@click.option("--link/--copy", default=False, help="hard-link the bundle's files")
@json_option("print what was written for scripts")
def triton(
    bundle: Path, out: Path, name: str | None, link: bool, as_json: bool, queue_timeout_ms: int, **asked: Any
) -> None:
    """Write a model repository for NVIDIA Triton."""
    from hsexport.deploy.triton.config import TritonOptions
    from hsexport.deploy.triton.repository import write_repository

    options = TritonOptions(queue_timeout_us=1000 * queue_timeout_ms, **asked)
    written = write_repository(bundle, out, options, name=name, link=link)
    if as_json:
        click.echo(json.dumps(_summary(written, options)))
        return
    rows, how = written.bundle.manifest.facts.sizes.max_batch, _placement(written) if link else "copied"
    click.echo(
        f"{written.model}: batches of up to {rows}, bundle {how}; serve it: tritonserver --model-repository {out}",
        err=True,
    )


def _placement(written: Any) -> str:
    files = len(written.bundle.manifest.files) + 1
    if written.linked == files:
        return "linked"
    return f"copied, {written.linked} of {files} files linked (the disk allows no more)"


def _summary(written: Any, options: Any) -> dict[str, Any]:
    return {
        "model": str(written.model),
        "name": written.model.name,
        "max_batch": written.bundle.manifest.facts.sizes.max_batch,
        "progress": options.progress,
        "instances": options.instances,
        "linked_files": written.linked,
    }
