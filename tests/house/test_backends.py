"""A backend is a folder plus one row of traits: nobody outside the registry decides by a backend's name."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsengines.build import options_kind
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
        # "null" is JSON's word, too.
        if any(is_name(side) and (side.value != "null" or "backend" in ast.unparse(node)) for side in sides):
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
        "backend != 'null'",
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


@pytest.mark.parametrize("name", BACKENDS)
def test_a_row_names_what_there_is(name):
    from hsexport.onnx.lint.rules import BACKEND_RULES
    from hsexport.onnx.passes.prepare import PASSES

    traits = BACKENDS[name]
    assert options_kind(name)().precision
    assert set(traits.rules) <= {*BACKEND_RULES, "float64"}
    assert set(traits.passes) <= set(PASSES)


MADE_UP = """
from typing import Annotated
from msgspec import Meta
from hsengines.build import BuildOptions
from hsengines.null.backend import NullBackend

class MadeUpOptions(BuildOptions, frozen=True, kw_only=True):
    flavour: Annotated[str, Meta(description="what it tastes of")] = "none"

class MadeUpBackend(NullBackend):
    name = "made-up"

    def key_facts(self, options):
        return {"flavour": options.flavour}

    def why_not_here(self):
        return "it computes nothing"
"""
ONE_ROW = """
from hsengines.traits import BACKENDS, BackendTraits
BACKENDS["made-up"] = BackendTraits(
    "made_up:MadeUpBackend",
    "made_up:MadeUpOptions",
    precisions=("bf16", "fp32"),
    passes=("single_output_attention",),
    rules=("top-k",),
)
from hsexport.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_made_up_backend_is_a_folder_and_one_row(tmp_path, tiny_pair_dirs, tiny_cache):
    """Command line, options, plan, lint, passes, keys, verification by cast-back, manifest: none knows it."""
    (tmp_path / "made_up.py").write_text(MADE_UP)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    large, small = tiny_pair_dirs
    pair = ["--large", large, "--small", small, "--light", "1+1", "--cache", tiny_cache]

    def hsexport(*arguments):
        command = [sys.executable, "-c", ONE_ROW, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": path}
        )

    built = hsexport("build", *pair, "--out", tmp_path / "b", "--backend", "made-up", "--flavour", "sweet", "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["precision"] == "bf16"
    planned = hsexport("plan", *pair, "--backend", "made-up", "--json")
    assert json.loads(planned.stdout)["backend"] == "made-up"
    inspected = json.loads(hsexport("inspect", tmp_path / "b", "--json").stdout)
    assert inspected["backend"] == "made-up"
    assert inspected["engines"]["large"]["options"] == {"flavour": "sweet"}
    refused = hsexport("build", *pair, "--out", tmp_path / "c", "--flavour", "sweet")
    assert refused.returncode == 1
    assert "backend 'ort-cpu' cannot build with --flavour sweet" in refused.stderr
    assert "made-up:\n  --flavour TEXT  what it tastes of" in hsexport("build", "--help").stdout
