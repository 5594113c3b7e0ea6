"""Node names of the form "<module path>/<operator>"."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

_BLOCK = re.compile(r"^.*?\.\d+(?=\.|$)")


class UniqueNames:
    """Hands out names that were not handed out before: "a/Add", "a/Add_2", "a/Add_3"."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """`wanted` itself, or with the first free number behind it."""
        name = wanted
        while name in self._taken:
            self._last[wanted] = self._last.get(wanted, 1) + 1
            name = f"{wanted}_{self._last[wanted]}"
        self._taken.add(name)
        return name


def node_name(path: str, operator: str) -> str:
    """The name of a node of `operator` in the module at `path`; "" is the network itself."""
    return f"{path}/{operator}" if path else operator


def module_path(node: ir.Node) -> str:
    """The module path in a node's name; "" if it has none."""
    return (node.name or "").rpartition("/")[0]


def block_of(path: str) -> str:
    """The outermost numbered module on a path: "transformer_blocks.7" of "transformer_blocks.7.attn.to_out.0".

    "" if nothing on the path is numbered. The innermost would be wrong: `to_out.0` is numbered, too.
    """
    match = _BLOCK.match(path)
    return match.group() if match else ""
