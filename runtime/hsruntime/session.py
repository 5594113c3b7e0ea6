"""A bundle, opened: pictures from prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np

from hsengines.backend import Engine, get_backend
from hsengines.errors import HSError
from hsruntime.buffers import Conditioning, LoopShape
from hsruntime.bundle import Bundle, open_bundle
from hsruntime.encode import TextSide
from hsruntime.flow import latents_from_tokens, sigmas_for, tokens_from_latents
from hsruntime.loop import Loop
from hsruntime.manifest import engine_spec
from hsruntime.picture import picture_bytes
from hsruntime.region import Region, active_count, center_scores, random_scores, region_from_scores
from hsruntime.request import Callback, Progress, Request, complete_request
from hsruntime.schedule import Schedule, Segment

KEPT_LOOPS = 4


@dataclass(frozen=True)
class SegmentTime:
    """One segment as it ran."""

    mode: str
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """Pictures and how they came about."""

    images: np.ndarray  # (B, H, W, 3) uint8
    region: np.ndarray | None  # (B, N) bool, the last one chosen; None if the schedule has none
    grid: tuple[int, int]  # (h, w) in tokens
    schedule: Schedule
    segments: tuple[SegmentTime, ...]
    seconds: float
    """From the call to the pictures: text, loop and decoding."""

    @property
    def image(self) -> np.ndarray:
        """The first picture (H, W, 3)."""
        return self.images[0]

    @property
    def loop_seconds(self) -> float:
        """The denoising loop alone."""
        return sum(s.seconds for s in self.segments)


class Session:
    """An open bundle; not to be called from two threads at once."""

    def __init__(self, bundle: Bundle, *, threads: int = 0, backend: str | None = None) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        chosen = get_backend(backend or self.manifest.backend)
        self._device = chosen.device(threads)
        self._engines: dict[str, Engine] = {}
        self._loops: dict[LoopShape, tuple[Loop, Conditioning]] = {}
        try:
            for name, record in self.manifest.engines.items():
                self._engines[name] = chosen.load(bundle.file(record.file), engine_spec(name, record), self._device)
            self._text = TextSide(bundle, self._engines, self._device)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | Path, *, threads: int = 0, hashes: bool = True) -> Session:
        """Opens a bundle; `threads` is for CPUs (0: all cores), `hashes=False` skips the checksums, not the sizes.

        Raises BundleError, EngineLoadError or BackendUnavailable.
        """
        return cls(open_bundle(Path(path), hashes=hashes), threads=threads)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees loops, then engines: bindings must go before what they are bound to."""
        self._loops.clear()
        while self._engines:
            self._engines.popitem()[1].close()

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        seed: int = 0,
        latents: np.ndarray | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        schedule: str | Schedule | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Makes one picture per prompt; what is None comes from the bundle.

        negative_prompt: one for all, or one per prompt; it matters under guidance only.
        seed: picture i of a batch uses seed + i.
        latents: (B, C, h, w) float32 in place of the seeded noise.
        width, height: pixels. guidance_scale: 1 or less switches guidance off.
        schedule: a preset's name, either spelling, or a Schedule; steps: for presets.
        callback: called with a Progress after each step; an exception it raises ends the call.

        Raises RequestError, ShapeError or ScheduleError; warns with PromptCutWarning.
        """
        request = complete_request(
            self.manifest,
            prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            latents=latents,
            size=(width, height),
            steps=steps,
            guidance_scale=guidance_scale,
            schedule=schedule,
            callback=callback,
        )
        return self.run(request)

    def run(self, request: Request) -> Result:
        """Makes the pictures of a complete request."""
        if not self._engines:
            raise HSError("the session is closed", "open it again")
        start = perf_counter()
        loop, conditioning = self._loop_for(request)
        self._text.encode(request.all_prompts, conditioning)
        sigmas = sigmas_for(self.manifest.scheduler, request.schedule.steps)
        timesteps = (sigmas[:-1] * np.float32(self.manifest.scheduler.num_train_timesteps)).astype(np.float32)
        tokens = tokens_from_latents(request.latents, self.manifest.latent.patch_size)
        loop.begin(tokens, sigmas, timesteps, request.guidance_scale)
        region, times = self._denoise(loop, request)
        images = self._decode(loop)
        return Result(
            images=images,
            region=region.mask if region else None,
            grid=loop.shape.grid,
            schedule=request.schedule,
            segments=tuple(times),
            seconds=perf_counter() - start,
        )

    def _denoise(self, loop: Loop, request: Request) -> tuple[Region | None, list[SegmentTime]]:
        """Runs the segments; chooses the region wherever a hybrid one begins."""
        region, times = None, []
        after_step = _step_counter(request)
        runs = list(request.schedule.unrolled())
        for segment, following in zip(runs, [*runs[1:], None], strict=True):
            chooses = following is not None and following.large == "region"
            spent = loop.run(segment, after_step(segment), compare=_compared(request) if chooses else None)
            if chooses:
                start = perf_counter()
                region = self._choose_region(loop, request)
                loop.set_region(region)
                spent += perf_counter() - start
            times.append(SegmentTime(segment.mode, segment.steps, spent))
        return region, times

    def _choose_region(self, loop: Loop, request: Request) -> Region:
        shape, signal = loop.shape, request.schedule.region.signal
        if signal == "random":
            scores = random_scores(shape.pictures, shape.tokens, request.seed)
        elif signal == "center":
            scores = center_scores(shape.pictures, shape.grid)
        else:
            scores = loop.scores()
        return region_from_scores(scores, shape.active)

    def _decode(self, loop: Loop) -> np.ndarray:
        latent, grid = self.manifest.latent, loop.shape.grid
        latents = latents_from_tokens(loop.step.latents.read(), latent.patch_size, grid)
        engine = self._engines["vae_decoder"]
        dims = {"B": len(latents), "h": latents.shape[2], "w": latents.shape[3]}
        spec = engine.spec.outputs[0]
        pictures = self._device.empty(spec.resolve(dims), spec.dtype)
        engine.bind({"latents": self._device.upload(latents)}, {"pictures": pictures}).enqueue()
        return picture_bytes(pictures.read())

    def _loop_for(self, request: Request) -> tuple[Loop, Conditioning]:
        """The loop of this shape, newly bound or as an earlier call left it."""
        shape = self._loop_shape(request)
        if shape not in self._loops:
            while len(self._loops) >= KEPT_LOOPS:
                self._loops.pop(next(iter(self._loops)))
            conditioning = Conditioning.empty(self._device, self.manifest, shape.rows)
            loop = Loop(self.manifest, self._engines, self._device, shape, conditioning)
            self._loops[shape] = loop, conditioning
        return self._loops[shape]

    def _loop_shape(self, request: Request) -> LoopShape:
        side = self.manifest.latent.pixels_per_token
        grid = (request.size[1] // side, request.size[0] // side)
        pictures, schedule = len(request.prompts), request.schedule
        active = active_count(schedule.region.ratio, grid[0] * grid[1]) if schedule.has_region else 0
        return LoopShape(pictures, pictures * (2 if request.guided else 1), grid, active, schedule.steps)


def _compared(request: Request) -> str | None:
    """What the signal compares large's last velocity with; None for signals that look at nothing."""
    signal = request.schedule.region.signal
    return signal if signal in ("change", "gap") else None


def _step_counter(request: Request) -> Callable[[Segment], Callable[[], None]]:
    """Makes each segment's after-step function: counts steps through the schedule and tells the callback."""
    done = 0

    def for_segment(segment: Segment) -> Callable[[], None]:
        def after_step() -> None:
            nonlocal done
            done += 1
            if request.callback:
                request.callback(Progress(done, request.schedule.steps, segment.mode))

        return after_step

    return for_segment
