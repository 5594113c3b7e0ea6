"""What is public is public on purpose: this file changes whenever the public names do."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType

import pytest

PUBLIC = {
    "hsengines": [],
    "hsruntime": ["Result", "Session", "TextEmbeddings"],
    "hsexport": ["__version__"],
}
TYPING_ONLY = {"annotations", "TYPE_CHECKING", "Any"}
SESSION = {
    *("adapter_names", "bundle", "check_adapters", "close", "cuts", "device_name", "encode", "generate", "manifest"),
    *("open", "run", "warm_up", "with_adapters"),
}
RESULT = {
    *("adapters", "grid", "image", "images", "latents", "loop_seconds", "region", "schedule", "seconds", "seeds"),
    "segments",
}


def unannounced_names(module: ModuleType) -> set[str]:
    """Names that a user could import from the module although `__all__` does not offer them; submodules aside."""
    visible = {name for name, value in vars(module).items() if not isinstance(value, ModuleType)}
    return {name for name in visible if not name.startswith("_")} - set(module.__all__) - TYPING_ONLY


@pytest.mark.parametrize("name", PUBLIC)
def test_all_lists_exactly_the_public_names(name):
    assert sorted(import_module(name).__all__) == sorted(PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_nothing_is_public_by_accident(name):
    assert not unannounced_names(import_module(name))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_explained(name):
    module = import_module(name)
    assert module.__doc__
    public = [getattr(module, attribute) for attribute in PUBLIC[name]]
    assert all(inspect.getdoc(value) for value in public if callable(value))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"hsruntime.*Sessions"):
        import_module("hsruntime").Sessions  # noqa: B018


@pytest.mark.parametrize(("name", "expected"), [("Session", SESSION), ("Result", RESULT)])
def test_session_and_result_offer_what_the_readme_may_use(name, expected):
    kind = getattr(import_module("hsruntime"), name)
    offered = {*dir(kind), *getattr(kind, "__dataclass_fields__", {}), *instance_attributes(kind)}
    assert {attribute for attribute in offered if not attribute.startswith("_")} == expected


def instance_attributes(kind: type) -> set[str]:
    """Names that `__init__` assigns on self."""
    names = kind.__init__.__code__.co_names
    source = inspect.getsource(kind.__init__) if "__dataclass_fields__" not in vars(kind) else ""
    return {name for name in names if f"self.{name} =" in source}
