"""TensorRT: builds on the GPU that the engine is for, by measuring kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt

from hsengines.backend import BuildOptions, Layer
from hsengines.errors import EngineBuildError
from hsengines.options import refuse_precision
from hsengines.trt.base import TrtBackend
from hsengines.trt.build.layers import engine_layers
from hsengines.trt.build.log import listening, logger_of
from hsengines.trt.build.timing_cache import attach_timing_cache, save_timing_cache
from hsengines.trt.run.contexts import Contexts
from hsengines.trt.run.gpu import gpu_at_hand
from hsengines.trt.run.refit import keep_graph, put_weights_back

# The option's word, TensorRT's, and which GPUs the engine then serves.
_HARDWARE = {
    "same": ("NONE", "{name} (sm_{capability})"),
    "capability": ("SAME_COMPUTE_CAPABILITY", "sm_{capability}"),
    "ampere": ("AMPERE_PLUS", "sm_80 and later"),
}


class TensorRtBackend(TrtBackend):
    """For datacenters: the fastest engines, each for one kind of GPU."""

    name = "tensorrt"
    title = "TensorRT"

    def __init__(self, library: Any = tensorrt) -> None:
        super().__init__(library)

    def check_options(self, options: BuildOptions) -> None:
        """Needs a GPU, and builds for that one only."""
        refuse_precision(self.name, options, "fp16", "bf16", "fp32")
        if options.hardware not in _HARDWARE:
            raise EngineBuildError(
                f"{self.title} knows no hardware compatibility '{options.hardware}'", f"choose {', '.join(_HARDWARE)}"
            )
        gpu = gpu_at_hand(self.name)
        if options.architectures not in ((), (gpu.capability,)):
            asked = ", ".join(map(str, options.architectures))
            raise EngineBuildError(
                f"{self.title} builds for the GPU at hand, {gpu.name} ({gpu.capability}), not for --arch {asked}",
                "leave --arch out, or build for tensorrt-rtx",
            )

    def key_facts(self, options: BuildOptions) -> dict[str, str]:
        """The GPUs it is for, the one it is tuned on, and every option but the timing cache."""
        gpu = gpu_at_hand(self.name)
        return {
            "target": self.target(options),
            "tuned on": f"{gpu.name} (sm_{gpu.capability})",
            "weight streaming": str(options.weight_streaming),
            "version compatible": str(options.version_compatible),
            "stripped": str(options.stripped),
            **self.limits(options),
        }

    def target(self, options: BuildOptions) -> str:
        """Such as "NVIDIA H100 (sm_90)", "sm_90" or "sm_80 and later". Raises EngineBuildError without a GPU."""
        gpu = gpu_at_hand(self.name)
        return _HARDWARE[options.hardware][1].format(name=gpu.name, capability=gpu.capability)

    def _configure(self, config: Any, options: BuildOptions) -> None:
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
            config.set_flag(flags.REFIT_IDENTICAL)
        if options.timing_cache is not None:
            attach_timing_cache(self.library, config, options.timing_cache)

    def _keep(self, config: Any, options: BuildOptions) -> None:
        if options.timing_cache is not None:
            save_timing_cache(config, options.timing_cache)

    def _weights(self, onnx: Path, plan: Path, options: BuildOptions) -> tuple[Path, ...]:
        return keep_graph(onnx, plan) if options.stripped else ()

    def _layers_of(self, plan: Path) -> tuple[Layer, ...]:
        with listening(self.library):
            runtime = self.library.Runtime(logger_of(self.library))
            engine = runtime.deserialize_cuda_engine(plan.read_bytes())
            return engine_layers(self.library, engine) if engine is not None else ()

    def _prepare(self, plan: Path, engine: Any) -> None:
        if engine.refittable:
            put_weights_back(self.library, plan, engine)

    def _contexts(self, plan: Path, engine: Any) -> Contexts:
        del plan
        return Contexts(self.library, engine)
