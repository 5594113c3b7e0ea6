"""`hsexport serve`: works without torch."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from hsexport.cli.command import Option, bundle_argument, command
from hsexport.cli.options import option_of, record_options, session_options
from hsexport.deploy.serve.options import ServerOptions
from hsruntime.options import SessionOptions

SETTINGS: dict[str, dict[str, Any]] = {
    "api_key": {"envvar": "HSEXPORT_API_KEY", "show_envvar": True},
    "hosts": {"flag": "--allowed-host"},
    "origins": {"flag": "--cors-origin"},
    "watch": {},
    "warm_up": {},
}
"""Options that stand by themselves in the help, beside the limits."""
LIMIT: dict[str, Any] = {"cls": Option, "section": "Limits"}
OPTIONS = {
    name: option_of(ServerOptions, name, **SETTINGS.get(name, LIMIT)) for name in ServerOptions.__struct_fields__
}


@command()
@bundle_argument()
@click.option("--host", default="127.0.0.1", help="0.0.0.0 to be reached from elsewhere")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes any free one")
@record_options(ServerOptions, OPTIONS, "options")
@session_options(
    *("device", "threads", "graphs", "memory_cap_mb", "vae_tile", "kernel_cache", "identity"),
    *("adapters", "adapter_folder", "adapters_kept", "adapter_cap_mb"),
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="what is told"
)
def serve(bundle: Path, host: str, port: int, options: ServerOptions, session: SessionOptions, log_level: str) -> None:
    """Answer OpenAI's images API over HTTP, with a page to try it, health and metrics."""
    from hsexport.deploy.serve.limits import LOOPBACK
    from hsexport.deploy.serve.server import listen
    from hsexport.deploy.serve.server import serve as serve_until_told
    from hsexport.deploy.serve.service import Service

    key = options.api_key
    if key == "" or (key is None and os.environ.get("HSEXPORT_API_KEY") == ""):
        raise click.BadParameter("an empty key would let everybody in; leave it out for that", param_hint="--api-key")
    if key is None and host not in LOOPBACK:
        click.echo(f"hsexport: warning: {host} is reached from elsewhere, and no --api-key is asked for", err=True)
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s: %(message)s")
    with listen(host, port) as sock:
        service = Service(bundle, structs.replace(options, hosts=(host, *options.hosts)), session)
        name, bound = sock.getsockname()[:2]
        where = f"http://{f'[{name}]' if ':' in name else name}:{bound}"
        click.echo(f"hsexport: {bundle} is served at {where}", err=True)
        if not serve_until_told(service, sock, log_level):
            raise SystemExit(1)
