"""Prompt files: a prompt a line (.txt), an object a line (.jsonl), or a table with a header (.csv)."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hsengines.errors import HSError
from hsruntime.options import OF_EACH, PICTURE_FILES, PictureOptions, schemas_of

LINE_END = re.compile(r"\r\n|\n|\r")
"""What ends a line; other characters that Unicode breaks lines at may stand in a prompt."""


_KINDS: dict[str, Any] = {"string": str, "integer": int}
_SCHEMAS = schemas_of(PictureOptions)
_OTHERS = [
    (name, _KINDS[_SCHEMAS[name]["type"]] | None, None) for name in (*OF_EACH, *PICTURE_FILES) if name != "prompt"
]
Row: Any = msgspec.defstruct("Row", [("prompt", str), *_OTHERS], frozen=True, forbid_unknown_fields=True)
"""What a line may say: options that pictures need not share, and files, named from where the prompt file lies; what is
None comes from the job's."""


class Line(msgspec.Struct, frozen=True):
    """A line that holds something. index: from 0, over these lines; number: from 1, in the file."""

    index: int
    number: int
    text: str
    row: Any
    fault: str = ""
    """Why there is no row."""


def read_prompts(file: Path) -> list[Line]:
    """Every line that is not blank; one that cannot be read says why. Raises HSError for the file as a whole."""
    if file.suffix not in (".txt", ".jsonl", ".csv"):
        raise HSError(f"'{file}' ends in '{file.suffix}', expected .txt, .jsonl or .csv", "name it so")
    text = _text_of(file)
    read = {".txt": _plain, ".jsonl": _objects, ".csv": _table}[file.suffix]
    lines = [Line(index, *found) for index, found in enumerate(read(file, text))]
    if not lines:
        raise HSError(f"'{file}' holds no prompt", "write one a line")
    return lines


def _text_of(file: Path) -> str:
    """UTF-8, with or without the mark that Windows' programs begin it with, or UTF-16 with its mark."""
    data = file.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="surrogateescape")
    if b"\0" in data:
        raise HSError(f"'{file}' holds NUL bytes, as UTF-16 without its mark does", "save it as UTF-8")
    # A byte that is not UTF-8 must fail its own line, which `PictureOptions.completed` sees to, and not the job.
    return data.decode("utf-8-sig", errors="surrogateescape")


_Found = tuple[int, str, Any, str]
"""Line number, text, row, fault."""


def _plain(_: Path, text: str) -> Iterator[_Found]:
    for number, line in _filled(text):
        yield number, line, Row(line), ""


def _objects(_: Path, text: str) -> Iterator[_Found]:
    for number, line in _filled(text):
        try:
            yield number, line, msgspec.json.decode(line, type=Row), ""
        except (msgspec.MsgspecError, UnicodeError) as err:
            yield number, line, None, str(err)


def _table(file: Path, text: str) -> Iterator[_Found]:
    header = LINE_END.split(text, maxsplit=1)[0]
    # Excel writes semicolons where the comma is the decimal point.
    delimiter = next((mark for mark in ",;\t" if "prompt" in next(csv.reader([header], delimiter=mark), ())), ",")
    table = csv.DictReader(io.StringIO(text, newline=""), restkey="(beyond the header)", delimiter=delimiter)
    if "prompt" not in (table.fieldnames or ()):
        raise HSError(f"'{file}' has columns {table.fieldnames}, expected 'prompt'", "write a header in its first line")
    try:
        yield from map(_row, table, iter(lambda: table.line_num, None))
    except csv.Error as err:
        raise HSError(f"'{file}', line {table.line_num}: {err}", "write it as a table of text") from err


def _row(cells: dict[str, Any], number: int) -> _Found:
    filled = {name: cell for name, cell in cells.items() if cell}
    line = ",".join(map(str, cells.values()))
    try:
        return number, line, msgspec.convert(filled, Row, strict=False), ""
    except (msgspec.MsgspecError, UnicodeError) as err:
        return number, line, None, str(err)


def _filled(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(LINE_END.split(text), 1):
        if line.strip():
            yield number, line.strip()
