"""What may be asked for: of pictures, and of how a bundle is opened. Every option is declared here, and only here.

Command line, HTTP, Triton, Ray, batch jobs and C hold one of these records and take names, types, bounds, defaults and
words from `schemas_of`, or are held to it by a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from msgspec import Meta, Struct
from PIL.Image import Image, Resampling

from hsruntime.adapters.asked import names_from
from hsruntime.bundle.manifest import ENCODER, Manifest
from hsruntime.facts import Size
from hsruntime.loop.program import MARKED
from hsruntime.loop.region import marked_tokens
from hsruntime.picture.original import Original, checked_blur, read_mask, read_picture, read_reference, size_like
from hsruntime.request import (
    DEFAULT_STRENGTH,
    Callback,
    Request,
    RequestError,
    check_alone,
    check_batch,
    checked_embeddings,
    checked_guidance,
    checked_latents,
    checked_schedule,
    checked_size,
    checked_strength,
    negative_rows,
    prompt_rows,
    seed_list,
)
from hsruntime.schedule.fit import marked_by_hand, started
from hsruntime.schedule.schedule import Schedule, Steps
from hsruntime.text.encode import TextEmbeddings

Count = Annotated[int, Meta(ge=0)]
Side = Annotated[int, Meta(ge=1)]
MOST_THREADS = 4096


OF_EACH = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "seed")
"""Options that may differ between pictures made together; they share the others."""
REFERENCES = ("reference", "reference_2", "reference_3", "reference_4")


class PictureOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a picture is asked for with; None stands for the bundle's own. Nothing is checked before `completed`.

    Prompts, negative prompts and seeds may be lists: then they are for several pictures that are made together.
    """

    prompt: Annotated[str | Sequence[str] | None, Meta(description="what the picture should be")] = None
    prompt_2: Annotated[str | Sequence[str] | None, Meta(description="for the second text encoder; else prompt")] = None
    prompt_3: Annotated[str | Sequence[str] | None, Meta(description="for the third text encoder; else prompt")] = None
    negative_prompt: Annotated[str | Sequence[str] | None, Meta(description="what the picture should not be")] = ""
    seed: Annotated[Count | Sequence[int] | None, Meta(description="picture i uses seed + i")] = 0
    schedule: Annotated[
        str | Schedule | None, Meta(description="hybridstitch, large, small, or large:10,hybrid:10,small:8")
    ] = None
    steps: Annotated[Steps | None, Meta(description="steps of a preset")] = None
    guidance_scale: Annotated[float | None, Meta(description="1 or less switches guidance off")] = None
    lora: Annotated[
        str | Sequence[str] | None, Meta(description="adapters of the adapter folder by name: style:0.8,ink; '': none")
    ] = None
    width: Annotated[Side | None, Meta(description="pixels, within the bundle's range")] = None
    height: Annotated[Side | None, Meta(description="pixels, within the bundle's range")] = None
    image: Annotated[bytes | None, Meta(description="a picture to begin from: the bytes of a PNG, JPEG or WebP")] = None
    reference: Annotated[bytes | None, Meta(description="a picture to draw after, or to change as the prompt says")] = (
        None
    )
    reference_2: Annotated[bytes | None, Meta(description="a second one")] = None
    reference_3: Annotated[bytes | None, Meta(description="a third one")] = None
    reference_4: Annotated[bytes | None, Meta(description="a fourth one")] = None
    strength: Annotated[
        float | None, Meta(description="share of the steps that are drawn anew over the picture, above 0 up to 1")
    ] = None
    mask: Annotated[bytes | None, Meta(description="a picture, white where the image is drawn anew")] = None
    mask_blur: Annotated[
        float | None, Meta(description="pixels over which what is drawn fades in, inwards from the mask's edge")
    ] = None
    region_mask: Annotated[
        bytes | None, Meta(description="a picture, white where large refines, in place of the schedule's own choice")
    ] = None

    def completed(
        self,
        manifest: Manifest,
        *,
        embeddings: TextEmbeddings | None = None,
        latents: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Request:
        """Fills in the bundle's defaults. Raises RequestError, ShapeError or ScheduleError."""
        guidance_scale = checked_guidance(manifest, self.guidance_scale)
        if embeddings is None:
            prompts = prompt_rows(manifest, self.prompt, self.prompt_2, self.prompt_3)
            negatives, pictures = negative_rows(self.negative_prompt, len(prompts)), len(prompts)
        else:
            check_alone(self.prompt, self.prompt_2, self.prompt_3, self.negative_prompt)
            prompts, negatives = [], []
            pictures = checked_embeddings(manifest, embeddings, guided=guidance_scale > 1)
        check_batch(manifest, pictures)
        image = self._image(manifest)
        like = size_like(image.size, manifest.facts.sizes, manifest.facts.latent) if image else None
        size = checked_size(manifest, (self.width, self.height), latents, like)
        seeds = seed_list(self.seed, pictures)
        original = self._original(image, size) if image else None
        schedule = self._schedule(manifest, size, begins=image is not None)
        return Request(
            prompts=prompts,
            negative_prompts=negatives,
            latents=checked_latents(manifest, latents, size, seeds),
            size=size,
            seeds=seeds,
            guidance_scale=guidance_scale,
            schedule=schedule,
            callback=callback,
            embeddings=embeddings,
            original=original,
            marked=self._marked(manifest, schedule, size, original),
            adapters=names_from(self.lora),
            references=self._references(manifest),
        )

    def _references(self, manifest: Manifest) -> tuple[np.ndarray, ...]:
        given = {name: data for name in REFERENCES if (data := getattr(self, name)) is not None}
        if len(given) > (most := manifest.facts.sizes.references):
            raise RequestError(
                f"there {'is a reference' if len(given) == 1 else f'are {len(given)} references'}, the bundle takes "
                f"{most or 'none'}",
                "leave out, or build with --references, where the model family draws after pictures",
            )
        return tuple(read_reference(name, data, manifest.facts) for name, data in given.items())

    def _image(self, manifest: Manifest) -> Image | None:
        if self.image is None:
            if self.mask is not None:
                raise RequestError("there is a mask, and no picture that it lies on", "give an image, or region_mask")
            return None
        if ENCODER not in manifest.engines:
            raise RequestError("the bundle has no network that takes pictures in", "build it again")
        return read_picture("image", self.image)

    def _original(self, image: Image, size: Size) -> Original:
        pixels = image if image.size == size else image.resize(size, Resampling.LANCZOS)
        drawn = None if self.mask is None else read_mask("mask", self.mask, size, image.size)
        return Original(np.asarray(pixels), drawn, checked_blur(self.mask_blur))

    def _schedule(self, manifest: Manifest, size: Size, *, begins: bool) -> Schedule:
        """With a region that is marked as it is marked, and a start where the picture begins from another."""
        strength = checked_strength(self.strength, begins=begins)
        marked = self.region_mask is not None
        is_marked = marked or self.mask is not None
        wanted = checked_schedule(manifest, self.schedule, self.steps, marked=is_marked, size=size)
        if marked:
            wanted = marked_by_hand(wanted)
        if wanted.start and not begins:
            raise RequestError(f"start={wanted.start} begins from a picture, and there is none", "give an image")
        if begins and not (strength is None and wanted.start):
            return started(wanted, DEFAULT_STRENGTH if strength is None else strength)
        return wanted

    def _marked(
        self, manifest: Manifest, schedule: Schedule, size: Size, original: Original | None
    ) -> np.ndarray | None:
        """The region's tokens: those that are marked, or those of the mask.

        More of them, around the mask, cost more than the cache renewed as much oftener, and bring less.
        """
        if not (schedule.has_region and schedule.region.signal == MARKED):
            return None
        grid = manifest.facts.latent.grid(size)
        if self.region_mask is not None:
            return marked_tokens(read_mask("region_mask", self.region_mask, size), grid)
        assert original is not None and original.drawn is not None  # `schedule_for` saw to it
        return marked_tokens(original.drawn, grid)


class SessionOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bundle is opened.

    vae_tile: neighbouring tiles share a quarter of their sides. Without it pictures are decoded whole, in memory that
    grows with their area and number: beside its weights a large decoder took 4.4 GiB in fp32 for one of 1024x1024 on
    ONNX Runtime's CPU, and 1.3 GiB for 512x512.

    text_on_demand: for devices short of memory. Text encoders are opened, one at a time, for prompts other than the
    last call's and closed before the loop begins; all other engines are opened once the first prompts are encoded,
    so that the first picture never holds both. Later prompts need room for one encoder beside the other engines.
    Conditioning networks, a third of some transformers, are opened likewise, for prompts or noise levels other than
    the last call's, and closed before the first step.

    adapters: files, each as [small=]FILE[:SCALE]; they count for every picture that asks for none by itself. A set of
    adapters opens the engines that it changes once more, with its own weights; what it does not change is shared.
    The bundle must stay where it is while the session is open; EngineLoadError may come from `generate`.
    """

    device: Annotated[str, Meta(description="what to run on, such as CPU or GPU.0, as inspect lists them")] = ""
    threads: Annotated[Count, Meta(description="CPU threads, 0 for all")] = 0
    hashes: Annotated[bool, Meta(description="check the files' sha256; their sizes are checked in any case")] = True
    graphs: Annotated[bool, Meta(description="replay steps as CUDA graphs; a CPU has none")] = True
    two_streams: Annotated[
        bool, Meta(description="for GPUs under TensorRT: small may run beside large's region step; measure before use")
    ] = False
    memory_cap_mb: Annotated[
        float | None, Meta(description="MiB that tensors may take on the device; shapes used longest ago give way")
    ] = None
    vae_tile: Annotated[
        Count | None, Meta(description="decode larger pictures in tiles of this side, in pixels; 0 decodes whole")
    ] = None
    text_on_demand: Annotated[
        bool, Meta(description="close what only prompts need before the loop, to save memory")
    ] = False
    kernel_cache: Annotated[
        str | None, Meta(description="folder for kernels that are compiled when a bundle is opened; '' keeps none")
    ] = None
    shapes_kept: Annotated[Side, Meta(description="for how many shapes and step counts loops stay bound")] = 4
    identity: Annotated[str, Meta(description="open only the bundle of this identity, as inspect shows it")] = ""
    adapters: Annotated[
        str | Sequence[str], Meta(description="merge a LoRA into large, or into small; repeat it for more")
    ] = ()
    adapter_folder: Annotated[
        str | None, Meta(description="folder of LoRAs that pictures may ask for by their files' names")
    ] = None
    adapters_kept: Annotated[Side, Meta(description="for how many sets of adapters engines stay open")] = 2
    adapter_cap_mb: Annotated[
        float | None, Meta(description="MiB of weights that these engines may take; sets used longest ago give way")
    ] = None

    def checked(self) -> Self:
        """Itself. Raises RequestError for a number that stands for nothing."""
        if not 0 <= self.threads <= MOST_THREADS:
            raise RequestError(f"threads {self.threads} lies outside 0..{MOST_THREADS}", "0 takes all cores")
        for kept in ("shapes_kept", "adapters_kept"):
            if (count := getattr(self, kept)) < 1:
                raise RequestError(f"{kept} {count} keeps none", "keep 1 or more")
        for cap in ("memory_cap_mb", "adapter_cap_mb"):
            mib = getattr(self, cap)
            if mib is not None and not 0 <= mib < math.inf:  # false for nan as well
                raise RequestError(f"{cap} {mib} is no amount of memory", "give MiB above 0")
        return self


def schemas_of(record: type[Struct]) -> dict[str, dict[str, Any]]:
    """Each option's name and JSON schema: type, minimum, maximum, default, description.

    Of one picture, where the option may be a list; of the text, where it may be more than that.
    """
    properties = msgspec.json.schema_components([record])[1][record.__name__]["properties"]
    return {name: {**found, **found.pop("anyOf", [{}])[0]} for name, found in properties.items()}


PICTURE_FILES = tuple(name for name, schema in schemas_of(PictureOptions).items() if "contentEncoding" in schema)
"""A picture's options that are files: bytes, base64 in JSON."""
