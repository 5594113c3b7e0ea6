"""The checks of one bundle, each filling its part of the result: parity, CUDA graphs, times, memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import msgspec
import numpy as np

from hsengines.backend import get_backend
from hsengines.device import Device, Replay
from hsengines.errors import HSError
from hsexport.build.verify.compare import compare, tolerance_of
from hsexport.build.verify.oracle import check_oracle
from hsexport.measure.gpu_check.results import Asked, Row, TargetResult
from hsexport.measure.prompts import PROMPT
from hsexport.measure.turns import column, medians, outside_engines, schedule_times, seconds_of
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.reader import Bundle
from hsruntime.loop.region import active_count
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.request import Request
from hsruntime.schedule.arithmetic import step_flops
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import RegionPolicy, Schedule
from hsruntime.session import Session

MIB = 2**20
LOOP_STEPS = 8
STEPS = ("full", "region", "small", "hybrid")
# The kernel's own account: getrusage's begins with the memory of the process that started this one.
ONE_PICTURE = """
import atexit
from pathlib import Path
from hsexport.cli.main import main
status = Path("/proc/self/status")
atexit.register(lambda: print(status.read_text() if status.exists() else ""))
main()
"""
Times = dict[str, float]  # milliseconds by kind of step


class WatchedSession(Session):
    """Shows what a user's does not: its device and its replays."""

    def __enter__(self) -> WatchedSession:
        return self

    @property
    def device(self) -> Device:
        """Where it all runs."""
        return self._device

    def replay_from_noise(self, request: Request, mode: str) -> Replay:
        """What the loop launches for one step of `mode`, with `request`'s noise in place: steps count on."""
        loop = self._open_executors().of(self._loop_shape(request)).loop
        loop.ready(request.schedule)
        self._begin(loop, request)
        return loop._replays[mode]


def open_watched(asked: Asked, bundle: Bundle, *, graphs: bool = True, two_streams: bool = False) -> WatchedSession:
    """A session over an opened bundle, whose checksums are not read again."""
    return WatchedSession(bundle, SessionOptions(threads=asked.threads, graphs=graphs, two_streams=two_streams))


def check_parity(asked: Asked, bundle: Bundle, result: TargetResult) -> None:
    """Goldens of all engines, one loaded at a time, then large's regions beside its own full pass."""
    del asked
    sizes = {file.path: file.size_bytes for file in bundle.manifest.files}
    backend = get_backend(bundle.manifest.backend)
    device = backend.device()
    try:
        for name, record in bundle.manifest.engines.items():
            size_mb = sum(sizes[path] for path in (record.file, *record.weights)) / 1e6
            engine = backend.load(bundle.file(record.file), record.spec, device)
            try:
                tolerance = tolerance_of(record.precision, record.weight_format)
                found = check_oracle(engine, device, bundle.manifest) if name == "large" else []
                if record.golden is not None:
                    golden, reference = load_golden(bundle.file(record.golden)), "torch, fp32 on the CPU"
                    found = [compare(engine, device, *golden, reference, tolerance), *found]
                own = {"precision": record.precision, "size_mb": size_mb}
                result.parity += [asdict(comparison) | own for comparison in found]
            finally:
                engine.close()
    finally:
        device.close()


def check_graphs(asked: Asked, bundle: Bundle, result: TargetResult) -> None:
    """CUDA graphs change nothing: schedules of large, of hybrid and of small steps, with them and without."""
    schedules = ("large:3", f"large:1,hybrid:2;{asked.region}", "small:3")
    made = []
    for graphs in (True, False):
        with open_watched(asked, bundle, graphs=graphs) as session:
            made.append([session.generate(PROMPT, schedule=schedule) for schedule in schedules])
    for schedule, first, second in zip(schedules, *made, strict=True):
        difference = np.abs(first.latents.astype(np.float64) - second.latents).max()
        row = {"latents_equal": first.latents.tobytes() == second.latents.tobytes()}  # bit by bit
        row |= {"pictures_equal": bool((first.images == second.images).all())}
        result.equality.append({"schedule": schedule, **row, "max_difference": float(difference)})


def whole_schedules(asked: Asked) -> dict[str, Schedule]:
    """All of the same length, the reference first; the two orders give each model half of the steps."""
    steps = asked.steps
    stitched = resolve_schedule("hybridstitch", steps, steps)
    first, second = steps // 2, steps - steps // 2
    return {
        "large": resolve_schedule("large", steps, steps),
        "hybridstitch": msgspec.structs.replace(stitched, region=RegionPolicy(ratio=asked.ratio)),
        "T-Stitch order": resolve_schedule(f"small:{first},large:{second}", None, steps),
        "SRDiffusion order": resolve_schedule(f"large:{second},small:{first}", None, steps),
        "small": resolve_schedule("small", steps, steps),
    }


def check_schedules(asked: Asked, bundle: Bundle, result: TargetResult) -> None:
    """Whole pictures; memory is taken here, after everything that a session may be asked for."""
    device = get_backend(result.backend).device(asked.threads)
    used_before = _used_bytes(device)
    device.close()
    with open_watched(asked, bundle) as session:
        device = session.device
        result.schedules = schedule_times(session, whole_schedules(asked), asked.rounds)
        used, total = _used_bytes(device), getattr(device, "total_bytes", None)
        result.device = device.name
        taken = None if used is None or used_before is None else used - used_before
        peak = getattr(device, "peak_bytes", device.allocated_bytes)
        sizes = {"total_mb": total, "used_mb": taken, "tensors_mb": peak}  # the device's, the session's, its tensors'
        result.memory = {"device": device.name} | {n: None if b is None else b / MIB for n, b in sizes.items()}


def _used_bytes(device: Device) -> int | None:
    """What the GPU's memory holds, whoever put it there; None on a CPU."""
    free, total = (getattr(device, name, None) for name in ("free_bytes", "total_bytes"))
    return None if free is None or total is None else total - free


def check_steps(asked: Asked, bundle: Bundle, result: TargetResult) -> None:
    """Full, region, small and hybrid steps in the loop and on the device alone, and what of the loop the device idled.

    A GPU's are also taken without CUDA graphs, and the hybrid one with large and small on two streams.
    """
    with open_watched(asked, bundle) as session:
        loop, device = _step_rounds(asked, session)
        has_graphs = hasattr(session.device, "graphs")
    plain: list[Times] = []
    if has_graphs:
        with open_watched(asked, bundle, graphs=False) as session:
            plain, _ = _step_rounds(asked, session)
    facts = bundle.manifest.facts
    tokens, text = prod(facts.sizes.default) // facts.latent.pixels_per_token**2, facts.text_tokens
    flops = {role: step_flops(getattr(facts, role), tokens, tokens, text) for role in ("large", "small")}
    region = step_flops(facts.large, active_count(asked.ratio, tokens), tokens, text)
    flops |= {"full": flops["large"], "region": region, "hybrid": region + flops["small"]}

    def row(step: str, loop: list[Times], device: list[Times], called: str = "") -> Row:
        measured = float(np.median(column(device, step) / column(device, "full")))
        counted = flops[step] / flops["full"]
        ratios = {"device_over_full": measured, "flops_over_full": counted, "over_arithmetic": measured / counted}
        plain_ms = medians(plain)[step] if plain and not called else None  # without CUDA graphs; a CPU has none
        times = {"loop_ms": medians(loop)[step], "plain_ms": plain_ms, "device_ms": medians(device)[step]}
        return {"step": called or step, **times, **ratios}

    def gap(step: str) -> Row:
        idle = 1 - column(device, step) / column(loop, step)
        without = 1 - medians(device)[step] / medians(plain)[step]
        return {"step": step, "graphs": float(np.median(idle)), "plain": without}

    result.steps = [row(step, loop, device) for step in STEPS]
    result.gaps = [gap(step) for step in STEPS if plain and step != "region"]
    if has_graphs:
        with open_watched(asked, bundle, two_streams=True) as session:
            result.steps.append(row("hybrid", *_step_rounds(asked, session), called="hybrid, two streams"))


def _step_rounds(asked: Asked, session: WatchedSession) -> tuple[list[Times], list[Times]]:
    """Times in the loop and on the device, round by round: both are taken in every round, the first one warms up.

    A single large step stands before the hybrid ones, for the choice of the region is counted with it. On the device
    steps are launched one behind the other, so that it never waits for the host; the region is the last picture's.
    """
    steps = min(LOOP_STEPS, asked.steps)
    schedule = f"large:{steps},large:1,hybrid:{steps},small:{steps};{asked.region}"
    request = PictureOptions(prompt=PROMPT, schedule=schedule).completed(session.manifest)

    def launched(mode: str) -> float:
        step = session.replay_from_noise(request, mode)

        def launch() -> None:
            for _ in range(steps):
                step.launch()
            session.device.synchronize()

        launch()
        return 1000 * seconds_of(launch) / steps

    loop, device = [], []
    for _ in range(asked.rounds + 1):
        segments = session.generate(PROMPT, schedule=schedule).segments
        large, _, hybrid, small = (1000 * segment.seconds / segment.steps for segment in segments)
        loop.append({"full": large, "small": small, "hybrid": hybrid})
        device.append({"full": launched("large"), "small": launched("small"), "hybrid": launched("hybrid")})
    for times in (*loop, *device):
        times["region"] = times["hybrid"] - times["small"]
    return loop[1:], device[1:]


def check_outside(asked: Asked, bundle: Bundle, result: TargetResult) -> None:
    """The stitched loop with engines that compute nothing, over the loop as it is."""
    with open_watched(asked, bundle) as session:
        empty, whole = outside_engines(session, asked.rounds)
    result.outside = {"step": "stitched, engines taken out", "graphs": empty / whole, "plain": None}


def check_first(asked: Asked, bundle: Bundle, result: TargetResult) -> None:
    """In a fresh process, its second start so that files are in the system's cache; then step by step in this one."""
    process_s, process_mib = [_one_picture(asked, bundle.path) for _ in range(2)][-1]
    start = perf_counter()
    with Session.open(bundle.path, threads=asked.threads) as session:
        opened = perf_counter()
        session.warm_up()
        warm = perf_counter()
        first, following = (session.generate(PROMPT).seconds for _ in range(2))
    own = {"open_s": opened - start, "warm_up_s": warm - opened, "first_s": first, "next_s": following}
    result.first = {"process_s": process_s, "process_mib": process_mib, **own}


def _one_picture(asked: Asked, bundle: Path) -> tuple[float, float | None]:
    """Seconds and the most MiB of one `hsexport run`. Raises HSError with its last word if it fails."""
    with TemporaryDirectory() as folder:
        drawn = ["--prompt", PROMPT, "--threads", str(asked.threads), "--out", f"{folder}/picture.png"]
        start = perf_counter()
        command = [sys.executable, "-c", ONE_PICTURE, "run", str(bundle), *drawn]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = perf_counter() - start
    if done.returncode:
        raise HSError(f"hsexport run ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    peak = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)
    return spent, int(peak[1]) / 1024 if peak else None


CHECKS: dict[str, Callable[[Asked, Bundle, TargetResult], None]] = {
    "parity": check_parity,
    "graphs": check_graphs,
    "schedules": check_schedules,
    "steps": check_steps,
    "outside engines": check_outside,
    "first picture": check_first,
}
