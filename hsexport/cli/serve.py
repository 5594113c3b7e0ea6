"""`hsexport serve`: works without torch."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import click

from hsexport.cli.command import Option, bundle_argument, command
from hsexport.cli.options import session_options
from hsruntime.options import SessionOptions

limit = partial(click.option, cls=Option, section="Limits")
SECONDS = click.FloatRange(0.1)


@command()
@bundle_argument()
@click.option("--host", default="127.0.0.1", help="0.0.0.0 to be reached from elsewhere")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes any free one")
@click.option("--api-key", envvar="HSEXPORT_API_KEY", show_envvar=True, help="what callers must send as a bearer token")
@click.option("--allowed-host", "hosts", multiple=True, help="a name that callers know the server by; '*': any")
@click.option("--cors-origin", "origins", multiple=True, help="a page elsewhere that browsers may ask from")
@limit("--queue", type=click.IntRange(1), default=16, help="pictures that may wait; more get 429")
@limit("--max-batch", type=click.IntRange(1), help="pictures drawn together; default: as built on a GPU, 1 on a CPU")
@limit("--gather-ms", type=click.FloatRange(0), default=5, help="how long a batch that is not full waits")
@limit("--timeout", type=SECONDS, default=120, help="seconds after which a picture is given up with 504")
@limit("--max-body-kb", type=click.IntRange(1), default=256, help="largest request, KiB")
@limit("--header-timeout", type=SECONDS, default=10, help="seconds in which each request's headers must come")
@limit("--body-timeout", type=SECONDS, default=10, help="seconds in which a request's body must come")
@limit("--max-connections", type=click.IntRange(1), default=256, help="beyond them the longest silent gives way")
@limit("--drain-timeout", type=click.FloatRange(0), default=30, help="seconds to finish what waits after SIGTERM")
@click.option(
    "--watch",
    type=click.FloatRange(0),
    default=2,
    help="seconds between looks for a new bundle in place of this one; 0: never",
)
@click.option("--warm-up/--no-warm-up", default=True, help="draw one picture before listening")
@session_options("threads", "graphs", "memory_cap_mb", "vae_tile", "kernel_cache", "identity")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="what is told"
)
def serve(
    bundle: Path,
    host: str,
    port: int,
    api_key: str | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    queue: int,
    max_batch: int | None,
    gather_ms: float,
    timeout: float,
    max_body_kb: int,
    header_timeout: float,
    body_timeout: float,
    max_connections: int,
    drain_timeout: float,
    watch: float,
    warm_up: bool,
    session: SessionOptions,
    log_level: str,
) -> None:
    """Answer OpenAI's images API over HTTP, with a page to try it, health and metrics."""
    from hsexport.deploy.serve.app import HttpOptions
    from hsexport.deploy.serve.limits import LOOPBACK
    from hsexport.deploy.serve.server import listen
    from hsexport.deploy.serve.server import serve as serve_until_told
    from hsexport.deploy.serve.service import Service, ServiceOptions

    if api_key == "" or (api_key is None and os.environ.get("HSEXPORT_API_KEY") == ""):
        raise click.BadParameter("an empty key would let everybody in; leave it out for that", param_hint="--api-key")
    if api_key is None and host not in LOOPBACK:
        click.echo(f"hsexport: warning: {host} is reached from elsewhere, and no --api-key is asked for", err=True)
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s: %(message)s")
    with listen(host, port) as sock:
        service = Service(
            bundle,
            ServiceOptions(
                queue=queue,
                max_batch=max_batch,
                gather_seconds=gather_ms / 1000,
                timeout_seconds=timeout,
                session=session,
                warm_up=warm_up,
                watch_seconds=watch,
            ),
        )
        name, bound = sock.getsockname()[:2]
        where = f"http://{f'[{name}]' if ':' in name else name}:{bound}"
        click.echo(f"hsexport: {bundle} is served at {where}", err=True)
        options = HttpOptions(
            api_key=api_key,
            hosts=(host, *hosts),
            origins=origins,
            most_requests=max_connections,
            most_body_bytes=max_body_kb * 1024,
            header_seconds=header_timeout,
            body_seconds=body_timeout,
            drain_seconds=drain_timeout,
        )
        if not serve_until_told(service, sock, options, most_connections=max_connections, log_level=log_level):
            raise SystemExit(1)
