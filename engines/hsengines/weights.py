"""How weights may be stored: the formats, and what a user asks of which network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hsengines.errors import EngineBuildError


@dataclass(frozen=True)
class WeightFormat:
    """One way to store the matrices that a network multiplies with; scales are in the type that it computes in."""

    bits: int
    told: str
    activations: str = ""
    """What the other side of a product is quantised to, by a calibration; empty for nothing."""
    without_calibration: bool = True
    """Whether it is worth anything where activations stay as they are."""
    blocks: tuple[int, ...] = ()
    """Weights to a scale: the first that divides a row. None: a scale a row."""


UNQUANTIZED = "unquantized"
"""In the type that the graph computes with."""
PRODUCT, CONVOLUTION, TABLE = "product", "convolution", "table"
"""What reads a weight: multiplies with it, slides it over a picture, looks rows of it up."""
BYTES = "int8"
"""The format of what no product reads, whichever is asked for."""
FORMATS = {
    "int8": WeightFormat(8, "8-bit integers"),
    "int4": WeightFormat(4, "4-bit integers, scales found by least squares", blocks=(64, 32)),
    "fp8": WeightFormat(8, "E4M3 floats, and E4M3 activations where calibrated", "fp8"),
    "int8-full": WeightFormat(8, "8-bit integers on both sides of a product", "int8", False),
    "nvfp4": WeightFormat(4, "E2M1 floats, blocks of 16 with E4M3 scales", blocks=(16,)),
}
"""By the names that users give."""


@dataclass(frozen=True)
class Asked:
    """One entry of `--weights`: the networks, a group of them or a pattern; the modules in them; the format."""

    networks: str
    modules: str
    format: str

    def holds(self, network: str, group: str) -> bool:
        """Whether it is for a network of that name or group."""
        return fnmatchcase(network, self.networks) or self.networks == group


def asked_weights(text: str) -> tuple[Asked, ...]:
    """The entries of `int8`, `text=int4,large=fp8` or `int4,large:proj_out=int8`; later ones overrule earlier ones.

    Raises EngineBuildError for a format that there is not, and for a side of `=` that is empty.
    """
    return tuple(_entry(entry.strip()) for entry in text.split(","))


def _entry(text: str) -> Asked:
    where, equals, kind = text.rpartition("=")
    networks, colon, modules = where.partition(":")
    if kind not in (*FORMATS, UNQUANTIZED):
        known = ", ".join((*FORMATS, UNQUANTIZED))
        raise EngineBuildError(f"--weights '{text}' names no format of weights", f"choose one of {known}")
    if (equals and not networks) or (colon and not modules):
        raise EngineBuildError(f"--weights '{text}' names no network", "write it like text=int4 or large:proj_out=int8")
    return Asked(networks or "*", modules, kind)


SMALLEST = 32
"""Rows or columns below which a matrix stays as it is: nothing is won."""


def block_of(format: str, columns: int) -> int | None:
    """Weights to a scale in rows of so many columns, 0 for a whole row; None where no block divides it."""
    blocks = FORMATS[format].blocks if format in FORMATS else ()
    return next((block for block in blocks if columns % block == 0), None) if blocks else 0


def fitting(format: str, rows: int, columns: int, kind: str = PRODUCT) -> tuple[str, str]:
    """What a weight of that kind can be stored in where it is to be in a format, and why if that is another one.

    Rows are output channels or what is looked up, columns all the numbers of one.
    """
    if format == UNQUANTIZED:
        return format, ""
    if min(rows, columns) < SMALLEST:
        return UNQUANTIZED, "narrow: nothing would be won"
    if kind != PRODUCT:
        return BYTES, "" if format == BYTES else f"a {kind}, not a product"
    if block_of(format, columns) is None:
        return "int8", f"no block of {format} divides its rows"
    return format, ""


def formats_in(text: str) -> tuple[str, ...]:
    """Every format that a text asks for, each once, but for the one that is none."""
    return tuple(dict.fromkeys(entry.format for entry in asked_weights(text) if entry.format != UNQUANTIZED))


def format_of(asked: Iterable[Asked], network: str, group: str) -> str:
    """What a network's weights are stored in, but for the modules that have entries of their own."""
    found = [entry.format for entry in asked if not entry.modules and entry.holds(network, group)]
    return found[-1] if found else UNQUANTIZED
