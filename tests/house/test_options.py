"""An option is declared once, in hsruntime.options; whoever else names it derives from there, or is held to it here."""

from __future__ import annotations

import ast
import ctypes
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import capi_types
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hsexport.deploy.serve import api
from hsexport.deploy.triton import config
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import OF_EACH, PictureOptions, SessionOptions, schemas_of
from hsruntime.picture.original import PictureFile

ROOT = Path(__file__).parents[2]
RECORDS = [PictureOptions, SessionOptions]
MOST_PLACES = 4
"""The record, Session's own keywords, the C struct, and what reads that struct."""


def spellings(source: str) -> Iterator[tuple[str, set[str]]]:
    """Where Python code lists names of its own or hands them on: parameters, fields, keywords, keys.

    The place is the outermost class or function around it, or a method of that class.
    """
    for place, node in placed(ast.parse(source), "module"):
        if isinstance(node, ast.arguments):
            yield place, {argument.arg for argument in (*node.posonlyargs, *node.args, *node.kwonlyargs)}
        elif isinstance(node, ast.ClassDef):
            yield place, {ast.unparse(line.target) for line in node.body if isinstance(line, ast.AnnAssign)}
        elif isinstance(node, ast.Call):
            yield place, {keyword.arg for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.Dict):
            handed_on = zip(node.keys, node.values, strict=True)
            yield (
                place,
                {
                    str(key.value)
                    for key, value in handed_on
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Name | ast.Attribute | ast.Call)
                },
            )


def placed(node: ast.AST, place: str, depth: int = 0) -> Iterator[tuple[str, ast.AST]]:
    """Every node below with its place."""
    for child in ast.iter_child_nodes(node):
        inside, deeper = place, depth
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and depth < 2:
            inside, deeper = child.name if depth == 0 else f"{place}.{child.name}", depth + 1
        yield inside, child
        yield from placed(child, inside, deeper)


def c_names(source: str) -> set[str]:
    """Words of C code, comments aside; of several things the word for one."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", source, flags=re.S)
    return {word.removesuffix("s") for word in re.findall(r"\w+", code)} | set(re.findall(r"\w+", code))


def places_of(record: type) -> list[str]:
    """Places that spell at least half of a record's options."""
    names, found = set(record.__struct_fields__), []
    for folder in ("hsexport", "runtime", "engines", "scripts"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            spelled = spellings(file.read_text(encoding="utf-8"))
            found += [
                f"{file.relative_to(ROOT)}: {place}" for place, told in spelled if len(told & names) * 2 >= len(names)
            ]
    for file in sorted((ROOT / "runtime" / "capi").rglob("*.[hc]*")):
        if len(c_names(file.read_text(encoding="utf-8")) & names) * 2 >= len(names):
            found.append(str(file.relative_to(ROOT)))
    return sorted(set(found))


@pytest.mark.parametrize("record", RECORDS)
def test_options_are_spelled_in_few_places(record):
    found = places_of(record)
    assert f"runtime/hsruntime/options.py: {record.__name__}" in found
    assert len(found) <= MOST_PLACES, found


@pytest.mark.parametrize(
    "source",
    [
        "def f(prompt, *, seed, steps, schedule): ...",
        "class A:\n    class B:\n        prompt: str\n        seed: int\n        steps: int\n        schedule: str",
        "f(g(prompt=1, seed=2, steps=3, schedule=4))",
        "f(**{'prompt': a.prompt, 'seed': int(b), 'steps': steps, 'schedule': c})",
    ],
)
def test_a_spelling_is_found(source):
    wanted = {"prompt", "seed", "steps", "schedule"}
    assert any(told >= wanted for _, told in spellings(source))


@pytest.mark.parametrize(
    ("method", "record", "beside"),
    [
        (Session.generate, PictureOptions, {"embeddings", "latents", "callback"}),
        (Session.open, SessionOptions, {"path"}),
    ],
)
def test_session_takes_the_options_as_keywords(method, record, beside):
    parameters, types, wanted = inspect.signature(method).parameters, get_type_hints(method), get_type_hints(record)
    defaults = dict(zip(record.__struct_fields__, record.__struct_defaults__, strict=True))
    assert {name: p.default for name, p in parameters.items() if name in defaults} == defaults
    # Pictures are a file's bytes everywhere else; Python callers may have them in their hands.
    files = {name for name, schema in schemas_of(record).items() if "contentEncoding" in schema}
    assert {name: types[name] for name in defaults} == wanted | dict.fromkeys(files, PictureFile | None)
    assert set(parameters) - {"self"} == set(defaults) | beside


def test_openapi_says_what_the_record_says():
    properties = api.ImagesRequest.model_json_schema()["properties"]
    assert set(schemas_of(PictureOptions)) - set(api.ABSENT) <= set(properties)
    for name, schema in schemas_of(PictureOptions).items():
        if name in api.ABSENT:
            assert name not in properties
            continue
        found, told = properties[name], schema | api.DIFFERS.get(name, {})
        kind = found.get("anyOf", [found])[0]
        limits = {word: told.get(word) for word in ("type", "minimum", "maximum", "maxLength", "contentEncoding")}
        assert {word: kind.get(word) for word in limits} == limits
        assert found["description"] == told["description"]
        assert found.get("default", ...) == told["default"]


def test_triton_takes_each_option_as_an_input(tiny_bundle):
    text = config.config_text("x", open_bundle(tiny_bundle).manifest, config.TritonOptions())
    inputs = {i.name: i for i in text_format.Parse(text, ModelConfig()).input}
    schemas = schemas_of(PictureOptions)
    assert set(inputs) == {name.upper() for name in schemas}
    for name, schema in schemas.items():
        kind = config.DIFFERS.get(name, config.TYPES[schema["type"]])
        assert (
            ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[kind].number
            == inputs[name.upper()].data_type
        )
        assert inputs[name.upper()].optional == (name != "prompt")


C_TYPES: dict[str, Any] = {"string": ctypes.c_char_p, "integer": ctypes.c_int32, "number": ctypes.c_double}
C_DIFFERS: dict[str, Any] = {"seed": ctypes.c_uint64}
"""Seeds need all their bits."""
C_BESIDE = {"embeddings", "embedding_count", "latents", "on_step", "user"}
"""What `generate` takes beside options."""
C_ABSENT = {"shapes_kept", "kernel_cache", "adapters_kept"}
"""No program has come up that draws more shapes or sets of adapters in turn than a session keeps by itself, or keeps
kernels elsewhere."""


def test_c_request_has_each_option_of_a_picture():
    """tests/capi holds capi_types to the header by the compiler."""
    wanted = {}
    for name, schema in schemas_of(PictureOptions).items():
        kind = C_DIFFERS.get(name, capi_types.File if "contentEncoding" in schema else C_TYPES[schema["type"]])
        wanted |= (
            {f"{name}s": ctypes.POINTER(kind), f"{name}_count": ctypes.c_size_t} if name in OF_EACH else {name: kind}
        )
    found = dict(capi_types.Request._fields_)
    assert {name: kind for name, kind in found.items() if name not in {"struct_size", *C_BESIDE}} == wanted


def test_c_open_options_have_each_option_of_a_session():
    """One that is on or off is a flag for what is not the default, so that all zeros ask for defaults."""
    schemas = {name: schema for name, schema in schemas_of(SessionOptions).items() if name not in C_ABSENT}
    header = (ROOT / "runtime" / "capi" / "include" / "hsruntime.h").read_text()
    flags = {f"{'NO_' if s['default'] else ''}{n.upper()}" for n, s in schemas.items() if s["type"] == "boolean"}
    assert set(re.findall(r"HSR_OPEN_(\w+) = ", header)) == flags
    wanted = {name: C_TYPES[schema["type"]] for name, schema in schemas.items() if schema["type"] != "boolean"}
    found = dict(capi_types.OpenOptions._fields_)
    assert {name: kind for name, kind in found.items() if name in schemas} == wanted
    assert not any(schemas[name]["default"] for name in wanted)


@pytest.mark.parametrize(("file", "record"), [("generate.cpp", PictureOptions), ("session.cpp", SessionOptions)])
def test_c_hands_on_each_option_by_its_name(file, record):
    source = (ROOT / "runtime" / "capi" / "src" / file).read_text()
    assert set(re.findall(r'\.with\("(\w+)"', source)) == set(record.__struct_fields__) - C_ABSENT


CLICK_ABSENT = {
    "run": {
        *("width", "height", "hashes", "two_streams", "shapes_kept"),
        *("lora", "adapter_folder", "adapters_kept", "adapter_cap_mb"),
    },
    "batch": {"width", "height", "prompt", *SessionOptions.__struct_fields__} - {"device", "threads", "adapter_folder"},
}
"""Both sides are one `--size`; one run has one set of adapters, as files; a batch's prompts are a file, and its
sessions the replicas'."""
CLICK_DIFFERS = {
    ("run", "prompt"): {"required": True, "multiple": True},
    ("run", "vae_tile"): {"metavar": "PIXELS"},
    ("run", "adapters"): {"multiple": True},
    ("batch", "seed"): {"help": "picture i uses seed + i, unless its line has a seed"},
    ("batch", "negative_prompt"): {"help": "for lines that have none"},
    ("batch", "threads"): {"help": "CPU threads of each replica; 0 shares the cores out"},
}
"""How else an option is asked for there, or in which other words it is explained."""
CLICK_TYPES = {"string": "text", "integer": "integer", "number": "float", "boolean": "boolean"}


@pytest.mark.parametrize("command", ["run", "batch"])
def test_click_has_each_option(command):
    commands = import_module(f"hsexport.cli.{command}")
    params = {param.name: param for param in getattr(commands, command).params}
    schemas = schemas_of(PictureOptions) | schemas_of(SessionOptions)
    assert set(schemas) & set(params) == set(schemas) - CLICK_ABSENT[command]
    assert "size" in params
    for name in set(schemas) & set(params):
        schema, differs, param = schemas[name], CLICK_DIFFERS.get((command, name), {}), params[name]
        kind = "file" if "contentEncoding" in schema else CLICK_TYPES[schema["type"]]
        assert param.type.name.removesuffix(" range") == kind
        assert param.required == differs.get("required", False)
        assert param.multiple == differs.get("multiple", False)
        assert param.help == differs.get("help", param.help if "required" in differs else schema["description"])
        assert param.required or param.default == (tuple(schema["default"]) if param.multiple else schema["default"])
