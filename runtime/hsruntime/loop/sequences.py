"""What each mode of the denoising loop runs, in order: engines bound to the loop's buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from hsengines.backend import Binding, Device, Engine, Enqueue, Tensor
from hsruntime.bundle.manifest import Manifest
from hsruntime.loop.branches import Active, Branch
from hsruntime.loop.buffers import Cache, Conditioning, LoopShape, StepBuffers, TokenBuffers, write_all
from hsruntime.loop.flow import grid_positions
from hsruntime.loop.region import Region, merge_index
from hsruntime.schedule.schedule import Segment


class Sequences:
    """Buffers for one LoopShape, and the sequences over them.

    A step leaves its guided velocity in `step.guided` and the one before in `step.previous`. Every sequence has
    bindings of its own: a TensorRT context may be captured into one CUDA graph only.
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device, shape: LoopShape, text: Conditioning
    ) -> None:
        self.shape = shape
        self._manifest = manifest
        self._engines = engines
        self._device = device
        self._text = text
        self._bindings: list[Binding] = []
        self._branches: dict[str, Branch] = {}
        self.step = StepBuffers.empty(device, shape, manifest.facts.latent.token_width)
        write_all(self.step.zero, 0)
        pictures = np.arange(shape.pictures, dtype=np.int32)
        self.step.uncond.write(pictures)
        self.step.cond.write(pictures + np.int32(shape.rows - shape.pictures))
        if shape.active:
            self._blend = device.empty((shape.pictures, shape.tokens), "int32")
            self._write_blend(_first_tokens(shape))

    def close(self) -> None:
        """Frees the bindings; replays of them must be closed before."""
        while self._bindings:
            self._bindings.pop().close()

    def name_of(self, segment: Segment) -> str:
        """The sequence that a step of this segment runs."""
        return segment.mode + self._suffix(segment)

    def gather_of(self, segment: Segment) -> str:
        """The sequence that fills the cache this segment reads."""
        return "gather" + self._suffix(segment)

    def _suffix(self, segment: Segment) -> str:
        """Without guidance there is but one row a picture, and nothing to leave out."""
        guided = self.shape.rows > self.shape.pictures
        return f"+{segment.guidance}" if guided and segment.guidance != "full" else ""

    def of(self, name: str) -> list[Enqueue]:
        """A new binding of the sequence called `name`: a step, or part of a region choice.

        Steps are a mode's name, with "+held" or "+off" behind it where only the prompts' rows run. "gap" asks small
        for its guided velocity at the latents of the step about to be taken; "score gap", "score change" and "score
        std" score the last step's; "settle" compares it with the one before; "gather" fills the cache of a new region,
        "merge" takes back what the last region step made of it.
        """
        kind, _, guidance = name.partition("+")
        made: dict[str, Callable[[], list[Enqueue]]] = {
            "large": lambda: self._whole_step("large", guidance),
            "small": lambda: self._whole_step("small", guidance),
            "hybrid": lambda: self._hybrid(guidance),
            "region": lambda: self._region_step(guidance),
            "gap": self._gap,
            "score gap": lambda: [self._score(self.step.guided, self.step.other, self.step.scores)],
            "score change": lambda: [self._score(self.step.guided, self.step.previous, self.step.scores)],
            "score std": lambda: [self._bind("spread", {"velocity": self.step.guided}, {"scores": self.step.scores})],
            "settle": self._settle,
            "gather": lambda: self._gather(guidance),
            "merge": self._merge,
        }
        return made[kind]()

    def write_text(self) -> None:
        """The prompts' rows of the conditioning, for the steps that run these alone."""
        if "cond" in self._branches:
            self._branches["cond"].text.write_rows(self._text, self.shape.pictures)

    def write_region(self, region: Region) -> None:
        """Where the active and the cached tokens lie, for every engine that gathers by it."""
        for branch in self._branches.values():
            branch.write_region(region, self._positions("large"))
        self._write_blend(region)

    def write_merge(self, region: Region) -> None:
        """Which of the region's tokens the cache takes back."""
        self._merge_index.write(merge_index(region, self.shape.rows, self._manifest.facts.large.heads))

    def _write_blend(self, region: Region) -> None:
        self._blend.write(merge_index(region, self.shape.pictures, 1)[:, 0])

    def _bind(self, engine: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Enqueue:
        binding = self._engines[engine].bind(inputs, outputs)
        self._bindings.append(binding)
        return binding.enqueue

    def _branch(self, guidance: str) -> Branch:
        """Both rows of each picture, or with `guidance` the prompts' alone."""
        name = "cond" if guidance else "both"
        if name not in self._branches:
            rows = self.shape.pictures if guidance else self.shape.rows
            text = Conditioning.empty(self._device, self._manifest, rows) if guidance else self._text
            branch = Branch.empty(self._device, self._manifest, self.shape, rows, text)
            branch.write_whole_picture(self._positions("large"), self._positions("small"))
            self._branches[name] = branch
        return self._branches[name]

    @cached_property
    def _presents(self) -> Cache:
        """Keys and values of the whole picture, both rows: what regions are gathered from."""
        return Cache.empty(self._device, self._manifest, self.shape.rows, self.shape.tokens, self._text.text.shape[1])

    @cached_property
    def _merge_index(self) -> Tensor:
        shape = self.shape
        index = self._device.empty((shape.rows, self._manifest.facts.large.heads, shape.tokens), "int32")
        write_all(index, 0)
        return index

    def _whole_step(self, model: str, guidance: str) -> list[Enqueue]:
        branch = self._branch(guidance)
        velocity, run = (
            (branch.whole.velocity, self._large_whole(branch, guidance))
            if model == "large"
            else (branch.small_velocity, self._small(branch))
        )
        guide = self._guide(velocity, branch.whole.index, self.step.guided, guidance, keeps=True)
        return [*self._begun(), self._prepared(branch.whole), run, guide, *self._advanced()]

    def _hybrid(self, guidance: str) -> list[Enqueue]:
        """Large on the region and small on everything read the same latents and nothing of each other."""
        branch = self._branch(guidance)
        active = self._active(branch)
        with self._device.beside():
            small = self._small(branch)
        return [
            *self._begun(),
            self._prepared(branch.whole),
            self._prepared(active.tokens),
            self._device.fork([self._large_active(branch, active)], [small]),
            self._guide(branch.small_velocity, branch.whole.index, self.step.other, guidance),
            *self._blended(active, self.step.other, guidance),
            *self._advanced(),
        ]

    def _region_step(self, guidance: str) -> list[Enqueue]:
        """Outside the region the last velocity goes on."""
        branch = self._branch(guidance)
        active = self._active(branch)
        return [
            *self._begun(),
            self._prepared(active.tokens),
            self._large_active(branch, active),
            *self._blended(active, self.step.previous, guidance),
            *self._advanced(),
        ]

    def _blended(self, active: Active, elsewhere: Tensor, guidance: str) -> list[Enqueue]:
        tensors = {"active": active.guided, "elsewhere": elsewhere, "index": self._blend}
        return [
            self._guide(active.tokens.velocity, active.tokens.index, active.guided, guidance),
            self._bind("blend", tensors, {"blended": self.step.guided}),
        ]

    def _gap(self) -> list[Enqueue]:
        branch = self._branch("")
        guide = self._guide(branch.small_velocity, branch.whole.index, self.step.other, "")
        return [self._prepared(branch.whole), self._small(branch), guide]

    def _score(self, first: Tensor, second: Tensor, scores: Tensor) -> Enqueue:
        return self._bind("score", {"first": first, "second": second}, {"scores": scores})

    def _settle(self) -> list[Enqueue]:
        step = self.step
        change = self._score(step.guided, step.previous, step.scores)
        return [change, self._score(step.previous, step.zero, step.magnitudes)]

    def _gather(self, guidance: str) -> list[Enqueue]:
        """A branch's part of the cache; a text that is cached whole is bound where it lies."""
        branch = self._branch(guidance)
        active = self._active(branch)
        pairs = [(active.index, *pair) for pair in zip(self._presents.image, active.past.image, strict=True)]
        if active.text_index is not None:
            pairs += [(active.text_index, *pair) for pair in zip(self._presents.text, active.past.text, strict=True)]
        return [
            self._bind("select_cache", {"everything": source, "index": index}, {"selected": target})
            for index, source, target in pairs
        ]

    def _merge(self) -> list[Enqueue]:
        """One scratch tensor serves all layers: the outcome must not lie where a gather still reads."""
        fresh, whole = self._active(self._branch("")).unread.image, self._presents.image
        scratch = self._device.empty(whole[0].shape, whole[0].dtype.name)
        sequence: list[Enqueue] = []
        for new, old in zip(fresh, whole, strict=True):
            tensors = {"fresh": new, "everything": old, "index": self._merge_index}
            sequence += [self._bind("merge_cache", tensors, {"merged": scratch}), _copied(old, scratch)]
        return sequence

    def _active(self, branch: Branch) -> Active:
        if branch.active is None:
            branch.active = Active.empty(self._device, self._manifest, self.shape, branch.rows, self._presents)
            branch.write_region(_first_tokens(self.shape), self._positions("large"))
        return branch.active

    def _large_whole(self, branch: Branch, guidance: str) -> Enqueue:
        nothing = Cache.empty(self._device, self._manifest, branch.rows, 0, 0)
        presents = self._presents if not guidance else branch.unread(self._device, self._manifest)
        inputs = branch.inputs(branch.whole, self.step.timestep) | nothing.named("past")
        return self._bind("large", inputs, {"velocity": branch.whole.velocity} | presents.named("present"))

    def _large_active(self, branch: Branch, active: Active) -> Enqueue:
        inputs = branch.inputs(active.tokens, self.step.timestep) | active.past.named("past")
        if self.shape.text_cached:
            text = self._text.text
            inputs["text"] = self._device.empty((branch.rows, 0, text.shape[2]), text.dtype.name)
        return self._bind("large", inputs, {"velocity": active.tokens.velocity} | active.unread.named("present"))

    def _small(self, branch: Branch) -> Enqueue:
        inputs = branch.inputs(branch.whole, self.step.timestep) | {"positions": branch.small_positions}
        return self._bind("small", inputs, {"velocity": branch.small_velocity})

    def _prepared(self, target: TokenBuffers) -> Enqueue:
        step = self.step
        inputs = {"latents": step.latents, "index": target.index, "timesteps": step.timesteps, "step": step.step}
        return self._bind("prepare", inputs, {"tokens": target.tokens, "timestep": step.timestep})

    def _guide(self, velocity: Tensor, index: Tensor, guided: Tensor, guidance: str, *, keeps: bool = False) -> Enqueue:
        """`keeps`: whether the difference between the rows is the one that later steps may hold."""
        step = self.step
        if guidance:
            excess = step.excess if guidance == "held" else step.no_excess
            inputs = {"velocity": velocity, "difference": step.difference, "index": index, "excess": excess}
            return self._bind("guide_held", inputs, {"guided": guided})
        difference = step.difference if keeps else self._device.empty(guided.shape, "float32")
        inputs = {"velocity": velocity, "cond": step.cond, "uncond": step.uncond, "guidance": step.guidance}
        return self._bind("guide", inputs, {"guided": guided, "difference": difference})

    def _begun(self) -> list[Enqueue]:
        return [_copied(self.step.previous, self.step.guided)]

    def _advanced(self) -> list[Enqueue]:
        step = self.step
        inputs = {
            "velocity": step.guided,
            "previous": step.previous,
            "latents": step.latents,
            "coefficients": step.coefficients,
            "step": step.step,
        }
        engine = self._bind("advance", inputs, {"next_latents": step.next_latents, "next_step": step.next_step})
        return [engine, _copied(step.latents, step.next_latents), _copied(step.step, step.next_step)]

    def _positions(self, model: str) -> np.ndarray:
        return grid_positions(getattr(self._manifest.facts, model).positions, self.shape.grid)


def _copied(target: Tensor, source: Tensor) -> Enqueue:
    return lambda: target.copy_from(source)


def _first_tokens(shape: LoopShape) -> Region:
    """A region to warm engines up with, before one is chosen: gathers must never meet rows that are not there."""
    tokens = np.tile(np.arange(shape.tokens, dtype=np.int32), (shape.pictures, 1))
    return Region(tokens[:, : shape.active], tokens[:, shape.active :])
