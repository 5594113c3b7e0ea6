"""Building a target's bundle, by way of the check's own cache."""

from __future__ import annotations

from time import perf_counter

from hsengines.backend import get_backend
from hsengines.build import BuildOptions, build_options
from hsengines.errors import HSError
from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.cli.report import BuildReport
from hsexport.measure.gpu_check.plan import Plan, Target
from hsexport.measure.gpu_check.results import Build
from hsexport.measure.machine import gpu_facts
from hsruntime.bundle.reader import Bundle

GOES_ON = "what is finished is kept, the same command goes on from there"


class CountingReport(BuildReport):
    """Counts which products were made and which an earlier build had left."""

    def __init__(self) -> None:
        super().__init__(GOES_ON)
        self.kept, self.made = 0, 0
        self._counts = False

    def stage(self, name: str, items: int) -> None:
        """As the command line shows it."""
        self._counts = name in ("export", "optimise", "compile")
        super().stage(name, items)

    def end(self, item: str, note: str = "") -> None:
        """As the command line shows it."""
        if self._counts:
            was_kept = note.startswith("kept")
            self.kept, self.made = self.kept + was_kept, self.made + (not was_kept)
        super().end(item, note)


def build_target(plan: Plan, target: Target, notes: list[str]) -> tuple[Bundle, Build]:
    """The target's bundle, and how it was built. Raises HSError."""
    options = options_for(target, notes)
    request = BuildRequest(
        large=plan.large,
        small=plan.small,
        out=plan.bundle_of(target),
        cache=plan.cache,
        backend=target.backend,
        options=options,
        size=plan.size,
        max_size=plan.size,
        max_batch=plan.max_batch,
        steps=plan.steps,
    )
    request.out.parent.mkdir(parents=True, exist_ok=True)
    start = perf_counter()
    report = CountingReport()
    with report:
        bundle = build(request, report)
    assert bundle is not None, "nothing here asks it to stop early"
    manifest = bundle.manifest
    return bundle, Build(
        seconds=perf_counter() - start,
        size_mb=sum(file.size_bytes for file in manifest.files) / 1e6,
        builder=manifest.tools["builder"],
        target=manifest.target,
        kept=report.kept,
        made=report.made,
    )


def options_for(target: Target, notes: list[str]) -> BuildOptions:
    """For the GPU at hand alone, where the backend can be told so; what it says to that goes to `notes`."""
    plain, capability = build_options(target.backend, precision=target.precision), gpu_facts().get("compute_capability")
    if capability is None or "architectures" not in plain.__struct_fields__:
        return plain
    options = build_options(target.backend, precision=target.precision, architectures=(capability,))
    try:
        get_backend(target.backend).check_options(options)
    except HSError as err:
        notes.append(f"{err}; built for every architecture it knows instead, to see what it says when it loads them")
        return plain
    return options
