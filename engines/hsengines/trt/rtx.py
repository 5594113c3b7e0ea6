"""TensorRT-RTX: builds on any machine, GPU or not; compiles kernels for the GPU at hand when it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tensorrt_rtx

from hsengines.errors import EngineBuildError
from hsengines.traits import traits_of
from hsengines.trt.base import TrtBackend, why_no_gpu
from hsengines.trt.options import RtxOptions
from hsengines.trt.run.contexts import CompilingContexts, Contexts, kernels_path
from hsengines.weights import formats_in


class TensorRtRtxBackend(TrtBackend[RtxOptions]):
    """For workstations and edge: one engine for several architectures."""

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"

    def __init__(self, library: Any = tensorrt_rtx) -> None:
        super().__init__(library)

    def check_options(self, options: RtxOptions) -> None:
        """fp16 and bf16 for architectures it knows; it has no fp32 attention kernels. `refit` needs a GPU at build."""
        super().check_options(options)
        if options.refit and (why := why_no_gpu()):
            told = f"{self.title} builds engines that take other weights on a machine with a GPU only, and {why}"
            raise EngineBuildError(told, "build there, or leave --refit out and fuse adapters with --lora")
        known = self._known_architectures()
        if unknown := sorted(set(options.architectures) - set(known)):
            listed = ", ".join(map(str, known))
            found = f"{self.title} {self.library.__version__} cannot build for --arch {unknown[0]}: it knows {listed}"
            raise EngineBuildError(found, _elsewhere(unknown))
        self._check_weights(options, self._architectures(options))
        if options.precision == "bf16" and any(asked < OLDEST for asked in options.architectures):
            raise EngineBuildError(
                f"{self.title} cannot build bf16 for --arch {min(options.architectures)}, which has no bf16",
                "leave it out, or build with --precision fp16",
            )

    def key_facts(self, options: RtxOptions) -> dict[str, str]:
        """Architectures, weight streaming and limits."""
        return {"architectures": ", ".join(map(str, self._architectures(options))), **options.limits}

    def target(self, options: RtxOptions) -> str:
        """Such as "sm_89, sm_120"."""
        return ", ".join(f"sm_{each}" for each in self._architectures(options))

    def _known_architectures(self) -> tuple[int, ...]:
        """The compute capabilities that the library can build for, ascending: 75, 80, 86, 89, 120, ..."""
        names = (re.fullmatch(r"SM(\d+)", name) for name in dir(self.library.ComputeCapability))
        return tuple(sorted(int(match[1]) for match in names if match))

    def _architectures(self, options: RtxOptions) -> tuple[int, ...]:
        """Those that `options` asks for, ascending; by default all from OLDEST on that have products for the weights'
        formats, which one engine holds at no cost.

        A small transformer of 17.4 MB grew by less than 100 bytes from one architecture to four, by 2 % to all six.
        """
        if options.architectures:
            return tuple(sorted(set(options.architectures)))
        traits, formats = traits_of(self.name), formats_in(options.weights)
        known = (each for each in self._known_architectures() if each >= OLDEST)
        return tuple(each for each in known if all(traits.stores(format, each) for format in formats))

    def _configure(self, config: Any, options: RtxOptions) -> None:
        super()._configure(config, options)
        chosen = self._architectures(options)
        config.num_compute_capabilities = len(chosen)
        for index, each in enumerate(chosen):
            if not config.set_compute_capability(getattr(self.library.ComputeCapability, f"SM{each}"), index):
                raise EngineBuildError(f"{self.title} does not take architecture {each}", "leave it out of --arch")

    def _contexts(self, plan: Path, runtime: Any, engine: Any) -> Contexts:
        kept = kernels_path(self.library, plan, self.cache) if self.cache else None
        return CompilingContexts(self.library, runtime, engine, kept)


OLDEST = 80
"""Where the default begins: Turing (75) is left out, for it has no bf16."""


def _elsewhere(unknown: list[int]) -> str:
    if {90, 100, 103} & set(unknown):
        return "datacenter GPUs such as the H100 (90) are for backend tensorrt or ort-cuda"
    return "give compute capabilities such as 89 or 120"
