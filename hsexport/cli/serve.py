"""`hsexport serve`: works without torch."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from hsexport.cli.options import Graphs, MemoryCap, VaeTile

limit = partial(typer.Option, rich_help_panel="Limits")


def serve(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    host: Annotated[str, typer.Option(help="0.0.0.0 to be reached from elsewhere")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="HSEXPORT_API_KEY", help="what callers must send as a bearer token")
    ] = None,
    queue: Annotated[int, limit(help="pictures that may wait; more get 429", min=1)] = 16,
    max_batch: Annotated[
        int | None,
        limit(help="pictures drawn together; default: as built on a GPU, 1 on a CPU", min=1),
    ] = None,
    gather_ms: Annotated[float, limit(help="how long a batch that is not full waits", min=0)] = 5,
    timeout: Annotated[
        float,
        limit(help="seconds after which a picture is given up with 504", min=0.1),
    ] = 120,
    max_body_kb: Annotated[int, limit(help="largest request, KiB", min=1)] = 256,
    header_timeout: Annotated[float, limit(help="seconds in which a connection must send headers", min=0.1)] = 10,
    body_timeout: Annotated[float, limit(help="seconds in which a request's body must come", min=0.1)] = 10,
    max_connections: Annotated[int, limit(help="more get 503", min=1)] = 256,
    drain_timeout: Annotated[float, limit(help="seconds to finish what waits after SIGTERM", min=0)] = 30,
    watch: Annotated[
        float, typer.Option(help="seconds between looks for a new bundle in place of this one; 0: never", min=0)
    ] = 2,
    warm_up: Annotated[bool, typer.Option("--warm-up/--no-warm-up", help="draw one picture before listening")] = True,
    threads: Annotated[int, typer.Option(help="CPU threads, 0 for all", min=0)] = 0,
    graphs: Graphs = True,
    memory_cap: MemoryCap = None,
    vae_tile: VaeTile = 0,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="what is told")] = "info",
) -> None:
    """Answer OpenAI's images API over HTTP, with a page to try it, health and metrics."""
    from hsexport.deploy.serve.app import HttpOptions
    from hsexport.deploy.serve.server import listen
    from hsexport.deploy.serve.server import serve as serve_until_told
    from hsexport.deploy.serve.service import Service, ServiceOptions

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s: %(message)s")
    with listen(host, port) as sock:
        service = Service(
            bundle,
            ServiceOptions(
                queue=queue,
                max_batch=max_batch,
                gather_seconds=gather_ms / 1000,
                timeout_seconds=timeout,
                threads=threads,
                graphs=graphs,
                memory_cap_mb=memory_cap,
                vae_tile=vae_tile or None,
                warm_up=warm_up,
                watch_seconds=watch,
            ),
        )
        name, bound = sock.getsockname()[:2]
        where = f"http://{f'[{name}]' if ':' in name else name}:{bound}"
        Console(stderr=True, highlight=False).print(
            f"hsexport: {bundle} is served at {where}", soft_wrap=True, markup=False
        )
        options = HttpOptions(
            api_key=api_key,
            most_body_bytes=max_body_kb * 1024,
            header_seconds=header_timeout,
            body_seconds=body_timeout,
            drain_seconds=drain_timeout,
        )
        serve_until_told(service, sock, options, most_connections=max_connections, log_level=log_level)
