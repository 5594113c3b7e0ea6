"""What TensorRT and TensorRT-RTX have in common, over a module that is one of the two."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hsengines.backend import NO_WEIGHTS, Backend, Weights
from hsengines.build import BuildProgress, EngineFiles, Layer
from hsengines.device import Device
from hsengines.errors import BackendUnavailable, EngineBuildError, EngineLoadError
from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsengines.traits import traits_of
from hsengines.trt.build.log import Log, listening, logger_of
from hsengines.trt.build.progress import watch_of
from hsengines.trt.build.refusals import build_refusal, parse_refusal
from hsengines.trt.inspection import network_layers, signature_of_network
from hsengines.trt.options import RtxOptions
from hsengines.trt.run.contexts import Contexts
from hsengines.trt.run.engine import TrtEngine
from hsengines.trt.run.loading import keep_graph, keep_weights, open_plan, refit, set_up_streaming, weights_beside
from hsengines.weights import formats_in

Own = TypeVar("Own", bound=RtxOptions)


class TrtBackend(Backend[Own]):
    """Builds plans with `library` and runs them; `title` is what messages call it."""

    title: str

    def __init__(self, library: Any) -> None:
        """`library` is the module `tensorrt` or `tensorrt_rtx`, or something that does as they do."""
        self.library = library

    def version(self) -> str:
        """Such as "tensorrt-rtx 1.7.1.116"."""
        return f"{self.name} {self.library.__version__}"

    def build(
        self, onnx: Path, spec: EngineSpec, options: Own, out: Path, progress: BuildProgress | None = None
    ) -> EngineFiles:
        """Compiles `onnx`, whose weights lie beside it, into `out`/<name>.engine.

        Ctrl-C ends a build between two of TensorRT's steps and raises KeyboardInterrupt. Raises EngineBuildError.
        """
        self.check_options(options)
        plan = out / f"{spec.name}.engine"
        with listening(self.library) as log:
            builder = self._builder()
            network, parser = self._parsed(builder, onnx, spec, log)
            config = builder.create_builder_config()
            self._configure(config, options)
            _add_profiles(builder, config, spec)
            config.progress_monitor = watch = watch_of(self.library, progress)

            def serialized(*_kept: Any) -> Any:
                return builder.build_serialized_network(network, config)

            # After a second Ctrl-C it goes on by itself: what it needs must live on with it.
            memory = watch.run(partial(serialized, parser, watch))
            if memory is None:
                raise build_refusal(self.title, spec.name, network, log)
            # The Python binding's stream writer is handed the whole plan as bytes, a second copy: the buffer is not.
            with plan.open("wb") as file:
                file.write(memory)
            self._keep(config)
        layers, weights = self._layers_of(plan), _weights_kept(onnx, plan, options)
        told = layers or network_layers(network)
        return EngineFiles(plan, weights, told, "engine" if layers else "network", log.text())

    def why_not_here(self) -> str:
        """Whether CUDA finds a GPU, in words; whether an engine is for that GPU shows when it is loaded."""
        return why_no_gpu()

    def _open(self, name: str, threads: int, *, graphs: bool) -> Device:
        """The GPU. Raises BackendUnavailable if there is none."""
        del name, threads
        try:
            from hsengines.cuda.device import open_device
        except ImportError as err:
            raise BackendUnavailable(why_no_gpu(), traits_of(self.name).install) from err
        return open_device(graphs)

    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> TrtEngine:
        """Opens a plan on the GPU and checks its tensors against `spec`. Raises EngineLoadError."""
        from hsengines.cuda.device import CudaDevice

        if not isinstance(device, CudaDevice):
            raise EngineLoadError(
                f"engine '{spec.name}' runs on a GPU, not on {device.name}", f"open the device of backend '{self.name}'"
            )
        runtime, opened = open_plan(self.library, self.title, engine, spec, device)
        if replaced and not opened.refittable:
            raise EngineLoadError(f"engine '{spec.name}' takes no other weights", "build the bundle with --refit")
        if replaced or (opened.refittable and not weights_beside(engine).is_file()):
            refit(self.library, engine, opened, replaced)
        set_up_streaming(spec.name, opened, graphs=device.graphs)
        return TrtEngine(self.library, spec, device, self._contexts(engine, runtime, opened))

    def _builder(self) -> Any:
        try:
            return self.library.Builder(logger_of(self.library))
        except TypeError as err:  # what the binding makes of a null pointer
            message = f"{self.title} cannot make a builder here"
            raise EngineBuildError(message, "it needs an NVIDIA GPU and its driver; tensorrt-rtx does not") from err

    def _parsed(self, builder: Any, onnx: Path, spec: EngineSpec, log: Log) -> tuple[Any, Any]:
        """The network of the ONNX file, and its parser, which holds the weights. Raises EngineBuildError."""
        network = builder.create_network(1 << int(self.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        network.name = spec.name
        parser = self.library.OnnxParser(network, logger_of(self.library))
        if not parser.parse_from_file(str(onnx)):
            raise parse_refusal(self.title, spec.name, parser, log)
        if wrong := spec.difference(signature_of_network(network)):
            raise EngineBuildError(f"network '{spec.name}' has {wrong}", "export the network again", log.text())
        return network, parser

    def _check_weights(self, options: Own, architectures: Iterable[int]) -> None:
        """Raises EngineBuildError for a format of weights that an architecture has no products for."""
        traits, asked = traits_of(self.name), list(architectures)
        for found in formats_in(options.weights):
            if lacking := [each for each in asked if not traits.stores(found, each)]:
                told = " and ".join(f"sm_{each}" for each in dict(traits.weight_architectures)[found])
                others = " or ".join(format for format in traits.weights if traits.stores(format, lacking[0]))
                raise EngineBuildError(
                    f"{self.title} builds --weights {found} for {told}, not for sm_{lacking[0]}",
                    f"name others with --arch, or choose {others}",
                )

    def _configure(self, config: Any, options: Own) -> None:
        """Sets up what both libraries have."""
        # By default TensorRT may fork work off to streams of its own, which makes captures larger and rarely faster.
        config.max_aux_streams = options.aux_streams
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(self.library.MemoryPoolType.WORKSPACE, options.workspace_mb * 2**20)
        if options.weight_streaming:
            config.set_flag(self.library.BuilderFlag.WEIGHT_STREAMING)
        if options.refit:
            config.set_flag(self.library.BuilderFlag.REFIT)

    def _keep(self, config: Any) -> None:
        """Called after a build that succeeded, for what is to be kept of it."""

    def _layers_of(self, plan: Path) -> tuple[Layer, ...]:
        """What the plan itself tells of its layers: nothing where all are one, compiled elsewhere and later."""
        del plan
        return ()

    def _contexts(self, plan: Path, runtime: Any, engine: Any) -> Contexts:
        """The maker of the engine's contexts."""
        del plan
        return Contexts(self.library, runtime, engine)


def _weights_kept(onnx: Path, plan: Path, options: RtxOptions) -> tuple[Path, ...]:
    """Files with the plan's weights beside it: the graph's own, or what is changed and refitted alone."""
    if options.leaves_weights:
        return keep_graph(onnx, plan)
    return keep_weights(onnx, plan) if options.refit else ()


def _add_profiles(builder: Any, config: Any, spec: EngineSpec) -> None:
    """Gives `config` a profile for each of the spec's. Raises EngineBuildError where one cannot be made.

    An extent may be zero at all three points (no cached tokens): TensorRT takes it and runs such layers as empty.
    """
    for wanted, profile in enumerate(spec.profiles):
        made = builder.create_optimization_profile()
        for tensor in spec.inputs:
            made.set_shape(tensor.name, *_shapes_in(spec, profile, tensor))
        index = config.add_optimization_profile(made)
        if index != wanted:
            raise EngineBuildError(
                f"network '{spec.name}': TensorRT does not take profile '{profile.name}'",
                "see the ranges of its dimensions",
            )


def _shapes_in(spec: EngineSpec, profile: Profile, tensor: TensorSpec) -> list[tuple[int, ...]]:
    """Smallest, tuned-for and largest shape of `tensor`. Raises EngineBuildError for a dimension without a range."""
    factors = {f for dim in tensor.shape if isinstance(dim, str) for f in dim.split("*") if not f.isdecimal()}
    if missing := sorted(factors - set(profile.dims)):
        raise EngineBuildError(
            f"network '{spec.name}', input '{tensor.name}': dimension {missing[0]} has no range in profile "
            f"'{profile.name}', and TensorRT needs one",
            "give the profile a range for it",
        )
    points = ("minimum", "optimum", "maximum")
    return [tensor.resolve({n: getattr(r, point) for n, r in profile.dims.items()}) for point in points]


def why_no_gpu() -> str:
    """Why nothing can run on a GPU here, in words; empty if it can."""
    try:
        from hsengines.cuda.device import why_no_cuda
    except ImportError as err:
        return f"CUDA's Python binding cannot be used here: {err}"
    return why_no_cuda()


def gpu_at_hand(backend: str) -> tuple[str, int]:
    """The GPU that `backend` would build for: name, and 89 for 8.9. Raises EngineBuildError without one."""
    if why := why_no_gpu():
        raise EngineBuildError(
            f"backend '{backend}' builds on a GPU only, and {why}", "backend tensorrt-rtx builds anywhere"
        )
    from hsengines.cuda.device import gpu_model

    return gpu_model()
