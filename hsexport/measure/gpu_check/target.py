"""All checks of one target, in order; a check that fails is told, and the next one goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hsengines.backend import get_backend
from hsengines.errors import HSError
from hsexport.measure.gpu_check.builds import build_target
from hsexport.measure.gpu_check.equality import graph_equality
from hsexport.measure.gpu_check.first_picture import first_picture
from hsexport.measure.gpu_check.memory import gpu_used_bytes, memory_of
from hsexport.measure.gpu_check.parity import parity_of
from hsexport.measure.gpu_check.plan import Plan, Target
from hsexport.measure.gpu_check.results import Problem, TargetResult
from hsexport.measure.gpu_check.schedules import schedule_times
from hsexport.measure.gpu_check.steps import outside_engines, step_times
from hsexport.measure.gpu_check.watched import open_watched
from hsruntime.bundle.reader import Bundle

Check = Callable[[Plan, Bundle, TargetResult], None]
Save = Callable[[TargetResult], None]


def check_target(
    plan: Plan, target: Target, save: Save = lambda _: None, parts: tuple[str, ...] | None = None
) -> TargetResult:
    """Builds the bundle and runs the checks named in `parts`, by default all.

    `save` gets the result after every part, with the part that comes next among its problems: should it end the
    process, this is what is left to tell.
    """
    result = TargetResult(target.backend, target.precision)
    with _part(result, "build", save):
        bundle, result.build = build_target(plan, target, result.notes)
    if result.build is None:
        return result
    for name, check in CHECKS.items():
        if parts is None or name in parts:
            with _part(result, name, save):
                check(plan, bundle, result)
    return result


def _parity(plan: Plan, bundle: Bundle, result: TargetResult) -> None:
    del plan
    for row in parity_of(bundle):
        result.parity.append(row)


def _equality(plan: Plan, bundle: Bundle, result: TargetResult) -> None:
    result.equality = graph_equality(plan, bundle)


def _steps(plan: Plan, bundle: Bundle, result: TargetResult) -> None:
    result.steps, result.gaps = step_times(plan, bundle)


def _outside(plan: Plan, bundle: Bundle, result: TargetResult) -> None:
    result.outside = outside_engines(plan, bundle)


def _schedules(plan: Plan, bundle: Bundle, result: TargetResult) -> None:
    """Memory is taken here, after everything that a session may be asked for."""
    device = get_backend(result.backend).device(plan.threads)
    used_before = gpu_used_bytes(device)
    device.close()
    with open_watched(plan, bundle, graphs=True) as session:
        result.device = session.device.name
        result.schedules = schedule_times(plan, session)
        result.memory = memory_of(session.device, used_before)


def _first(plan: Plan, bundle: Bundle, result: TargetResult) -> None:
    result.first = first_picture(plan, bundle.path)


CHECKS: dict[str, Check] = {
    "parity": _parity,
    "graphs": _equality,
    "schedules": _schedules,
    "steps": _steps,
    "outside engines": _outside,
    "first picture": _first,
}


@contextmanager
def _part(result: TargetResult, name: str, save: Save) -> Iterator[None]:
    """Turns whatever a part raises into a problem of one line."""
    ended = Problem(name, "the process ended here")
    result.problems.append(ended)
    save(result)
    result.problems.remove(ended)
    try:
        yield
    except HSError as err:
        result.problems.append(Problem(name, str(err)))
    except Exception as err:  # a library's own: this machine's troubles are what the report is for
        first = next(iter(str(err).strip().splitlines()), "")
        result.problems.append(Problem(name, f"{type(err).__name__}: {first}"))
    save(result)
