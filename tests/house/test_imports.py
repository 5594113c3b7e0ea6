"""The three packages' dependencies point downward only, and the runtime lives without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "hsengines": ROOT / "engines" / "hsengines",
    "hsruntime": ROOT / "runtime" / "hsruntime",
    "hsexport": ROOT / "hsexport",
}
BUILD_SIDE = {"torch", "diffusers", "transformers", "onnx"}
FORBIDDEN = {
    "hsengines": {"hsruntime", "hsexport", *BUILD_SIDE},
    "hsruntime": {"hsexport", *BUILD_SIDE},
    "hsexport": set(),
}
BACKEND_OF_LIBRARY = {
    "onnxruntime": "hsengines.ort",
    "openvino": "hsengines.openvino",
    "tensorrt": "hsengines.trt",
    "tensorrt_rtx": "hsengines.trt",
    "cuda": "hsengines.cuda",
}
FLOORS = ("cli", "measure", "plan", "deploy", "build", "onnx", "families", "networks", "checkpoints")
"""Rooms of hsexport, the topmost first: each may import from those below. What stands in no room all may use
(progress and its report, the version), and it uses no room."""
IMPORT_LIMIT_SECONDS = 0.2


def module_names(package: str) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    root = PACKAGES[package]
    dotted = {file: (package, *file.relative_to(root).with_suffix("").parts) for file in root.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): file for file, parts in dotted.items()}


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """What the source imports at any depth, dotted; import_module and __import__ of a literal count as well."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    """Pairs of a module and a name that it imports."""
    for module, file in module_names(package).items():
        names = imported_names(file.read_text(encoding="utf-8"), module, is_package=file.name == "__init__.py")
        yield from ((module, name) for name in names)


def run_python(code: str, *arguments: str) -> str:
    """What `code` prints in an interpreter of its own. Fails the test with its stderr."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_are_found_at_any_depth():
    source = "def f():\n    from .a import b\n    import onnx.helper\n    importlib.import_module('torch')\n"
    assert set(imported_names(source, "p.q.r", is_package=False)) == {"p.q.a.b", "onnx.helper", "torch"}
    assert "p.q.r.a.b" in set(imported_names(source, "p.q.r", is_package=True))


def floor(name: str) -> int | None:
    """How many rooms of hsexport stand above the one that `name` is in; None outside of them."""
    _, room, *_ = (*name.split("."), "")
    return FLOORS.index(room) if root(name) == "hsexport" and room in FLOORS else None


def upward(module: str, name: str) -> bool:
    """Whether `module`, by importing `name`, reaches a floor above its own."""
    above = floor(name)
    return above is not None and above < (len(FLOORS) if (own := floor(module)) is None else own)


def test_a_way_up_is_found():
    assert upward("hsexport.onnx.lint", "hsexport.build.request")
    assert upward("hsexport.progress", "hsexport.networks.network")
    assert not upward("hsexport.build.request", "hsexport.onnx.lint")
    assert not upward("hsexport.build.request", "hsruntime.facts.Facts")


def test_no_room_imports_from_a_room_above():
    rooms = {file.parent.name for file in PACKAGES["hsexport"].glob("*/__init__.py")}
    assert rooms == set(FLOORS)
    assert not [f"{module} imports {name}" for module, name in imports_of("hsexport") if upward(module, name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_nothing_above_it(package):
    found = [f"{module} imports {name}" for module, name in imports_of(package) if root(name) in FORBIDDEN[package]]
    assert not found


@pytest.mark.parametrize("package", PACKAGES)
def test_engine_libraries_stay_inside_their_backend(package):
    found = [
        f"{module} imports {name}, which belongs to {BACKEND_OF_LIBRARY[root(name)]}"
        for module, name in imports_of(package)
        if root(name) in BACKEND_OF_LIBRARY and not is_inside(module, BACKEND_OF_LIBRARY[root(name)])
    ]
    assert not found


DEPLOY_MAY_IMPORT = ("hsexport.__version__", "hsexport.deploy", "hsexport.progress")
"""Of hsexport, beside its own name."""


def test_deployment_imports_the_runtime_and_never_the_build():
    deployed = [(module, name) for module, name in imports_of("hsexport") if is_inside(module, "hsexport.deploy")]
    assert {root(name) for _, name in deployed} >= {"hsruntime", "hsengines", "fastapi", "ray"}
    found = [
        f"{module} imports {name}"
        for module, name in deployed
        if root(name) in BUILD_SIDE
        or (name.startswith("hsexport.") and not any(is_inside(name, allowed) for allowed in DEPLOY_MAY_IMPORT))
    ]
    assert not found


def root(name: str) -> str:
    return name.partition(".")[0]


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("package", ["hsengines", "hsruntime"])
def test_environment_variables_are_read_by_the_command_line_alone(package):
    found = [
        f"{module}: {ast.unparse(node)}"
        for module, file in module_names(package).items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    ]
    # ONNX Runtime reads a variable once, when it is imported: that one is set, and read by nobody here.
    assert found == (["hsengines.ort: os.environ"] if package == "hsengines" else [])


BLOCKING_IMPORT = """
import sys
from importlib import import_module
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
blocked, optional = (set(names.split(",")) for names in sys.argv[1:3])
sys.meta_path.insert(0, Blocked())
for module in sys.argv[3:]:
    try:
        import_module(module)
    except ModuleNotFoundError as err:  # a backend whose library is not installed here
        if (err.name or "").partition(".")[0] not in optional:
            raise
assert not blocked & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.mark.parametrize("package", ["hsengines", "hsruntime"])
def test_every_module_imports_with_the_build_side_blocked(package):
    modules = sorted(module_names(package))
    run_python(BLOCKING_IMPORT, ",".join(BUILD_SIDE), ",".join(BACKEND_OF_LIBRARY), *modules)


@pytest.mark.parametrize("room", ["serve", "archive", "triton", "ray", "pictures", "capi"])
def test_rooms_for_running_import_with_the_build_side_blocked(room):
    modules = sorted(name for name in module_names("hsexport") if is_inside(name, f"hsexport.deploy.{room}"))
    modules.remove("hsexport.deploy.triton.model") if room == "triton" else None  # only Triton's server can import it
    assert modules
    run_python(BLOCKING_IMPORT, ",".join(BUILD_SIDE), ",".join(BACKEND_OF_LIBRARY), *modules)


ONLY_NUMPY = """
import sys
class OnlyNumpy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "hsruntime", "hsengines"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, OnlyNumpy())
import hsruntime
assert hsruntime.__all__
"""


def test_hsruntime_imports_with_numpy_alone():
    run_python(ONLY_NUMPY)


TIMED_IMPORT = """
from time import perf_counter
start = perf_counter()
import hsruntime
print(perf_counter() - start)
"""


def test_hsruntime_imports_in_a_fifth_of_a_second():
    assert min(float(run_python(TIMED_IMPORT)) for _ in range(5)) < IMPORT_LIMIT_SECONDS
