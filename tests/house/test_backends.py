"""A backend is a folder plus one row of traits: nobody outside the registry decides by a backend's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsengines.traits import BACKENDS

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "engines" / "hsengines" / "traits.py"
SOURCES = [
    file
    for folder in ("hsexport", "runtime/hsruntime", "engines/hsengines", "scripts")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file != REGISTRY
]


def is_name(node: ast.AST) -> bool:
    """Whether it is a backend's name as a string, or the beginning that several have in common."""
    value = node.value.rstrip("-") if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return len(value) > 2 and any(name.startswith(value) for name in BACKENDS)


def decisions(source: str) -> Iterator[ast.expr | ast.pattern]:
    """Where `source` compares with a backend's name, looks one up, or lists some."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                sides = [node.left, *node.comparators]
            case ast.Dict():
                sides = [key for key in node.keys if key is not None]
            case ast.Tuple() | ast.List() | ast.Set():
                sides = node.elts
            case ast.Subscript():
                sides = [node.slice]
            case ast.MatchValue():
                sides = [node.value]
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" | "removeprefix" | "get")):
                sides = node.args
            case _:
                continue
        if any(map(is_name, sides)):
            yield node


def test_nobody_decides_by_a_backends_name():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for file in SOURCES
        for node in decisions(file.read_text(encoding="utf-8"))
    ]
    assert not found, "ask its traits instead (hsengines.traits): " + "; ".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "b == 'ort-cpu'",
        "b != 'null'",
        "b in ('tensorrt', 'tensorrt-rtx')",
        "b.startswith('tensorrt')",
        "b.startswith('ort-')",
        "{'tensorrt': 1}",
        "LIMITS['tensorrt-rtx']",
        "LIMITS.get('ort-cuda')",
        "FP32_ONLY = ('ort-cpu',)",
        "match b:\n case 'ort-cpu': pass",
    ],
)
def test_a_decision_by_name_is_found(line):
    assert list(decisions(line))


@pytest.mark.parametrize("line", ["get_backend('ort-cpu')", "build(backend='tensorrt-rtx')", "name = 'null'"])
def test_naming_a_backend_is_no_decision(line):
    assert not list(decisions(line))
