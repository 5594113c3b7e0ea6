"""Reports and what they look like: tables in Markdown, a document's blocks of numbers, files written whole.

A document holds `<!-- numbers: COMMAND -> FILE -->`, what the command measured, and `<!-- end of numbers -->`. The
measurement of that name has made the text of FILE's JSON: nothing in it is written by hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from string import Formatter
from typing import Any

import click
from rich.console import Console
from rich.markdown import Markdown

from hsengines.errors import HSError
from hsengines.files import replace_file
from hsexport.measure.machine import hardware

BLOCK = re.compile(
    r"<!-- numbers: (?P<command>[^\n]+?) -> (?P<file>\S+) -->\n(?P<body>.*?)<!-- end of numbers -->", re.S
)
Measured = Mapping[str, Any]  # a report as its JSON holds it, or a row of one
PIPE = "\\|"
PATH = click.Path(path_type=Path)
bundle_argument = click.argument("bundle", type=PATH)
threads_option = click.option("--threads", default=0, type=click.IntRange(0), help="CPU threads, 0 for all")
COMMANDS: dict[str, click.Command] = {}
BLOCKS: dict[str, Callable[[Measured], str]] = {}
"""What can be measured, by name, and the text that each report makes; every measurement adds itself."""


class _Cells(Formatter):
    """What is not known is a dash, a truth is a word."""

    def get_value(self, key: int | str, _: Any, kwargs: Any) -> Any:
        return kwargs.get(key)

    def format_field(self, value: Any, spec: str) -> str:
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return super().format_field(value, spec)


def table(columns: str, rows: Iterable[Measured]) -> str:
    """Markdown: `columns` are "heading: cell | heading: cell", a cell as `str.format` makes it of a row."""
    cells = _Cells()
    parts = [column.partition(": ") for column in columns.split(" | ")]
    return grid([p[0] for p in parts], ([cells.vformat(p[2], (), row) for p in parts] for row in rows))


def grid(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """The same of cells that are made already."""
    written = [f"| {' | '.join(cell.replace('|', PIPE) for cell in line)} |\n" for line in (headings, *rows)]
    return "".join([written[0], f"|{'---|' * len(headings)}\n", *written[1:]])


def measured_on(report: Measured, *more: str) -> str:
    """The line below a table."""
    machine = report["hardware"]
    used = f", {machine['threads']} threads" if machine["threads"] != machine["cores"] else ""
    told = f"{machine['processor']}, {machine['cores']} cores{used}"
    return f"\nHardware: {'; '.join([told, *more])}.\n"


def show(markdown: str, console: Console | None = None) -> None:
    """A table in a terminal, the Markdown itself elsewhere."""
    console = console or Console(highlight=False)
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        click.echo(markdown, nl=False)


def measurement(block: str | Callable[[Measured], str]) -> Callable[[Callable[..., dict[str, Any]]], Any]:
    """Makes a command of a function that answers with numbers: it shows their block and, where asked, writes them.

    `block` makes a report's text, or is the columns of its one list.
    """

    def decorated(measure: Callable[..., dict[str, Any]]) -> Any:
        name = measure.__name__
        BLOCKS[name] = partial(_listed, block) if isinstance(block, str) else block

        @click.option("--json", "json_file", type=PATH, metavar="FILE", help="also write the numbers there")
        @wraps(measure)
        def run(json_file: Path | None, **asked: Any) -> None:
            machine = asdict(hardware(asked.get("threads", 0)))
            report = {"date": today(), "hardware": machine, **measure(**asked)}
            show(BLOCKS[name](report))
            if json_file:
                replace_file(json_file, f"{json.dumps(report, indent=2)}\n")

        COMMANDS[name] = click.command(name)(run)
        return measure

    return decorated


def _listed(columns: str, report: Measured) -> str:
    return table(columns, next(rows for rows in report.values() if isinstance(rows, list))) + measured_on(report)


def today() -> str:
    """The date in ISO's form."""
    return datetime.now(UTC).date().isoformat()


def numbers_of(document: Path, file: str) -> Path:
    """The JSON that a block names: its commands run in the repository, whose documents lie in it or in its docs."""
    folder = document.absolute().parent
    return (folder.parent if folder.name == "docs" else folder) / file


def body_of(document: Path, command: str, file: str) -> str:
    """A block's text: table, hardware and, where one lies beside the numbers, the plot of the same name."""
    import_module("hsexport.measure.__main__")  # and with it all that can be measured
    numbers, name = numbers_of(document, file), [*shlex.split(command), ""][1]
    if name not in BLOCKS:
        raise HSError(f"{document}: '{command}' measures nothing", "hsexport bench does, and scripts/measure")
    text = BLOCKS[name](json.loads(numbers.read_bytes()))
    plot = numbers.with_suffix(".png")
    if plot.is_file():
        shown = Path(os.path.relpath(plot, document.absolute().parent)).as_posix()
        text += f"\n![Speedup against distance]({shown})\n"
    return f"\n{text}\n"


def rendered(document: Path, text: str = "", only: str = "") -> str:
    """The document, or what is to become its text, with every block, or one file's, as its numbers have it."""

    def block(found: re.Match[str]) -> str:
        if only not in ("", found["file"]):
            return found[0]
        opening = found[0][: found.start("body") - found.start()]
        return f"{opening}{body_of(document, found['command'], found['file'])}<!-- end of numbers -->"

    return BLOCK.sub(block, text or document.read_text(encoding="utf-8"))


@click.command("blocks")
@click.argument("documents", type=PATH, nargs=-1)
@click.option("--write", is_flag=True, help="put the numbers in; else only tell where they differ")
def blocks(documents: tuple[Path, ...], write: bool) -> None:
    """Make every block of numbers of the documents (README.md and docs, if none is named) from its JSON file."""
    differing = 0
    for document in documents or (Path("README.md"), *sorted(Path("docs").rglob("*.md"))):
        text = rendered(document)
        if text != document.read_text(encoding="utf-8"):
            differing += 1
            click.echo(f"{document}: {'written' if write else 'differs from its numbers; --write puts them in'}")
            if write:
                replace_file(document, text.encode())
    raise SystemExit(bool(differing) and not write)
