"""`hsexport triton`: works without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def triton(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    out: Annotated[Path, typer.Option(help="the model repository; made if it is not there")],
    name: Annotated[str | None, typer.Option(help="the model's name; else the bundle's")] = None,
    max_queue_delay_us: Annotated[
        int, typer.Option(min=0, help="microseconds that a request waits for company")
    ] = 10_000,
    max_queue_size: Annotated[int, typer.Option(min=0, help="requests that may wait; 0 for any number")] = 256,
    queue_timeout_ms: Annotated[int, typer.Option(min=0, help="how long they may wait; 0 for ever")] = 0,
    instances: Annotated[int, typer.Option(min=1, help="sessions side by side, each with its own engines")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of each instance, 0 for all")] = 0,
    progress: Annotated[
        bool, typer.Option("--progress", "--decoupled", help="answer after every step, too; clients must stream")
    ] = False,
    execution_env: Annotated[
        str, typer.Option(metavar="PATH", help="Python environment with hsexport in it, packed or plain, on the server")
    ] = "",
    link: Annotated[bool, typer.Option("--link/--copy", help="hard-link the bundle's files")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was written for scripts")] = False,
) -> None:
    """Write a model repository for NVIDIA Triton."""
    from hsexport.deploy.triton.config import TritonOptions
    from hsexport.deploy.triton.repository import write_repository

    options = TritonOptions(
        max_queue_delay_us=max_queue_delay_us,
        max_queue_size=max_queue_size,
        queue_timeout_us=1000 * queue_timeout_ms,
        instances=instances,
        threads=threads,
        progress=progress,
        execution_env=execution_env,
    )
    written = write_repository(bundle, out, options, name=name, link=link)
    if as_json:
        typer.echo(json.dumps(_summary(written, options)))
        return
    rows, how = written.bundle.manifest.sizes.max_batch, _placement(written) if link else "copied"
    Console(stderr=True, highlight=False).print(
        f"{written.model}: batches of up to {rows}, bundle {how}; serve it: tritonserver --model-repository {out}",
        soft_wrap=True,
        markup=False,
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
        "max_batch": written.bundle.manifest.sizes.max_batch,
        "progress": options.progress,
        "instances": options.instances,
        "linked_files": written.linked,
    }
