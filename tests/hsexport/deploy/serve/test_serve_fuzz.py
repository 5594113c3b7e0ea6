"""Requests made up from the server's own OpenAPI description."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import serving

# Whether a body that fits the schema is accepted is not asked: sizes and schedules depend on the bundle.
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def server(tiny_bundle):
    with serving(tiny_bundle, "--timeout", 20) as server:
        yield server


@pytest.fixture(scope="module")
def api(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def fuzzed(api, path, method, examples):
    """Every made-up request gets a status, a type and a body that the description promises."""
    operation = api[path][method]

    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @schemathesis_given(operation)
    def run(case):
        case.call_and_validate(checks=CHECKS, timeout=60)

    run()


def schemathesis_given(operation):
    from hypothesis import given

    strategies = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    return given(case=strategies[0] | strategies[1])


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models", "/v1/bundle"])
def test_what_is_asked_for_is_as_described(api, path):
    fuzzed(api, path, "GET", 5)


def test_made_up_requests_for_pictures_are_answered_as_described(api, server):
    fuzzed(api, "/v1/images/generations", "POST", 150)
    assert server.client.get("/ready").status_code == 200
    assert not any("Traceback" in line for line in server.log)


def test_made_up_forms_are_answered_as_described(api, server):
    fuzzed(api, "/v1/images/edits", "POST", 60)
    assert server.client.get("/ready").status_code == 200
    assert not any("Traceback" in line for line in server.log)
