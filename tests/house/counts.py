"""Counts the house: lines, and what is in reach of one build and of one picture (`python tests/house/counts.py`).

In reach is every module of the three packages that a module imports, at any depth and inside functions too, but for
imports that are for type checkers alone. What the registries of backends and families import by name is not: that is
what they are for. A record type is a dataclass, a msgspec Struct or a NamedTuple.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"hsexport": "hsexport", "hsruntime": "runtime/hsruntime", "hsengines": "engines/hsengines"}
RECORD_BASES = {"Struct", "NamedTuple", "Strict", "_Strict"}
STARTS = {"one build": "hsexport.build.build", "one picture": "hsruntime.session"}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package, place in PACKAGES.items():
        for file in (root / place).rglob("*.py"):
            parts = (package, *file.relative_to(root / place).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imports(module: str, known: dict[str, Path]) -> set[str]:
    """Modules of the packages that one imports."""
    tree = ast.parse(known[module].read_text(encoding="utf-8"))
    package = module if known[module].name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names & known.keys()


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _nodes(node)


def reach(start: str, known: dict[str, Path]) -> list[str]:
    """Modules in reach of one, itself included; packages' own files do not count."""
    seen, pending = set(), [start]
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += imports(module, known)
    return sorted(module for module in seen if known[module].name != "__init__.py")


def records(file: Path) -> list[str]:
    """Names of a file's record types."""
    classes = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef))
    return [
        each.name
        for each in classes
        if any("dataclass" in ast.unparse(decorator) for decorator in each.decorator_list)
        or any(ast.unparse(base).rpartition(".")[2] in RECORD_BASES for base in each.bases)
    ]


def lines(known: dict[str, Path]) -> int:
    """Of all Python in the three packages."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in known.values())


def cycles(known: dict[str, Path]) -> list[str]:
    """Modules that import themselves by way of others when they are loaded."""
    graph = {module: _loaded_with(module, known) for module in known}
    return sorted(module for module in graph if module in _after(module, graph))


def _loaded_with(module: str, known: dict[str, Path]) -> set[str]:
    """What is imported as a module is loaded: not in functions, not for type checkers."""
    tree = ast.parse(known[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    names = set()
    for node in _nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names & known.keys() if known[name].name != "__init__.py"}


def _after(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    pending = list(graph[start])
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += graph[module]
    return seen


def main(root: Path) -> None:
    """Prints the counts of a checkout."""
    known = modules(root)
    print(f"{lines(known)} lines of Python in hsexport, runtime and engines; import cycles: {len(cycles(known))}")
    for what, start in STARTS.items():
        if start not in known:
            start = start.removesuffix(".build")  # as it was called before the rooms
        found = reach(start, known)
        count = sum(len(records(known[module])) for module in found)
        print(f"{what} ({start}): {len(found)} files, {count} record types")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
