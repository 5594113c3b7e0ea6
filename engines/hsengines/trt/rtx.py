"""TensorRT-RTX: builds on any machine, GPU or not; compiles kernels for the GPU at hand when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt_rtx

from hsengines.backend import BuildOptions, Layer
from hsengines.errors import EngineBuildError
from hsengines.options import flag_of, refuse_foreign_options, refuse_precision
from hsengines.trt.base import TrtBackend
from hsengines.trt.build.architectures import check_architectures, chosen_architectures
from hsengines.trt.run.contexts import CompilingContexts, Contexts, runtime_cache_path

# Options that tensorrt has, and why this builder has not.
_REASONS = {
    "stripped": "it strips plans on a machine with a GPU only, for refitting compiles kernels",
    "timing_cache": "it measures no kernels, so there is nothing to keep",
    "version_compatible": "its engines serve the version that built them",
    "hardware": "its engines serve the architectures that --arch names",
}


class TensorRtRtxBackend(TrtBackend):
    """For workstations and edge: one engine for several architectures."""

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"

    def __init__(self, library: Any = tensorrt_rtx) -> None:
        super().__init__(library)

    def check_options(self, options: BuildOptions) -> None:
        """fp16 and bf16 for architectures it knows; it has no fp32 attention kernels."""
        plain = BuildOptions()
        for option, reason in _REASONS.items():
            if getattr(options, option) != getattr(plain, option):
                raise EngineBuildError(
                    f"{self.title} cannot build with {flag_of(option)}: {reason}", "leave the option out"
                )
        known = ("precision", "architectures", "weight_streaming", "workspace_mb", "aux_streams")
        refuse_foreign_options(self.name, options, known)
        if options.precision == "fp32":
            raise EngineBuildError(
                f"backend '{self.name}' builds fp16 or bf16, not fp32: it has no attention kernels for fp32",
                "choose --precision fp16, or bf16, or another backend",
            )
        refuse_precision(self.name, options, "fp16", "bf16")
        check_architectures(self.library, self.title, options)

    def key_facts(self, options: BuildOptions) -> dict[str, str]:
        """Architectures, weight streaming and limits."""
        return {
            "architectures": ", ".join(map(str, chosen_architectures(self.library, options))),
            "weight streaming": str(options.weight_streaming),
            **self.limits(options),
        }

    def target(self, options: BuildOptions) -> str:
        """Such as "sm_89, sm_120"."""
        return ", ".join(f"sm_{each}" for each in chosen_architectures(self.library, options))

    def _configure(self, config: Any, options: BuildOptions) -> None:
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
