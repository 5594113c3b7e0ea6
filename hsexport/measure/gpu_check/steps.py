"""Times of single steps beside arithmetic, and how much of the loop is nobody's work."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from hsengines.null.backend import NullBackend
from hsexport.measure.gpu_check.bench import Bench
from hsexport.measure.gpu_check.plan import PROMPT, Plan
from hsexport.measure.gpu_check.results import Gap, OutsideEngines, StepTime
from hsexport.measure.gpu_check.watched import WatchedSession, open_watched
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import Bundle
from hsruntime.loop.region import active_count
from hsruntime.options import PictureOptions
from hsruntime.schedule.arithmetic import step_flops

LOOP_STEPS = 8
STEPS = ("full", "region", "small", "hybrid")
Times = dict[str, float]
"""Milliseconds by kind of step."""


def step_times(plan: Plan, bundle: Bundle) -> tuple[list[StepTime], list[Gap]]:
    """Full, region, small and hybrid steps in the loop and on the device alone.

    A GPU's are also taken without CUDA graphs, and the hybrid one with large and small on two streams; and what of the
    loop's time the device idled.
    """
    with open_watched(plan, bundle, graphs=True) as session:
        loop, device = _rounds(plan, session)
        has_graphs = hasattr(session.device, "graphs")
    plain: list[Times] = []
    if has_graphs:
        with open_watched(plan, bundle, graphs=False) as session:
            plain, _ = _rounds(plan, session)
    flops = step_costs(bundle.manifest, plan.ratio)

    def row(step: str, loop: list[Times] = loop, device: list[Times] = device, called: str = "") -> StepTime:
        return StepTime(
            step=called or step,
            loop_ms=_median(loop, step),
            plain_ms=_median(plain, step) if plain and not called else None,
            device_ms=_median(device, step),
            device_over_full=median(each[step] / each["full"] for each in device),
            flops_over_full=flops[step] / flops["full"],
        )

    def gap(step: str) -> Gap:
        shares = (1 - busy[step] / whole[step] for busy, whole in zip(device, loop, strict=True))
        return Gap(step, median(shares), 1 - _median(device, step) / _median(plain, step))

    rows = [row(step) for step in STEPS]
    if has_graphs:
        with open_watched(plan, bundle, graphs=True, two_streams=True) as session:
            rows.append(row("hybrid", *_rounds(plan, session), called="hybrid, two streams"))
    return rows, [gap(step) for step in STEPS if plain and step != "region"]


def _rounds(plan: Plan, session: WatchedSession) -> tuple[list[Times], list[Times]]:
    """Times in the loop and on the device, round by round: both are taken in every round, the first one warms up.

    A single large step stands before the hybrid ones, for the choice of the region is counted with it.
    """
    steps = min(LOOP_STEPS, plan.steps)
    schedule = f"large:{steps},large:1,hybrid:{steps},small:{steps};{plan.region()}"
    bench = Bench(session, PictureOptions(prompt=PROMPT, schedule=schedule).completed(session.manifest), steps)
    loop, device = [], []
    for _ in range(plan.rounds + 1):
        segments = session.picture(schedule).segments
        large, _, hybrid, small = (1000 * segment.seconds / segment.steps for segment in segments)
        loop.append(_by_step(large, hybrid, small))
        device.append(_by_step(**bench.milliseconds()))
    return loop[1:], device[1:]


def _by_step(large: float, hybrid: float, small: float) -> Times:
    """A region step is what a hybrid one takes beyond a small one."""
    return {"full": large, "region": hybrid - small, "small": small, "hybrid": hybrid}


def _median(rounds: list[Times], step: str) -> float:
    return median(each[step] for each in rounds)


def step_costs(manifest: Manifest, ratio: float) -> dict[str, int]:
    """Operations of each kind of step, by counting."""
    width, height = manifest.facts.sizes.default
    tokens, text = width * height // manifest.facts.latent.pixels_per_token**2, manifest.facts.text_tokens
    full, small = (step_flops(model, tokens, tokens, text) for model in (manifest.facts.large, manifest.facts.small))
    region = step_flops(manifest.facts.large, active_count(ratio, tokens), tokens, text)
    return {"full": full, "region": region, "small": small, "hybrid": region + small}


def outside_engines(plan: Plan, bundle: Bundle) -> OutsideEngines:
    """The stitched loop with engines that compute nothing, over the loop as it is."""

    def loop(make: Callable[[], WatchedSession]) -> float:
        with make() as session:
            results = [session.generate(PROMPT) for _ in range(plan.rounds + 1)]
        return median(result.loop_seconds for result in results[1:])

    whole = loop(lambda: open_watched(plan, bundle, graphs=True))
    empty = loop(lambda: WatchedSession(bundle, backend=NullBackend()))
    return OutsideEngines(empty / whole, 1000 * empty / bundle.manifest.facts.defaults.steps)
