"""The header is plain C, and what Python's side and the tests know of it is what it says."""

import ctypes
import re
import tomllib

import capi_types
from capi_builds import ROOT, run

from hsruntime import embedded

HEADER = ROOT / "runtime" / "capi" / "include" / "hsruntime.h"


def test_header_is_plain_c99(tmp_path):
    source = tmp_path / "plain.c"
    source.write_text('#include "hsruntime.h"\nint main(void) { return HSR_OK; }\n')
    run("gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}", "-fsyntax-only", source)


def test_structs_lie_in_memory_as_the_tests_take_them(tmp_path):
    lines = [f'printf("{name} %zu\\n", sizeof({name}));' for name in capi_types.STRUCTS]
    for name, kind in capi_types.STRUCTS.items():
        lines += [f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));' for field, _ in kind._fields_]
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include "hsruntime.h"\nint main(void) {' + "\n".join(lines) + "return 0;}\n"
    )
    run("gcc", f"-I{HEADER.parent}", source, "-o", tmp_path / "layout")
    compiled = dict(line.split() for line in run(tmp_path / "layout").stdout.splitlines())
    here = {name: ctypes.sizeof(kind) for name, kind in capi_types.STRUCTS.items()}
    for name, kind in capi_types.STRUCTS.items():
        here |= {f"{name}.{field}": getattr(kind, field).offset for field, _ in kind._fields_}
    assert {name: int(value) for name, value in compiled.items()} == here


def test_python_answers_with_the_header_s_statuses():
    header = {name: int(value) for name, value in re.findall(r"HSR_(\w+) = (\d+),? */", HEADER.read_text())}
    statuses = {"OK": 0, **header}
    assert [statuses[name] for name in capi_types.STATUSES] == list(range(len(capi_types.STATUSES)))
    codes = {kind.__name__: capi_types.STATUSES[code] for kind, code in embedded.CODES.items()}
    assert codes["BundleError"] == "ERROR_BUNDLE"
    assert codes["RequestError"] == codes["ShapeError"] == codes["ScheduleError"] == "ERROR_REQUEST"
    assert codes["EngineLoadError"] == codes["BackendUnavailable"] == "ERROR_BACKEND"
    assert (codes["DeviceError"], codes["DeviceMemoryError"]) == ("ERROR_DEVICE", "ERROR_MEMORY")
    assert statuses["CANCELLED"] == embedded.CANCELLED
    assert statuses["ERROR_OTHER"] == embedded.OTHER
    assert statuses["ERROR_INTERNAL"] == embedded.INTERNAL


def test_header_tells_the_distribution_s_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'#define HSR_VERSION "{version}"' in HEADER.read_text()


def test_library_exports_nothing_but_the_header_s_functions(library):
    exported = {
        line.split()[-1].split("@")[0] for line in run("nm", "-D", "--defined-only", library.file).stdout.splitlines()
    }
    declared = set(re.findall(r"HSR_API [\w *]+?(hsr_\w+)\(", HEADER.read_text()))
    assert exported - {"HSRUNTIME_1"} == declared
    assert declared
