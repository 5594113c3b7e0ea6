"""Everything bound for one shape of picture, and how many shapes are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from hsengines.backend import Engine
from hsengines.device import Device, Tensor
from hsengines.errors import DeviceMemoryError
from hsruntime.bundle.manifest import Manifest
from hsruntime.facts import size_text
from hsruntime.loop.buffers import LoopShape, loop_bytes
from hsruntime.loop.flow import latents_from_tokens
from hsruntime.loop.loop import Load, Loop
from hsruntime.picture.decode import Decoder
from hsruntime.text.encode import BoundText, Conditioning, TextEmbeddings, empty_conditioning
from hsruntime.text.tokenize import PromptRow

BindText = Callable[[Conditioning, Mapping[str, Engine]], BoundText]


class Executor:
    """Text encoders, if they stay open, loop and decoder bound for one LoopShape."""

    def __init__(
        self,
        manifest: Manifest,
        text: BindText | None,
        engines: Mapping[str, Engine],
        device: Device,
        shape: LoopShape,
        tile: int | None,
        load: Load | None,
    ) -> None:
        self._conditioning = empty_conditioning(device, manifest, shape.rows)
        self.loop = Loop(manifest, engines, device, shape, self._conditioning, load)
        self._text = text(self._conditioning, engines) if text else None
        self._latent, self._grid = manifest.facts.latent, shape.grid
        self._decoder = Decoder(manifest.facts.latent, engines, device, shape, self.loop.picture, tile)

    def encode(self, prompts: list[PromptRow]) -> None:
        """Prompts by row into the conditioning, by encoders that stay open."""
        assert self._text
        self._text.encode(prompts)

    def condition(self, given: TextEmbeddings | Conditioning) -> None:
        """What prompts became elsewhere by row into the conditioning, in place of `encode`."""
        for name, tensor in self._conditioning.items():
            value = given[name]
            if isinstance(value, Tensor):
                tensor.copy_from(value)
            else:
                tensor.write(np.ascontiguousarray(value, tensor.dtype))

    def decode(self) -> np.ndarray:
        """Pictures (B, H, W, 3) uint8 of the loop's latents."""
        return self._decoder.decode()

    def latents(self) -> np.ndarray:
        """The loop's latents (B, C, h, w) float32; a small copy beside decoding them."""
        return latents_from_tokens(self.loop.picture.read(), self._latent.patch_size, self._grid)

    def close(self) -> None:
        """Frees replays and bindings."""
        self.loop.close()
        if self._text:
            self._text.close()
        self._decoder.close()


@dataclass(frozen=True)
class Own:
    """Engines in place of the bundle's; `load`, in place of the others', opens conditioning networks."""

    key: Hashable
    engines: Mapping[str, Engine]
    load: Load | None = None


PLAIN = Own((), {})


class Executors:
    """The executors of the shapes used last: at most `most_kept`, and within a cap on the device's memory."""

    def __init__(
        self,
        manifest: Manifest,
        text: BindText | None,
        engines: Mapping[str, Engine],
        device: Device,
        *,
        cap_bytes: int | None,
        most_kept: int,
        tile: int | None,
        load: Load | None = None,
    ) -> None:
        """`load` opens conditioning networks, where they do not stay open."""
        self._most_kept = most_kept
        self._load = load
        self._manifest = manifest
        self._bind_text = text
        self._tile = tile
        self._engines = engines
        self._device = device
        self._cap_bytes = cap_bytes
        self._kept: dict[tuple[Hashable, LoopShape], Executor] = {}

    def of(self, shape: LoopShape, own: Own = PLAIN) -> Executor:
        """The executor of this shape, newly bound or as an earlier call left it. Raises DeviceMemoryError."""
        key = own.key, shape
        if key in self._kept:
            self._kept[key] = self._kept.pop(key)  # youngest last
            return self._kept[key]
        needed_bytes = loop_bytes(self._manifest.facts, self._manifest.specs, shape)
        self._make_room(needed_bytes)
        while key not in self._kept:
            try:
                bound = (self._manifest, self._bind_text, {**self._engines, **own.engines}, self._device, shape)
                made = Executor(*bound, self._tile, own.load or self._load)
                self._kept[key] = made
            except DeviceMemoryError as err:
                # Older ones give way where the device has no room beside them.
                if not self._kept:
                    raise _told(err, self._manifest, shape, needed_bytes) from err
                self._drop_oldest()
        return self._kept[key]

    def close(self) -> None:
        """Frees all of them."""
        while self._kept:
            self._drop_oldest()

    def drop(self, shape: LoopShape, own: Own = PLAIN) -> None:
        """Frees one that may not be whole."""
        if (own.key, shape) in self._kept:
            self._kept.pop((own.key, shape)).close()

    def drop_all(self, key: Hashable) -> None:
        """Frees those of engines that are about to be closed."""
        for kept in [each for each in self._kept if each[0] == key]:
            self._kept.pop(kept).close()

    def _make_room(self, needed_bytes: int) -> None:
        while self._kept and (len(self._kept) >= self._most_kept or self._too_much(needed_bytes)):
            self._drop_oldest()
        if self._too_much(needed_bytes):
            allowed = (self._cap_bytes or 0) / 2**20
            message = f"the loop needs {needed_bytes / 2**20:.0f} MiB, the cap on memory is {allowed:.0f} MiB"
            raise DeviceMemoryError(message, _SHRINKS, needed_bytes)

    def _too_much(self, needed_bytes: int) -> bool:
        return self._cap_bytes is not None and self._device.allocated_bytes + needed_bytes > self._cap_bytes

    def _drop_oldest(self) -> None:
        self._kept.pop(next(iter(self._kept))).close()


_SHRINKS = "ask for fewer pictures at once, a smaller size, a lower region ratio or no guidance"


def _told(err: DeviceMemoryError, manifest: Manifest, shape: LoopShape, needed: int) -> DeviceMemoryError:
    side = manifest.facts.latent.pixels_per_token
    what = f"{shape.pictures} of {size_text((shape.grid[1] * side, shape.grid[0] * side))} pixels"
    return DeviceMemoryError(f"the loop for {what} needs {needed / 2**20:.0f} MiB: {err.message}", _SHRINKS, needed)
