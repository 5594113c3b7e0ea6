"""How a command of ours looks on click: documented arguments, options in sections, and what several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)
KINDS = {"string": str, "integer": int, "number": float}


class Argument(click.Argument):
    """An argument with a help text, which click itself knows from 8.5 on."""

    section = "Arguments"

    def __init__(self, declarations: list[str], help: str, **settings: Any) -> None:
        super().__init__(declarations, **settings)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """As it stands in the section of arguments."""
        del ctx
        return self.human_readable_name, self.help or ""


class Option(click.Option):
    """An option under a heading of its own."""

    def __init__(self, *declarations: Any, section: str, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.section = section


class Command(click.Command):
    """A command whose help has a section for its arguments and one for each heading of its options."""

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: `format_options`, which every click calls, writes all sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, in the order in which the first of each is declared; options without a heading first."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


command = partial(click.command, cls=Command)


def bundle_argument(help: str = "a bundle that `hsexport build` wrote") -> Callable[..., Any]:
    """The bundle that a command is about."""
    return click.argument("bundle", cls=Argument, type=FILE, help=help)


def json_option(help: str) -> Callable[..., Any]:
    """`--json`: for scripts."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def option_from(name: str, schema: dict[str, Any], **settings: Any) -> Callable[..., Any]:
    """An option by a field's JSON schema, whose "flag" is what it is called; settings go before what that says."""
    flag, default = schema["flag"], schema["default"]
    found = {**schema, **next((each for each in schema.get("anyOf", ()) if each["type"] != "null"), {})}
    shape: dict[str, Any] = {"default": default, "show_default": default != "", "help": schema["description"]}
    if found["type"] == "array":
        shape |= {"type": KINDS[found["items"]["type"]], "multiple": True}
    elif found["type"] == "boolean" and default:
        flag += f"/--no-{flag.removeprefix('--')}"
    elif found["type"] == "boolean":
        shape["is_flag"] = True
    elif "enum" in found:
        shape["type"] = click.Choice(found["enum"])
    else:
        ranged = click.FloatRange if found["type"] == "number" else click.IntRange
        shape["type"] = ranged(found["minimum"]) if "minimum" in found else KINDS[found["type"]]
    return click.option(flag, name, **{**shape, **settings})


def with_options(function: Callable[..., Any], options: Iterable[Callable[..., Any]]) -> Callable[..., Any]:
    """The command with these options, which help shows in this order."""
    for option in reversed(list(options)):
        function = option(function)
    return function


def one_of(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Completion of a value that is one of `names()`, asked for when a shell asks, and not checked."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        del ctx, parameter
        return [name for name in names() if name.startswith(incomplete)]

    return complete
