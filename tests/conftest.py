"""A tiny pair, a bundle of real engines built from it, and the C library, once a session."""

import json
import sys

import pytest
from hypothesis import settings

# Time on a shared machine says nothing about the code.
settings.register_profile("hsexport", deadline=None)
settings.load_profile("hsexport")


DEAR = ("flux2_built", "demo_build", "library")
"""Fixtures that take long to make: the tests of each share a process, where there are several."""
DEAREST = "flux2_built"
"""Two text encoders of 27 layers are traced for it: its tests are slow, and the oracles say much the same sooner."""


@pytest.hookimpl(tryfirst=True)  # pytest and pytest-xdist read the marks in their own
def pytest_collection_modifyitems(items):
    """Tests of one file share a process, too: so do their own fixtures."""
    for item in items:
        group = next((name for name in DEAR if name in item.fixturenames), item.nodeid.partition("::")[0])
        item.add_marker(pytest.mark.xdist_group(group))
        if group == DEAREST:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_pair_dirs(tmp_path_factory):
    """Folders (large, small), two layers each, dual attention in the first: every kind of cache slot occurs."""
    from tiny_pair import make_pair

    return make_pair(tmp_path_factory.mktemp("tiny_pair"), layers=3, dual_layers=(0,))


@pytest.fixture(scope="session")
def tiny_cache(tiny_build):
    """The store that the tiny bundle was built through."""
    return tiny_build[1]


@pytest.fixture(scope="session")
def tiny_bundle(tiny_build):
    """The tiny bundle's path: 16x16 pixels of 4x4 tokens by default, sides from 8 to 24, up to 4 prompts at once.

    Large has three blocks, its light form the first and the last.
    """
    return tiny_build[0]


@pytest.fixture(scope="session")
def tiny_build(tiny_pair_dirs, tmp_path_factory):
    """Builds the tiny bundle; (bundle, cache)."""
    return built(tmp_path_factory.mktemp("tiny_build"), *map(str, tiny_pair_dirs), light=(1, 1))


@pytest.fixture(scope="session")
def demo_build(tmp_path_factory):
    """Builds the demo pair's bundle, here and now; (bundle, cache)."""
    return built(tmp_path_factory.mktemp("demo"), "demo", "demo")


def built(root, large, small, **asked):
    """A bundle and its store in `root`."""
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    build(BuildRequest(large=large, small=small, out=root / "bundle", cache=root / "cache", **asked), Reporter())
    return root / "bundle", root / "cache"


@pytest.fixture(scope="session")
def demo_bundle(demo_build):
    """The demo pair's bundle for ort-cpu."""
    return demo_build[0]


@pytest.fixture(scope="session")
def demo_cache(demo_build):
    """The store that the demo bundle was built through."""
    return demo_build[1]


@pytest.fixture(scope="session")
def tiny_openvino_bundle(tiny_pair_dirs, tiny_cache, tmp_path_factory):
    """The tiny pair for OpenVINO, in fp32."""
    from hsengines.build import build_options
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    out = tmp_path_factory.mktemp("openvino") / "bundle"
    large, small = map(str, tiny_pair_dirs)
    options = build_options("openvino")
    request = BuildRequest(large, small, out, tiny_cache, backend="openvino", options=options, light=(1, 1))
    build(request, Reporter())
    return out


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The C library, built by `hsexport embed --build`."""
    from capi_builds import Library, run
    from tools import needs

    needs("cmake", "g++")
    prefix = tmp_path_factory.mktemp("capi")
    told = run(sys.executable, "-m", "hsexport.cli.main", "embed", "--build", prefix, "--json").stdout
    facts = json.loads(told)
    return Library(facts["cflags"].split(), facts["libs"].split(), facts["cmake-dir"], facts["pkg-config-dir"])


@pytest.fixture(scope="session")
def service(library, tmp_path_factory):
    """The C++ example, a program that hosts the library."""
    from capi_builds import built_service

    return built_service(library, tmp_path_factory.mktemp("service"))
