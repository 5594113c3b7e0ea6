"""A bundle, opened: pictures from prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock, get_ident
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from hsengines.backend import NO_WEIGHTS, Backend, Engine, Weights, get_backend
from hsengines.errors import HSError
from hsengines.traits import traits_of
from hsruntime.adapters.asked import Asked, Folder, files_from, names_from
from hsruntime.adapters.sets import AdapterSet, AdapterSets
from hsruntime.bundle.manifest import ENCODER
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.loop.buffers import LoopShape
from hsruntime.loop.denoise import denoise
from hsruntime.loop.executors import Executors, Own
from hsruntime.loop.flow import noise_levels, tokens_from_latents
from hsruntime.loop.loop import CONDITIONING, Loop
from hsruntime.loop.solvers import solver_coefficients
from hsruntime.options import PICTURE_FILES, PictureOptions, SessionOptions
from hsruntime.picture.decode import finite, tile_side
from hsruntime.picture.encode import encoded
from hsruntime.picture.original import PictureFile, file_bytes
from hsruntime.request import Callback, Request, Result, check_batch, negative_rows, prompt_rows
from hsruntime.schedule.schedule import Schedule
from hsruntime.text.encode import (
    BoundText,
    Conditioning,
    TextEmbeddings,
    TextOnDemand,
    embeddings_of,
    empty_conditioning,
    tokenizers_of,
)
from hsruntime.text.tokenize import PromptRow, cuts_of, warn_of_cuts


class Session:
    """An open bundle; calls from several threads take turns."""

    def __init__(
        self, bundle: Bundle, options: SessionOptions | None = None, *, backend: Backend | None = None
    ) -> None:
        """As `open`, of a bundle that is open."""
        options = (options or SessionOptions()).checked()
        bundle.check_identity(options.identity)
        self._adapters, folder = files_from(options.adapters), Folder(options.adapter_folder)
        self._lock, self._caller = Lock(), 0
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._tokenizers = tokenizers_of(bundle)
        self._tile = tile_side(self.manifest, options.vae_tile)
        self._cap_bytes = _bytes_of(options.memory_cap_mb)
        self._shapes_kept = options.shapes_kept
        self._backend = backend or get_backend(self.manifest.backend, options.kernel_cache)
        self._device = self._backend.device(options.threads, graphs=options.graphs, name=options.device)
        self._device.two_streams = options.two_streams and traits_of(self._backend.name).streams
        self._engines: dict[str, Engine] = {}
        self._on_demand: TextOnDemand | None = None
        if options.text_on_demand:
            self._on_demand = TextOnDemand(self.manifest, self._tokenizers, self._device)
        self._elsewhere = frozenset({ENCODER})
        if self._on_demand:
            self._elsewhere |= self._on_demand.engines.union(CONDITIONING)
        self._sets = AdapterSets(
            bundle,
            folder,
            self._load,
            most_kept=options.adapters_kept,
            cap_bytes=_bytes_of(options.adapter_cap_mb),
            on_drop=self._let_go,
            elsewhere=self._elsewhere,
        )
        self._executors: Executors | None = None
        self._closed = False
        try:
            adapted = self._sets.of(self._adapters)
            if not options.text_on_demand:
                self._open_executors(adapted)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "",
        threads: int = 0,
        hashes: bool = True,
        graphs: bool = True,
        two_streams: bool = False,
        memory_cap_mb: float | None = None,
        vae_tile: int | None = None,
        text_on_demand: bool = False,
        kernel_cache: str | None = None,
        shapes_kept: int = 4,
        identity: str = "",
        adapters: str | Sequence[str] = (),
        adapter_folder: str | None = None,
        adapters_kept: int = 2,
        adapter_cap_mb: float | None = None,
    ) -> Session:
        """Opens a bundle; SessionOptions says what each option means.

        Raises BundleError, EngineLoadError, BackendUnavailable, or ShapeError for a tile that does not fit the bundle.
        """
        options = SessionOptions(
            device=device,
            threads=threads,
            hashes=hashes,
            graphs=graphs,
            two_streams=two_streams,
            memory_cap_mb=memory_cap_mb,
            vae_tile=vae_tile,
            text_on_demand=text_on_demand,
            kernel_cache=kernel_cache,
            shapes_kept=shapes_kept,
            identity=identity,
            adapters=adapters,
            adapter_folder=adapter_folder,
            adapters_kept=adapters_kept,
            adapter_cap_mb=adapter_cap_mb,
        )
        return cls(open_bundle(Path(path), hashes=options.hashes), options)

    @property
    def device_name(self) -> str:
        """What the engines run on: "CPU", one of OpenVINO's devices such as "GPU.0", or the model of an NVIDIA GPU."""
        return self._device.name

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees loops, then engines, then the device: bindings must go before what they are bound to."""
        with self._turn():
            self._free()

    def _free(self) -> None:
        self._closed, self._on_demand = True, None
        if self._executors:
            self._executors.close()
            self._executors = None
        self._sets.close()
        while self._engines:
            self._engines.popitem()[1].close()
        self._device.close()

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        embeddings: TextEmbeddings | None = None,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = "",
        seed: int | Sequence[int] | None = 0,
        latents: np.ndarray | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        schedule: str | Schedule | None = None,
        image: PictureFile | None = None,
        strength: float | None = None,
        mask: PictureFile | None = None,
        mask_blur: float | None = None,
        region_mask: PictureFile | None = None,
        reference: PictureFile | None = None,
        reference_2: PictureFile | None = None,
        reference_3: PictureFile | None = None,
        reference_4: PictureFile | None = None,
        lora: str | Sequence[str] | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """Makes one picture per prompt; what is None comes from the bundle.

        embeddings: in place of prompts and negative prompts, as `encode` answers them; no text encoder runs.
        prompt_2, prompt_3: what the second and third text encoder read in place of the prompt, as in diffusers; one for
        all, or one per prompt.
        negative_prompt: one for all, or one per prompt; it matters under guidance only.
        seed: one for each prompt; of a single one, picture i of a batch uses seed + i. None: drawn, and told in the
        result.
        latents: (B, C, h, w) float32 in place of the seeded noise.
        width, height: pixels. guidance_scale: 1 or less switches guidance off.
        schedule: a preset's name, either spelling, or a Schedule; steps: for presets.
        image: what all of them begin from, a file's path or bytes, (H, W, 3) uint8 or Pillow's; it is resized to width
        and height, whose defaults are its own as far as the bundle draws them. strength: the share of the schedule's
        steps that is run, by default 0.6; those before it fall away, as `result.schedule` tells. mask: likewise a
        picture, white where the image is drawn anew; elsewhere it keeps its pixels. mask_blur: pixels, the width of the
        edge inside the mask. region_mask: white where large refines, in place of the schedule's own choice.
        reference, reference_2, ...: pictures to draw after, or to change as the prompt says, as many as the bundle was
        built for; no larger than 1024 * 1024 pixels and the bundle's largest picture, else they are made smaller.
        lora: names in the adapter folder, such as "style:0.8", in place of the session's own adapters; "" for none.
        callback: called with a Progress after each step; an exception it raises ends the call.

        Raises RequestError, ShapeError or ScheduleError; warns with PromptCutWarning.
        """
        asked = PictureOptions(
            prompt=prompt,
            prompt_2=prompt_2,
            prompt_3=prompt_3,
            negative_prompt=negative_prompt,
            seed=seed,
            schedule=schedule,
            steps=steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            image=file_bytes("image", image),
            strength=strength,
            mask=file_bytes("mask", mask),
            mask_blur=mask_blur,
            region_mask=file_bytes("region_mask", region_mask),
            reference=file_bytes("reference", reference),
            reference_2=file_bytes("reference_2", reference_2),
            reference_3=file_bytes("reference_3", reference_3),
            reference_4=file_bytes("reference_4", reference_4),
            lora=lora,
        )
        return self.run(asked.completed(self.manifest, embeddings=embeddings, latents=latents, callback=callback))

    def with_adapters(self, *adapters: str) -> AdaptedSession:
        """The session with LoRAs, each FILE, FILE:0.8 or small=FILE:0.8, in place of those that it was opened with.

        Their engines are opened by its first picture, kept by this session, and closed with it. Raises RequestError.
        """
        return AdaptedSession(self, files_from(adapters))

    def adapter_names(self) -> list[str]:
        """What pictures may ask for as `lora`: the files of the adapter folder, without their ending."""
        return self._sets.folder.names()

    def check_adapters(self, request: Request) -> None:
        """Raises RequestError for an adapter that is not in the folder, before anything is drawn. From any thread."""
        self._sets.folder.check(request.adapters)

    def cuts(self, prompts: Sequence[str | PromptRow]) -> list[str]:
        """What the text encoders do not see of these prompts, a line for each cut; `generate` warns of the same.

        A prompt may be several texts: for the first text encoder, the second ...

        Safe from any thread.
        """
        rows = [(prompt,) if isinstance(prompt, str) else prompt for prompt in prompts]
        return list(cuts_of(self._tokenizers, rows))

    def encode(
        self,
        prompt: str | Sequence[str],
        *,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        lora: str | Sequence[str] | None = None,
    ) -> TextEmbeddings:
        """What the text encoders make of the prompts, for `generate`.

        prompt_2, prompt_3, lora: as there. negative_prompt: for guidance, whose rows come first; None without guidance.
        Raises RequestError or ShapeError; warns with PromptCutWarning.
        """
        return self._encode(names_from(lora), prompt, prompt_2, prompt_3, negative_prompt)

    def _encode(
        self,
        adapters: Asked | None,
        prompt: str | Sequence[str],
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> TextEmbeddings:
        rows = prompt_rows(self.manifest, prompt, prompt_2, prompt_3)
        check_batch(self.manifest, len(rows))
        if negative_prompt is not None:
            rows = [*negative_rows(negative_prompt, len(rows)), *rows]
        warn_of_cuts(self._tokenizers, rows)
        with self._turn():
            adapted = self._adapted(adapters)
            if self._on_demand:
                return embeddings_of(self._encoded_on_demand(self._on_demand, rows, adapted))
            self._open_executors(adapted)
            conditioning = empty_conditioning(self._device, self.manifest, len(rows))
            with closing(self._bound_text(conditioning, {**self._engines, **adapted.engines})) as text:
                text.encode(rows)
                return embeddings_of(conditioning)

    def warm_up(self, request: Request | None = None) -> None:
        """Allocates, binds and captures what a request needs, so that its pictures wait for nothing.

        Without a request: one picture of the bundle's default size, schedule and guidance.
        """
        request = request or PictureOptions(prompt="").completed(self.manifest)
        with self._turn():
            adapted = self._adapted(request.adapters)
            executor = self._open_executors(adapted).of(self._loop_shape(request), self._own(adapted))
            executor.loop.ready(request.schedule, keeps=request.keeps)
            self._device.synchronize()

    def run(self, request: Request) -> Result:
        """Makes the pictures of a complete request; of two threads' calls, one after the other.

        Raises DeviceError, as no CPU does, or HSError for pictures that are no numbers; warns with PromptCutWarning.
        """
        with self._turn():
            return self._run(request)

    def _run(self, request: Request) -> Result:
        start, shape = perf_counter(), self._loop_shape(request)
        given: TextEmbeddings | Conditioning | None = request.embeddings
        if not given:
            warn_of_cuts(self._tokenizers, request.all_prompts)
        adapted = self._adapted(request.adapters)
        if not given and self._on_demand:
            # Before the first picture's other engines and its loop take memory.
            given = self._encoded_on_demand(self._on_demand, request.all_prompts, adapted)
        executors, own = self._open_executors(adapted), self._own(adapted)
        executor = executors.of(shape, own)
        try:
            executor.loop.ready(request.schedule, keeps=request.keeps)
            if given:
                executor.condition(given)
            else:
                executor.encode(request.all_prompts)
            self._begin(executor.loop, request)
            schedule, times, region = denoise(executor.loop, request)
            latents = finite("the latents that the loop ended with", executor.latents())
            images = executor.decode()
            if request.original:
                images = request.original.pasted(images)
        except HSError:
            executors.drop(shape, own)
            raise
        return Result(
            images=images,
            latents=latents,
            seeds=request.seeds,
            region=region.mask[:, : shape.drawn] if region else None,
            grid=shape.grid,
            schedule=schedule,
            segments=tuple(times),
            seconds=perf_counter() - start,
            adapters=adapted.told,
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Engines and buffers serve one call at a time. Raises HSError for a call from a call's own callback."""
        if self._caller == get_ident():
            raise HSError("a session was called from its own callback", "call it afterwards")
        with self._lock:
            self._caller = get_ident()
            try:
                yield
            finally:
                self._caller = 0

    def _adapted(self, asked: Asked | None) -> AdapterSet:
        """The set of the adapters that are asked for, or of the session's own. Raises RequestError, PairError."""
        return self._sets.of(self._adapters if asked is None else asked)

    def _own(self, adapted: AdapterSet) -> Own:
        return Own(adapted.key, adapted.engines, self._load_for(adapted) if self._on_demand else None)

    def _load_for(self, adapted: AdapterSet) -> Callable[[str], Engine]:
        return lambda name: self._load(name, adapted.weights(name))

    def _encoded_on_demand(self, text: TextOnDemand, rows: list[PromptRow], adapted: AdapterSet) -> Conditioning:
        """Sets that leave the encoders as they are share what prompts became."""
        weights = adapted.key if text.engines & adapted.merging.keys() else ()
        return text.encoded(rows, self._load_for(adapted), weights)

    def _let_go(self, adapted: AdapterSet) -> None:
        if self._executors:
            self._executors.drop_all(adapted.key)

    def _open_executors(self, adapted: AdapterSet | None = None) -> Executors:
        """Opens every engine that stays open and is not yet, with the set's in place of the bundle's own.

        Raises EngineLoadError.
        """
        if self._closed:
            raise HSError("the session is closed", "open it again")
        adapted = adapted or self._adapted(None)
        for name in self.manifest.engines:
            if name not in self._elsewhere and name not in self._engines and name not in adapted.merging:
                self._engines[name] = self._load(name)
        self._sets.opened(adapted)
        if self._executors is None:
            self._executors = Executors(
                self.manifest,
                None if self._on_demand else self._bound_text,
                self._engines,
                self._device,
                cap_bytes=self._cap_bytes,
                most_kept=self._shapes_kept,
                tile=self._tile,
                load=self._load if self._on_demand else None,
            )
        return self._executors

    def _load(self, name: str, replaced: Weights = NO_WEIGHTS) -> Engine:
        record = self.manifest.engines[name]
        placed = self.bundle.file(record.file), record.spec, self._device
        return self._backend.load(*placed, replaced) if replaced else self._backend.load(*placed)

    def _bound_text(self, into: Conditioning, engines: Mapping[str, Engine]) -> BoundText:
        return BoundText(self.manifest.facts, self._tokenizers, engines, self._device, into)

    def _begin(self, loop: Loop, request: Request) -> None:
        """Noise and noise levels into the loop, the picture that others begin from, and those they are drawn after."""
        patch = self.manifest.facts.latent.patch_size
        noise = begun = tokens_from_latents(request.latents, patch)
        sigmas = noise_levels(self.manifest.facts.sigmas, request.schedule, noise.shape[1])
        timesteps = (sigmas[:-1] * np.float32(self.manifest.facts.sigmas.levels)).astype(np.float32)
        original = np.zeros_like(noise[:1])
        if request.original:
            original = tokens_from_latents(self._encoded(request.original.pixels), patch)
            begun = sigmas[0] * noise + (1 - sigmas[0]) * original
        after = [tokens_from_latents(self._encoded(pixels), patch) for pixels in request.references]
        coefficients = solver_coefficients(sigmas, request.schedule.solver)
        loop.begin(_with_references(begun, after), timesteps, coefficients, request.guidance_scale)
        if request.keeps:
            drawn = np.ones_like(noise[:1])
            if request.original and request.original.drawn is not None:
                mask = request.original.drawn_latents(self.manifest.facts.latent.vae_scale)
                drawn = tokens_from_latents(np.broadcast_to(mask, (1, request.latents.shape[1], *mask.shape)), patch)
            fixed = _with_references(drawn, [np.zeros_like(each) for each in after])
            loop.keep(_with_references(original, after), _with_references(noise, after), fixed, sigmas[1:])

    def _encoded(self, pixels: np.ndarray) -> np.ndarray:
        """Latents (1, C, h, w) of a picture (H, W, 3) uint8.

        Its network is opened the first time, or where memory is short every time.
        """
        if self._on_demand:
            with closing(self._load(ENCODER)) as engine:
                return encoded(pixels, engine, self._device, self.manifest.facts.latent, self._tile)
        if ENCODER not in self._engines:
            self._engines[ENCODER] = self._load(ENCODER)
        return encoded(pixels, self._engines[ENCODER], self._device, self.manifest.facts.latent, self._tile)

    def _loop_shape(self, request: Request) -> LoopShape:
        return LoopShape.of(
            self.manifest.facts,
            request.schedule,
            request.size,
            request.pictures,
            guided=request.guided,
            marked=request.marked,
            references=[(pixels.shape[1], pixels.shape[0]) for pixels in request.references],
        )


def _with_references(tokens: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens (B, I, P) with those of pictures (1, F, P) behind them."""
    behind = (np.broadcast_to(each, (len(tokens), *each.shape[1:])) for each in references)
    return np.concatenate([tokens, *behind], axis=1)


def _bytes_of(mib: float | None) -> int | None:
    return None if mib is None else int(mib * 2**20)


class AdaptedSession:
    """A session with adapters of its own, over the engines of another one, which must stay open."""

    def __init__(self, session: Session, adapters: Asked) -> None:
        self._session, self._adapters = session, adapters

    def generate(self, prompt: str | Sequence[str] | None = None, **asked: Any) -> Result:
        """Makes pictures; takes what `Session.generate` takes, but `lora`."""
        beside = {name: asked.pop(name) for name in ("embeddings", "latents", "callback") if name in asked}
        asked |= {name: file_bytes(name, asked[name]) for name in PICTURE_FILES if name in asked}
        return self.run(PictureOptions(prompt=prompt, **asked).completed(self._session.manifest, **beside))

    def encode(self, prompt: str | Sequence[str], **asked: Any) -> TextEmbeddings:
        """As `Session.encode`, with these adapters; takes what that takes, but `lora`."""
        return self._session._encode(self._adapters, prompt, **asked)

    def run(self, request: Request) -> Result:
        """As `Session.run`, with these adapters."""
        return self._session.run(replace(request, adapters=self._adapters))

    def warm_up(self, request: Request | None = None) -> None:
        """As `Session.warm_up`, with these adapters."""
        request = request or PictureOptions(prompt="").completed(self._session.manifest)
        self._session.warm_up(replace(request, adapters=self._adapters))
