"""Adapters as callers ask for them: files, from who opens a bundle; names in a folder, from anybody."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsruntime.adapters.changeable import Role
from hsruntime.adapters.lora import AdapterRequest
from hsruntime.request import RequestError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Of a file without its ending. It names no other folder: there is no slash in it, nor does it begin with a dot."""
SUFFIX = ".safetensors"
MOST = 8
"""Adapters of one picture."""
LARGEST_SCALE = 100
Texts = str | Sequence[str]
"""One adapter or several; one text may be several with commas between."""


@dataclass(frozen=True)
class Named:
    """`scale` times of an adapter that lies in the operator's folder."""

    role: Role
    name: str
    scale: float


Asked = tuple[Named | AdapterRequest, ...]


def file_from_text(text: str) -> AdapterRequest:
    """`FILE`, `FILE:0.8` or `small=FILE:0.8`. Raises RequestError."""
    role, rest = _role_in(text)
    file, colon, scale = rest.rpartition(":")
    if not colon or Path(rest).expanduser().is_file():
        file, scale = rest, "1"
    value = _number(scale)
    if not file or not math.isfinite(value):
        raise RequestError(f"'{text}' is not a LoRA with its scale", "write FILE, FILE:0.8 or small=FILE:0.8")
    return AdapterRequest(role, Path(file), value)


def files_from(texts: Texts) -> tuple[AdapterRequest, ...]:
    """As `file_from_text`, of each. Raises RequestError."""
    return tuple(file_from_text(text) for text in _each(texts))


def names_from(texts: Texts | None) -> tuple[Named, ...] | None:
    """`style`, `style:0.8` or `small=style:0.8` of each; None for None. Raises RequestError."""
    if texts is None:
        return None
    found = tuple(map(_named, _each(texts)))
    if len(found) > MOST:
        raise RequestError(f"{len(found)} adapters are asked for, at most {MOST} are taken", "ask for fewer")
    return found


def _named(text: str) -> Named:
    role, rest = _role_in(text)
    name, colon, scale = rest.partition(":")
    value = _number(scale) if colon else 1.0
    if not NAME.fullmatch(name):
        told = "letters, digits, '_', '-' and '.', and no folder"
        raise RequestError(f"{text[:100]!r} is no adapter's name", f"names have {told}; write style or style:0.8")
    if not abs(value) <= LARGEST_SCALE:  # false for nan as well
        raise RequestError(f"{text[:100]!r} is no adapter with its scale", "write style or style:0.8")
    return Named(role, name, value)


def _each(texts: Texts) -> list[str]:
    given = texts.split(",") if isinstance(texts, str) else list(texts)
    for text in given:
        if not isinstance(text, str):
            raise RequestError(f"an adapter is a {type(text).__name__}, expected str")
    return [text.strip() for text in given if text.strip()]


def _role_in(text: str) -> tuple[Role, str]:
    role, mark, rest = text.partition("=")
    if mark and role == "small":
        return "small", rest
    return "large", rest if mark and role == "large" else text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Folder:
    """Where named adapters lie; the operator names it, nobody else."""

    def __init__(self, path: str | None) -> None:
        """None for none. Raises RequestError for what is no folder."""
        self.path = None if path is None else Path(path).expanduser()
        if self.path is not None and not self.path.is_dir():
            raise RequestError(f"adapter_folder {self.path} is not a folder", "make it first")

    def names(self) -> list[str]:
        """What may be asked for, at present."""
        if self.path is None:
            return []
        return sorted(f.stem for f in self.path.glob(f"*{SUFFIX}") if f.is_file() and NAME.fullmatch(f.stem))

    def file(self, asked: Named) -> AdapterRequest:
        """Where it lies. Raises RequestError for what does not."""
        if self.path is None:
            raise RequestError(f"there is no adapter '{asked.name}': no adapter_folder was named", "leave it out")
        file = self.path / f"{asked.name}{SUFFIX}"
        if not file.is_file():
            known = ", ".join(self.names()) or "none"
            raise RequestError(f"there is no adapter '{asked.name}', there are {known}", "ask for one of these")
        return AdapterRequest(asked.role, file, asked.scale)

    def check(self, asked: Asked | None) -> None:
        """Raises RequestError for a name that is not here."""
        for one in asked or ():
            if isinstance(one, Named):
                self.file(one)
