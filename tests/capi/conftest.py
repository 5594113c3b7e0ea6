"""The C library and the example service, once a session."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from capi_builds import Library, built_service, run
from tools import needs


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Library:
    """Built by `hsexport embed --build`."""
    needs("cmake", "g++")
    prefix = tmp_path_factory.mktemp("capi")
    told = run(sys.executable, "-m", "hsexport.cli.main", "embed", "--build", prefix, "--json").stdout
    facts = json.loads(told)
    return Library(facts["cflags"].split(), facts["libs"].split(), facts["cmake-dir"], facts["pkg-config-dir"])


@pytest.fixture(scope="session")
def service(library, tmp_path_factory) -> Path:
    return built_service(library, tmp_path_factory.mktemp("service"))
