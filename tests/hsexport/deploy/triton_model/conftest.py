"""One Triton server for all tests, with the tiny bundle as two models; its log stands beside a failure.

This folder is not called `triton`: pytest puts its parent on the import path, where torch would find it as a module.
"""

import pytest

LOG_END = 6000


@pytest.fixture(scope="session")
def triton_log(tmp_path_factory):
    return tmp_path_factory.mktemp("triton_log") / "tritonserver.log"


@pytest.fixture(scope="session")
def triton(hsexport, tiny_bundle, tmp_path_factory, triton_log):
    """Addresses of a server with the models `tiny` and `tiny_progress`; the second one names its environment."""
    from triton_server import install, serving

    repo = tmp_path_factory.mktemp("triton") / "repo"
    environment = install().environment
    for options in (
        ["--name", "tiny", "--max-queue-delay-us", 50_000],
        ["--name", "tiny_progress", "--progress", "--device", "CPU", "--execution-env", environment],
    ):
        done = hsexport("triton", tiny_bundle, "--out", repo, "--link", "--threads", 1, *options)
        assert done.returncode == 0, done.stderr
    with serving(repo, triton_log) as addresses:
        yield addresses


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    log = item.funcargs.get("triton_log") if hasattr(item, "funcargs") else None
    if report.failed and log is not None and log.is_file():
        report.sections.append((str(log), log.read_text(errors="replace")[-LOG_END:]))
    return report
