"""TensorRT-RTX: builds on any machine, GPU or not; compiles kernels for the GPU at hand when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt_rtx

from hsengines.build import Layer
from hsengines.errors import EngineBuildError
from hsengines.trt.base import TrtBackend
from hsengines.trt.build.architectures import check_architectures, chosen_architectures
from hsengines.trt.options import RtxOptions
from hsengines.trt.run.contexts import CompilingContexts, Contexts, runtime_cache_path


class TensorRtRtxBackend(TrtBackend[RtxOptions]):
    """For workstations and edge: one engine for several architectures."""

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"

    def __init__(self, library: Any = tensorrt_rtx) -> None:
        super().__init__(library)

    def check_options(self, options: RtxOptions) -> None:
        """fp16 and bf16 for architectures it knows; it has no fp32 attention kernels."""
        super().check_options(options)
        check_architectures(self.library, self.title, options)

    def key_facts(self, options: RtxOptions) -> dict[str, str]:
        """Architectures, weight streaming and limits."""
        return {
            "architectures": ", ".join(map(str, chosen_architectures(self.library, options))),
            "weight streaming": str(options.weight_streaming),
            **options.limits,
        }

    def target(self, options: RtxOptions) -> str:
        """Such as "sm_89, sm_120"."""
        return ", ".join(f"sm_{each}" for each in chosen_architectures(self.library, options))

    def _configure(self, config: Any, options: RtxOptions) -> None:
        super()._configure(config, options)
        chosen = chosen_architectures(self.library, options)
        config.num_compute_capabilities = len(chosen)
        for index, each in enumerate(chosen):
            if not config.set_compute_capability(getattr(self.library.ComputeCapability, f"SM{each}"), index):
                raise EngineBuildError(f"{self.title} does not take architecture {each}", "leave it out of --arch")

    def _layers_of(self, plan: Path) -> tuple[Layer, ...]:
        # The whole graph is one layer of the engine, compiled elsewhere and later: its inspector has nothing to tell.
        del plan
        return ()

    def _contexts(self, plan: Path, engine: Any) -> Contexts:
        return CompilingContexts(self.library, engine, runtime_cache_path(self.library, plan))
