"""`hsexport embed`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hsexport.cli.command import FILE, command, json_option
from hsexport.deploy.capi import build_in, facts_of, shipped


@command()
@click.option("--cflags", is_flag=True, help="print what the compiler needs")
@click.option("--libs", is_flag=True, help="print what the linker needs")
@click.option("--cmake-dir", is_flag=True, help="print the value of hsruntime_DIR")
@click.option("--pkg-config-dir", is_flag=True, help="print an entry of PKG_CONFIG_PATH")
@click.option("--build", type=FILE, metavar="DIR", help="build the library and install it there; needs CMake and C++")
@json_option("print all of it for scripts")
def embed(build: Path | None, as_json: bool, **asked: bool) -> None:
    """Tell where the C library is, for programs in C and C++."""
    if build:
        build_in(build.resolve())
    facts = facts_of(build.resolve() if build else shipped())
    wanted = [fact for name, fact in facts.items() if asked[name.replace("-", "_")]]
    if as_json:
        click.echo(json.dumps(facts))
    elif wanted:
        click.echo(" ".join(wanted))
    else:
        click.echo("\n".join(f"{name:<15} {fact}" for name, fact in facts.items()))
