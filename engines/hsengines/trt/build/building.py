"""From an ONNX file to a plan: parse, configure, give it profiles and earlier measurements, build, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hsengines.build import BuildProgress, Layer
from hsengines.errors import EngineBuildError
from hsengines.files import replace_file
from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsengines.trt.build.log import Log, listening, logger_of
from hsengines.trt.build.progress import Watch, monitor_of
from hsengines.trt.build.refusals import build_refusal, parse_refusal
from hsengines.trt.inspection import difference, network_layers, signature_of_network, signature_of_spec

Configure = Callable[[Any], None]
"""Sets what a backend wants on an IBuilderConfig."""


@dataclass(frozen=True)
class Job:
    """One network to be built: by which library, named how in messages, from which file."""

    library: Any
    title: str
    onnx: Path
    spec: EngineSpec


def build_plan(
    job: Job, plan: Path, configure: Configure, done: Configure, progress: BuildProgress | None = None
) -> tuple[tuple[Layer, ...], str]:
    """Writes the plan of `job` to `plan`; the network's layers as parsed, and all that TensorRT said.

    `configure` sets the builder's config up, `done` sees it again after a success. Raises EngineBuildError, and
    KeyboardInterrupt after Ctrl-C; nothing is written then.
    """
    with listening(job.library) as log:
        builder = _builder(job)
        network, parser = _parsed(job, builder, log)
        config = builder.create_builder_config()
        configure(config)
        add_profiles(builder, config, job.spec)
        watch = Watch(progress)
        config.progress_monitor = monitor = monitor_of(job.library, watch)
        memory = watch.run(partial(_serialize, builder, network, config, parser, monitor))
        if memory is None:
            raise build_refusal(job.title, job.spec.name, network, log)
        # The stream writer of the Python binding is handed the whole plan as bytes, a second copy: the buffer is not.
        with plan.open("wb") as file:
            file.write(memory)
        done(config)
        return network_layers(network), log.text()


def _serialize(builder: Any, network: Any, config: Any, *kept: Any) -> Any:
    """The plan or None. What is `kept` must outlive the build: the weights belong to the parser."""
    del kept
    return builder.build_serialized_network(network, config)


def _builder(job: Job) -> Any:
    try:
        return job.library.Builder(logger_of(job.library))
    except TypeError as err:  # what the binding makes of a null pointer
        raise EngineBuildError(
            f"{job.title} cannot make a builder here", "it needs an NVIDIA GPU and its driver; tensorrt-rtx does not"
        ) from err


def _parsed(job: Job, builder: Any, log: Log) -> tuple[Any, Any]:
    """The network of the ONNX file, and its parser.

    Raises EngineBuildError where it does not parse, or is not what the spec says.
    """
    network = builder.create_network(1 << int(job.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    network.name = job.spec.name
    parser = job.library.OnnxParser(network, logger_of(job.library))
    if not parser.parse_from_file(str(job.onnx)):
        raise parse_refusal(job.title, job.spec.name, parser, log)
    if wrong := difference(signature_of_network(network), signature_of_spec(job.spec)):
        raise EngineBuildError(f"network '{job.spec.name}' has {wrong}", "export the network again", log.text())
    return network, parser


Extents = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, tuned-for and largest shape of one tensor."""


def add_profiles(builder: Any, config: Any, spec: EngineSpec) -> None:
    """Gives `config` a profile for each of the spec's. Raises EngineBuildError where one cannot be made.

    An extent may be zero at all three points (no cached tokens): TensorRT takes it and runs such layers as empty.
    """
    for wanted, profile in enumerate(spec.profiles):
        made = builder.create_optimization_profile()
        for tensor in spec.inputs:
            made.set_shape(tensor.name, *shapes_in(spec, profile, tensor))
        index = config.add_optimization_profile(made)
        if index != wanted:
            raise EngineBuildError(
                f"network '{spec.name}': TensorRT does not take profile '{profile.name}'",
                "see the ranges of its dimensions",
            )


def shapes_in(spec: EngineSpec, profile: Profile, tensor: TensorSpec) -> Extents:
    """The three shapes of `tensor` in `profile`. Raises EngineBuildError for a dimension without a range."""
    factors = {f for dim in tensor.shape if isinstance(dim, str) for f in dim.split("*") if not f.isdecimal()}
    if missing := sorted(factors - set(profile.dims)):
        raise EngineBuildError(
            f"network '{spec.name}', input '{tensor.name}': dimension {missing[0]} has no range in profile "
            f"'{profile.name}', and TensorRT needs one",
            "give the profile a range for it",
        )
    ranges = profile.dims.items()
    return (
        tensor.resolve({name: extents.minimum for name, extents in ranges}),
        tensor.resolve({name: extents.optimum for name, extents in ranges}),
        tensor.resolve({name: extents.maximum for name, extents in ranges}),
    )


def attach_timing_cache(library: Any, config: Any, path: Path) -> None:
    """Gives the builder what `path` holds; a file of another GPU or version counts as empty."""
    config.set_flag(library.BuilderFlag.EDITABLE_TIMING_CACHE)
    kept = read_if_there(path)
    if not kept or not config.set_timing_cache(config.create_timing_cache(kept), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes what the builder knows by now. Raises OSError."""
    replace_file(path, memoryview(config.get_timing_cache().serialize()))


def read_if_there(path: Path) -> bytes:
    """The file's bytes, none if it cannot be read: a cache is never worth an error."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
