"""TensorRT: builds on the GPU that the engine is for, by measuring kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt

from hsengines.build import Layer
from hsengines.errors import EngineBuildError
from hsengines.files import read_if_there, replace_file
from hsengines.trt.base import TrtBackend, gpu_at_hand
from hsengines.trt.build.log import listening, logger_of
from hsengines.trt.inspection import engine_layers
from hsengines.trt.options import TensorRtOptions

# The option's word, TensorRT's, and which GPUs the engine then serves.
_HARDWARE = {
    "same": ("NONE", "{name} (sm_{capability})"),
    "capability": ("SAME_COMPUTE_CAPABILITY", "sm_{capability}"),
    "ampere": ("AMPERE_PLUS", "sm_80 and later"),
}


TIMING = "timing"
"""The file in the backend's cache that holds what TensorRT measured of kernels."""


class TensorRtBackend(TrtBackend[TensorRtOptions]):
    """For datacenters: the fastest engines, each for one kind of GPU."""

    name = "tensorrt"
    title = "TensorRT"

    def __init__(self, library: Any = tensorrt) -> None:
        super().__init__(library)

    def check_options(self, options: TensorRtOptions) -> None:
        """Needs a GPU, and builds for that one only."""
        super().check_options(options)
        if options.hardware not in _HARDWARE:
            raise EngineBuildError(
                f"{self.title} knows no hardware compatibility '{options.hardware}'", f"choose {', '.join(_HARDWARE)}"
            )
        name, capability = gpu_at_hand(self.name)
        self._check_weights(options, (capability,))
        if options.architectures not in ((), (capability,)):
            asked = ", ".join(map(str, options.architectures))
            raise EngineBuildError(
                f"{self.title} builds for the GPU at hand, {name} ({capability}), not for --arch {asked}",
                "leave --arch out, or build for tensorrt-rtx",
            )

    def key_facts(self, options: TensorRtOptions) -> dict[str, str]:
        """The GPUs it is for, the one it is tuned on, and every option."""
        return {
            "target": self.target(options),
            "tuned on": self.target(TensorRtOptions(hardware="same")),
            "version compatible": str(options.version_compatible),
            "stripped": str(options.stripped),
            **options.limits,
        }

    def target(self, options: TensorRtOptions) -> str:
        """Such as "NVIDIA H100 (sm_90)", "sm_90" or "sm_80 and later". Raises EngineBuildError without a GPU."""
        name, capability = gpu_at_hand(self.name)
        return _HARDWARE[options.hardware][1].format(name=name, capability=capability)

    def _configure(self, config: Any, options: TensorRtOptions) -> None:
        super()._configure(config, options)
        flags, levels = self.library.BuilderFlag, self.library.HardwareCompatibilityLevel
        config.hardware_compatibility_level = getattr(levels, _HARDWARE[options.hardware][0])
        # Dtypes in the engine are audited, and only a detailed plan tells of them.
        config.profiling_verbosity = self.library.ProfilingVerbosity.DETAILED
        if options.version_compatible:
            # Without the lean runtime the plan holds no host code: opening one would mean trusting it.
            config.set_flag(flags.VERSION_COMPATIBLE)
            config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)
        if options.stripped:
            config.set_flag(flags.STRIP_PLAN)
            if not options.refit:
                config.set_flag(flags.REFIT_IDENTICAL)
        if self.cache is not None:
            config.set_flag(flags.EDITABLE_TIMING_CACHE)
            kept = read_if_there(self.cache / TIMING)
            # What comes of another GPU or version counts as nothing.
            if not kept or not config.set_timing_cache(config.create_timing_cache(kept), False):
                config.set_timing_cache(config.create_timing_cache(b""), False)

    def _keep(self, config: Any) -> None:
        if self.cache is not None:
            replace_file(self.cache / TIMING, memoryview(config.get_timing_cache().serialize()))

    def _layers_of(self, plan: Path) -> tuple[Layer, ...]:
        with listening(self.library):
            runtime = self.library.Runtime(logger_of(self.library))
            engine = runtime.deserialize_cuda_engine(plan.read_bytes())
            return engine_layers(self.library, engine) if engine is not None else ()
